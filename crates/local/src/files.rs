//! The vocabulary of a checkpoint: from GGUF metadata, or from the files beside safetensors.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use levain_tokenizer::{GgufVocab, Tokenizer};
use levain_weights::{Checkpoint, GgufMetadata, WeightsError};

use crate::error::LocalError;

const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
const CONFIG_BYTES_MAX: u64 = 16 << 20;
const TEMPLATE_BYTES_MAX: u64 = 4 << 20;

/// A tokenizer and where it comes from.
pub struct Vocabulary {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// For messages.
    pub path: PathBuf,
    /// A `chat_template.jinja` beside the weights; it goes before the one in the configuration.
    pub template: Option<String>,
}

/// Reads the vocabulary that belongs to a checkpoint; one without weights will do.
///
/// # Errors
/// If it is missing or damaged.
pub fn vocabulary(checkpoint: &Checkpoint) -> Result<Vocabulary, LocalError> {
    match checkpoint.metadata() {
        Some(metadata) => from_gguf(metadata),
        None => from_folder(checkpoint.folder()),
    }
}

fn from_gguf(metadata: &GgufMetadata) -> Result<Vocabulary, LocalError> {
    let path = metadata.file().to_owned();
    let vocab = gguf_vocab(metadata)?;
    let tokenizer =
        Tokenizer::from_gguf(vocab).map_err(|source| LocalError::Tokenizer { path: path.clone(), source })?;
    Ok(Vocabulary { tokenizer, path, template: None })
}

fn gguf_vocab(metadata: &GgufMetadata) -> Result<GgufVocab, WeightsError> {
    let text = |key: &str| Ok::<_, WeightsError>(metadata.string(key)?.map(str::to_owned));
    let id = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
    let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
    let mut named = Vec::new();
    for name in metadata.strings("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(source) = text(&format!("tokenizer.chat_template.{name}"))? {
            named.push((name, source));
        }
    }
    let charsmap = metadata.array("tokenizer.ggml.precompiled_charsmap")?;
    Ok(GgufVocab {
        model: text("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: text("tokenizer.ggml.pre")?.unwrap_or_default(),
        tokens: metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default(),
        scores: metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default(),
        token_types: metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default(),
        merges: metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default(),
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unk: id("unknown")?,
        pad: id("padding")?,
        sep: id("seperator")?,
        cls: id("cls")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
        precompiled_charsmap: charsmap
            .map(|bytes| bytes.iter().filter_map(byte).collect())
            .unwrap_or_default(),
        chat_template: text("tokenizer.chat_template")?,
        named_chat_templates: named,
    })
}

fn byte(value: levain_weights::Value<'_>) -> Option<u8> {
    match value {
        levain_weights::Value::Unsigned(byte) => u8::try_from(byte).ok(),
        levain_weights::Value::Signed(byte) => i8::try_from(byte).ok().map(i8::cast_unsigned),
        _ => None,
    }
}

fn from_folder(folder: &Path) -> Result<Vocabulary, LocalError> {
    let path = folder.join("tokenizer.json");
    let json = read(&path, TOKENIZER_BYTES_MAX)?
        .ok_or_else(|| LocalError::NoTokenizer { folder: folder.to_owned() })?;
    let config = read(&folder.join("tokenizer_config.json"), CONFIG_BYTES_MAX)?;
    let tokenizer = Tokenizer::from_json(&json, config.as_deref())
        .map_err(|source| LocalError::Tokenizer { path: path.clone(), source })?;
    let template = read(&folder.join("chat_template.jinja"), TEMPLATE_BYTES_MAX)?
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Vocabulary { tokenizer, path, template })
}

/// A small file's bytes; `None` if there is none.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LocalError> {
    let failed = |source| LocalError::Io { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    let read = bytes.len() as u64;
    if read > limit {
        return Err(LocalError::TooLarge { path: path.to_owned(), bytes: read, limit });
    }
    Ok(Some(bytes))
}
