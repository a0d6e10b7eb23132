//! Sequences that wait, first come first served within a tenant; among tenants those come first that have least, and
//! in turn where that is equal.

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

    /// Whose turn it is: of the tenants of which `load` is least the first one.
    pub(super) fn peek(&self, load: impl Fn(u64) -> usize) -> Option<(u64, SequenceId)> {
        let tenant = *self.turns.iter().min_by_key(|&&tenant| load(tenant))?;
        Some((tenant, *self.queues.get(&tenant)?.front()?))
    }

    /// Takes a tenant's next sequence and passes the turn on.
    pub(super) fn pop(&mut self, tenant: u64) -> Option<SequenceId> {
        self.turns.retain(|&other| other != tenant);
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
            let (tenant, next) = queues.peek(|_| 0)?;
            assert_eq!(queues.pop(tenant), Some(next));
            Some(next)
        })
        .collect();
        assert_eq!(order, [0, 9, 1, 10, 2, 11, 3]);
    }

    #[test]
    fn the_tenant_that_has_least_comes_first() {
        let mut queues = TenantQueues::default();
        for (tenant, sequence) in [(1, 0), (1, 1), (2, 10), (3, 20)] {
            queues.push_back(tenant, sequence);
        }
        let load = |tenant| if tenant == 1 { 2 } else { 1 };
        assert_eq!(queues.peek(load), Some((2, 10)));
        assert_eq!(queues.pop(2), Some(10));
        assert_eq!(queues.peek(load), Some((3, 20)));
        assert_eq!(queues.peek(|tenant| tenant as usize), Some((1, 0)));
        assert_eq!(queues.pop(2), None);
        assert_eq!(queues.len(), 3);
    }
}
