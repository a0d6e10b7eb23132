//! Bounds of what requests may ask for, and how tenants are told apart.

use levain_chat::ProviderError;
use levain_engine::{ANSWERS_MAX, TOP_LOGPROBS_MAX};
use sha2::{Digest, Sha256};

use crate::{
    guide::invalid,
    stop::{STOP_BYTES_MAX, STOP_TEXTS_MAX},
};

pub(crate) fn check_n(n: u32) -> Result<(), ProviderError> {
    if n > ANSWERS_MAX {
        return Err(invalid("n", format!("{n} answers are asked for and {ANSWERS_MAX} may be")));
    }
    Ok(())
}

pub(crate) fn check_logprobs(top: Option<u32>) -> Result<(), ProviderError> {
    match top {
        Some(top) if top as usize > TOP_LOGPROBS_MAX => Err(invalid(
            "logprobs",
            format!("{top} alternatives are asked for and {TOP_LOGPROBS_MAX} may be"),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn check_stops(stops: &[String]) -> Result<(), ProviderError> {
    if stops.len() > STOP_TEXTS_MAX {
        return Err(invalid("stop", format!("{} texts are given and {STOP_TEXTS_MAX} may be", stops.len())));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
        return Err(invalid("stop", format!("a stop text has 1 to {STOP_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The engine's number for a tenant: the same for the same name, also after a restart, as caches on the disk outlive
/// the program. Nobody chooses names: they are digests of keys that the operator made.
pub(crate) fn tenant(name: Option<&str>) -> u64 {
    name.map_or(0, |name| {
        let digest = Sha256::new().chain_update(b"levain tenant 1").chain_update(name).finalize();
        digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::tenant;

    /// Blocks on the disk are found by it after a restart.
    #[test]
    fn a_tenant_keeps_its_number() {
        assert_eq!(tenant(None), 0);
        assert_eq!(tenant(Some("0123456789abcdef")), 0x44ad_b35a_5210_0e75);
        assert_ne!(tenant(Some("a")), tenant(Some("b")));
    }
}
