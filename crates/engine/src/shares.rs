//! How many answers each tenant has under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::engine::lock;

/// Answers under way, by tenant.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<HashMap<u64, usize>>);

/// A request's part of its tenant's share, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Arc<Shares>,
    tenant: u64,
    answers: usize,
}

impl Shares {
    /// Counts more answers of a tenant, if it has no more than `limit` then, or has none now; else tells how many it has.
    pub(crate) fn take(self: &Arc<Self>, tenant: u64, answers: usize, limit: usize) -> Result<Place, usize> {
        let mut shares = lock(&self.0);
        let n = shares.get(&tenant).copied().unwrap_or_default();
        if n > 0 && n + answers > limit {
            return Err(n);
        }
        shares.insert(tenant, n + answers);
        Ok(Place { shares: Arc::clone(self), tenant, answers })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shares = lock(&self.shares.0);
        if let Some(n) = shares.get_mut(&self.tenant) {
            *n -= self.answers;
            if *n == 0 {
                shares.remove(&self.tenant);
            }
        }
    }
}
