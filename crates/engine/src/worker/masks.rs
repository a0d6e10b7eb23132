//! Constraints at work beside the steps.
//!
//! While a step is computed, threads of their own take each answer's last token into its constraint and ask which may
//! come next. An answer whose constraint takes much longer than the step sits out steps until it is done; the others
//! go on. No tenant has all of these threads at work.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{Shared, lock};
use crate::error::EngineError;
use crate::job::guarded;
use crate::request::Constraint;
use crate::sampling::TokenMask;

/// Threads that ask constraints.
const THREADS: usize = 2;
/// Of these, how many may be at work for one tenant.
const THREADS_OF_TENANT: usize = 1;
/// A step waits for constraints as long as it has computed, within these bounds: they seldom take as long, and an
/// answer that sits out a step has its last row computed once more.
const PATIENCE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(20)];

/// Until when a step waits for constraints that began with it.
pub(super) fn patience(computed_for: Duration) -> Instant {
    let [least, most] = PATIENCE;
    Instant::now() + computed_for.clamp(least, most)
}

/// A constraint, and what it said last.
pub(crate) struct Turn {
    pub(crate) constraint: Box<dyn Constraint>,
    pub(crate) mask: TokenMask,
    /// Whether the answer may end here, or why it can't go on.
    may_stop: Result<bool, EngineError>,
}

impl Turn {
    /// Takes a token in.
    fn accept(&mut self, token: u32) {
        if self.may_stop.is_ok()
            && let Err(error) = guarded(|| self.constraint.accept(token))
        {
            self.may_stop = Err(error);
        }
    }

    /// Asks what may come next.
    pub(crate) fn ask(&mut self) {
        if self.may_stop.is_err() {
            return;
        }
        self.mask.forbid_all();
        self.may_stop = guarded(|| {
            self.constraint.allowed(&mut self.mask)?;
            Ok(self.constraint.may_stop())
        });
    }

    /// What it said.
    pub(crate) fn may_stop(&self) -> Result<bool, EngineError> {
        match &self.may_stop {
            Ok(may_stop) => Ok(*may_stop),
            Err(error) => Err(error.again()),
        }
    }
}

/// The constraint of an answer, wherever it is.
pub(crate) struct Constrained {
    here: Option<Box<Turn>>,
    desk: Arc<Desk>,
}

/// Where a constraint is put when it has been asked.
#[derive(Default)]
struct Desk {
    state: Mutex<OnDesk>,
    put: Condvar,
}

#[derive(Default)]
struct OnDesk {
    turn: Option<Box<Turn>>,
    /// The answer sits out steps until it is there.
    missed: bool,
}

impl Constrained {
    pub(crate) fn new(constraint: Box<dyn Constraint>, vocab_size: usize) -> Self {
        let turn = Turn { constraint, mask: TokenMask::new(vocab_size), may_stop: Ok(false) };
        Self { here: Some(Box::new(turn)), desk: Arc::default() }
    }

    /// What the constraint said, unless it is still being asked at that time. Where it is, the engine's bell is rung as
    /// soon as it is not.
    pub(super) fn wait(&mut self, until: Instant) -> Option<&mut Turn> {
        if self.here.is_none() {
            let mut on_desk = self.desk.state.lock().unwrap_or_else(PoisonError::into_inner);
            while on_desk.turn.is_none() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    on_desk.missed = true;
                    return None;
                }
                on_desk = self.desk.put.wait_timeout(on_desk, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            on_desk.missed = false;
            self.here = on_desk.turn.take();
        }
        self.here.as_deref_mut()
    }

    /// Whether [`Constrained::wait`] would not have to wait.
    pub(super) fn is_here(&self) -> bool {
        self.here.is_some() || lock(&self.desk.state).turn.is_some()
    }

    /// What the constraint said, if it is here.
    pub(crate) fn turn(&mut self) -> Option<&mut Turn> {
        self.here.as_deref_mut()
    }
}

/// The threads that ask constraints. They start with the first one.
pub(super) struct Masks {
    queue: Arc<Queue>,
    started: bool,
}

struct Queue {
    state: Mutex<Waiting>,
    bell: Condvar,
    engine: Arc<Shared>,
}

#[derive(Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    /// Tenants for whom a thread is at work.
    at_work: Vec<u64>,
    closed: bool,
}

struct Task {
    tenant: u64,
    token: Option<u32>,
    turn: Box<Turn>,
    desk: Arc<Desk>,
}

impl Masks {
    pub(super) fn new(engine: Arc<Shared>) -> Self {
        Self {
            queue: Arc::new(Queue { state: Mutex::default(), bell: Condvar::new(), engine }),
            started: false,
        }
    }

    /// Has a constraint take in the token that was chosen, if there is one, and say what may come next.
    pub(super) fn begin(&mut self, constrained: &mut Constrained, token: Option<u32>, tenant: u64) {
        self.start();
        let Some(turn) = constrained.here.take() else { return };
        let task = Task { tenant, token, turn, desk: Arc::clone(&constrained.desk) };
        if self.started {
            lock(&self.queue.state).tasks.push_back(task);
            self.queue.bell.notify_one();
        } else {
            task.run(&self.queue.engine);
        }
    }

    fn start(&mut self) {
        if self.started {
            return;
        }
        for _ in 0..THREADS {
            let queue = Arc::clone(&self.queue);
            let thread = thread::Builder::new().name("levain-masks".to_owned()).spawn(move || queue.serve());
            match thread {
                Ok(_) => self.started = true,
                // With one thread all is slower, with none this thread does it all.
                Err(error) => tracing::warn!(%error, "no thread for output constraints"),
            }
        }
    }
}

impl Drop for Masks {
    fn drop(&mut self) {
        // Nobody waits for the threads: one may be at a constraint that takes its time.
        lock(&self.queue.state).closed = true;
        self.queue.bell.notify_all();
    }
}

impl Queue {
    fn serve(&self) {
        while let Some(task) = self.next() {
            let tenant = task.tenant;
            task.run(&self.engine);
            let mut waiting = lock(&self.state);
            if let Some(index) = waiting.at_work.iter().position(|&other| other == tenant) {
                waiting.at_work.swap_remove(index);
            }
            drop(waiting);
            // Another thread may have passed over a task of this tenant.
            self.bell.notify_one();
        }
    }

    /// The first task of a tenant who has not all the threads that it may have.
    fn next(&self) -> Option<Task> {
        let mut waiting = lock(&self.state);
        loop {
            if waiting.closed {
                return None;
            }
            let Waiting { tasks, at_work, .. } = &mut *waiting;
            let may = |tenant| at_work.iter().filter(|&&other| other == tenant).count() < THREADS_OF_TENANT;
            if let Some(index) = tasks.iter().position(|task| may(task.tenant))
                && let Some(task) = tasks.remove(index)
            {
                at_work.push(task.tenant);
                return Some(task);
            }
            waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Task {
    fn run(self, engine: &Shared) {
        let Self { token, mut turn, desk, .. } = self;
        if Arc::strong_count(&desk) > 1 {
            if let Some(token) = token {
                turn.accept(token);
            }
            turn.ask();
        }
        let mut on_desk = lock(&desk.state);
        on_desk.turn = Some(turn);
        let missed = on_desk.missed;
        drop(on_desk);
        desk.put.notify_one();
        if missed {
            lock(&engine.inbox).news = true;
            engine.bell.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Says what it is doing, and takes until it is told to go on.
    struct Slow {
        told: Sender<u32>,
        go_on: Receiver<()>,
        last: u32,
    }

    impl Constraint for Slow {
        fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), String> {
            let _ = self.told.send(self.last);
            self.go_on.recv().map_err(|_| "nobody tells".to_owned())?;
            mask.allow(self.last);
            Ok(())
        }

        fn accept(&mut self, token: u32) -> Result<(), String> {
            self.last = token;
            if token == 9 { Err("not nine".to_owned()) } else { Ok(()) }
        }

        fn may_stop(&mut self) -> bool {
            self.last == 1
        }
    }

    fn slow(last: u32) -> (Constrained, Receiver<u32>, Sender<()>) {
        let (told, hears) = channel();
        let (tells, go_on) = channel();
        (Constrained::new(Box::new(Slow { told, go_on, last }), 16), hears, tells)
    }

    #[test]
    fn a_tenant_that_is_slow_holds_up_itself_alone() {
        let engine: Arc<Shared> = Arc::default();
        let mut masks = Masks::new(Arc::clone(&engine));
        let (mut a, a_hears, a_tells) = slow(1);
        let (mut b, b_hears, b_tells) = slow(2);
        let (mut c, c_hears, c_tells) = slow(3);
        masks.begin(&mut a, None, 1);
        masks.begin(&mut b, None, 1);
        masks.begin(&mut c, None, 2);
        assert_eq!((a_hears.recv(), c_hears.recv()), (Ok(1), Ok(3)));
        c_tells.send(()).unwrap();
        let far = Instant::now() + Duration::from_secs(600);
        let turn = c.wait(far).unwrap();
        assert!(turn.mask.is_allowed(3) && !turn.mask.is_allowed(1) && !turn.may_stop().unwrap());
        assert!(a.wait(Instant::now()).is_none() && !a.is_here());
        assert!(b_hears.try_recv().is_err(), "two threads for one tenant");
        assert!(!lock(&engine.inbox).news);
        a_tells.send(()).unwrap();
        assert_eq!(b_hears.recv(), Ok(2));
        assert!(a.wait(far).unwrap().may_stop().unwrap());
        assert!(lock(&engine.inbox).news, "nobody was told of what was missed");
        b_tells.send(()).unwrap();
        b.wait(far).unwrap();
    }

    #[test]
    fn a_token_is_taken_in_first_and_what_fails_stays_failed() {
        let mut masks = Masks::new(Arc::default());
        let (mut constrained, hears, tells) = slow(1);
        tells.send(()).unwrap();
        let far = Instant::now() + Duration::from_secs(600);
        masks.begin(&mut constrained, Some(4), 0);
        let turn = constrained.wait(far).unwrap();
        assert!(turn.mask.is_allowed(4) && turn.mask.count() == 1);
        assert_eq!(hears.recv(), Ok(4));
        for token in [9, 4] {
            masks.begin(&mut constrained, Some(token), 0);
            let error = constrained.wait(far).unwrap().may_stop().unwrap_err();
            assert!(error.to_string().contains("not nine"), "{error}");
        }
        assert!(hears.try_recv().is_err());
    }
}
