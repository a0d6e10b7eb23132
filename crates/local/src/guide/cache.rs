//! Compiled grammars that are kept for the next request.

use super::Compiled;

/// Bytes that compiled grammars may hold together.
pub(super) const CACHE_BYTES_MAX: usize = 64 << 20;

/// Compiled grammars, the least recently used first.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) entries: Vec<(String, Compiled, usize)>,
    pub(super) bytes: usize,
}

impl Cache {
    pub(super) fn get(&mut self, key: &str) -> Option<Compiled> {
        let at = self.entries.iter().position(|(known, ..)| known == key)?;
        let entry = self.entries.remove(at);
        let hit = entry.1.clone();
        self.entries.push(entry);
        Some(hit)
    }

    pub(super) fn insert(&mut self, key: String, compiled: Compiled, bytes: usize) {
        if bytes > CACHE_BYTES_MAX || self.entries.iter().any(|(known, ..)| *known == key) {
            return;
        }
        self.bytes += bytes;
        self.entries.push((key, compiled, bytes));
        while self.bytes > CACHE_BYTES_MAX {
            let (_, _, oldest) = self.entries.remove(0);
            self.bytes -= oldest;
        }
    }
}
