//! Checks of the repository itself. They run as ordinary tests (`tests/tidy.rs`) and by `cargo xtask tidy`.

use std::path::{Path, PathBuf};

pub mod tidy;

/// The folder that holds the workspace's `Cargo.toml`.
#[must_use]
pub fn repository_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
