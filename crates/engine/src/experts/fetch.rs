//! Reads experts in the background.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use levain_weights::{ReadBuffer, TensorPlace, TensorReader, WeightsError};

use super::ExpertId;
use crate::error::EngineError;

/// Reads under way at a time: enough for a disk's queue to be worth its while.
const THREADS: usize = 4;
/// Experts that lie in buffers, read and not yet packed or being read.
pub(crate) const BUFFERS: usize = 12;
/// Of these, the most that hold what nobody has asked for yet.
const BUFFERS_AHEAD: usize = BUFFERS / 2;

/// The bytes of an expert's gate, up and down matrices.
pub(super) type Buffers = [ReadBuffer; 3];

/// Threads that read experts.
#[derive(Debug)]
pub(super) struct Fetcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    reader: TensorReader,
    state: Mutex<State>,
    /// Rung when there is something to read and a buffer to read into, or the end.
    work: Condvar,
    /// Rung when something has been read.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What computation waits for, in the order in which it will take it.
    wanted: VecDeque<(ExpertId, [TensorPlace; 3])>,
    /// What it may want soon.
    ahead: VecDeque<(ExpertId, [TensorPlace; 3])>,
    under_way: HashSet<ExpertId>,
    arrived: HashMap<ExpertId, Result<Buffers, WeightsError>>,
    /// Those of the last two that nobody has asked for, oldest first.
    unasked: VecDeque<ExpertId>,
    spare: Vec<Buffers>,
    bytes_read: u64,
    closed: bool,
}

impl Fetcher {
    pub(super) fn new(reader: TensorReader) -> Result<Self, EngineError> {
        let spare = (0..BUFFERS).map(|_| Buffers::default()).collect();
        let shared = Arc::new(Shared {
            reader,
            state: Mutex::new(State { spare, ..State::default() }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let threads = (0..THREADS).map(|_| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name("levain-experts".to_owned());
            thread.spawn(move || shared.run()).map_err(EngineError::Thread)
        });
        Ok(Self { threads: threads.collect::<Result<_, _>>()?, shared })
    }

    /// Asks for an expert that will be [taken](Self::take). Experts must be taken in the order they were asked for.
    ///
    /// Says whether its read had begun before.
    pub(super) fn want(&self, id: ExpertId, places: [TensorPlace; 3]) -> bool {
        let mut state = self.shared.lock();
        let begun = state.under_way.contains(&id) || state.arrived.contains_key(&id);
        if begun {
            state.unasked.retain(|other| *other != id);
        } else {
            state.ahead.retain(|(other, _)| *other != id);
            state.wanted.push_back((id, places));
            self.shared.work.notify_one();
        }
        begun
    }

    /// Asks for an expert that may be wanted soon, if there is nothing better to do.
    pub(super) fn want_ahead(&self, id: ExpertId, places: [TensorPlace; 3]) {
        let mut state = self.shared.lock();
        let known = state.under_way.contains(&id)
            || state.arrived.contains_key(&id)
            || state.ahead.iter().any(|(other, _)| *other == id);
        if !known {
            if state.ahead.len() >= BUFFERS_AHEAD {
                state.ahead.pop_front();
            }
            state.ahead.push_back((id, places));
            self.shared.work.notify_one();
        }
    }

    /// Waits for an expert that was asked for.
    pub(super) fn take(&self, id: ExpertId) -> Result<Buffers, WeightsError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(result) = state.arrived.remove(&id) {
                return result;
            }
            state.make_room();
            self.shared.work.notify_one();
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives buffers back after their contents were packed.
    pub(super) fn give_back(&self, buffers: Buffers) {
        self.shared.lock().spare.push(buffers);
        self.shared.work.notify_one();
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.shared.lock().bytes_read
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A reader that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Throws away what was read for nobody where something wanted has no buffer.
    fn make_room(&mut self) {
        while self.spare.is_empty() && !self.wanted.is_empty() {
            let Some(at) = self.unasked.iter().position(|id| self.arrived.contains_key(id)) else { return };
            let Some(id) = self.unasked.remove(at) else { return };
            match self.arrived.remove(&id) {
                Some(Ok(buffers)) => self.spare.push(buffers),
                _ => self.spare.push(Buffers::default()),
            }
        }
    }

    /// The next read and buffers for it.
    fn next(&mut self) -> Option<(ExpertId, [TensorPlace; 3], Buffers)> {
        self.make_room();
        if self.wanted.is_empty() && self.unasked.len() >= BUFFERS_AHEAD {
            // Guesses that did not come true make room for new ones.
            if !self.ahead.is_empty()
                && let Some(at) = self.unasked.iter().position(|id| self.arrived.contains_key(id))
                && let Some(id) = self.unasked.remove(at)
                && let Some(Ok(buffers)) = self.arrived.remove(&id)
            {
                self.spare.push(buffers);
            } else {
                return None;
            }
        }
        let buffers = self.spare.pop()?;
        let ahead = self.wanted.is_empty();
        let Some((id, places)) = self.wanted.pop_front().or_else(|| self.ahead.pop_front()) else {
            self.spare.push(buffers);
            return None;
        };
        if ahead {
            self.unasked.push_back(id);
        }
        self.under_way.insert(id);
        Some((id, places, buffers))
    }
}

impl Shared {
    /// Locks state that is consistent at any time: whoever panics while holding it has changed nothing by halves.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some((id, places, mut buffers)) = state.next() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let mut read = || places.iter().zip(&mut buffers).try_for_each(|(p, b)| self.reader.read(p, b));
            let result = read().map(|()| buffers);
            state = self.lock();
            state.under_way.remove(&id);
            match &result {
                Ok(_) => state.bytes_read += places.iter().map(|place| place.len as u64).sum::<u64>(),
                // The buffers went with the error.
                Err(_) => state.spare.push(Buffers::default()),
            }
            state.arrived.insert(id, result);
            self.done.notify_all();
        }
    }
}
