//! Where files of the program are, after the XDG rules; `LEVAIN_HOME` moves all of them.

use std::path::PathBuf;

use crate::env;

fn home() -> Option<PathBuf> {
    env::with_home("HOME").or_else(|| env::get("USERPROFILE")).map(PathBuf::from)
}

fn xdg(variable: &str, below_home: &str, in_levain_home: &str) -> Option<PathBuf> {
    if let Some(levain_home) = env::get(env::LEVAIN_HOME) {
        return Some(PathBuf::from(levain_home).join(in_levain_home));
    }
    // The XDG rules say that a relative path there is to be ignored.
    let named = env::get(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| home().map(|home| home.join(below_home))).map(|dir| dir.join("levain"))
}

/// The user's configuration file.
pub(crate) fn user_config() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config", "config").map(|dir| dir.join("config.toml"))
}

/// The machine's configuration files, weakest first.
pub(crate) fn system_configs() -> Vec<PathBuf> {
    if env::get(env::LEVAIN_HOME).is_some() {
        return Vec::new();
    }
    let dirs = env::get("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
    let mut files: Vec<PathBuf> = dirs
        .split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| PathBuf::from(dir).join("levain/config.toml"))
        .collect();
    // The first folder of the list is the strongest.
    files.reverse();
    files
}

/// The folder in which blocks of the KV cache are kept.
pub(crate) fn kv_cache() -> Option<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache", "cache").map(|dir| dir.join("kv"))
}

/// The file with the key that seals blocks of the KV cache: not beside them.
pub(crate) fn seal_key() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state", "state").map(|dir| dir.join("kv.key"))
}

/// The file that remembers what was typed into `levain chat`.
pub(crate) fn history() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state", "state").map(|dir| dir.join("chat_history"))
}

/// The Python of the folder that `levain bench --compare` proposes for llama.cpp.
pub(crate) fn peer_python() -> Option<PathBuf> {
    home().map(|home| home.join(".cache/levain-peers/bin/python"))
}
