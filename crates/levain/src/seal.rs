//! The key of this installation that seals what the KV cache keeps on the disk.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use levain_engine::SealKey;

use crate::error::CliError;
use crate::paths;

/// The key, made at the first use. Who loses it loses what the cache kept, and nothing else.
pub(crate) fn key() -> Result<SealKey, CliError> {
    let path = paths::seal_key().ok_or_else(|| {
        CliError::input_with(
            "there is no folder for the key that seals the KV cache",
            "set HOME, XDG_STATE_HOME or LEVAIN_HOME",
        )
    })?;
    match read(&path)? {
        Some(key) => Ok(key),
        None => make(&path),
    }
}

/// `None` if there is none, or half of one.
fn read(path: &Path) -> Result<Option<SealKey>, CliError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes.try_into().ok().map(SealKey)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::read(path, error)),
    }
}

fn make(path: &Path) -> Result<SealKey, CliError> {
    let failed = |error| CliError::read(path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let key = random().map_err(failed)?;
    // Whole under another name first: another program that starts at the same time reads all of it or nothing.
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&unfinished).and_then(|mut file| file.write_all(&key));
    let renamed = written.and_then(|()| fs::rename(&unfinished, path));
    if renamed.is_err() {
        // What is left of it is of no use; that it can't be removed either changes nothing.
        let _ = fs::remove_file(&unfinished);
    }
    renamed.map_err(failed)?;
    // The one that lies there counts, if another program was quicker.
    Ok(read(path)?.unwrap_or(SealKey(key)))
}

#[cfg(unix)]
fn random() -> std::io::Result<[u8; 32]> {
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

/// From the random keys that the standard library takes from the system for its tables.
#[cfg(not(unix))]
fn random() -> std::io::Result<[u8; 32]> {
    use std::hash::{BuildHasher, RandomState};
    let words: [u64; 4] = std::array::from_fn(|n| RandomState::new().hash_one(n));
    let mut key = [0; 32];
    key.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/kv.key");
        assert!(read(&path).unwrap().is_none());
        let first = make(&path).unwrap();
        assert!(read(&path).unwrap() == Some(first) && first != SealKey([0; 32]));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // Half a key is none.
        fs::write(&path, [1; 16]).unwrap();
        assert!(read(&path).unwrap().is_none());
        assert!(make(&path).unwrap() != first);
    }
}
