//! Finding a checkpoint's files and joining them.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Format, Tensor};
use crate::config::parse_object;
use crate::error::{Fault, Problem, WeightsError, WrongFile};
use crate::folder::{self, INDEX_ENDING, PICKLES, Weights, split_name};
use crate::gguf::header::MAGIC;
use crate::gguf::{GgufMetadata, names};
use crate::limits::{INDEX_BYTES_MAX, SHARDS_MAX};
use crate::map::Bytes;
use crate::safetensors;

const SAFETENSORS: &str = ".safetensors";
const GGUF: &str = ".gguf";
const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT_HEAD: &str = "lm_head.weight";

/// Opens a file or folder; see [`Checkpoint::open`].
pub(crate) fn open(path: &Path) -> Result<Checkpoint, WeightsError> {
    let meta = fs::metadata(path).map_err(|e| WeightsError::io(path, e))?;
    if meta.is_dir() {
        return open_folder(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if PICKLES.contains(&extension.as_str()) {
        return Err(WeightsError::wrong(path, WrongFile::Pickle));
    }
    if name.ends_with(INDEX_ENDING) {
        return open_index(path);
    }
    // One of several shards stands for all of them.
    if let Some(split) = split_name(&name, SAFETENSORS) {
        let index = path.with_file_name(split.index());
        if index.is_file() {
            return open_index(&index);
        }
        return open_shards(folder_of(path), folder::shards_beside(path, &split)?);
    }
    open_bytes(path, Bytes::map(path)?)
}

/// Opens a file by its contents.
pub(crate) fn open_bytes(path: &Path, bytes: Bytes) -> Result<Checkpoint, WeightsError> {
    if bytes.as_slice().starts_with(MAGIC) {
        return open_gguf(path, bytes);
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
        return open_safetensors(folder_of(path), vec![(path.to_owned(), bytes)]);
    }
    Err(WeightsError::wrong(path, recognise(bytes.as_slice())))
}

/// What a file is that is neither GGUF nor safetensors.
fn recognise(bytes: &[u8]) -> WrongFile {
    let start = |len: usize| bytes.get(..len.min(bytes.len())).unwrap_or_default();
    let text = String::from_utf8_lossy(start(64)).trim_start().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        WrongFile::GitLfsPointer
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        WrongFile::WebPage
    } else if [b"tjgg", b"fmgg", b"lmgg", b"algg", b"ggjt"].iter().any(|magic| bytes.starts_with(*magic)) {
        WrongFile::LegacyGgml
    } else if bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(b"\x80\x02")
        || bytes.starts_with(b"\x80\x04")
    {
        WrongFile::Pickle
    } else {
        WrongFile::Unknown
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn open_folder(folder: &Path) -> Result<Checkpoint, WeightsError> {
    match folder::weights(folder)? {
        Weights::File(path) => open(&path),
        Weights::Index(path) => open_index(&path),
        Weights::Shards(paths) => open_shards(folder.to_owned(), paths),
    }
}

fn open_shards(folder: PathBuf, paths: Vec<PathBuf>) -> Result<Checkpoint, WeightsError> {
    let files = paths.into_iter().map(|path| map_part(&path).map(|bytes| (path, bytes)));
    open_safetensors(folder, files.collect::<Result<_, WeightsError>>()?)
}

/// Opens all shards that an index names and checks that each tensor is where the index says.
fn open_index(index: &Path) -> Result<Checkpoint, WeightsError> {
    let bytes = read_small(index, INDEX_BYTES_MAX)?.unwrap_or_default();
    let map = parse_object(index, &bytes)?;
    let fault = |field: String, problem| Fault::new(field, 0, problem).in_file(index);
    let Some(Value::Object(weight_map)) = map.get("weight_map") else {
        return Err(fault("weight_map".to_owned(), Problem::Json("is missing or not an object".to_owned())));
    };
    let folder = folder_of(index);
    let mut shards: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let field = || format!("weight_map entry {tensor:?}");
        let shard =
            shard.as_str().ok_or_else(|| fault(field(), Problem::Json("is not a text".to_owned())))?;
        if let btree_map::Entry::Vacant(vacant) = shards.entry(shard) {
            // A name from a file is never allowed to lead out of the folder.
            let plain = Path::new(shard).file_name().is_some_and(|name| name == shard)
                && !shard.contains(['/', '\\', ':', '\0']);
            if !plain {
                return Err(fault(field(), Problem::UnsafeName { name: shard.chars().take(200).collect() }));
            }
            vacant.insert(folder.join(shard));
        }
        if shards.len() as u64 > SHARDS_MAX {
            let problem = Problem::TooLarge { value: shards.len() as u64, limit: SHARDS_MAX };
            return Err(fault("weight_map".to_owned(), problem));
        }
    }
    let files = shards.values().map(|path| Ok((path.clone(), map_part(path)?)));
    let checkpoint = open_safetensors(folder, files.collect::<Result<_, WeightsError>>()?)?;
    let number: HashMap<&str, usize> = shards.keys().enumerate().map(|(i, &name)| (name, i)).collect();
    let place: HashMap<&str, usize> =
        checkpoint.tensors.iter().map(|tensor| (tensor.source_name.as_str(), tensor.file)).collect();
    for (tensor, shard) in weight_map {
        let expected = shard.as_str().and_then(|shard| number.get(shard));
        let found = place.get(tensor.as_str());
        if found.is_none() || found != expected {
            let file = shard.as_str().unwrap_or_default().to_owned();
            return Err(fault(format!("weight_map entry {tensor:?}"), Problem::NotInShard { file }));
        }
    }
    Ok(checkpoint)
}

fn open_safetensors(folder: PathBuf, files: Vec<(PathBuf, Bytes)>) -> Result<Checkpoint, WeightsError> {
    let mut checkpoint = Checkpoint {
        format: Format::Safetensors,
        folder,
        paths: Vec::new(),
        data: Vec::new(),
        tensors: Vec::new(),
        by_name: HashMap::new(),
        gguf: None,
        safetensors_metadata: BTreeMap::new(),
    };
    let mut headers = Vec::new();
    for (path, bytes) in files {
        match safetensors::parse(bytes.as_slice()) {
            Ok(header) => headers.push((path, bytes, header)),
            Err(fault) => {
                return Err(match recognise(bytes.as_slice()) {
                    WrongFile::Unknown => fault.in_file(&path),
                    kind => WeightsError::wrong(&path, kind),
                });
            }
        }
    }
    let names = headers.iter().flat_map(|(.., header)| &header.tensors).map(|tensor| tensor.name.as_str());
    let canonical = safetensors::Canonical::of(names);
    for (path, bytes, header) in headers {
        let file = checkpoint.paths.len();
        checkpoint.safetensors_metadata.extend(header.metadata);
        for t in header.tensors {
            checkpoint.insert(
                &path,
                Tensor {
                    name: canonical.name(&t.name),
                    source_name: t.name,
                    file,
                    storage: t.storage,
                    shape: t.shape,
                    start: t.start,
                    len: t.len,
                },
            )?;
        }
        checkpoint.paths.push(path);
        checkpoint.data.push(Arc::new(bytes));
    }
    // Of two names for one tensor, writers keep either.
    if let Some(&head) = checkpoint.by_name.get(OUTPUT_HEAD)
        && !checkpoint.by_name.contains_key(EMBEDDING)
        && checkpoint.config().is_ok_and(|config| config.tie_word_embeddings)
    {
        checkpoint.by_name.insert(EMBEDDING.to_owned(), head);
    }
    Ok(checkpoint)
}

fn open_gguf(path: &Path, bytes: Bytes) -> Result<Checkpoint, WeightsError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(split) = split_name(&name, GGUF)
        && split.number != 1
    {
        // The metadata are in the first part, whichever was named.
        let first = path.with_file_name(split.part(1));
        let bytes = map_part(&first)?;
        return open_gguf(&first, bytes);
    }
    let first = GgufMetadata::parse(path, Arc::new(bytes))?;
    let count = first.unsigned("split.count")?.unwrap_or(1).max(1);
    let mut parts = vec![first];
    if count > 1 {
        let mismatch = |file: &Path, field: &str, found, expected| {
            Fault::new(field, 0, Problem::SplitMismatch { found, expected }).in_file(file)
        };
        if count > SHARDS_MAX {
            let problem = Problem::TooLarge { value: count, limit: SHARDS_MAX };
            return Err(Fault::new("split.count", 0, problem).in_file(path));
        }
        let Some(split) = split_name(&name, GGUF).filter(|split| split.count == count) else {
            let found = split_name(&name, GGUF).map_or(1, |split| split.count);
            return Err(mismatch(path, "number of parts in the file's name", found, count));
        };
        for number in 1..=count {
            let path = path.with_file_name(split.part(number));
            if number > 1 {
                let part = GgufMetadata::parse(&path, Arc::new(map_part(&path)?))?;
                let found = part.unsigned("split.count")?.unwrap_or(0);
                if found != count {
                    return Err(mismatch(&path, "split.count", found, count));
                }
                parts.push(part);
            }
            // Parts are numbered from 0 inside and from 1 in their names.
            let index = number.saturating_sub(1);
            let part = parts.last().map_or(Ok(None), |part| part.unsigned("split.no"))?.unwrap_or(u64::MAX);
            if part != index {
                return Err(mismatch(&path, "split.no", part, index));
            }
        }
    }
    join_gguf(path, parts)
}

fn join_gguf(path: &Path, parts: Vec<GgufMetadata>) -> Result<Checkpoint, WeightsError> {
    let mut checkpoint = Checkpoint {
        format: Format::Gguf,
        folder: folder_of(path),
        paths: Vec::new(),
        data: Vec::new(),
        tensors: Vec::new(),
        by_name: HashMap::new(),
        gguf: None,
        safetensors_metadata: BTreeMap::new(),
    };
    for (file, part) in parts.into_iter().enumerate() {
        for t in &part.header().tensors {
            let name = names::canonical(&t.name).unwrap_or_else(|| t.name.clone());
            let tensor = Tensor {
                name,
                source_name: t.name.clone(),
                file,
                storage: t.storage,
                shape: t.shape.clone(),
                start: t.start,
                len: t.len,
            };
            checkpoint.insert(part.file(), tensor)?;
        }
        checkpoint.paths.push(part.file().to_owned());
        checkpoint.data.push(Arc::clone(part.shared_bytes()));
        checkpoint.gguf.get_or_insert(part);
    }
    if let Some(meta) = &checkpoint.gguf
        && let Some(expected) = meta.unsigned("split.tensors.count")?
        && expected != checkpoint.tensors.len() as u64
    {
        let found = checkpoint.tensors.len() as u64;
        let problem = Problem::SplitMismatch { found, expected };
        return Err(Fault::new("number of tensors in all parts", 0, problem).in_file(path));
    }
    Ok(checkpoint)
}

impl Checkpoint {
    fn insert(&mut self, path: &Path, tensor: Tensor) -> Result<(), WeightsError> {
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            let field = format!("tensor {:?}", tensor.source_name);
            return Err(Fault::new(field, tensor.start as u64, Problem::Duplicate).in_file(path));
        }
        self.tensors.push(tensor);
        Ok(())
    }
}

/// Maps one of several files that belong together.
fn map_part(path: &Path) -> Result<Bytes, WeightsError> {
    if path.exists() { Bytes::map(path) } else { Err(WeightsError::wrong(path, WrongFile::MissingPart)) }
}

/// Reads a small file whole; `None` if there is none.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, WeightsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(WeightsError::io(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| WeightsError::io(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(WeightsError::wrong(path, WrongFile::TooLong { bytes: bytes.len() as u64, limit }));
    }
    if let kind @ (WrongFile::GitLfsPointer | WrongFile::WebPage) = recognise(&bytes) {
        return Err(WeightsError::wrong(path, kind));
    }
    Ok(Some(bytes))
}
