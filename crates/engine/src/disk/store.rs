//! The folder with all blocks: which are there, which go when there are too many.
//!
//! A folder for each identity holds a file for each block. Of those that no other block goes on from, the one that
//! was unused longest goes first, whichever model it belongs to.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::file::{Expected, HEADER_BYTES};
use super::{Identity, SealKey};
use crate::kv::BlockHash;

/// More files than this are not looked at.
const FILES_MAX: usize = 1 << 20;
/// Written by someone who did not finish, longer ago than this in seconds.
const UNFINISHED_SECONDS_MAX: u64 = 600;
const SUFFIX: &str = ".kv";
const UNFINISHED_SUFFIX: &str = ".part";

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    /// Name and parent of a block of this model.
    own: Option<(BlockHash, BlockHash)>,
}

/// What lies in the folder.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    folder: PathBuf,
    identity: Identity,
    key: SealKey,
    block_bytes: usize,
    bytes_max: u64,
    /// By time of last use, as a number that counts up.
    entries: BTreeMap<u64, Entry>,
    own: HashMap<BlockHash, u64>,
    /// Blocks that go on from a block, in number.
    children: HashMap<BlockHash, usize>,
    bytes: u64,
    clock: u64,
    written_since_scan: u64,
    /// Blocks of this model that are no longer there, until they are asked for.
    removed: Vec<BlockHash>,
}

impl Store {
    /// Prepares the folder, which only its owner may write to.
    pub(super) fn open(
        root: &Path,
        bytes_max: u64,
        identity: Identity,
        key: SealKey,
        block_bytes: usize,
    ) -> io::Result<Self> {
        let least = (block_bytes + HEADER_BYTES) as u64;
        if bytes_max < least {
            let reason = format!("one block takes {least} bytes and {bytes_max} are allowed; allow more");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let folder = root.join(hex(&identity[..16]));
        create_private_folder(root)?;
        create_private_folder(&folder)?;
        refuse_strangers(root)?;
        refuse_strangers(&folder)?;
        Ok(Self {
            root: root.to_owned(),
            folder,
            identity,
            key,
            block_bytes,
            bytes_max,
            entries: BTreeMap::new(),
            own: HashMap::new(),
            children: HashMap::new(),
            bytes: 0,
            clock: 0,
            written_since_scan: 0,
            removed: Vec::new(),
        })
    }

    fn expected(&self) -> Expected<'_> {
        Expected { identity: &self.identity, key: &self.key, block_bytes: self.block_bytes }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &BlockHash> {
        self.own.keys()
    }

    pub(super) fn has(&self, name: &BlockHash) -> bool {
        self.own.contains_key(name)
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.own.len()
    }

    /// Blocks that have gone since the last call.
    pub(super) fn take_removed(&mut self) -> Vec<BlockHash> {
        std::mem::take(&mut self.removed)
    }

    /// Bytes of all files, other models' included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks at what is there. Files that are not what their names say are removed; what does not look like a
    /// block's file is left alone.
    pub(super) fn scan(&mut self) {
        let mut found: Vec<(SystemTime, Entry)> = Vec::new();
        for folder in subfolders(&self.root) {
            let is_own = folder == self.folder;
            for (path, meta) in files(&folder).take(FILES_MAX.saturating_sub(found.len())) {
                let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if let Some(name) = block_name(name) {
                    let own = match is_own {
                        true => match self.expected().read_parent(&path, &name) {
                            Ok(parent) => Some((name, parent)),
                            Err(_) => {
                                let _ = fs::remove_file(&path);
                                continue;
                            }
                        },
                        false => None,
                    };
                    found.push((changed, Entry { path, bytes: meta.len(), own }));
                } else if name.ends_with(UNFINISHED_SUFFIX)
                    && changed.elapsed().is_ok_and(|since| since.as_secs() > UNFINISHED_SECONDS_MAX)
                {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        found.sort_by_key(|(changed, _)| *changed);
        let before = std::mem::take(&mut self.own);
        self.entries.clear();
        self.children.clear();
        (self.bytes, self.written_since_scan) = (0, 0);
        found.into_iter().for_each(|(_, entry)| self.insert(entry));
        self.removed.extend(before.into_keys().filter(|name| !self.own.contains_key(name)));
    }

    fn insert(&mut self, entry: Entry) {
        self.clock += 1;
        self.bytes += entry.bytes;
        if let Some((name, parent)) = entry.own {
            self.own.insert(name, self.clock);
            *self.children.entry(parent).or_default() += 1;
        }
        self.entries.insert(self.clock, entry);
    }

    fn take(&mut self, time: u64) -> Option<Entry> {
        let entry = self.entries.remove(&time)?;
        self.bytes -= entry.bytes;
        if let Some((name, parent)) = entry.own {
            self.own.remove(&name);
            self.removed.push(name);
            if let Some(n) = self.children.get_mut(&parent) {
                *n -= 1;
                if *n == 0 {
                    self.children.remove(&parent);
                }
            }
        }
        Some(entry)
    }

    /// Reads a block's contents into `contents`. A file that is not as it should be is removed.
    pub(super) fn read(&mut self, name: &BlockHash, contents: &mut [u8]) -> io::Result<()> {
        let path = self.path(name);
        let result = self.expected().read(&path, name, contents);
        if result.is_err() {
            self.remove(name);
        }
        result
    }

    /// Keeps a block, after making room for it.
    pub(super) fn write(&mut self, name: BlockHash, parent: BlockHash, contents: &[u8]) -> io::Result<()> {
        if self.written_since_scan > self.bytes_max / 8 {
            // Others may have written here too.
            self.scan();
        }
        let bytes = self.expected().file_bytes();
        while self.bytes.saturating_add(bytes) > self.bytes_max {
            if !self.remove_oldest(&parent) {
                return Ok(());
            }
        }
        let path = self.path(&name);
        let unfinished =
            self.folder.join(format!("{}-{}{UNFINISHED_SUFFIX}", hex(&name), std::process::id()));
        self.expected().write(&path, &unfinished, &name, &parent, contents)?;
        self.written_since_scan += bytes;
        if let Some(&time) = self.own.get(&name) {
            self.take(time);
        }
        self.insert(Entry { path, bytes, own: Some((name, parent)) });
        Ok(())
    }

    /// Notes that a block was used.
    pub(super) fn touch(&mut self, name: &BlockHash) {
        let Some(&time) = self.own.get(name) else { return };
        let Some(entry) = self.take(time) else { return };
        // The file's time is what the next run goes by; without it the file only looks older than it is.
        let _ = fs::File::open(&entry.path).and_then(|file| file.set_modified(SystemTime::now()));
        self.insert(entry);
    }

    /// Removes a block.
    pub(super) fn remove(&mut self, name: &BlockHash) {
        let _ = fs::remove_file(self.path(name));
        if let Some(&time) = self.own.get(name) {
            self.take(time);
        }
    }

    /// Removes the block that was unused longest of those that nothing goes on from; `kept` is not removed.
    fn remove_oldest(&mut self, kept: &BlockHash) -> bool {
        let is_leaf = |entry: &Entry| {
            entry.own.is_none_or(|(name, _)| name != *kept && !self.children.contains_key(&name))
        };
        let oldest = self.entries.iter().find(|(_, entry)| is_leaf(entry)).map(|(&time, _)| time);
        let Some(entry) = oldest.and_then(|time| self.take(time)) else { return false };
        let _ = fs::remove_file(&entry.path);
        // The folder of another model goes with its last block; one that is not empty stays.
        if let Some(folder) = entry.path.parent().filter(|folder| *folder != self.folder) {
            let _ = fs::remove_dir(folder);
        }
        true
    }

    fn path(&self, name: &BlockHash) -> PathBuf {
        self.folder.join(format!("{}{SUFFIX}", hex(name)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits in lower case stand for.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn block_name(file_name: &str) -> Option<BlockHash> {
    unhex(file_name.strip_suffix(SUFFIX)?)
}

/// Folders of blocks: their names are half an identity.
fn subfolders(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let named = entry.file_name().to_str().and_then(unhex::<16>).is_some();
        (is_folder && named).then(|| entry.path())
    })
}

fn files(folder: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).ok().filter(|meta| !meta.is_dir())?;
        Some((path, meta))
    })
}

fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Refuses a folder that others may write to: they could leave blocks there.
#[cfg(unix)]
fn refuse_strangers(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata(path)?.mode() & 0o022 == 0 {
        return Ok(());
    }
    let reason = "others may write to this folder; take that right away (chmod go-w) or name another folder";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

#[cfg(not(unix))]
fn refuse_strangers(_path: &Path) -> io::Result<()> {
    Ok(())
}
