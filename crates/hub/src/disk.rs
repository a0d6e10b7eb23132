//! Small steps on the file system that must not be half done.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::HubError;

/// Bytes that this user may still write on the disk that holds `path` (or its nearest existing parent).
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes that this user may still write; unknown here.
#[cfg(not(unix))]
pub(crate) fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

/// Refuses before the first byte what can't fit.
pub(crate) fn require_room(path: &Path, needed: u64) -> Result<(), HubError> {
    match free_bytes(path) {
        Some(free) if free < needed => {
            Err(HubError::DiskFull { path: path.into(), needed, free: Some(free) })
        }
        _ => Ok(()),
    }
}

pub(crate) fn create_dir(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|error| HubError::io("create the folder", path, error))
}

/// Makes a rename or a new entry in `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), HubError> {
    #[cfg(unix)]
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| HubError::io("flush", dir, error))?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Renames a finished, flushed file into place.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), HubError> {
    if let Some(dir) = to.parent() {
        create_dir(dir)?;
    }
    fs::rename(from, to).map_err(|error| HubError::io("move the finished file to", to, error))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// A name beside `path` that no other thread or process uses.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.{ending}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Writes a small file so that readers see the old content or the new, never a mixture.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), HubError> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    let tmp = beside(path, "tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&tmp)?;
        file.write_all(content)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&tmp);
        return Err(HubError::io("write", path, error));
    }
    publish(&tmp, path)
}

/// Reads a small file; `None` if it is missing, larger than `limit` bytes, or not text.
pub(crate) fn read_small(path: &Path, limit: u64) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    if !meta.is_file() || meta.len() > limit {
        return None;
    }
    fs::read_to_string(path).ok()
}
