//! Vocabularies and templates without weights: from a GGUF file, a checkpoint folder or a bare `tokenizer.json`.

use std::path::Path;

use levain_local::Vocabulary;
use levain_tokenizer::Tokenizer;
use levain_weights::Checkpoint;

use crate::error::CliError;

const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// Opens the vocabulary that belongs to a path.
pub(crate) fn open(path: &Path) -> Result<Vocabulary, CliError> {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if is_json {
        return from_json(path);
    }
    // A folder may hold a vocabulary and no weights at all.
    if path.is_dir() && path.join("tokenizer.json").is_file() {
        return from_json(&path.join("tokenizer.json"));
    }
    Ok(levain_local::vocabulary(&Checkpoint::open(path)?)?)
}

fn from_json(path: &Path) -> Result<Vocabulary, CliError> {
    let json = read(path)?;
    let beside = |name: &str| {
        let path = path.with_file_name(name);
        if path.is_file() { read(&path).map(Some) } else { Ok(None) }
    };
    let config = beside("tokenizer_config.json")?;
    let template = beside("chat_template.jinja")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let tokenizer = Tokenizer::from_json(&json, config.as_deref())?;
    Ok(Vocabulary { tokenizer, path: path.to_owned(), template })
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let meta = std::fs::metadata(path).map_err(|error| CliError::read(path, error))?;
    if meta.len() > TOKENIZER_BYTES_MAX {
        return Err(CliError::input(format!("{} is too large for a vocabulary", path.display())));
    }
    std::fs::read(path).map_err(|error| CliError::read(path, error))
}
