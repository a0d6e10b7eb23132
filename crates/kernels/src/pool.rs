//! A fork/join pool for short parallel regions, a few microseconds to a few milliseconds long.
//!
//! A model's step is hundreds of such regions, so what counts is how soon the workers join in and how soon
//! the caller knows that they have finished. Workers therefore spin for a moment after each region and sleep
//! only when nothing follows; the calling thread works too. Tasks are claimed one at a time from a shared
//! counter, so a worker that the system has put aside delays only the task it holds.
//!
//! A region entered while the pool is at work, from inside a task or from another thread, runs on the thread
//! that entered it. That is always right because no result may depend on who runs which task, and it cannot
//! deadlock because it waits for nobody.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for the next region before it sleeps. Regions of one step follow each
/// other within a few microseconds; sampling and bookkeeping between steps take longer.
const WORKER_SPIN: Duration = Duration::from_micros(60);
/// How long the caller watches for the last worker before it sleeps. It has run out of tasks by then, so the
/// wait is at most one task long, unless the worker has lost its core.
const CALLER_SPIN: Duration = Duration::from_micros(200);
/// Pauses between two looks at the clock.
const PAUSES_PER_CLOCK: u32 = 32;
/// After this long a spinning thread offers its core to others on each look at the clock.
const YIELD_AFTER: Duration = Duration::from_micros(20);

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A fixed set of worker threads, plus whichever thread calls [`Pool::run`].
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

struct Worker {
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// What a region's task pointer looks like without its lifetime.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
}

struct Shared {
    /// Tasks of the current region that nobody has claimed yet. The claim that takes it from `r` to `r - 1`
    /// owns the task numbered `tasks - r`.
    unclaimed: CachePadded<AtomicUsize>,
    /// Tasks of the current region that have not been run to their end.
    unfinished: CachePadded<AtomicUsize>,
    /// Whether a region is under way.
    busy: AtomicBool,
    shutdown: AtomicBool,
    /// Written by the caller before it publishes `unclaimed`, read only by a thread that owns a task of the
    /// region, which therefore cannot have ended.
    job: UnsafeCell<Option<Job>>,
    caller: UnsafeCell<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    states: Vec<CachePadded<AtomicU32>>,
}

// SAFETY: `job` and `caller` are written only by the thread that holds `busy` while `unfinished` is zero, and
// read only by threads that own a task of the region in between; the release store and the acquire claims of
// `unclaimed` order the two. The task itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the raw task pointer is only dereferenced under the protocol above.
unsafe impl Send for Shared {}

/// Keeps a counter on its own pair of cache lines, so that claims do not slow down completions.
#[repr(align(128))]
struct CachePadded<T>(T);

impl Pool {
    /// A pool in which `threads` threads work: `threads - 1` workers and the caller. Zero counts as one.
    /// Where the system refuses to start a thread, the pool makes do with those it got.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let wanted = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            unclaimed: CachePadded(AtomicUsize::new(0)),
            unfinished: CachePadded(AtomicUsize::new(0)),
            busy: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
            panic: Mutex::new(None),
            states: (0..wanted).map(|_| CachePadded(AtomicU32::new(AWAKE))).collect(),
        });
        let mut workers = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let shared = Arc::clone(&shared);
            let spawned = thread::Builder::new()
                .name(format!("levain-worker-{}", index + 1))
                .spawn(move || shared.work(index));
            let Ok(handle) = spawned else { break };
            workers.push(Worker { thread: handle.thread().clone(), handle: Some(handle) });
        }
        Self { shared, workers }
    }

    /// A pool with a thread for each core this process may use.
    #[must_use]
    pub fn for_machine() -> Self {
        Self::new(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// How many threads work in a region, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0)`, `f(1)`, … `f(tasks - 1)`, each exactly once, in no particular order and on any of the
    /// pool's threads, and returns when all have ended. If a task panics, the remaining ones are skipped and
    /// the panic continues in the caller.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        self.run_on_workers(tasks, &|task, _worker| f(task));
    }

    /// Like [`Pool::run`], and tells each task which worker runs it, as a number below [`Pool::threads`].
    /// No two tasks of one region run on the same worker at the same time, so the number can index scratch
    /// memory that belongs to the region.
    pub fn run_on_workers(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        if tasks == 0 {
            return;
        }
        if tasks == 1 || self.workers.is_empty() || self.shared.busy.swap(true, Ordering::Acquire) {
            for task in 0..tasks {
                f(task, 0);
            }
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is dereferenced by owners of an unfinished task
        // alone, and this function does not return before every task has finished.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(f) };
        self.shared.publish(Job { task, tasks });
        self.wake(tasks - 1);
        self.shared.take_part(0);
        self.shared.wait_for_workers();
        let panic = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Wakes sleeping workers until `wanted` are at work or on their way.
    fn wake(&self, wanted: usize) {
        // Pairs with the fence in `sleep`: either this thread sees the worker asleep, or the worker sees the
        // tasks.
        fence(Ordering::SeqCst);
        for (worker, state) in self.workers.iter().zip(&self.shared.states).take(wanted) {
            if state.0.load(Ordering::Relaxed) == ASLEEP && state.0.swap(AWAKE, Ordering::AcqRel) == ASLEEP {
                worker.thread.unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker cannot panic: its tasks' panics are caught and handed to the caller.
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Shared {
    fn publish(&self, job: Job) {
        // SAFETY: the caller holds `busy` and no task is unclaimed or unfinished, so nobody reads these.
        unsafe {
            *self.job.get() = Some(job);
            *self.caller.get() = Some(thread::current());
        }
        self.unfinished.0.store(job.tasks, Ordering::Relaxed);
        self.unclaimed.0.store(job.tasks, Ordering::Release);
    }

    /// Claims one task of the current region, if any is left.
    fn claim(&self) -> Option<(&Task<'static>, usize)> {
        let mut left = self.unclaimed.0.load(Ordering::Relaxed);
        while left > 0 {
            match self.unclaimed.0.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    // SAFETY: this thread owns an unfinished task, so the region is under way and `job` is
                    // its job; the acquire above makes the caller's write visible.
                    let job = unsafe { (*self.job.get())? };
                    // SAFETY: the task outlives the region, see `run_on_workers`.
                    return Some((unsafe { &*job.task }, job.tasks - left));
                }
                Err(now) => left = now,
            }
        }
        None
    }

    /// Runs tasks until none is unclaimed.
    fn take_part(&self, worker: usize) {
        let mut finished = 0;
        while let Some((task, index)) = self.claim() {
            finished += 1;
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index, worker))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                finished += self.unclaimed.0.swap(0, Ordering::AcqRel);
            }
        }
        if finished > 0 {
            self.finish(finished, worker);
        }
    }

    /// Reports tasks as ended. Nothing of the region may be touched afterwards.
    fn finish(&self, finished: usize, worker: usize) {
        // The caller's handle is cloned while this thread still owns unfinished tasks: afterwards the next
        // region may already be writing a new one.
        // SAFETY: as for `job` in `claim`.
        let caller = (worker != 0).then(|| unsafe { (*self.caller.get()).clone() }).flatten();
        let before = self.unfinished.0.fetch_sub(finished, Ordering::AcqRel);
        // A caller that still spins takes no harm from this: it costs one atomic write, and a later `park`
        // of that thread returns early once, as any `park` may. A flag that told whether the caller sleeps
        // would by now belong to the next region.
        if before == finished
            && let Some(caller) = caller
        {
            caller.unpark();
        }
    }

    fn wait_for_workers(&self) {
        let done = || self.unfinished.0.load(Ordering::Acquire) == 0;
        if spin_until(CALLER_SPIN, done) {
            return;
        }
        // An unpark meant for something else may wake this thread early, so the count decides.
        while !done() {
            thread::park();
        }
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let has_work =
            || self.unclaimed.0.load(Ordering::Relaxed) != 0 || self.shutdown.load(Ordering::Relaxed);
        loop {
            if !spin_until(WORKER_SPIN, has_work) {
                self.sleep(index);
            }
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            self.take_part(index + 1);
        }
    }

    fn sleep(&self, index: usize) {
        let Some(state) = self.states.get(index) else { return };
        state.0.store(ASLEEP, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while self.unclaimed.0.load(Ordering::SeqCst) == 0
            && !self.shutdown.load(Ordering::SeqCst)
            && state.0.load(Ordering::SeqCst) == ASLEEP
        {
            thread::park();
        }
        state.0.store(AWAKE, Ordering::SeqCst);
    }
}

/// Watches a condition for at most `limit`, yielding the core now and then, and says whether it came true.
fn spin_until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..PAUSES_PER_CLOCK {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        let waited = start.get_or_insert_with(Instant::now).elapsed();
        if waited > limit {
            return condition();
        }
        if waited > YIELD_AFTER {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests;
