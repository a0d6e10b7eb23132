//! The prefix cache on the disk: blocks that were let go are written to files by a thread of its own, and read back
//! when a prompt begins with them, also after a restart.
//!
//! The engine's thread only copies a block into a buffer or out of one; where no buffer is free it goes on without.

mod file;
pub mod fuzzing;
mod identity;
mod store;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::lock;
use crate::kv::BlockHash;
use crate::scheduler::LetGo;
pub(crate) use identity::{Identity, identity};
use store::Store;

/// Where blocks of the KV cache are kept on the disk, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheConfig {
    /// The folder. It is made if it is not there, and only its owner may write to it. Who owns it, and the way to it, is
    /// for the caller to look at.
    pub folder: PathBuf,
    /// The most bytes of files, those of other models in the same folder included.
    pub bytes_max: u64,
    /// What files are sealed by; without the key that they were written with they do not count.
    pub key: SealKey,
    /// Read blocks also where computing them was measured to be quicker.
    pub always_read: bool,
}

/// A secret of this installation that is not kept beside the files.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SealKey(pub [u8; 32]);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

/// What the cache on the disk has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCacheStats {
    /// Blocks of this model that can be read.
    pub blocks: usize,
    /// Bytes of all files, other models' included.
    pub bytes: u64,
    /// Blocks read so far.
    pub read_blocks: u64,
    /// Blocks written so far.
    pub written_blocks: u64,
    /// Files so far that were not what they should be, or could not be read.
    pub refused_blocks: u64,
}

/// Buffers for reading and for writing, one block each.
const READ_BUFFERS: usize = 8;
const WRITE_BUFFERS: usize = 2;
/// All of them.
pub(crate) const BUFFERS: usize = READ_BUFFERS + WRITE_BUFFERS;
/// How far one measurement moves what was known about the time of reading.
const GAIN: f64 = 0.2;
/// What is left of that time when it was too long to read: the disk may have been busy, so it is tried again.
const FORGOTTEN: f64 = 0.95;

/// Whether a block is in its file or on the way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    File,
    OnTheWay,
}

/// A block that was asked for.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Who asked.
    pub(crate) asker: u64,
    pub(crate) name: BlockHash,
    /// The contents, to be given back after use; `None` where there are none to be had, and then no more come.
    pub(crate) contents: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Reading {
    asker: u64,
    /// Next one first.
    names: VecDeque<BlockHash>,
}

/// A block to be written.
#[derive(Debug)]
struct Writing {
    name: BlockHash,
    parent: BlockHash,
    contents: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<BlockHash, Place>,
    readings: VecDeque<Reading>,
    arrivals: VecDeque<Arrival>,
    writings: VecDeque<Writing>,
    /// Blocks of texts that were used, each text's last block first.
    used: VecDeque<Vec<BlockHash>>,
    read_buffers: Vec<Vec<u8>>,
    write_buffers: Vec<Vec<u8>>,
    /// Seconds for reading a block, as a moving average.
    read_seconds: Option<f64>,
    closing: bool,
    stats: DiskCacheStats,
}

/// What the engine's thread and the disk's share.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    /// Rung when there is something to do for the disk's thread.
    work: Condvar,
}

/// Answers which blocks are on the disk.
#[derive(Debug, Clone)]
pub(crate) struct DiskIndex {
    desk: Arc<Desk>,
    always_read: bool,
}

impl DiskIndex {
    /// How many of these blocks, from the first one on, can be read; none where reading takes longer than
    /// `compute_seconds`, the time for computing a block, if that is known.
    pub(crate) fn leading(&self, names: &[BlockHash], compute_seconds: Option<f64>) -> usize {
        let mut state = lock(&self.desk.state);
        let n = names.iter().take_while(|name| state.places.get(*name) == Some(&Place::File)).count();
        match (state.read_seconds, compute_seconds) {
            (Some(read), Some(compute)) if n > 0 && read > compute && !self.always_read => {
                state.read_seconds = Some(read * FORGOTTEN);
                0
            }
            _ => n,
        }
    }
}

/// The engine's side of the cache.
#[derive(Debug)]
pub(crate) struct DiskCache {
    desk: Arc<Desk>,
    always_read: bool,
    thread: Option<JoinHandle<()>>,
    /// Its sender goes when the folder has been looked at.
    scanned: Receiver<()>,
}

impl DiskCache {
    /// Opens the folder and starts the thread, which calls `news` when a block has arrived or a buffer is free.
    pub(crate) fn open(
        config: &DiskCacheConfig,
        identity: Identity,
        block_bytes: usize,
        news: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let store = Store::open(&config.folder, config.bytes_max, identity, config.key, block_bytes)?;
        let desk = Arc::new(Desk::default());
        let buffers = |n| (0..n).map(|_| vec![0; block_bytes]).collect();
        {
            let mut state = lock(&desk.state);
            (state.read_buffers, state.write_buffers) = (buffers(READ_BUFFERS), buffers(WRITE_BUFFERS));
        }
        let (sender, scanned) = channel();
        let clerk = Clerk { desk: Arc::clone(&desk), store, scanned: Some(sender), writes: true };
        let thread =
            thread::Builder::new().name("levain-kv-disk".to_owned()).spawn(move || clerk.work(news))?;
        Ok(Self { desk, always_read: config.always_read, thread: Some(thread), scanned })
    }

    /// Waits until it is known which blocks are there.
    pub(crate) fn index(&self) -> DiskIndex {
        // The sender goes when it has been looked at; nothing is ever sent.
        let _ = self.scanned.recv();
        DiskIndex { desk: Arc::clone(&self.desk), always_read: self.always_read }
    }

    pub(crate) fn stats(&self) -> DiskCacheStats {
        lock(&self.desk.state).stats
    }

    /// Asks for blocks, in this order.
    pub(crate) fn read(&self, asker: u64, names: &[BlockHash]) {
        let reading = Reading { asker, names: names.iter().copied().collect() };
        lock(&self.desk.state).readings.push_back(reading);
        self.desk.work.notify_one();
    }

    /// The next block that has arrived.
    pub(crate) fn take_arrival(&self) -> Option<Arrival> {
        lock(&self.desk.state).arrivals.pop_front()
    }

    /// Takes back an arrival's buffer.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        lock(&self.desk.state).read_buffers.push(buffer);
        self.desk.work.notify_one();
    }

    /// Reads no more for someone who no longer wants it.
    pub(crate) fn cancel(&self, asker: u64) {
        lock(&self.desk.state).readings.retain(|reading| reading.asker != asker);
    }

    /// Keeps a block unless it is kept already. `false` where no buffer is free for it now.
    pub(crate) fn write(&self, name: BlockHash, parent: BlockHash, contents: &[u8]) -> bool {
        let mut buffer = {
            let mut state = lock(&self.desk.state);
            if state.places.contains_key(&name) {
                return true;
            }
            let Some(buffer) = state.write_buffers.pop() else { return false };
            state.places.insert(name, Place::OnTheWay);
            buffer
        };
        buffer.copy_from_slice(contents);
        lock(&self.desk.state).writings.push_back(Writing { name, parent, contents: buffer });
        self.desk.work.notify_one();
        true
    }

    /// Drops those blocks from a list that are kept already or on the way.
    pub(crate) fn retain_lacking(&self, blocks: &mut Vec<LetGo>) {
        let state = lock(&self.desk.state);
        blocks.retain(|block| !state.places.contains_key(&block.name));
    }

    /// Notes that a text's blocks were used, first to last.
    pub(crate) fn used(&self, names: &[BlockHash]) {
        lock(&self.desk.state).used.push_back(names.iter().rev().copied().collect());
        self.desk.work.notify_one();
    }

    /// Waits until a buffer for writing is free, or until `deadline`.
    pub(crate) fn wait_for_buffer(&self, deadline: Instant) -> bool {
        loop {
            if !lock(&self.desk.state).write_buffers.is_empty() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Waits for what is on the way.
impl Drop for DiskCache {
    fn drop(&mut self) {
        lock(&self.desk.state).closing = true;
        self.desk.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing left to say that would matter here.
            let _ = thread.join();
        }
    }
}

/// What the disk's thread is to do next.
enum Task {
    Read(u64, BlockHash, Vec<u8>),
    Write(Writing),
    Touch(Vec<BlockHash>),
}

/// The disk's thread.
struct Clerk {
    desk: Arc<Desk>,
    store: Store,
    scanned: Option<Sender<()>>,
    /// Whether writing is still tried: a disk that refuses once is left alone.
    writes: bool,
}

impl Clerk {
    fn work(mut self, news: impl Fn()) {
        self.store.scan();
        self.publish(|state| {
            state.places.extend(self.store.names().map(|name| (*name, Place::File)));
        });
        // Whoever waits for this sees the sender go.
        self.scanned = None;
        while let Some(task) = self.next() {
            match task {
                Task::Read(asker, name, buffer) => self.read(asker, name, buffer),
                Task::Write(writing) => self.write(writing),
                Task::Touch(names) => names.iter().for_each(|name| self.store.touch(name)),
            }
            news();
        }
    }

    /// Reading comes first, as someone waits for it. `None` at the end, when all is written.
    fn next(&self) -> Option<Task> {
        let mut state = lock(&self.desk.state);
        loop {
            let state_now = &mut *state;
            if let Some(reading) = state_now.readings.front_mut().filter(|_| !state_now.closing)
                && let Some(buffer) = state_now.read_buffers.pop()
            {
                let name = reading.names.pop_front();
                let asker = reading.asker;
                if reading.names.is_empty() {
                    state_now.readings.pop_front();
                }
                match name {
                    Some(name) => return Some(Task::Read(asker, name, buffer)),
                    None => state_now.read_buffers.push(buffer),
                }
                continue;
            }
            if let Some(writing) = state.writings.pop_front() {
                return Some(Task::Write(writing));
            }
            if let Some(names) = state.used.pop_front() {
                return Some(Task::Touch(names));
            }
            if state.closing {
                return None;
            }
            state = self.desk.work.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn read(&mut self, asker: u64, name: BlockHash, mut buffer: Vec<u8>) {
        let start = Instant::now();
        let result = self.store.read(&name, &mut buffer);
        let seconds = start.elapsed().as_secs_f64();
        let contents = match result {
            Ok(()) => Ok(buffer),
            Err(error) => {
                tracing::warn!(%error, "a block of the KV cache could not be read and is computed again");
                Err(buffer)
            }
        };
        self.publish(|state| {
            if contents.is_ok() {
                state.stats.read_blocks += 1;
                let known = state.read_seconds.unwrap_or(seconds);
                state.read_seconds = Some(known + GAIN * (seconds - known));
            } else {
                state.stats.refused_blocks += 1;
                state.places.remove(&name);
                // What would follow is of no use without it.
                state.readings.retain(|reading| reading.asker != asker);
            }
            let contents = match contents {
                Ok(contents) => Some(contents),
                Err(buffer) => {
                    state.read_buffers.push(buffer);
                    None
                }
            };
            state.arrivals.push_back(Arrival { asker, name, contents });
        });
    }

    fn write(&mut self, writing: Writing) {
        let Writing { name, parent, contents } = writing;
        if self.writes
            && let Err(error) = self.store.write(name, parent, &contents)
        {
            tracing::warn!(%error, "the KV cache on the disk can't be written to and is only read from now on");
            self.writes = false;
        }
        let is_there = self.store.has(&name);
        // Others have gone to make room for it.
        let removed = self.store.take_removed();
        self.publish(|state| {
            for name in removed.iter().chain([&name]) {
                state.places.remove(name);
            }
            if is_there {
                state.places.insert(name, Place::File);
                state.stats.written_blocks += 1;
            }
            state.write_buffers.push(contents);
        });
    }

    /// Changes the state and says how much there is.
    fn publish(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.desk.state);
        change(&mut state);
        (state.stats.blocks, state.stats.bytes) = (self.store.n_blocks(), self.store.bytes());
    }
}

#[cfg(test)]
mod tests;
