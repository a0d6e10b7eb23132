//! Sequences that wait, first come first served within a tenant and round robin among tenants.

use std::collections::{HashMap, VecDeque};

use crate::sequence::SequenceId;

/// Waiting sequences by tenant.
#[derive(Debug, Default)]
pub(super) struct TenantQueues {
    /// Tenants with something waiting, next one first.
    turns: VecDeque<u64>,
    queues: HashMap<u64, VecDeque<SequenceId>>,
}

impl TenantQueues {
    pub(super) fn push_back(&mut self, tenant: u64, sequence: SequenceId) {
        self.queue(tenant).push_back(sequence);
    }

    /// Puts a sequence before the tenant's others.
    pub(super) fn push_front(&mut self, tenant: u64, sequence: SequenceId) {
        self.queue(tenant).push_front(sequence);
    }

    /// Whose turn it is.
    pub(super) fn peek(&self) -> Option<SequenceId> {
        self.queues.get(self.turns.front()?)?.front().copied()
    }

    /// Takes the one that [`TenantQueues::peek`] shows and passes the turn on.
    pub(super) fn pop(&mut self) -> Option<SequenceId> {
        let tenant = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&tenant)?;
        let sequence = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        sequence
    }

    pub(super) fn remove(&mut self, tenant: u64, sequence: SequenceId) {
        let Some(queue) = self.queues.get_mut(&tenant) else { return };
        queue.retain(|&other| other != sequence);
        if queue.is_empty() {
            self.queues.remove(&tenant);
            self.turns.retain(|&other| other != tenant);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    fn queue(&mut self, tenant: u64) -> &mut VecDeque<SequenceId> {
        let turns = &mut self.turns;
        self.queues.entry(tenant).or_insert_with(|| {
            turns.push_back(tenant);
            VecDeque::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns() {
        let mut queues = TenantQueues::default();
        for sequence in 0..4 {
            queues.push_back(1, sequence);
        }
        queues.push_back(2, 10);
        queues.push_back(3, 20);
        queues.push_back(2, 11);
        queues.push_front(2, 9);
        queues.remove(3, 20);
        queues.remove(3, 20);
        assert_eq!(queues.len(), 7);
        let order: Vec<_> = std::iter::from_fn(|| {
            let next = queues.peek();
            assert_eq!(next, queues.pop());
            next
        })
        .collect();
        assert_eq!(order, [0, 9, 1, 10, 2, 11, 3]);
    }
}
