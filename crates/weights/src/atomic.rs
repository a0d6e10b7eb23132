//! Files that appear whole or not at all: written under another name, synced, then renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::WeightsError;

/// A file that takes its name when it is complete. Dropped before that, it leaves nothing behind.
pub(crate) struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    pub(crate) fn create(target: &Path) -> Result<Self, WeightsError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}-{number}.tmp", std::process::id()));
        let temporary = target.with_file_name(name);
        let file = File::create_new(&temporary).map_err(|e| WeightsError::io(&temporary, e))?;
        let writer = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { target: target.to_owned(), temporary, writer })
    }

    /// Makes the contents durable and gives the file its name.
    pub(crate) fn commit(mut self) -> Result<(), WeightsError> {
        let io = |e| WeightsError::io(&self.target, e);
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(|e| io(e.into_error()))?;
            file.sync_all().map_err(io)?;
            fs::rename(&self.temporary, &self.target).map_err(io)?;
            sync_folder(&self.target).map_err(io)?;
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Some(writer) => writer.write(bytes),
            None => Err(io::Error::other("the file is complete")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a rename there is nothing under this name any more, so failure means success.
        drop(self.writer.take());
        let _ = fs::remove_file(&self.temporary);
    }
}

/// The new name is durable only once its folder is.
fn sync_folder(target: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = target;
    Ok(())
}
