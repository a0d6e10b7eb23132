//! Sequences that wait for blocks from the disk, and blocks that are to be kept there.

use super::Scheduler;
use crate::disk::DiskIndex;
use crate::kv::BlockHash;
use crate::sequence::{Sequence, SequenceId};

/// Blocks that a sequence waits for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The sequence's age, which tells it from all others that ever were.
    pub(crate) asker: u64,
    /// First to last.
    pub(crate) names: Vec<BlockHash>,
}

/// A block that a sequence held until now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LetGo {
    pub(crate) block: u32,
    pub(crate) name: BlockHash,
    /// The name of what is before it.
    pub(crate) parent: BlockHash,
}

impl Scheduler {
    /// Lets sequences wait for blocks that are on the disk, and collects those that are let go.
    pub(crate) fn keep_on_disk(&mut self, index: DiskIndex) {
        self.disk = Some(index);
    }

    /// Says how long computing a block takes.
    pub(crate) fn note_block_seconds(&mut self, seconds: Option<f64>) {
        self.block_seconds = seconds;
    }

    /// What sequences have begun to wait for since the last call.
    pub(crate) fn take_wanted(&mut self) -> impl Iterator<Item = Wanted> {
        self.wanted.drain(..)
    }

    /// Named blocks that were let go since the last call; for each text the first one first.
    pub(crate) fn let_go(&mut self) -> &mut Vec<LetGo> {
        &mut self.let_go
    }

    /// The sequence that waits for this block next, and where its contents belong.
    pub(crate) fn awaiting(&self, asker: u64, name: &BlockHash) -> Option<(SequenceId, u32)> {
        let id = self.asking(asker)?;
        let sequence = self.get(id)?;
        let index = sequence.num_computed / self.block_len;
        let is_next = sequence.reading > 0 && sequence.hashes().get(index) == Some(name);
        is_next.then(|| Some((id, *sequence.blocks.get(index)?)))?
    }

    /// Notes that a sequence's next block has its contents.
    pub(crate) fn note_arrival(&mut self, id: SequenceId) {
        let Some(sequence) = self.get_mut(id) else { return };
        sequence.reading -= 1;
        let start = sequence.num_computed;
        self.commit(id, start..start + self.block_len);
        self.note_cached(id, self.block_len);
    }

    /// Lets a sequence compute what it has waited for in vain.
    pub(crate) fn give_up_waiting(&mut self, asker: u64) {
        if let Some(sequence) = self.asking(asker).and_then(|id| self.get_mut(id)) {
            sequence.reading = 0;
        }
    }

    fn asking(&self, asker: u64) -> Option<SequenceId> {
        self.running.iter().copied().find(|&id| self.get(id).is_some_and(|s| s.age == asker))
    }

    /// Lets a sequence wait for the blocks that are on the disk where it stands; `false` if there are none.
    pub(super) fn want_from_disk(&mut self, id: SequenceId) -> bool {
        let (Some(disk), Some(sequence)) = (&self.disk, self.get(id)) else { return false };
        let first = sequence.blocks.len();
        // The last token is always computed.
        let end = (sequence.tokens.len() - 1) / self.block_len;
        let names = sequence.hashes().get(first..end).unwrap_or_default();
        let n = disk.leading(names, self.block_seconds);
        if n == 0 {
            return false;
        }
        let n = self.reserve(id, (first + n) * self.block_len) / self.block_len - first;
        let Some(sequence) = self.get_mut(id).filter(|_| n > 0) else { return false };
        sequence.reading = n;
        let wanted = Wanted { asker: sequence.age, names: sequence.hashes()[first..first + n].to_vec() };
        self.wanted.push(wanted);
        true
    }

    /// Lists the blocks of a sequence that is about to let them go.
    pub(super) fn note_let_go(&mut self, sequence: &Sequence) {
        if self.disk.is_none() {
            return;
        }
        for (index, (&block, &name)) in sequence.blocks.iter().zip(sequence.hashes()).enumerate() {
            let Some(text) = sequence.block_text(index, sequence.tokens.len(), self.block_len) else { break };
            if self.pool.name_of(block) != Some(name) {
                break;
            }
            self.let_go.push(LetGo { block, name, parent: text.parent });
        }
    }
}
