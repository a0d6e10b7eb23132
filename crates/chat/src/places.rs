//! A bounded number of something that callers share, of which none can take all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for work, or units of memory. A caller is told from others by its tenant's name; those without one count as
/// one.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    n: usize,
    share: usize,
    /// Those of callers that hold or wait for some.
    callers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Places that are held until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Places {
    /// So many places, of which one caller may hold `share`.
    #[must_use]
    pub fn new(n: usize, share: usize) -> Self {
        let share = share.clamp(1, n.max(1));
        Self { all: Arc::new(Semaphore::new(n)), n, share, callers: Mutex::default() }
    }

    /// How many places there are.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// How many of them one caller may hold.
    #[must_use]
    pub fn share(&self) -> usize {
        self.share
    }

    /// How many of them nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// Waits for one place.
    pub async fn take(&self, caller: Option<&str>) -> Place {
        let own = self.own(caller).acquire_owned().await;
        let all = Arc::clone(&self.all).acquire_owned().await;
        match (own, all) {
            (Ok(own), Ok(all)) => Place { _own: own, _all: all },
            // Nobody closes these semaphores.
            _ => std::future::pending().await,
        }
    }

    /// Takes so many places, or none where fewer are left, or left for this caller.
    pub fn try_take(&self, caller: Option<&str>, n: usize) -> Option<Place> {
        let n = u32::try_from(n).ok()?;
        let own = self.own(caller).try_acquire_many_owned(n).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(n).ok()?;
        Some(Place { _own: own, _all: all })
    }

    /// Waits until nobody holds any.
    pub async fn are_free(&self) {
        let all = u32::try_from(self.n).unwrap_or(u32::MAX);
        let _ = self.all.acquire_many(all).await;
    }

    fn own(&self, caller: Option<&str>) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds nothing and waits for nothing is forgotten.
        callers.retain(|_, own| Arc::strong_count(own) > 1 || own.available_permits() < self.share);
        let own = callers.entry(caller.unwrap_or_default().to_owned());
        Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(self.share))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn nobody_takes_more_than_a_share_and_all_come_back() {
        let places = Places::new(4, 2);
        let held = [places.take(Some("a")).now_or_never(), places.take(Some("a")).now_or_never()];
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(Some("a")).now_or_never().is_none() && places.try_take(Some("a"), 1).is_none());
        let others = places.try_take(None, 2).unwrap();
        assert!(places.try_take(Some("b"), 1).is_none() && places.are_free().now_or_never().is_none());
        drop(others);
        assert!(places.try_take(Some("b"), 3).is_none());
        assert!(places.try_take(Some("b"), 1).is_some());
        drop(held);
        assert_eq!(places.free(), 4);
        places.are_free().now_or_never().unwrap();
        assert!(places.try_take(Some("c"), 2).is_some());
        assert_eq!(places.callers.lock().unwrap().len(), 1, "callers that left are remembered");
    }
}
