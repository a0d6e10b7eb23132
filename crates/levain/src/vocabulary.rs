//! Vocabularies and templates without weights: from a GGUF file, a checkpoint folder or a bare `tokenizer.json`.

use std::path::Path;

use levain_local::{LocalError, Vocabulary};
use levain_weights::{Checkpoint, WeightsError, WrongFile};

use crate::error::CliError;

/// Opens the vocabulary that belongs to a path.
pub(crate) fn open(path: &Path) -> Result<Vocabulary, CliError> {
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        return Ok(levain_local::file_vocabulary(path)?);
    }
    // A folder may hold a vocabulary and no weights at all.
    if path.is_dir() {
        match levain_local::folder_vocabulary(path) {
            Err(LocalError::NoTokenizer { .. }) => {}
            found => return Ok(found?),
        }
    }
    match Checkpoint::open(path) {
        Err(WeightsError::WrongFile { kind: WrongFile::NoWeights, .. }) => {
            Err(LocalError::NoTokenizer { folder: path.to_owned() }.into())
        }
        opened => Ok(levain_local::vocabulary(&opened?)?),
    }
}
