//! `tokenizer.json`, the format of Hugging Face's tokenizers.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::{
    complete_ends,
    config::TokenizerConfig,
    decoder::Decoder,
    json_model::{self, ModelFile},
    json_parts, looks_like_control,
};
use crate::{
    added::{AddedToken, AddedTokens},
    error::{Result, TokenizerError},
    normalize::Normalizer,
    tokenizer::{SpecialIds, Tokenizer},
    vocab::{TOKENS_MAX, TokenKind, Vocab},
};

/// Bytes of a file that are accepted.
const FILE_BYTES_MAX: usize = 256 << 20;

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedTokenFile>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    model: ModelFile,
}

#[derive(Deserialize, Clone)]
pub(super) struct AddedTokenFile {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

impl Tokenizer {
    /// Makes a tokenizer from the bytes of a `tokenizer.json` and, if there is one, of its `tokenizer_config.json`.
    ///
    /// # Errors
    /// If a file is no valid JSON of its format, asks for a part that is not supported (it is named), or has a split
    /// pattern that can't be matched in linear time.
    pub fn from_json(tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self> {
        if tokenizer_json.len() > FILE_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                part: "tokenizer.json (bytes)".into(),
                found: tokenizer_json.len() as u64,
                limit: FILE_BYTES_MAX as u64,
            });
        }
        let file: TokenizerFile = serde_json::from_slice(tokenizer_json)
            .map_err(|error| TokenizerError::malformed("tokenizer.json", error.to_string()))?;
        let config = tokenizer_config.map(TokenizerConfig::read).transpose()?.unwrap_or_default();
        let added = added_tokens(file.added_tokens, &config)?;
        let entries = file.model.entries()?;

        let mut normalizers = Vec::new();
        json_parts::normalizers(file.normalizer.as_ref(), &mut normalizers)?;
        let unknown = file.model.unknown(&entries);
        let slots = fill_slots(&entries, &added, unknown.as_deref(), &normalizers)?;
        let mut pre = json_parts::PreTokenizer::default();
        json_parts::pre_tokenizer(file.pre_tokenizer.as_ref(), &mut pre)?;
        let decoder = Decoder::read(file.decoder.as_ref())?;
        let byte_level = pre.byte_level;

        let mut vocab = Vocab::with_capacity(slots.len());
        for slot in &slots {
            let raw = slot.kind == TokenKind::Control || (byte_level && slot.kind == TokenKind::Added);
            let output =
                if raw { None } else { decoder.output(slot.normalized.as_deref().unwrap_or(&slot.text)) };
            vocab.push(
                &slot.text,
                output.as_deref().unwrap_or(slot.text.as_bytes()),
                slot.kind,
                slot.is_piece,
            )?;
        }
        let model = json_model::build(file.model, &vocab, &slots, byte_level)?;

        let mut special = SpecialIds::default();
        json_parts::post_processor(file.post_processor.as_ref(), &mut special)?;
        config.complete(&vocab, &mut special);
        complete_ends(&vocab, &mut special.eos);
        if special.unk.is_none() {
            special.unk = slots.iter().position(|s| s.is_unknown).map(|id| id as u32);
        }
        if let Some(id) = special.before.iter().chain(&special.after).find(|id| **id >= vocab.len()).copied()
        {
            return Err(TokenizerError::NoSuchToken { id, size: vocab.len() });
        }

        let control = added.iter().filter(|token| token.control).cloned().collect();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for mut token in added {
            if token.normalized && !normalizers.is_empty() {
                token.text = normalize(&normalizers, &token.text)?;
                after.push(token);
            } else {
                before.push(token);
            }
        }
        Ok(Self {
            vocab,
            added: AddedTokens::new(before)?,
            control: AddedTokens::new(control)?,
            added_normalized: AddedTokens::new(after)?,
            normalizers,
            steps: pre.steps,
            model,
            special,
            joining: decoder.joining(),
            restart_after_token: false,
            chat_template: config.chat_template,
            named_templates: config.named_templates,
        })
    }
}

fn normalize(normalizers: &[Normalizer], text: &str) -> Result<String> {
    let normalized = normalizers.iter().try_fold(Cow::Borrowed(text), |text, step| step.apply(text))?;
    Ok(normalized.into_owned())
}

/// The added tokens of both files, each id once.
fn added_tokens(listed: Vec<AddedTokenFile>, config: &TokenizerConfig) -> Result<Vec<AddedToken>> {
    let mut all: Vec<AddedTokenFile> = listed;
    for token in &config.added_tokens {
        match all.iter_mut().find(|other| other.id == token.id) {
            Some(other) => other.special |= token.special,
            None => all.push(token.clone()),
        }
    }
    let mut seen = hashbrown::HashSet::new();
    let mut tokens = Vec::with_capacity(all.len());
    for token in all {
        if token.id as usize >= TOKENS_MAX {
            return Err(TokenizerError::TooLarge {
                part: format!("the id of added token {:?}", token.content),
                found: u64::from(token.id),
                limit: TOKENS_MAX as u64,
            });
        }
        if !seen.insert(token.id) {
            continue;
        }
        tokens.push(AddedToken {
            id: token.id,
            control: token.special || looks_like_control(&token.content),
            text: token.content,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            single_word: token.single_word,
            normalized: token.normalized,
        });
    }
    Ok(tokens)
}

/// One place of the vocabulary.
pub(super) struct Slot {
    pub(super) text: String,
    pub(super) kind: TokenKind,
    pub(super) is_unknown: bool,
    /// What an added token becomes by normalization, if it is matched after it.
    pub(super) normalized: Option<String>,
    /// A token of the model itself that is neither unknown nor control.
    pub(super) is_piece: bool,
}

/// Puts the model's entries and the added tokens in the order of their ids.
fn fill_slots(
    entries: &[(String, u32)],
    added: &[AddedToken],
    unknown: Option<&str>,
    normalizers: &[Normalizer],
) -> Result<Vec<Slot>> {
    let top = entries.iter().map(|(_, id)| *id).chain(added.iter().map(|t| t.id)).max();
    let size = top.map_or(0, |id| id as usize + 1);
    // Ids may have gaps, but a file of a few bytes must not ask for gigabytes.
    if size > TOKENS_MAX || size > (entries.len() + added.len()).saturating_mul(16) + 65_536 {
        return Err(TokenizerError::TooLarge {
            part: "the largest token id".into(),
            found: size as u64,
            limit: TOKENS_MAX.min((entries.len() + added.len()) * 16 + 65_536) as u64,
        });
    }
    let mut slots: Vec<Slot> = (0..size)
        .map(|_| Slot {
            text: String::new(),
            kind: TokenKind::Unused,
            is_unknown: false,
            normalized: None,
            is_piece: false,
        })
        .collect();
    for (text, id) in entries {
        if let Some(slot) = slots.get_mut(*id as usize) {
            let is_unknown = unknown == Some(text.as_str());
            let kind = if is_unknown { TokenKind::Unknown } else { TokenKind::Normal };
            *slot = Slot { text: text.clone(), kind, is_unknown, is_piece: !is_unknown, normalized: None };
        }
    }
    for token in added {
        if let Some(slot) = slots.get_mut(token.id as usize) {
            let is_unknown = unknown == Some(token.text.as_str());
            let kind = if token.control { TokenKind::Control } else { TokenKind::Added };
            let is_piece = slot.is_piece && slot.text == token.text && kind == TokenKind::Added;
            let normalized = token.normalized.then(|| normalize(normalizers, &token.text)).transpose()?;
            *slot = Slot { text: token.text.clone(), kind, is_unknown, is_piece, normalized };
        }
    }
    Ok(slots)
}
