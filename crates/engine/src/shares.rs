//! How many requests each tenant has under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::engine::lock;

/// Requests under way, by tenant.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<HashMap<u64, usize>>);

/// One request's part of its tenant's share, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Arc<Shares>,
    tenant: u64,
}

impl Shares {
    /// Counts one more request of a tenant, if it has fewer than `limit`; else tells how many it has.
    pub(crate) fn take(self: &Arc<Self>, tenant: u64, limit: usize) -> Result<Place, usize> {
        let mut shares = lock(&self.0);
        let n = shares.get(&tenant).copied().unwrap_or_default();
        if n >= limit {
            return Err(n);
        }
        shares.insert(tenant, n + 1);
        Ok(Place { shares: Arc::clone(self), tenant })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shares = lock(&self.shares.0);
        if let Some(n) = shares.get_mut(&self.tenant) {
            *n -= 1;
            if *n == 0 {
                shares.remove(&self.tenant);
            }
        }
    }
}
