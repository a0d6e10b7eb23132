//! Blocks on their way between the KV cache and the disk: copied between two steps, a few at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Worker;
use crate::disk::{Arrival, DiskCache, DiskCacheStats};
use crate::plan::BLOCK_LEN;
use crate::scheduler::LetGo;
use crate::sequence::Sequence;

/// How long the end of the engine may wait until what was let go is on the disk.
const SPILL_REST: Duration = Duration::from_secs(5);

/// The cache on the disk, and what is to go there.
#[derive(Debug)]
pub(super) struct Spill {
    cache: DiskCache,
    /// Blocks that nobody held when they were listed; their space may have been used for something else since.
    waiting: VecDeque<LetGo>,
}

impl Spill {
    pub(super) fn stats(&self) -> DiskCacheStats {
        self.cache.stats()
    }
}

impl Worker {
    /// Keeps blocks that are let go on the disk, and takes them from there.
    pub(crate) fn keep_on_disk(&mut self, cache: DiskCache) {
        self.scheduler.keep_on_disk(cache.index());
        self.disk = Some(Spill { cache, waiting: VecDeque::new() });
    }

    /// Asks for the blocks that sequences have begun to wait for.
    pub(super) fn ask_disk(&mut self) {
        let Some(spill) = &self.disk else { return };
        for wanted in self.scheduler.take_wanted() {
            spill.cache.read(wanted.asker, &wanted.names);
        }
        self.scheduler.note_block_seconds(self.pace.seconds_for(BLOCK_LEN));
    }

    /// Puts blocks that have come from the disk where they belong.
    pub(super) fn take_arrivals(&mut self) {
        let Some(spill) = &self.disk else { return };
        while let Some(Arrival { asker, name, contents }) = spill.cache.take_arrival() {
            let Some(contents) = contents else {
                self.scheduler.give_up_waiting(asker);
                continue;
            };
            if let Some((sequence, block)) = self.scheduler.awaiting(asker, &name) {
                self.kv.write_block(block as usize, &contents);
                self.scheduler.note_arrival(sequence);
            }
            spill.cache.give_back(contents);
        }
    }

    /// Hands over blocks that were let go, as many as there are buffers for now.
    pub(super) fn spill(&mut self) {
        let Some(spill) = &mut self.disk else { return };
        let let_go = self.scheduler.let_go();
        if !let_go.is_empty() {
            spill.cache.retain_lacking(let_go);
            spill.waiting.extend(let_go.drain(..));
        }
        // There can be no more than blocks; what waited longest is most likely gone.
        let surplus = spill.waiting.len().saturating_sub(self.scheduler.pool().n_blocks());
        spill.waiting.drain(..surplus);
        while let Some(&LetGo { block, name, parent }) = spill.waiting.front() {
            let is_there = self.scheduler.pool().name_of(block) == Some(name);
            if is_there && !spill.cache.write(name, parent, self.kv.block(block as usize)) {
                break;
            }
            spill.waiting.pop_front();
        }
    }

    /// Hands over what is left at the end.
    pub(super) fn spill_rest(&mut self) {
        let deadline = Instant::now() + SPILL_REST;
        loop {
            self.spill();
            let Some(spill) = &self.disk else { return };
            if spill.waiting.is_empty() || !spill.cache.wait_for_buffer(deadline) {
                return;
            }
        }
    }

    /// Notes that a sequence's text was used, and that it waits no longer.
    pub(super) fn note_used(&mut self, sequence: &Sequence) {
        let Some(spill) = &self.disk else { return };
        spill.cache.cancel(sequence.age);
        let names = sequence.hashes();
        spill.cache.used(&names[..names.len().min(sequence.num_computed / BLOCK_LEN)]);
    }
}
