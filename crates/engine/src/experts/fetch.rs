//! Reads experts in the background.
//!
//! The unit of reading is a matrix: large enough for a disk to give all it has, and small enough for the three of
//! an expert to be under way together, so that the last expert of a layer does not come through one narrow pipe.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use levain_weights::{ReadBuffer, TensorPlace, TensorReader, WeightsError};

use super::ExpertId;
use crate::error::EngineError;

/// Reads under way at a time: enough for a disk's queue to be worth its while.
pub(super) const THREADS: usize = 6;
/// Experts that lie in buffers, read and not yet packed or being read.
pub(crate) const BUFFERS: usize = 12;
/// Of these, the most that hold what nobody has asked for yet.
const BUFFERS_AHEAD: usize = BUFFERS / 2;

/// Where an expert's gate, up and down matrices lie.
pub(super) type Places = [TensorPlace; 3];
/// The bytes of an expert's gate, up and down matrices.
pub(super) type Buffers = [ReadBuffer; 3];

/// Threads that read experts.
#[derive(Debug)]
pub(super) struct Fetcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What reading has come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    /// Of these, bytes read ahead that nobody then asked for.
    pub(super) bytes_in_vain: u64,
    /// Time during which at least one read was under way.
    pub(super) reading: Duration,
}

#[derive(Debug)]
struct Shared {
    reader: TensorReader,
    state: Mutex<State>,
    /// Rung when there is something to read and a buffer to read into, or the end.
    work: Condvar,
    /// Rung when an expert has been read.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What computation waits for, in the order in which it will take it.
    wanted: VecDeque<(ExpertId, Places)>,
    /// What it may want soon.
    ahead: VecDeque<(ExpertId, Places)>,
    /// Matrices of the expert begun last that no thread has taken up yet.
    parts: VecDeque<Part>,
    under_way: HashMap<ExpertId, UnderWay>,
    arrived: HashMap<ExpertId, Result<Buffers, WeightsError>>,
    /// Those of the last two that nobody has asked for, oldest first.
    unasked: VecDeque<ExpertId>,
    spare: Vec<Buffers>,
    /// Reads going on now, and since when there has been one.
    reads: usize,
    reading_since: Option<Instant>,
    totals: Totals,
    closed: bool,
}

/// A matrix to be read.
#[derive(Debug)]
struct Part {
    id: ExpertId,
    /// 0, 1 or 2: gate, up or down.
    index: usize,
    place: TensorPlace,
    buffer: ReadBuffer,
}

/// An expert whose matrices are being read.
#[derive(Debug, Default)]
struct UnderWay {
    buffers: Buffers,
    read: usize,
    error: Option<WeightsError>,
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
    pub(super) fn want(&self, id: ExpertId, places: Places) -> bool {
        let mut state = self.shared.lock();
        let begun = state.has_begun(id);
        if begun {
            state.unasked.retain(|other| *other != id);
        } else {
            state.ahead.retain(|(other, _)| *other != id);
            state.wanted.push_back((id, places));
            self.shared.work.notify_all();
        }
        begun
    }

    /// Asks for experts that may be wanted soon, if there is nothing better to do, instead of those that were asked
    /// for in this way before and that no read has begun for.
    pub(super) fn want_ahead(&self, experts: impl Iterator<Item = (ExpertId, Places)>) {
        let mut state = self.shared.lock();
        state.ahead.clear();
        for (id, places) in experts {
            if !state.has_begun(id) {
                state.ahead.push_back((id, places));
            }
        }
        self.shared.work.notify_all();
    }

    /// Waits for an expert that was asked for.
    pub(super) fn take(&self, id: ExpertId) -> Result<Buffers, WeightsError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(result) = state.arrived.remove(&id) {
                return result;
            }
            if state.spare.is_empty() && state.has_work() {
                state.make_room();
                self.shared.work.notify_all();
            }
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives buffers back after their contents were packed.
    pub(super) fn give_back(&self, buffers: Buffers) {
        let mut state = self.shared.lock();
        state.spare.push(buffers);
        if state.has_work() {
            self.shared.work.notify_all();
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let state = self.shared.lock();
        let now = state.reading_since.map_or(Duration::ZERO, |since| since.elapsed());
        Totals { reading: state.totals.reading.saturating_add(now), ..state.totals }
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
    fn has_begun(&self, id: ExpertId) -> bool {
        self.under_way.contains_key(&id) || self.arrived.contains_key(&id)
    }

    /// Throws away the oldest expert that was read for nobody; `false` if there is none.
    fn forget_unasked(&mut self) -> bool {
        let Some(at) = self.unasked.iter().position(|id| self.arrived.contains_key(id)) else { return false };
        let gone = self.unasked.remove(at).and_then(|id| self.arrived.remove(&id));
        // A read that failed has given its buffers back.
        if let Some(Ok(buffers)) = gone {
            self.totals.bytes_in_vain +=
                buffers.iter().map(|buffer| buffer.bytes().len() as u64).sum::<u64>();
            self.spare.push(buffers);
        }
        true
    }

    /// Makes a buffer free where something wanted has none and another holds what nobody asked for.
    fn make_room(&mut self) {
        while self.spare.is_empty() && !self.wanted.is_empty() && self.forget_unasked() {}
    }

    /// Whether a buffer given back is of use at once.
    fn has_work(&self) -> bool {
        !(self.wanted.is_empty() && self.ahead.is_empty())
    }

    /// The next matrix to be read, and a buffer for it.
    fn next(&mut self) -> Option<Part> {
        if self.parts.is_empty() {
            self.begin_next();
        }
        self.parts.pop_front()
    }

    /// Begins with the next expert, if there is one and buffers for it.
    fn begin_next(&mut self) {
        self.make_room();
        let ahead = self.wanted.is_empty();
        if ahead {
            if self.ahead.is_empty() {
                return;
            }
            // Guesses that did not come true make room for new ones.
            if self.unasked.len() >= BUFFERS_AHEAD && !self.forget_unasked() {
                return;
            }
        }
        let Some(buffers) = self.spare.pop() else { return };
        let Some((id, places)) = self.wanted.pop_front().or_else(|| self.ahead.pop_front()) else { return };
        if ahead {
            self.unasked.push_back(id);
        }
        self.under_way.insert(id, UnderWay::default());
        let parts = places.into_iter().zip(buffers).enumerate();
        self.parts.extend(parts.map(|(index, (place, buffer))| Part { id, index, place, buffer }));
    }

    /// Notes that a read has begun.
    fn read_begins(&mut self) {
        self.reads += 1;
        if self.reads == 1 {
            self.reading_since = Some(Instant::now());
        }
    }

    /// Notes that a read has ended; `true` if it was the expert's last.
    fn read_ends(&mut self, part: Part, result: Result<(), WeightsError>) -> bool {
        self.reads = self.reads.saturating_sub(1);
        if self.reads == 0
            && let Some(since) = self.reading_since.take()
        {
            self.totals.reading += since.elapsed();
        }
        if result.is_ok() {
            self.totals.bytes += part.place.len as u64;
        }
        let Some(under_way) = self.under_way.get_mut(&part.id) else { return false };
        if let Some(buffer) = under_way.buffers.get_mut(part.index) {
            *buffer = part.buffer;
        }
        under_way.read += 1;
        if let Err(error) = result {
            under_way.error.get_or_insert(error);
        }
        if under_way.read < under_way.buffers.len() {
            return false;
        }
        let UnderWay { buffers, error, .. } = self.under_way.remove(&part.id).unwrap_or_default();
        let result = match error {
            None => Ok(buffers),
            Some(error) => {
                self.spare.push(buffers);
                Err(error)
            }
        };
        self.arrived.insert(part.id, result);
        true
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
            let Some(mut part) = state.next() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.read_begins();
            drop(state);
            let result = self.reader.read(&part.place, &mut part.buffer);
            state = self.lock();
            if state.read_ends(part, result) {
                self.done.notify_all();
            }
        }
    }
}
