//! Places for compiling: a few in all, and one for each caller, so that nobody's grammars keep others waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Grammars that are compiled at the same time.
const PLACES: usize = 4;
/// Those of them that one caller may have.
const PLACES_OF_ONE: usize = 1;

pub(super) struct Places {
    all: Arc<Semaphore>,
    callers: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

/// A place; dropping it gives it back, also when the work panics.
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(PLACES)), callers: Mutex::default() }
    }

    /// Waits for a place of this caller's; `None` if there will be none any more.
    pub(super) async fn take(&self, caller: u64) -> Option<Place> {
        let own = {
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever compiles nothing and waits for nothing is forgotten.
            callers.retain(|_, own| Arc::strong_count(own) > 1 || own.available_permits() < PLACES_OF_ONE);
            Arc::clone(callers.entry(caller).or_insert_with(|| Arc::new(Semaphore::new(PLACES_OF_ONE))))
        };
        let own = own.acquire_owned().await.ok()?;
        let shared = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _own: own, _shared: shared })
    }

    #[cfg(test)]
    pub(super) fn are_free(&self) -> bool {
        self.all.available_permits() == PLACES
    }
}
