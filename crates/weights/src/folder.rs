//! Which files of a folder are the model's weights.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{WeightsError, WrongFile};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
pub(crate) const INDEX_ENDING: &str = ".safetensors.index.json";
pub(crate) const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// What to open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// One file, of whatever format.
    File(PathBuf),
    /// Shards as an index names them.
    Index(PathBuf),
    /// Shards without an index, in order.
    Shards(Vec<PathBuf>),
}

/// Finds the weights of a checkpoint folder. As with transformers, one whole file goes before an index.
///
/// # Errors
/// If there are none, or several models.
pub(crate) fn weights(folder: &Path) -> Result<Weights, WeightsError> {
    let names = names(folder)?;
    let with = |ending: &str| names.iter().filter(|n| n.ends_with(ending)).cloned().collect::<Vec<_>>();
    let wrong = |kind| Err(WeightsError::wrong(folder, kind));
    let (indices, safetensors) = (with(INDEX_ENDING), with(".safetensors"));
    if safetensors.iter().any(|name| name == SINGLE) {
        return Ok(Weights::File(folder.join(SINGLE)));
    }
    if let Some(index) =
        indices.iter().find(|name| *name == INDEX).or(indices.first().filter(|_| indices.len() == 1))
    {
        return Ok(Weights::Index(folder.join(index)));
    }
    match safetensors.as_slice() {
        [] => {}
        [adapter] if adapter.starts_with("adapter_") => return wrong(WrongFile::Adapter),
        [one] if split_name(one, ".safetensors").is_none() => return Ok(Weights::File(folder.join(one))),
        several => match sets(several).as_slice() {
            [set] => return shards(folder, set).map(Weights::Shards),
            many => match many.iter().find(|set| set.stem == "model") {
                Some(set) => return shards(folder, set).map(Weights::Shards),
                None => return wrong(WrongFile::SeveralModels { names: several.to_vec() }),
            },
        },
    }
    // Of a split file only the first part counts as a model.
    let gguf: Vec<String> = with(".gguf")
        .into_iter()
        .filter(|name| {
            split_name(name, ".gguf").is_none_or(|split| split.number == 1) && !name.starts_with("mmproj")
        })
        .collect();
    match gguf.as_slice() {
        [one] => return Ok(Weights::File(folder.join(one))),
        [] => {}
        several => return wrong(WrongFile::SeveralModels { names: several.to_vec() }),
    }
    let is_pickle = |name: &&String| {
        Path::new(name.as_str()).extension().is_some_and(|e| PICKLES.contains(&e.to_string_lossy().as_ref()))
    };
    wrong(match names.iter().find(is_pickle) {
        Some(example) => WrongFile::OnlyPickles { example: example.clone() },
        None => WrongFile::NoWeights,
    })
}

/// The shards that belong to the named one, which has no index beside it.
///
/// # Errors
/// If one is missing.
pub(crate) fn shards_beside(path: &Path, split: &SplitName) -> Result<Vec<PathBuf>, WeightsError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    shards(folder, split)
}

fn shards(folder: &Path, set: &SplitName) -> Result<Vec<PathBuf>, WeightsError> {
    let paths: Vec<PathBuf> = (1..=set.count).map(|number| folder.join(set.part(number))).collect();
    match paths.iter().find(|path| !path.is_file()) {
        None => Ok(paths),
        Some(missing) => Err(WeightsError::wrong(missing, WrongFile::MissingPart)),
    }
}

/// The sets that these files make up; a file that is no part of one stands alone.
fn sets(names: &[String]) -> Vec<SplitName> {
    let mut sets: Vec<SplitName> = Vec::new();
    for name in names {
        let set = split_name(name, ".safetensors").unwrap_or_else(|| SplitName {
            stem: name.clone(),
            number: 1,
            count: 0,
            ending: ".safetensors",
        });
        if !sets.iter().any(|other| other.stem == set.stem && other.count == set.count) {
            sets.push(set);
        }
    }
    sets
}

fn names(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| WeightsError::io(folder, e))? {
        let entry = entry.map_err(|e| WeightsError::io(folder, e))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A part's name, as `gguf-split` and transformers make them: `stem-00002-of-00005.gguf`.
pub(crate) struct SplitName {
    stem: String,
    pub(crate) number: u64,
    pub(crate) count: u64,
    ending: &'static str,
}

impl SplitName {
    /// The name of the index that goes with shards.
    pub(crate) fn index(&self) -> String {
        format!("{}{INDEX_ENDING}", self.stem)
    }

    pub(crate) fn part(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}{}", self.stem, self.count, self.ending)
    }
}

pub(crate) fn split_name(name: &str, ending: &'static str) -> Option<SplitName> {
    let (rest, count) = name.strip_suffix(ending)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |text: &str| {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    Some(SplitName {
        stem: stem.to_owned(),
        number: five_digits(number)?,
        count: five_digits(count)?,
        ending,
    })
}
