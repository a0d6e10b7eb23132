//! What several tests need: a reader of vocabularies in GGUF files, and the folder with large fixtures.
#![expect(
    dead_code,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "each test uses a part of these helpers, which may fail it"
)]

use std::path::{Path, PathBuf};

use levain_tokenizer::GgufVocab;

/// The folder with fixtures too large for the repository, or `None` and a line that says so.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("LEVAIN_SHARED").map_or(beside, PathBuf::from);
    if folder.join("fixtures").is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no folder with large fixtures; set LEVAIN_SHARED to it");
    None
}

/// A file of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the fields of a trusted GGUF file that concern the vocabulary.
pub(crate) fn read_gguf(bytes: &[u8]) -> GgufVocab {
    let mut reader = Reader { bytes, at: 0 };
    assert_eq!(reader.take(4), b"GGUF");
    assert!(reader.u32() >= 2);
    let _tensors = reader.u64();
    let count = reader.u64();
    let mut vocab = GgufVocab::default();
    for _ in 0..count {
        let key = reader.text();
        let kind = reader.u32();
        reader.field(&key, kind, &mut vocab);
    }
    vocab
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let len = self.u64() as usize;
        String::from_utf8(self.take(len).to_vec()).unwrap()
    }

    fn field(&mut self, key: &str, kind: u32, vocab: &mut GgufVocab) {
        const WIDTHS: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
        match (key.strip_prefix("tokenizer.").unwrap_or_default(), kind) {
            ("ggml.model", 8) => vocab.model = self.text(),
            ("ggml.pre", 8) => vocab.pre = self.text(),
            ("chat_template", 8) => vocab.chat_template = Some(self.text()),
            ("ggml.bos_token_id", 4) => vocab.bos = Some(self.u32()),
            ("ggml.eos_token_id", 4) => vocab.eos = Some(self.u32()),
            ("ggml.eot_token_id", 4) => vocab.eot = Some(self.u32()),
            ("ggml.unknown_token_id", 4) => vocab.unk = Some(self.u32()),
            ("ggml.padding_token_id", 4) => vocab.pad = Some(self.u32()),
            ("ggml.seperator_token_id", 4) => vocab.sep = Some(self.u32()),
            ("ggml.cls_token_id", 4) => vocab.cls = Some(self.u32()),
            ("ggml.add_bos_token", 7) => vocab.add_bos = Some(self.take(1)[0] != 0),
            ("ggml.add_eos_token", 7) => vocab.add_eos = Some(self.take(1)[0] != 0),
            ("ggml.add_space_prefix", 7) => vocab.add_space_prefix = Some(self.take(1)[0] != 0),
            ("ggml.remove_extra_whitespaces", 7) => {
                vocab.remove_extra_whitespaces = Some(self.take(1)[0] != 0);
            }
            (_, 8) => drop(self.text()),
            (name, 9) => {
                let inner = self.u32();
                let count = self.u64();
                for _ in 0..count {
                    match (name, inner) {
                        ("ggml.tokens", 8) => vocab.tokens.push(self.text()),
                        ("ggml.merges", 8) => vocab.merges.get_or_insert_default().push(self.text()),
                        ("ggml.scores", 6) => vocab.scores.push(f32::from_bits(self.u32())),
                        ("ggml.token_type", 5) => vocab.token_types.push(self.u32() as i32),
                        ("ggml.precompiled_charsmap", 0 | 1) => {
                            vocab.precompiled_charsmap.push(self.take(1)[0]);
                        }
                        (_, 8) => drop(self.text()),
                        (_, other) => drop(self.take(WIDTHS[other as usize])),
                    }
                }
            }
            (_, other) => drop(self.take(WIDTHS[other as usize])),
        }
    }
}
