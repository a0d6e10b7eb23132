//! One puller at a time for each digest, across threads and processes.
//!
//! The lock is the operating system's (`flock`), so that it is gone when its holder is, however it ended.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{HubError, Progress, PullEvent, disk};

const POLL_EVERY: Duration = Duration::from_millis(50);

/// A held lock; dropped, it is free again.
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    /// The shared cache keeps its lock files, as the tools that share it expect.
    keep: bool,
}

impl Lock {
    /// Waits until nobody else holds the lock.
    pub(crate) async fn acquire(
        path: &Path,
        keep: bool,
        file_name: &str,
        progress: &dyn Progress,
    ) -> Result<Self, HubError> {
        if let Some(dir) = path.parent() {
            disk::create_dir(dir)?;
        }
        let mut told = false;
        loop {
            let io = |error| HubError::io("lock", path, error);
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .map_err(io)?;
            match file.try_lock() {
                // The holder before us may have removed the file: then we hold a lock on nothing.
                Ok(()) if is_at(&file, path) => return Ok(Self { file, path: path.to_owned(), keep }),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io(error)),
            }
            if !told {
                progress.event(PullEvent::Waiting { file: file_name });
                told = true;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.keep && cfg!(unix) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}
