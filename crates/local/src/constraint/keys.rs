//! Keys of JSON objects that come twice: no grammar without a memory can forbid them, so that they are taken out of
//! its masks.

use std::{collections::HashSet, sync::Arc};

use levain_engine::TokenMask;
use llguidance::Matcher;

use crate::{schema::FreeKeys, table::TokenTable};

/// Follows JSON text, and forbids tokens with which a key would come again.
#[derive(Debug)]
pub(super) struct KeyGuard {
    text: JsonText,
    /// Keys may run out; then it is found in time that none is left.
    tight: bool,
    /// Where keys may run out: prefixes without another key, should a comma come next.
    next: Option<HashSet<Vec<u8>>>,
}

/// Where JSON text stands.
#[derive(Debug, Clone, Default)]
struct JsonText {
    open: Vec<Arc<Level>>,
    /// Whether the next text is a key.
    key_next: bool,
    text: Within,
    /// The key so far, as it is written.
    key: Vec<u8>,
}

/// An array, or an object with its keys so far.
#[derive(Debug, Clone, Default)]
struct Level {
    is_object: bool,
    keys: HashSet<Vec<u8>>,
    /// Prefixes that no further key can have.
    dead: HashSet<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Within {
    #[default]
    Nothing,
    Text {
        is_key: bool,
        escape: Escape,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    /// `\u` and so many digits, the last one of them.
    Digits(u8, u8),
}

impl JsonText {
    /// Takes a byte. `false` if a key would come twice, or be written in one of several ways.
    fn push(&mut self, byte: u8) -> bool {
        match self.text {
            Within::Text { is_key, escape } => self.push_text(byte, is_key, escape),
            Within::Nothing => {
                self.push_outside(byte);
                true
            }
        }
    }

    fn push_outside(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.text = Within::Text { is_key: self.key_next, escape: Escape::No };
                self.key.clear();
            }
            b'{' | b'[' => {
                self.open.push(Arc::new(Level { is_object: byte == b'{', ..Level::default() }));
                self.key_next = byte == b'{';
            }
            b'}' | b']' => {
                self.open.pop();
                self.key_next = false;
            }
            b',' => self.key_next = self.open.last().is_some_and(|level| level.is_object),
            b':' => self.key_next = false,
            _ => {}
        }
    }

    fn push_text(&mut self, byte: u8, is_key: bool, escape: Escape) -> bool {
        let next = match (escape, byte) {
            (Escape::No, b'"') => {
                self.text = Within::Nothing;
                self.key_next = false;
                let key = std::mem::take(&mut self.key);
                return !is_key
                    || self.open.last_mut().is_none_or(|level| Arc::make_mut(level).keys.insert(key));
            }
            (Escape::No, b'\\') => Escape::Begun,
            (Escape::Begun, b'u') => Escape::Digits(0, 0),
            (Escape::Digits(3, _), _) | (Escape::No | Escape::Begun, _) => Escape::No,
            (Escape::Digits(count, _), digit) => Escape::Digits(count + 1, digit),
        };
        self.text = Within::Text { is_key, escape: next };
        if !is_key {
            return true;
        }
        match (escape, byte) {
            // As it is written otherwise.
            (Escape::No, 0x7f) => self.key.extend_from_slice(b"\\u007f"),
            _ => self.key.push(byte),
        }
        // A key has one spelling: escapes by number only where there is no other way to write it.
        match escape {
            Escape::Digits(0 | 1, _) => byte == b'0',
            Escape::Digits(2, _) => matches!(byte, b'0' | b'1' | b'7'),
            Escape::Digits(_, b'7') => byte == b'f',
            Escape::Digits(_, b'0') => matches!(byte, b'0'..=b'7' | b'b' | b'e' | b'f'),
            Escape::Digits(..) => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            Escape::No | Escape::Begun => true,
        }
    }

    fn is_escaping(&self) -> bool {
        matches!(self.text, Within::Text { escape: Escape::Begun | Escape::Digits(..), .. })
    }

    fn is_in_key(&self) -> bool {
        matches!(self.text, Within::Text { is_key: true, .. })
    }

    /// The object in which a comma would stand.
    fn object(&self) -> Option<&Level> {
        let outside = self.text == Within::Nothing;
        self.open.last().map(|level| &**level).filter(|level| outside && level.is_object)
    }
}

impl KeyGuard {
    /// `None` where no key can come twice.
    pub(super) fn new(keys: FreeKeys, opening: &str) -> Option<Self> {
        if keys == FreeKeys::None {
            return None;
        }
        let mut text = JsonText::default();
        for &byte in opening.as_bytes() {
            text.push(byte);
        }
        Some(Self { text, tight: keys == FreeKeys::Tight, next: None })
    }

    /// Takes the bytes of a token.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let comma = byte == b',' && self.text.object().is_some();
            self.text.push(byte);
            if comma && let (Some(dead), Some(level)) = (self.next.take(), self.text.open.last_mut()) {
                Arc::make_mut(level).dead = dead;
            }
        }
    }

    /// Takes tokens out of a mask of `matcher`'s.
    pub(super) fn filter(&mut self, mask: &mut TokenMask, table: &TokenTable, matcher: &Matcher) {
        let forbid = |ids: &mut dyn Iterator<Item = u32>, mask: &mut TokenMask| {
            for id in ids {
                if mask.is_allowed(id) && !table.bytes(id).is_empty() && !self.admits(table.bytes(id)) {
                    mask.forbid(id);
                }
            }
        };
        let dead = self.text.is_in_key() && self.text.open.last().is_some_and(|level| !level.dead.is_empty());
        if dead || self.text.is_escaping() {
            forbid(&mut (0..u32::try_from(table.len()).unwrap_or(u32::MAX)), mask);
        } else {
            let marks = table.matching("marks of keys", 0, |bytes| {
                bytes.iter().any(|byte| matches!(byte, b'"' | b'\\' | b','))
            });
            forbid(&mut marks.iter().copied(), mask);
        }
        self.next = None;
        if !self.tight || self.text.object().is_none_or(|level| level.keys.is_empty()) {
            return;
        }
        let commas = byte_tokens(table, b',');
        if commas.iter().any(|&id| mask.is_allowed(id)) {
            self.next = self.dead_prefixes(table, matcher);
            if self.next.is_none() {
                commas.iter().for_each(|&id| mask.forbid(id));
            }
        }
    }

    fn admits(&self, bytes: &[u8]) -> bool {
        let mut text = self.text.clone();
        for &byte in bytes {
            if self.tight && byte == b',' && bytes.len() > 1 && text.object().is_some() {
                // A comma stands alone where keys may run out: whether one is left depends on the values before it.
                return false;
            }
            if !text.push(byte) {
                return false;
            }
            if self.tight
                && text.is_in_key()
                && text.open.last().is_some_and(|level| level.dead.contains(&text.key))
            {
                return false;
            }
        }
        true
    }

    /// The prefixes of keys that no key but those before can have, should a comma come now; `None` if no key is left.
    fn dead_prefixes(&self, table: &TokenTable, matcher: &Matcher) -> Option<HashSet<Vec<u8>>> {
        let level = self.text.object()?;
        let token = |byte: u8| byte_tokens(table, byte).first().copied();
        let spell = |bytes: &[u8]| bytes.iter().map(|&byte| token(byte)).collect::<Option<Vec<u32>>>();
        let mut start = matcher.clone();
        start.consume_token(token(b',')?).ok()?;
        let ways = [spell(b"\"")?, spell(b" \"")?];
        let way = ways.iter().find(|way| start.validate_tokens(way).is_ok_and(|valid| valid == way.len()))?;
        start.consume_tokens(way).ok()?;
        let mut repeatable: Vec<&Vec<u8>> = Vec::new();
        for key in &level.keys {
            let Some(mut ids) = spell(key) else { continue };
            ids.extend(token(b'"'));
            if start.validate_tokens(&ids).is_ok_and(|valid| valid > key.len()) {
                repeatable.push(key);
            }
        }
        // Longer ones first: whether a prefix is dead depends on what can follow it.
        repeatable.sort_by_key(|key| std::cmp::Reverse(key.len()));
        let mut dead: HashSet<Vec<u8>> = HashSet::new();
        for &key in &repeatable {
            let mut prefix = key.clone();
            loop {
                let mut at = start.clone();
                let spelled = spell(&prefix)?;
                let mask = at.consume_tokens(&spelled).and_then(|()| at.compute_mask()).ok()?;
                let lives = (0..u32::try_from(table.len()).unwrap_or(u32::MAX)).any(|id| {
                    let Some(&first) = table.bytes(id).first().filter(|_| mask.is_allowed(id)) else {
                        return false;
                    };
                    if first == b'"' {
                        return !level.keys.contains(&prefix);
                    }
                    prefix.push(first);
                    let lives = !dead.contains(&prefix);
                    prefix.pop();
                    lives
                });
                if lives {
                    break;
                }
                dead.insert(prefix.clone());
                prefix.pop()?;
            }
        }
        Some(dead)
    }
}

/// The tokens of just this byte.
fn byte_tokens(table: &TokenTable, byte: u8) -> Arc<[u32]> {
    table.matching("byte", usize::from(byte), |bytes| bytes == [byte])
}
