//! `vocab.json` and `merges.txt`, from before there was `tokenizer.json`. They don't say how a text is cut: the
//! tokenizer's class in transformers does, and only classes that always cut the same way are taken.

use serde_json::{Map, Value, json};

use super::config::TokenizerConfig;
use crate::{
    error::{Result, TokenizerError},
    split::presets::QWEN2,
    tokenizer::Tokenizer,
};

/// The class of Qwen2, Qwen2.5 and their kin.
const QWEN: &str = "Qwen2Tokenizer";

impl Tokenizer {
    /// Makes a tokenizer from the bytes of a `vocab.json`, a `merges.txt` and a `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`]; also for classes whose way of cutting texts the files don't tell.
    pub fn from_vocab_and_merges(
        vocab: &[u8],
        merges: &[u8],
        tokenizer_config: Option<&[u8]>,
    ) -> Result<Self> {
        let class = tokenizer_config.map(TokenizerConfig::read).transpose()?.unwrap_or_default();
        if class.class() != QWEN {
            let found = if class.class().is_empty() { "no class" } else { class.class() };
            return Err(TokenizerError::unsupported(
                "without a tokenizer.json, tokenizer_class in tokenizer_config.json",
                found,
                &[QWEN],
            ));
        }
        let vocab: Map<String, Value> = serde_json::from_slice(vocab)
            .map_err(|error| TokenizerError::malformed("vocab.json", error.to_string()))?;
        let lines = std::str::from_utf8(merges)
            .map_err(|error| TokenizerError::malformed("merges.txt", error.to_string()))?;
        // The first line may tell the version.
        let version = |at: usize, line: &str| at == 0 && line.starts_with("#version:");
        let lines = lines.lines().enumerate().filter(|(at, line)| !line.is_empty() && !version(*at, line));
        let merges: Vec<&str> = lines.map(|(_, line)| line).collect();
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
        let tokenizer = json!({
            "normalizer": { "type": "NFC" },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, byte_level] },
            "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocab, "merges": merges },
        });
        Self::from_json(tokenizer.to_string().as_bytes(), tokenizer_config)
    }
}
