//! The folder, hostile files in it, and the thread that reads and writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::file::HEADER_BYTES;
use super::*;

const BLOCK_BYTES: usize = 256;
const FILE_BYTES: u64 = (BLOCK_BYTES + HEADER_BYTES) as u64;
const IDENTITY: Identity = [7; 32];
const KEY: SealKey = SealKey([9; 32]);
const ROOT: BlockHash = [0xff; 32];

fn store(root: &Path, blocks_max: u64) -> Store {
    let mut store = Store::open(root, blocks_max * FILE_BYTES, IDENTITY, KEY, BLOCK_BYTES).unwrap();
    store.scan();
    store
}

fn name(i: u8) -> BlockHash {
    [i; 32]
}

fn contents(i: u8) -> Vec<u8> {
    (0..BLOCK_BYTES).map(|at| (at as u8).wrapping_mul(i)).collect()
}

fn read(store: &mut Store, i: u8) -> Option<Vec<u8>> {
    let mut out = vec![0; BLOCK_BYTES];
    store.read(&name(i), &mut out).ok()?;
    Some(out)
}

/// The files of blocks in a folder of one identity.
fn block_files(root: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect();
    files.sort();
    files
}

#[test]
fn blocks_are_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/b");
    let mut first = store(&folder, 10);
    first.write(name(1), ROOT, &contents(1)).unwrap();
    first.write(name(2), name(1), &contents(2)).unwrap();
    first.write(name(2), name(1), &contents(2)).unwrap();
    assert_eq!((first.n_blocks(), first.bytes()), (2, 2 * FILE_BYTES));
    let mut second = store(&folder, 10);
    assert_eq!((second.n_blocks(), second.bytes()), (2, 2 * FILE_BYTES));
    assert_eq!(read(&mut second, 1), Some(contents(1)));
    assert_eq!(read(&mut second, 2), Some(contents(2)));
    assert_eq!(read(&mut second, 3), None);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert!(block_files(&folder).iter().all(|file| mode(file) == 0o600));
    }
}

#[test]
fn other_models_find_nothing() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 10).write(name(1), ROOT, &contents(1)).unwrap();
    let mut other = Store::open(root.path(), 10 * FILE_BYTES, [8; 32], KEY, BLOCK_BYTES).unwrap();
    other.scan();
    assert_eq!((other.n_blocks(), other.bytes()), (0, FILE_BYTES));
    // Not even where the file is put into its folder.
    let file = block_files(root.path()).pop().unwrap();
    let theirs = root.path().join("08".repeat(16)).join(file.file_name().unwrap());
    fs::copy(&file, &theirs).unwrap();
    other.scan();
    assert_eq!(read(&mut other, 1), None);
    assert!(!theirs.exists(), "a foreign file is removed");
    assert!(file.exists());
}

#[test]
fn damaged_files_are_removed_and_never_used() {
    let root = tempfile::tempdir().unwrap();
    let whole = {
        store(root.path(), 10).write(name(1), ROOT, &contents(1)).unwrap();
        fs::read(block_files(root.path()).pop().unwrap()).unwrap()
    };
    let path = block_files(root.path()).pop().unwrap();
    // Each byte matters: of the header, the checksum and the contents.
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let mut store = store(root.path(), 10);
        assert_eq!(read(&mut store, 1), None, "byte {at}");
        assert!(!path.exists());
        assert_eq!((store.n_blocks(), store.bytes()), (0, 0));
    }
    let longer = [whole.as_slice(), &[0]].concat();
    for hostile in [&[][..], &whole[..20], &whole[..HEADER_BYTES], &whole[..whole.len() - 1], &longer] {
        fs::write(&path, hostile).unwrap();
        assert_eq!(store(root.path(), 10).n_blocks(), 0);
        assert!(!path.exists());
        // As well if it changes after it was listed.
        fs::write(&path, &whole).unwrap();
        let mut store = store(root.path(), 10);
        assert_eq!(store.n_blocks(), 1);
        fs::write(&path, hostile).unwrap();
        assert_eq!(read(&mut store, 1), None);
        assert!(!path.exists());
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(read(&mut store(root.path(), 10), 1), Some(contents(1)));
}

/// Somebody else's files in the folder stay, links are not followed, and nothing blocks.
#[test]
#[cfg(unix)]
fn strange_things_in_the_folder() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 10).write(name(1), ROOT, &contents(1)).unwrap();
    let file = block_files(root.path()).pop().unwrap();
    let folder = file.parent().unwrap();
    let outside = root.path().join("letter.txt");
    fs::rename(&file, &outside).unwrap();
    symlink(&outside, &file).unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::write(folder.join("zz.kv"), "mine").unwrap();
    fs::create_dir(folder.join("02".repeat(32) + ".kv")).unwrap();
    fs::create_dir(root.path().join("photos")).unwrap();
    fs::write(root.path().join("photos").join("01".repeat(32) + ".kv"), "mine").unwrap();
    let pipe = folder.join("03".repeat(32) + ".kv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut store = store(root.path(), 1);
    assert_eq!(store.n_blocks(), 0);
    assert!(!file.exists() && !pipe.exists(), "a link and a pipe are no blocks");
    assert!(outside.exists(), "what a link led to is left alone");
    for i in 10..15 {
        store.write(name(i), ROOT, &contents(i)).unwrap();
    }
    for kept in ["notes.txt", "zz.kv"] {
        assert!(folder.join(kept).exists());
    }
    assert!(root.path().join("photos").join("01".repeat(32) + ".kv").exists());
    // Nor is a folder used that others may write to.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(root.path(), 1000, IDENTITY, KEY, BLOCK_BYTES).unwrap_err();
    assert!(error.to_string().contains("others may write"));
}

#[test]
fn files_that_were_sealed_with_another_key_do_not_count() {
    let root = tempfile::tempdir().unwrap();
    store(root.path(), 10).write(name(1), ROOT, &contents(1)).unwrap();
    assert_eq!(read(&mut store(root.path(), 10), 1), Some(contents(1)));
    let forged = SealKey([8; 32]);
    let mut other = Store::open(root.path(), 10 * FILE_BYTES, IDENTITY, forged, BLOCK_BYTES).unwrap();
    other.scan();
    assert_eq!(read(&mut other, 1), None);
}

#[test]
fn the_end_of_an_unused_text_goes_first_and_never_its_beginning() {
    let root = tempfile::tempdir().unwrap();
    let mut full = store(root.path(), 6);
    // Two texts: 1-2-3 and 11-12-13.
    for (i, parent) in [(1, ROOT), (2, name(1)), (3, name(2)), (11, ROOT), (12, name(11)), (13, name(12))] {
        full.write(name(i), parent, &contents(i)).unwrap();
    }
    [3, 2, 1].iter().for_each(|&i| full.touch(&name(i)));
    full.write(name(4), name(3), &contents(4)).unwrap();
    assert!(!full.has(&name(13)) && full.has(&name(12)));
    assert_eq!(full.take_removed().last(), Some(&name(13)));
    full.write(name(5), name(4), &contents(5)).unwrap();
    full.write(name(6), name(5), &contents(6)).unwrap();
    assert_eq!(full.n_blocks(), 6);
    assert!([1, 2, 3, 4, 5, 6].iter().all(|&i| full.has(&name(i))));
    // One text as long as the whole cache is not cut either: there is no room for its end.
    full.write(name(7), name(6), &contents(7)).unwrap();
    assert!(!full.has(&name(7)) && full.has(&name(6)));
    assert_eq!(block_files(root.path()).len(), 6);
    // A smaller limit holds from the next block on.
    let mut small = store(root.path(), 2);
    assert_eq!(small.n_blocks(), 6);
    small.write(name(20), ROOT, &contents(20)).unwrap();
    assert_eq!(small.n_blocks(), 2);
    assert!(small.has(&name(1)) && small.has(&name(20)));
}

#[test]
fn other_models_blocks_make_room_too() {
    let root = tempfile::tempdir().unwrap();
    let mut old = Store::open(root.path(), 3 * FILE_BYTES, [8; 32], KEY, BLOCK_BYTES).unwrap();
    (1..=3).for_each(|i| old.write(name(i), ROOT, &contents(i)).unwrap());
    let mut new = store(root.path(), 3);
    (1..=3).for_each(|i| new.write(name(i), ROOT, &contents(i)).unwrap());
    assert_eq!((new.n_blocks(), new.bytes()), (3, 3 * FILE_BYTES));
    assert_eq!(block_files(root.path()).len(), 3);
}

fn cache(root: &Path) -> (DiskCache, Receiver<()>) {
    let (sender, news) = channel();
    let config = DiskCacheConfig {
        folder: root.to_owned(),
        bytes_max: 100 * FILE_BYTES,
        key: KEY,
        always_read: false,
    };
    let cache =
        DiskCache::open(&config, IDENTITY, BLOCK_BYTES, move || sender.send(()).unwrap_or_default()).unwrap();
    (cache, news)
}

fn arrival(cache: &DiskCache, news: &Receiver<()>) -> Arrival {
    loop {
        if let Some(arrival) = cache.take_arrival() {
            return arrival;
        }
        news.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}

#[test]
fn blocks_come_in_the_order_in_which_they_were_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<BlockHash> = (1..=9).map(name).collect();
    {
        let (cache, news) = cache(root.path());
        for i in 1..=9 {
            let parent = if i == 1 { ROOT } else { name(i - 1) };
            while !cache.write(name(i), parent, &contents(i)) {
                news.recv_timeout(Duration::from_secs(20)).unwrap();
            }
        }
        // What is on the way is written before the end.
    }
    let (cache, news) = cache(root.path());
    let index = cache.index();
    assert_eq!(index.leading(&names, None), 9);
    assert_eq!(index.leading(&[name(1), name(77), name(2)], None), 1);
    cache.read(5, &names);
    for i in 1..=9 {
        let arrival = arrival(&cache, &news);
        assert_eq!((arrival.asker, arrival.name), (5, name(i)));
        let buffer = arrival.contents.unwrap();
        assert_eq!(buffer, contents(i));
        cache.give_back(buffer);
    }
    assert_eq!(cache.stats().read_blocks, 9);
    // Where computing is quicker than reading, nothing is read, but that is not for ever.
    assert_eq!(index.leading(&names, Some(0.0)), 0);
    assert_eq!(index.leading(&names, Some(f64::INFINITY)), 9);
}

#[test]
fn what_follows_a_block_that_can_not_be_read_does_not_come() {
    let root = tempfile::tempdir().unwrap();
    {
        let mut store = store(root.path(), 10);
        store.write(name(1), ROOT, &contents(1)).unwrap();
        store.write(name(2), name(1), &contents(2)).unwrap();
        store.write(name(3), name(2), &contents(3)).unwrap();
    }
    let (cache, news) = cache(root.path());
    let second = block_files(root.path()).into_iter().nth(1).unwrap();
    let mut bytes = fs::read(&second).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&second, bytes).unwrap();
    cache.read(1, &[name(1), name(2), name(3)]);
    let first = arrival(&cache, &news);
    assert_eq!(first.contents.as_deref(), Some(contents(1).as_slice()));
    cache.give_back(first.contents.unwrap());
    let failed = arrival(&cache, &news);
    assert_eq!((failed.name, failed.contents), (name(2), None));
    assert_eq!(cache.index().leading(&[name(1), name(2), name(3)], None), 1);
    assert_eq!(cache.stats().refused_blocks, 1);
    // Both buffers for reading are free again.
    cache.read(2, &[name(1), name(3)]);
    let next = [arrival(&cache, &news), arrival(&cache, &news)];
    assert!(next.iter().all(|arrival| arrival.asker == 2 && arrival.contents.is_some()));
}
