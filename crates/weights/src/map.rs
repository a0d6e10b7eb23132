//! Bytes of a file, mapped read-only into memory. The only `unsafe` of this crate is here.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(test)]
use std::sync::atomic::Ordering;

use memmap2::Mmap;

use crate::error::{WeightsError, WrongFile};

/// The contents of a file. Pages come in as they are touched and may be given back with [`Bytes::release`].
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Watched),
    Owned(Vec<u8>),
}

/// A map, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Watched {
    map: Mmap,
    damaged: Arc<AtomicBool>,
    /// Its place among the maps that are watched.
    index: Option<usize>,
}

impl Watched {
    fn new(map: Mmap) -> Self {
        let damaged = Arc::new(AtomicBool::new(false));
        let index = fault::watch(map.as_ptr().addr(), map.len(), &damaged);
        Self { map, damaged, index }
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
        // or cutting the file while it is mapped: a change gives other numbers, a cut gives zeros and is noticed
        // (see `fault`), or ends this process with SIGBUS elsewhere than on Linux. The store therefore never changes a file in place; it renames whole new ones.
        let map = unsafe { Mmap::map(&file) }.map_err(at)?;
        Ok(Self::Mapped(Watched::new(map)))
    }

    /// Whether parts of the file were lost while it was mapped; `None` for bytes that are no map.
    pub(crate) fn damage(&self) -> Option<&Arc<AtomicBool>> {
        match self {
            Self::Mapped(watched) => Some(&watched.damaged),
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
            // bytes; MADV_DONTNEED loses data only in anonymous or privately written pages, and there are none.
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
    const WATCHED_MAX: usize = 2048;

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
        let address = unsafe { (*info).si_addr() } as usize;
        for watched in &WATCHED {
            let (len, start) = (watched.len.load(Ordering::SeqCst), watched.start.load(Ordering::SeqCst));
            let Some(offset) = address.checked_sub(start).filter(|offset| *offset < len) else { continue };
            let page = PAGE.load(Ordering::SeqCst);
            let from = offset - offset % page;
            let (flags, damaged) =
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, &watched.damaged);
            #[expect(unsafe_code, reason = "signals have no safe interface")]
            // SAFETY: the range lies within a read-only map of ours, which lives while somebody reads from it, as the
            // thread that was interrupted does. Zeros are as valid as the bytes that are lost. Its flag lives as long.
            unsafe {
                let at = (start + from) as *mut libc::c_void;
                if libc::mmap(at, len - from, libc::PROT_READ, flags, -1, 0) == libc::MAP_FAILED {
                    break;
                }
                if let Some(damaged) = damaged.load(Ordering::SeqCst).as_ref() {
                    damaged.store(true, Ordering::SeqCst);
                }
            }
            return;
        }
        // Not ours: what was in place before takes it when the read is tried again.
        #[expect(unsafe_code, reason = "signals have no safe interface")]
        // SAFETY: what was stored is valid for ever.
        unsafe {
            libc::sigaction(libc::SIGBUS, BEFORE.load(Ordering::SeqCst), ptr::null_mut());
        }
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
        assert!(!map.damage().is_some_and(|damage| damage.load(Ordering::SeqCst)));
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
        assert!(map.damage().unwrap().load(Ordering::SeqCst));
        assert_eq!(other.as_slice().iter().filter(|&&byte| byte == 8).count(), 100_000);
        assert!(!other.damage().unwrap().load(Ordering::SeqCst));
        // A later map in its place is none the worse for it.
        drop(map);
        let again = Bytes::map(whole.path()).unwrap();
        assert!(!again.damage().unwrap().load(Ordering::SeqCst));
    }

    /// Not a test of its own: the child of the next one.
    #[test]
    fn faults_elsewhere() {
        if std::env::var_os("LEVAIN_TEST_FAULT").is_none() {
            return;
        }
        let _ours = Bytes::map(file(&[1; 10]).path()).unwrap();
        let foreign = file(&[2; 100_000]);
        #[expect(unsafe_code, reason = "a map that nobody watches")]
        // SAFETY: read as bytes only; what is tested is that reading ends the process.
        let map = unsafe { Mmap::map(foreign.as_file()) }.unwrap();
        foreign.as_file().set_len(0).unwrap();
        std::process::exit(i32::from(map[50_000]) + 40);
    }

    #[test]
    fn what_is_not_ours_ends_the_process_as_before() {
        use std::os::unix::process::ExitStatusExt as _;
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["map::tests::faults_elsewhere", "--exact"])
            .env("LEVAIN_TEST_FAULT", "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
}
