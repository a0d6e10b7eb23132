//! Bounds of what requests may ask for, and how tenants are told apart.

use std::{
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
};

use levain_chat::ProviderError;
use levain_engine::{ANSWERS_MAX, TOP_LOGPROBS_MAX};

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

/// The engine's number for a tenant: the same for the same name, and not to be guessed from outside.
pub(crate) fn tenant(name: Option<&str>) -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    name.map_or(0, |name| KEY.get_or_init(RandomState::new).hash_one(name))
}
