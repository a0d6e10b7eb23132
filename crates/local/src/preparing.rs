//! Work before a request reaches the engine: templates and texts, away from the async threads, a bounded number of
//! pieces at once. No caller can hold all places, and whoever leaves gives theirs back as soon as the work notices.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use levain_chat::{Place, Places, ProviderError, into_background};

/// Pieces of work at once, for each core.
const PER_CORE: usize = 2;

/// The places that work before requests has.
#[derive(Debug)]
pub(crate) struct Preparing(Places);

impl Default for Preparing {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::new(cores * PER_CORE)
    }
}

impl Preparing {
    fn new(places: usize) -> Self {
        Self(Places::new(places, places / 2))
    }

    /// Runs a request's work when there is a place. What it is given says whether anybody still waits for it.
    pub(crate) async fn of_caller<T: Send + 'static>(
        &self,
        tenant: Option<&str>,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let place: Place = self.0.take(tenant).await;
        let left = Arc::new(AtomicBool::new(false));
        let _tells = TellOnDrop(Arc::clone(&left));
        let result = tokio::task::spawn_blocking(move || {
            into_background();
            let result = work(&|| left.load(Ordering::Relaxed));
            drop(place);
            result
        });
        result.await.map_err(|error| {
            // Its text may quote what the request says.
            tracing::error!(%error, "a request's preparation failed");
            ProviderError::Internal("a request's preparation failed".to_owned())
        })?
    }
}

/// Dropped with the future that waits: its caller has the answer, or has gone.
struct TellOnDrop(Arc<AtomicBool>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test(flavor = "multi_thread")]
    async fn one_caller_leaves_places_to_others_and_gives_its_own_back_on_leaving() {
        let preparing = Arc::new(Preparing::new(4));
        let mut held = Vec::new();
        for _ in 0..3 {
            let (preparing, endless) = (Arc::clone(&preparing), |left: &dyn Fn() -> bool| {
                while !left() {
                    std::thread::yield_now();
                }
                Ok(())
            });
            held.push(tokio::spawn(async move { preparing.of_caller(Some("a"), endless).await }));
        }
        // All that wait have asked by the time that the others are served.
        assert_eq!(preparing.of_caller(Some("b"), |_| Ok(1)).await.unwrap(), 1);
        assert_eq!(preparing.of_caller(None, |_| Ok(2)).await.unwrap(), 2);
        while preparing.0.free() > 2 {
            tokio::task::yield_now().await;
        }
        assert!(preparing.of_caller(Some("a"), |_| Ok(4)).now_or_never().is_none());
        for task in held {
            task.abort();
        }
        assert_eq!(preparing.of_caller(Some("a"), |_| Ok(5)).await.unwrap(), 5);
    }
}
