//! Bytes of a file, mapped read-only into memory. The only `unsafe` of this crate is here.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{WeightsError, WrongFile};

/// The contents of a file. Pages come in as they are touched and may be given back with [`Bytes::release`].
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Watched),
    Owned(Vec<u8>),
}

/// A map, and what becomes of it and of its file.
#[derive(Debug)]
pub(crate) struct Watched {
    map: Mmap,
    file: File,
    stamp: Stamp,
    /// On the heap, for the handler of faults to find it wherever this is moved.
    damaged: Arc<AtomicBool>,
    /// Its place among the maps that are watched.
    index: Option<usize>,
}

impl Watched {
    fn new(map: Mmap, file: File, stamp: Stamp) -> Self {
        let damaged = Arc::new(AtomicBool::new(false));
        let index = fault::watch(map.as_ptr().addr(), map.len(), &damaged);
        Self { map, file, stamp, damaged, index }
    }
}

/// By what a change of a file's contents is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    len: u64,
    /// `None` where the file system does not tell.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self { len: meta.len(), modified: meta.modified().ok() }
    }

    /// Compares with what the file is now.
    ///
    /// # Errors
    /// If it was cut short or changed.
    pub(crate) fn check(self, file: &File, path: &Path) -> Result<(), WeightsError> {
        // What can't be looked at is not known to have changed.
        let Ok(now) = file.metadata().map(|meta| Self::of(&meta)) else { return Ok(()) };
        let file = || path.to_owned();
        if now.len < self.len {
            return Err(WeightsError::Lost { file: file() });
        }
        if now == self { Ok(()) } else { Err(WeightsError::Changed { file: file() }) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            fault::forget(index);
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl Bytes {
    /// Maps a whole file. Refuses folders, devices, pipes and empty files.
    pub(crate) fn map(path: &Path) -> Result<Self, WeightsError> {
        let at = |e| WeightsError::io(path, e);
        let file = File::open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if !meta.is_file() {
            return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        if meta.len() == 0 {
            return Err(WeightsError::wrong(path, WrongFile::Empty));
        }
        #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
        // SAFETY: the map is read-only and private to this struct. The file's bytes are only ever read as
        // `u8`, for which each bit pattern is valid. What can't be ruled out is another process changing
        // or cutting the file while it is mapped: a change gives other numbers, a cut gives zeros (see `fault`), and
        // both are noticed by `check`; elsewhere than on Linux a cut ends this process with SIGBUS. The store
        // therefore never changes a file in place; it renames whole new ones.
        let map = unsafe { Mmap::map(&file) }.map_err(at)?;
        Ok(Self::Mapped(Watched::new(map, file, Stamp::of(&meta))))
    }

    /// Whether all that was read since the file was mapped is what it held then; `path` is for messages.
    ///
    /// # Errors
    /// If the file lost parts or was changed.
    pub(crate) fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let Self::Mapped(watched) = self else { return Ok(()) };
        if watched.damaged.load(Ordering::SeqCst) {
            return Err(WeightsError::Lost { file: path.to_owned() });
        }
        watched.stamp.check(&watched.file, path)
    }

    /// What the file was when it was mapped; `None` for bytes that are no map.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Mapped(watched) => Some(watched.stamp),
            Self::Owned(_) => None,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(watched) => &watched.map,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Tells the system that the pages of this range need not stay in memory. The bytes stay readable:
    /// they are read from the file again when touched.
    pub(crate) fn release(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(unix)]
        if let Self::Mapped(Watched { map, .. }) = self
            && len > 0
        {
            if start.checked_add(len).is_none_or(|end| end > map.len()) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "range outside the file"));
            }
            #[expect(unsafe_code, reason = "MADV_DONTNEED has no safe wrapper")]
            // SAFETY: the map is a read-only view of a file, so dropped pages come back with the file's
            // bytes; MADV_DONTNEED loses data only in anonymous or privately written pages, and of those there are at
            // most the zeros of `fault`, which come back as zeros.
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) }?;
        }
        #[cfg(not(unix))]
        let _ = (start, len);
        Ok(())
    }

    /// Asks the system to read this range ahead of use.
    pub(crate) fn will_need(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(unix)]
        if let Self::Mapped(Watched { map, .. }) = self
            && len > 0
        {
            map.advise_range(memmap2::Advice::WillNeed, start, len)?;
        }
        #[cfg(not(unix))]
        let _ = (start, len);
        Ok(())
    }
}

/// What becomes of a read behind the end of a file that was cut while it is mapped, or of one that the disk refuses.
/// The system sends SIGBUS, which ends a process that does not expect it. Here the pages become zeros and the map is
/// marked as damaged, for whoever works with what was read to find out before anybody sees it.
#[cfg(target_os = "linux")]
mod fault {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
    use std::{mem, ptr};

    /// Maps that are watched at a time; more are read without a net.
    const WATCHED_MAX: usize = 8192;

    /// A map that is watched. The handler may look at it at any time.
    struct Watched {
        start: AtomicUsize,
        /// 0 while there is none.
        len: AtomicUsize,
        damaged: AtomicPtr<AtomicBool>,
    }

    static WATCHED: [Watched; WATCHED_MAX] = [const {
        Watched {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            damaged: AtomicPtr::new(ptr::null_mut()),
        }
    }; WATCHED_MAX];
    static PAGE: AtomicUsize = AtomicUsize::new(4096);
    /// What was in place before, for faults that are not ours.
    static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

    /// Begins to watch a map; `damaged` has to live until [`forget`].
    pub(super) fn watch(start: usize, len: usize, damaged: &AtomicBool) -> Option<usize> {
        install();
        let free = |watched: &&Watched| {
            watched.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        let index = WATCHED.iter().position(|watched| free(&watched))?;
        let watched = WATCHED.get(index)?;
        watched.damaged.store(ptr::from_ref(damaged).cast_mut(), Ordering::SeqCst);
        watched.len.store(len, Ordering::SeqCst);
        Some(index)
    }

    /// Ends it, before the map goes.
    pub(super) fn forget(index: usize) {
        if let Some(watched) = WATCHED.get(index) {
            watched.len.store(0, Ordering::SeqCst);
            watched.damaged.store(ptr::null_mut(), Ordering::SeqCst);
            watched.start.store(0, Ordering::SeqCst);
        }
    }

    fn install() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            #[expect(unsafe_code, reason = "signals have no safe interface")]
            // SAFETY: both structs are plain data for which zeros are valid; the handler does only what may be done
            // in a signal handler; what was in place before is kept for ever, as the handler may need it at any time.
            unsafe {
                if let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
                    PAGE.store(page, Ordering::SeqCst);
                }
                let before = Box::into_raw(Box::new(mem::zeroed::<libc::sigaction>()));
                if libc::sigaction(libc::SIGBUS, ptr::null(), before) != 0 {
                    return;
                }
                BEFORE.store(before, Ordering::SeqCst);
                let mut action: libc::sigaction = mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
                libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
            }
        });
    }

    /// Runs in the thread that read. It allocates nothing and takes no lock.
    extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        #[expect(unsafe_code, reason = "signals have no safe interface")]
        // SAFETY: the system hands a valid `info` to a handler with SA_SIGINFO.
        let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
        // Codes of faults are positive; a signal that some process has sent has no address, but its own number there.
        let is_fault = code > 0;
        if is_fault && become_zeros(address) {
            return;
        }
        // Not ours: what was in place before takes it when the read is tried again, or the signal comes once more.
        #[expect(unsafe_code, reason = "signals have no safe interface")]
        // SAFETY: what was stored is valid for ever, and a signal may be raised in a handler: it waits for its end.
        unsafe {
            libc::sigaction(libc::SIGBUS, BEFORE.load(Ordering::SeqCst), ptr::null_mut());
            if !is_fault {
                libc::raise(libc::SIGBUS);
            }
        }
    }

    /// Puts zeros in place of what a map of ours holds from a page on, and marks it; `false` if it is none of ours.
    fn become_zeros(address: usize) -> bool {
        for watched in &WATCHED {
            let (len, start) = (watched.len.load(Ordering::SeqCst), watched.start.load(Ordering::SeqCst));
            let Some(offset) = address.checked_sub(start).filter(|offset| *offset < len) else { continue };
            // A place that passed from one map to another meanwhile belongs to neither that is read from here.
            if watched.len.load(Ordering::SeqCst) != len {
                continue;
            }
            let within_page = offset.checked_rem(PAGE.load(Ordering::SeqCst)).unwrap_or(0);
            let from = offset.saturating_sub(within_page);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            #[expect(unsafe_code, reason = "signals have no safe interface")]
            // SAFETY: the range lies within a read-only map of ours, which lives while somebody reads from it, as the
            // thread that was interrupted does. Zeros are as valid as the bytes that are lost. Its flag lives as long.
            return unsafe {
                // Marked first: from then on other threads read zeros without a fault.
                if let Some(damaged) = watched.damaged.load(Ordering::SeqCst).as_ref() {
                    damaged.store(true, Ordering::SeqCst);
                }
                let at = start.saturating_add(from) as *mut libc::c_void;
                libc::mmap(at, len.saturating_sub(from), libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
            };
        }
        false
    }
}

/// Elsewhere a file that is cut while it is mapped ends the process.
#[cfg(not(target_os = "linux"))]
mod fault {
    use std::sync::atomic::AtomicBool;

    pub(super) fn watch(_start: usize, _len: usize, _damaged: &AtomicBool) -> Option<usize> {
        None
    }

    pub(super) fn forget(_index: usize) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_mapped_reads_as_zeros_and_is_told() {
        let [cut, whole] = [file(&[7; 100_000]), file(&[8; 100_000])];
        let [map, other] = [&cut, &whole].map(|file| Bytes::map(file.path()).unwrap());
        assert_eq!(map.as_slice()[99_999], 7);
        cut.as_file().set_len(5000).unwrap();
        // It is known to be shorter before anybody has missed anything.
        let is_lost = |map: &Bytes| matches!(map.check(Path::new("x")), Err(WeightsError::Lost { .. }));
        let is_damaged = |map: &Bytes| match map {
            Bytes::Mapped(watched) => watched.damaged.load(Ordering::SeqCst),
            Bytes::Owned(_) => false,
        };
        assert!(is_lost(&map) && !is_damaged(&map));
        // Several threads at once, from any place.
        std::thread::scope(|scope| {
            for first in 0..4 {
                let map = &map;
                scope.spawn(move || {
                    let sum: u64 = map.as_slice()[first * 25_000..].iter().map(|&byte| u64::from(byte)).sum();
                    assert!(sum <= 8192 * 7);
                });
            }
        });
        assert_eq!(map.as_slice()[..5000], [7; 5000]);
        assert!(is_damaged(&map));
        // Nor does it help to make it as long as it was.
        cut.as_file().set_len(100_000).unwrap();
        assert!(is_lost(&map));
        map.release(0, 100_000).unwrap();
        assert_eq!(map.as_slice()[99_999], 0);
        assert_eq!(other.as_slice().iter().filter(|&&byte| byte == 8).count(), 100_000);
        other.check(whole.path()).unwrap();
        // A later map in its place is none the worse for it.
        drop(map);
        let again = Bytes::map(whole.path()).unwrap();
        again.check(whole.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_changed_in_place_is_told_and_one_that_is_replaced_is_not() {
        let changed = file(&[7; 100_000]);
        // Clocks of file systems are coarse; this one was written long ago.
        changed.as_file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let map = Bytes::map(changed.path()).unwrap();
        map.check(changed.path()).unwrap();
        // The store renames whole files over others: what is mapped stays what it was.
        let other = file(&[8; 10]);
        std::fs::rename(other.path(), changed.path()).unwrap();
        map.check(changed.path()).unwrap();
        assert_eq!(map.as_slice(), [7; 100_000]);
        let map = Bytes::map(changed.path()).unwrap();
        std::fs::OpenOptions::new().append(true).open(changed.path()).unwrap().set_len(20).unwrap();
        let told = map.check(changed.path()).unwrap_err();
        assert!(matches!(told, WeightsError::Changed { .. }), "{told}");
    }

    /// Not a test of its own: the child of the next one, which is not to get to the end.
    #[test]
    fn faults_elsewhere() {
        let Some(kind) = std::env::var_os("LEVAIN_TEST_FAULT") else { return };
        let _ours = Bytes::map(file(&[1; 10]).path()).unwrap();
        if kind == "sent" {
            #[expect(unsafe_code, reason = "signals have no safe interface")]
            // SAFETY: raising a signal breaks no rule of memory. What the standard library has in place gives way at
            // the first one, and the second ends the process, as it would without us.
            unsafe {
                libc::raise(libc::SIGBUS);
                libc::raise(libc::SIGBUS);
            }
            return;
        }
        let foreign = file(&[2; 100_000]);
        #[expect(unsafe_code, reason = "a map that nobody watches")]
        // SAFETY: read as bytes only; what is tested is that reading ends the process.
        let map = unsafe { Mmap::map(foreign.as_file()) }.unwrap();
        foreign.as_file().set_len(0).unwrap();
        std::hint::black_box(map[50_000]);
    }

    #[test]
    fn what_is_not_ours_ends_the_process_as_before() {
        use std::os::unix::process::ExitStatusExt as _;
        for kind in ["read", "sent"] {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["map::tests::faults_elsewhere", "--exact"])
                .env("LEVAIN_TEST_FAULT", kind)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{kind}: {status}");
        }
    }
}
