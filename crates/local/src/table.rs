//! The vocabulary as bytes: what grammars, gates and think tags are matched against.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Longer tokens than this are never allowed by a grammar.
const TOKEN_BYTES_MAX: usize = 512;
/// Bytes of the vocabulary that grammars look at; tokens beyond are never allowed by a grammar.
const TABLE_BYTES_MAX: usize = 3 << 20;
/// Lists of tokens that are remembered.
const LISTS_MAX: usize = 1024;

/// What each token adds to the text. Control tokens add nothing, unless they are marks of the model's tool or think
/// syntax: those stand for their own text.
pub(crate) struct TokenTable {
    offsets: Vec<u32>,
    bytes: Vec<u8>,
    /// Tokens of nothing but newlines.
    newlines: Vec<u32>,
    lists: Mutex<HashMap<ListKey, Arc<[u32]>>>,
}

/// What a remembered list is of: a name, and a state of what has the name.
type ListKey = (String, usize);

impl TokenTable {
    /// `token` gives the bytes of each of `len` tokens.
    pub(crate) fn new<'a>(len: usize, mut token: impl FnMut(u32) -> &'a [u8]) -> Self {
        let (mut offsets, mut bytes, mut newlines) = (vec![0], Vec::new(), Vec::new());
        for id in 0..u32::try_from(len).unwrap_or(u32::MAX) {
            let text = token(id);
            if text.len() <= TOKEN_BYTES_MAX && bytes.len() + text.len() <= TABLE_BYTES_MAX {
                bytes.extend_from_slice(text);
            }
            if !text.is_empty() && text.iter().all(|&byte| byte == b'\n') {
                newlines.push(id);
            }
            // The table's size fits: TABLE_BYTES_MAX is far below 2³².
            offsets.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { offsets, bytes, newlines, lists: Mutex::default() }
    }

    /// Tokens of the model's vocabulary.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// What a token adds to the text; nothing for ids outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        match (self.offsets.get(at), self.offsets.get(at.saturating_add(1))) {
            (Some(&start), Some(&end)) => self.bytes.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Tokens that add up to a text, none of more than one character: whatever is looked for in the text ends at the
    /// end of one. `None` if the vocabulary has none for some character.
    pub(crate) fn spell(&self, text: &str) -> Option<Vec<u32>> {
        let mut short: HashMap<&[u8], u32> = HashMap::new();
        for id in 0..u32::try_from(self.len()).unwrap_or(u32::MAX) {
            let bytes = self.bytes(id);
            if (1..=4).contains(&bytes.len()) {
                short.entry(bytes).or_insert(id);
            }
        }
        let mut tokens = Vec::with_capacity(text.len());
        for c in text.chars() {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match short.get(bytes) {
                Some(&id) => tokens.push(id),
                None => {
                    for byte in bytes {
                        tokens.push(*short.get(std::slice::from_ref(byte))?);
                    }
                }
            }
        }
        Some(tokens)
    }

    /// Tokens of nothing but newlines.
    pub(crate) fn newlines(&self) -> &[u32] {
        &self.newlines
    }

    /// The tokens whose bytes pass a test. What passes depends on `name` and `state` alone: it is remembered.
    pub(crate) fn matching(&self, name: &str, state: usize, passes: impl Fn(&[u8]) -> bool) -> Arc<[u32]> {
        let key = (name.to_owned(), state);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = lists.get(&key) {
            return Arc::clone(list);
        }
        let ids = 0..u32::try_from(self.len()).unwrap_or(u32::MAX);
        let list: Arc<[u32]> = ids.filter(|&id| passes(self.bytes(id))).collect();
        if lists.len() < LISTS_MAX {
            lists.insert(key, Arc::clone(&list));
        }
        list
    }
}

impl std::fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenTable").field("tokens", &self.len()).finish_non_exhaustive()
    }
}

/// Watches a stream of tokens for a text behind which something else begins (Knuth, Morris and Pratt 1977), and
/// knows the tokens that would run past its end.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pattern: Arc<str>,
    /// Length of the longest proper border of each prefix.
    borders: Arc<[usize]>,
    matched: usize,
    /// The text counts only at the very beginning.
    anchored: bool,
    /// Newlines may stand behind the text in the same token.
    newlines_may_follow: bool,
    dead: bool,
}

impl Gate {
    /// A gate for the tag that ends thinking.
    pub(crate) fn end_of_thinking(tag: &str) -> Self {
        Self { newlines_may_follow: true, ..Self::new(tag, false) }
    }

    /// A gate for a text that begins something else; `anchored` if only at the very beginning.
    pub(crate) fn new(pattern: &str, anchored: bool) -> Self {
        let bytes = pattern.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for at in 1..bytes.len() {
            while border > 0 && bytes[at] != bytes[border] {
                border = borders[border - 1];
            }
            if bytes[at] == bytes[border] {
                border += 1;
            }
            borders[at] = border;
        }
        Self {
            pattern: pattern.into(),
            borders: borders.into(),
            matched: 0,
            anchored,
            newlines_may_follow: false,
            dead: pattern.is_empty(),
        }
    }

    /// Forgets what it has seen.
    pub(crate) fn reset(&mut self) {
        self.matched = 0;
        self.dead = self.pattern.is_empty();
    }

    /// Takes the bytes of a token. Returns how many of them follow the text, once it is complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.dead {
                return None;
            }
            if self.step(byte) {
                self.matched = 0;
                self.dead = self.anchored;
                return Some(bytes.len() - at - 1);
            }
        }
        None
    }

    /// Tokens that would complete the text and go on behind it.
    pub(crate) fn overrunning(&self, table: &TokenTable) -> Arc<[u32]> {
        if self.dead {
            return Arc::new([]);
        }
        let name = format!("gate {} {} {}", self.anchored, self.newlines_may_follow, self.pattern);
        table.matching(&name, self.matched, |bytes| {
            let rest = self.clone().push(bytes).unwrap_or(0);
            let rest = bytes.get(bytes.len() - rest..).unwrap_or_default();
            !rest.iter().all(|&byte| byte == b'\n' && self.newlines_may_follow)
        })
    }

    fn step(&mut self, byte: u8) -> bool {
        let pattern = self.pattern.as_bytes();
        loop {
            if pattern.get(self.matched) == Some(&byte) {
                self.matched += 1;
                return self.matched == pattern.len();
            }
            if self.anchored {
                self.dead = true;
                return false;
            }
            if self.matched == 0 {
                return false;
            }
            self.matched = self.borders.get(self.matched - 1).copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(tokens: &[&str]) -> TokenTable {
        TokenTable::new(tokens.len(), |id| tokens[id as usize].as_bytes())
    }

    #[test]
    fn a_gate_finds_its_text_across_tokens() {
        let mut gate = Gate::new("aab", false);
        assert_eq!(gate.push(b"a"), None);
        assert_eq!(gate.push(b"a"), None);
        assert_eq!(gate.push(b"abxy"), Some(2));
        assert_eq!(gate.push(b"aab"), Some(0));
        assert_eq!(gate.push(b"xaabaab"), Some(3));
        let mut anchored = Gate::new("aab", true);
        assert_eq!(anchored.push(b"aa"), None);
        assert_eq!(anchored.push(b"ab"), None);
        assert_eq!(anchored.push(b"aab"), None);
        anchored.reset();
        assert_eq!(anchored.push(b"aab"), Some(0));
    }

    #[test]
    fn tokens_that_run_past_the_text_are_known_for_each_state() {
        let table = table(&["<", "/t>", "/t>x", "/t>\n\n", "t", "</t>", "</t>{", "a</t>\n"]);
        let mut gate = Gate::end_of_thinking("</t>");
        assert_eq!(*gate.overrunning(&table), [6]);
        gate.push(b"<");
        assert_eq!(*gate.overrunning(&table), [2, 6]);
        assert_eq!(*Gate::new("</t>", false).overrunning(&table), [6, 7]);
        assert_eq!(*Gate::new("</t>", true).overrunning(&table), [6]);
    }

    #[test]
    fn a_table_gives_back_its_tokens() {
        let table = table(&["", "a", "\n\n", "é"]);
        assert_eq!((table.len(), table.bytes(3), table.bytes(4)), (4, "é".as_bytes(), &[][..]));
        assert_eq!(table.newlines(), [2]);
        assert_eq!(table.spell("aéa"), Some(vec![1, 3, 1]));
        assert_eq!((table.spell("b"), table.spell("\n\n")), (None, None));
        let long = "x".repeat(600);
        assert_eq!(TokenTable::new(1, |_| long.as_bytes()).bytes(0), b"");
    }
}
