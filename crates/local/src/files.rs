//! The vocabulary of a checkpoint: from GGUF metadata, or from the files beside safetensors.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use levain_tokenizer::{GgufVocab, Tokenizer};
use levain_weights::{Checkpoint, GgufMetadata, WeightsError};
use serde_json::{Value, json};

use crate::error::LocalError;

const TOKENIZER_BYTES_MAX: u64 = 128 << 20;
const CONFIG_BYTES_MAX: u64 = 16 << 20;
const TEMPLATE_BYTES_MAX: u64 = 4 << 20;
const TEMPLATES_MAX: usize = 64;
const TOKENIZER: &str = "tokenizer.json";

/// A tokenizer and where it comes from. Its chat templates are those that transformers would take.
pub struct Vocabulary {
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// For messages.
    pub path: PathBuf,
}

/// Reads the vocabulary that belongs to a checkpoint; one without weights will do.
///
/// # Errors
/// If it is missing or damaged.
pub fn vocabulary(checkpoint: &Checkpoint) -> Result<Vocabulary, LocalError> {
    match checkpoint.metadata() {
        Some(metadata) => from_gguf(metadata),
        None => folder_vocabulary(checkpoint.folder()),
    }
}

/// Reads the vocabulary of a checkpoint folder, which may hold no weights.
///
/// # Errors
/// If it is missing or damaged.
pub fn folder_vocabulary(folder: &Path) -> Result<Vocabulary, LocalError> {
    let path = folder.join(TOKENIZER);
    if path.is_file() {
        return file_vocabulary(&path);
    }
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let settings = settings(folder)?;
    match (read(&vocab, TOKENIZER_BYTES_MAX)?, read(&merges, TOKENIZER_BYTES_MAX)?) {
        (Some(json), Some(lines)) => {
            let tokenizer = Tokenizer::from_vocab_and_merges(&json, &lines, settings.as_deref())
                .map_err(|source| LocalError::Tokenizer { path: vocab.clone(), source })?;
            Ok(Vocabulary { tokenizer, path: vocab })
        }
        _ => Err(LocalError::NoTokenizer { folder: folder.to_owned() }),
    }
}

/// Reads a vocabulary from a `tokenizer.json` and the files beside it.
///
/// # Errors
/// If one is damaged.
pub fn file_vocabulary(path: &Path) -> Result<Vocabulary, LocalError> {
    let missing = || LocalError::Io { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    let json = read(path, TOKENIZER_BYTES_MAX)?.ok_or_else(missing)?;
    let settings = settings(path.parent().unwrap_or(Path::new("")))?;
    let tokenizer = Tokenizer::from_json(&json, settings.as_deref())
        .map_err(|source| LocalError::Tokenizer { path: path.to_owned(), source })?;
    Ok(Vocabulary { tokenizer, path: path.to_owned() })
}

fn from_gguf(metadata: &GgufMetadata) -> Result<Vocabulary, LocalError> {
    let path = metadata.file().to_owned();
    let vocab = gguf_vocab(metadata)?;
    let tokenizer =
        Tokenizer::from_gguf(vocab).map_err(|source| LocalError::Tokenizer { path: path.clone(), source })?;
    Ok(Vocabulary { tokenizer, path })
}

fn gguf_vocab(metadata: &GgufMetadata) -> Result<GgufVocab, WeightsError> {
    let text = |key: &str| Ok::<_, WeightsError>(metadata.string(key)?.map(str::to_owned));
    let id = |name: &str| metadata.token_id(&format!("tokenizer.ggml.{name}_token_id"));
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
        merges: metadata.strings("tokenizer.ggml.merges")?,
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

/// `tokenizer_config.json`, completed by the files that transformers reads beside it: the tokens of
/// `special_tokens_map.json` and chat templates in files of their own.
fn settings(folder: &Path) -> Result<Option<Vec<u8>>, LocalError> {
    let read_json = |name: &str| {
        let path = folder.join(name);
        let Some(bytes) = read(&path, CONFIG_BYTES_MAX)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Some(fields)),
            Ok(_) => Err(LocalError::Unreadable { path, problem: "it holds no JSON object".to_owned() }),
            Err(error) => {
                Err(LocalError::Unreadable { path, problem: format!("it is not valid JSON: {error}") })
            }
        }
    };
    let mut fields = read_json("tokenizer_config.json")?.unwrap_or_default();
    for (name, token) in read_json("special_tokens_map.json")?.unwrap_or_default() {
        if matches!(name.as_str(), "bos_token" | "eos_token" | "unk_token" | "pad_token") {
            fields.entry(name).or_insert(token);
        }
    }
    let templates = templates(folder)?;
    if !templates.is_empty() {
        fields.insert("chat_template".to_owned(), templates.into());
    } else if !fields.contains_key("chat_template")
        && let Some(template) =
            read_json("chat_template.json")?.and_then(|mut file| file.remove("chat_template"))
    {
        fields.insert("chat_template".to_owned(), template);
    }
    if fields.is_empty() {
        return Ok(None);
    }
    Ok(Some(Value::Object(fields).to_string().into_bytes()))
}

/// Chat templates in files of their own, with their names; they go before those in `tokenizer_config.json`.
fn templates(folder: &Path) -> Result<Vec<Value>, LocalError> {
    const NAMED: &str = "additional_chat_templates";
    let mut paths = vec![("default".to_owned(), folder.join("chat_template.jinja"))];
    for entry in fs::read_dir(folder.join(NAMED)).into_iter().flatten().flatten().take(TEMPLATES_MAX) {
        let path = entry.path();
        if let (Some("jinja"), Some(name)) =
            (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|n| n.to_str()))
        {
            paths.push((name.to_owned(), path.clone()));
        }
    }
    paths.sort();
    let mut found = Vec::new();
    for (name, path) in paths {
        if let Some(bytes) = read(&path, TEMPLATE_BYTES_MAX)? {
            found.push(json!({ "name": name, "template": text(&path, bytes)? }));
        }
    }
    Ok(found)
}

/// Reads a chat template that somebody wrote into a file.
///
/// # Errors
/// If it can't be read, or is too long, empty or no text.
pub fn read_chat_template(path: &Path) -> Result<String, LocalError> {
    let missing = || LocalError::Io { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
    let template = text(path, read(path, TEMPLATE_BYTES_MAX)?.ok_or_else(missing)?)?;
    if template.trim().is_empty() {
        return Err(LocalError::Unreadable { path: path.to_owned(), problem: "it is empty".to_owned() });
    }
    Ok(template)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, LocalError> {
    String::from_utf8(bytes).map_err(|error| LocalError::Unreadable {
        path: path.to_owned(),
        problem: format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
    })
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
