//! Weights are packed between steps and while there is nothing to do; until then steps take them from the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use levain_weights::Intact;

use super::Worker;
use crate::engine::{Shutdown, lock};
use crate::error::EngineError;
use crate::job::panic_message;

/// How long weights are packed at a time: what comes meanwhile, a request or the wish to end, waits for so long at the
/// most where there is nothing to compute.
const SLICE: Duration = Duration::from_millis(20);
/// Time for packing after a step, as a multiple of what the step took: answers grow from the start, and soon fast.
const AFTER_A_STEP: u32 = 2;

/// How far packing is, for those who wait for its end.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    end: Mutex<Option<Result<(), EngineError>>>,
    ended: Condvar,
}

impl Packing {
    /// Waits until all weights are packed, or the engine has ended.
    ///
    /// # Errors
    /// If weights could not be packed.
    pub(crate) fn wait(&self) -> Result<(), EngineError> {
        let end = self.ended.wait_while(lock(&self.end), |end| end.is_none());
        let end = end.unwrap_or_else(PoisonError::into_inner);
        match &*end {
            Some(Err(error)) => Err(error.again()),
            _ => Ok(()),
        }
    }

    /// Tells those who wait. What is told first stays.
    pub(super) fn ended(&self, result: Result<(), EngineError>) {
        lock(&self.end).get_or_insert(result);
        self.ended.notify_all();
    }
}

impl Worker {
    /// Bytes of weights that are not packed yet.
    pub(super) fn unpacked_bytes(&self) -> usize {
        self.model.unpacked_bytes() + self.source.unpacked_bytes()
    }

    /// Whether there are weights to be packed, and none that cannot be.
    pub(super) fn has_to_pack(&self) -> bool {
        self.broken.is_none() && self.unpacked_bytes() > 0
    }

    /// Packs weights for a moment while there is nothing else to do.
    pub(super) fn pack_while_idle(&mut self) {
        self.pack(SLICE);
    }

    /// Packs weights after a step that began at `start`, until everything is cancelled.
    pub(super) fn pack_after_step(&mut self, start: Instant) {
        let time = if self.stalled { SLICE } else { start.elapsed() * AFTER_A_STEP };
        let begun = Instant::now();
        while self.has_to_pack() && lock(&self.shared.inbox).shutdown != Some(Shutdown::Cancel) {
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            self.pack(left.min(SLICE));
        }
    }

    /// Finds out whether what was read from the files was still there and the same. If not, no request can be answered
    /// any more.
    pub(super) fn check_files(&mut self) -> Result<(), EngineError> {
        self.intact.check().map_err(|error| self.give_up(error.into()))
    }

    /// Ends all requests with this error from now on.
    fn give_up(&mut self, error: EngineError) -> EngineError {
        self.broken.get_or_insert_with(|| error.again());
        self.shared.packing.ended(Err(error.again()));
        error
    }

    /// Sees to it that nothing is answered any more if what an expert was read from is not the same file any more.
    pub(super) fn note_failure(&mut self, error: &EngineError) {
        if let EngineError::Weights(weights) = error
            && let Some(again) = weights.again()
        {
            self.give_up(again.into());
        }
    }

    fn pack(&mut self, time: Duration) {
        if !self.has_to_pack() {
            return;
        }
        let start = Instant::now();
        let packed = catch_unwind(AssertUnwindSafe(|| {
            self.model.pack(time)?;
            self.source.pack(time.saturating_sub(start.elapsed()))
        }));
        let packed = match packed {
            Ok(result) => result.map_err(EngineError::from),
            Err(payload) => Err(EngineError::Panicked { message: panic_message(payload.as_ref()) }),
        };
        // What became of the files explains whatever else went wrong.
        let result = self.check_files().and(packed);
        if let Err(error) = &result {
            tracing::error!(%error, "weights could not be packed; all requests end with an error");
            self.broken = Some(error.again());
        }
        self.stats.unpacked_bytes = self.unpacked_bytes() as u64;
        if result.is_err() || self.unpacked_bytes() == 0 {
            // Nothing is read from the map any more: it may go, and whatever becomes of the files.
            self.intact = Intact::default();
            self.shared.packing.ended(result);
        }
    }
}
