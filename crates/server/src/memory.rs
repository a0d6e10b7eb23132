//! Memory that requests hold outside the engine: bodies, what they become when they are parsed, and answers that the
//! client has not taken.

use std::sync::Arc;

use levain_chat::{Place, Places};
use levain_wire::openai::ApiError;

/// The first reservation; each later one doubles what there is, which keeps their number small.
const FIRST_BYTES: usize = 16 << 10;

/// Memory of one request. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    kib: Arc<Places>,
    tenant: Option<String>,
    places: Vec<Place>,
    reserved: usize,
    used: usize,
}

impl Memory {
    /// None yet, of those KiB.
    pub(crate) fn new(kib: &Arc<Places>, tenant: Option<&str>) -> Self {
        Self {
            kib: Arc::clone(kib),
            tenant: tenant.map(str::to_owned),
            places: Vec::new(),
            reserved: 0,
            used: 0,
        }
    }

    /// Counts more bytes.
    ///
    /// # Errors
    /// If this caller, or all together, hold as much as they may; or will never hold so much at once.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let used = self.used.saturating_add(bytes);
        if used > self.reserved {
            let most = self.kib.share().saturating_mul(1 << 10);
            if used > most {
                let message = format!("the request needs {used} bytes of memory, and {most} are the most");
                return Err(ApiError::with_status(413, "request_too_large", message));
            }
            let wanted = used.max(self.reserved.saturating_mul(2)).max(FIRST_BYTES).min(most);
            // What is reserved in whole KiB is not reserved again.
            let kib = (wanted - self.reserved).div_ceil(1 << 10);
            let place = self.kib.try_take(self.tenant.as_deref(), kib).ok_or_else(|| {
                ApiError::with_status(
                    503,
                    "overloaded",
                    "the server holds as many requests and answers in memory as it may; try again in a moment",
                )
            })?;
            self.places.push(place);
            self.reserved += kib << 10;
        }
        self.used = used;
        Ok(())
    }

    /// Bytes that are reserved so far.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_until_it_is_dropped_and_nobody_takes_more_than_a_share() {
        let kib = Arc::new(Places::new(64, 32));
        let of = |tenant| Memory::new(&kib, tenant);
        let mut memory = of(Some("a"));
        for _ in 0..30 {
            memory.grow(1000).unwrap();
        }
        assert!(memory.reserved() >= 30_000 && kib.free() >= 32);
        assert_eq!(memory.grow(4000).unwrap_err().status, 413);
        assert_eq!(of(Some("a")).grow(20 << 10).unwrap_err().status, 503);
        let mut other = of(None);
        other.grow(32 << 10).unwrap();
        drop(memory);
        of(Some("a")).grow(32 << 10).unwrap();
        drop(other);
        assert_eq!(kib.free(), 64);
    }
}
