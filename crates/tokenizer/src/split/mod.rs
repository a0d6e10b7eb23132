//! From a text to the pieces that are tokenized each on its own.

pub(crate) mod pattern;
pub(crate) mod pieces;
pub(crate) mod presets;
mod rewrite;
pub(crate) mod steps;
