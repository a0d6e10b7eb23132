//! The tokenizer itself: text to ids.

use std::borrow::Cow;

use crate::{
    added::{AddedTokens, Fragment},
    error::{Result, TokenizerError},
    model::Model,
    normalize::Normalizer,
    split::{pieces::Pieces, steps::Step},
    vocab::{TokenKind, Vocab},
};

/// What happens to the names of control tokens in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They are text like any other: for everything that comes from outside.
    AsText,
    /// They become the control tokens they name: for prompts that a caller with that right wrote by hand.
    Parse,
}

/// The ids with a fixed part in every model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) pad: Option<u32>,
    /// Put around every text by [`Tokenizer::encode_with_special_tokens`].
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
}

/// How tokens become text again, beyond the bytes that each stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Joining {
    /// Blanks that are taken from the very beginning of a text.
    pub(crate) strip_leading: usize,
    /// Blanks that are taken from the very end of a text.
    pub(crate) strip_trailing: usize,
}

/// Text to tokens and back, made from a `tokenizer.json` or from the vocabulary in a GGUF file.
pub struct Tokenizer {
    pub(crate) vocab: Vocab,
    /// Matched in the text as given.
    pub(crate) added: AddedTokens,
    /// The control tokens alone.
    pub(crate) control: AddedTokens,
    /// Matched in the normalized text.
    pub(crate) added_normalized: AddedTokens,
    pub(crate) normalizers: Vec<Normalizer>,
    pub(crate) steps: Vec<Step>,
    pub(crate) model: Model,
    pub(crate) special: SpecialIds,
    pub(crate) joining: Joining,
    /// Every text behind a control token counts as the beginning of a text.
    pub(crate) restart_after_token: bool,
    pub(crate) chat_template: Option<String>,
    pub(crate) named_templates: Vec<(String, String)>,
}

impl Tokenizer {
    /// The tokens of `text`, nothing put around them.
    ///
    /// # Errors
    /// If the vocabulary can't spell the text.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        let mut at_start = true;
        self.encode_run(text, special, &mut at_start, &mut out)?;
        Ok(out)
    }

    /// As [`Self::encode`], with what the model wants around a text: usually a token that begins it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_special_tokens(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let mut out = self.special.before.clone();
        out.extend(self.encode(text, special)?);
        out.extend_from_slice(&self.special.after);
        Ok(out)
    }

    /// Appends the tokens of `text`. `at_start` tells whether a text begins here, and learns whether the next one does.
    pub(crate) fn encode_run(
        &self,
        text: &str,
        special: SpecialTokens,
        at_start: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let control = special == SpecialTokens::Parse;
        let mut fragments = Vec::new();
        self.added.split(text, control, &mut fragments);
        for fragment in fragments {
            match fragment {
                Fragment::Token { id } => {
                    out.push(id);
                    *at_start = self.restart_after_token;
                }
                Fragment::Text { start, end } => {
                    let mut part = Cow::Borrowed(text.get(start..end).unwrap_or_default());
                    for normalizer in &self.normalizers {
                        part = normalizer.apply(part)?;
                    }
                    self.encode_normalized(&part, control, at_start, out)?;
                }
            }
        }
        Ok(())
    }

    fn encode_normalized(
        &self,
        text: &str,
        control: bool,
        at_start: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut fragments = Vec::new();
        self.added_normalized.split(text, control, &mut fragments);
        for fragment in fragments {
            match fragment {
                Fragment::Token { id } => {
                    out.push(id);
                    *at_start = self.restart_after_token;
                }
                Fragment::Text { start, end } => {
                    let part = text.get(start..end).unwrap_or_default();
                    let mut pieces = Pieces::new(Cow::Borrowed(part), *at_start);
                    for step in &self.steps {
                        step.apply(&mut pieces)?;
                    }
                    for piece in pieces.iter() {
                        self.model.encode(&self.vocab, piece, out)?;
                    }
                    *at_start = false;
                }
            }
        }
        Ok(())
    }

    /// Cuts a text at the control tokens it names.
    pub(crate) fn control_fragments(&self, text: &str) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        self.control.split(text, true, &mut fragments);
        fragments
    }

    /// Tokens that there are. A model's table of logits may be longer.
    pub fn vocab_size(&self) -> u32 {
        self.vocab.len()
    }

    /// The id of the token with this published text.
    pub fn token_to_id(&self, text: &str) -> Option<u32> {
        self.vocab.id_of_text(text)
    }

    /// The token's text as published, such as `Ġhello` or `<|im_end|>`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// What the token contributes to an answer's text; nothing for control tokens. A character may be spread over
    /// several tokens: see [`crate::Detokenizer`].
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if self.is_control(id) { Some(&[]) } else { self.vocab.output(id) }
    }

    /// As [`Self::token_bytes`], but control tokens contribute their name.
    pub fn token_bytes_with_control(&self, id: u32) -> Option<&[u8]> {
        self.vocab.output(id)
    }

    /// What the token is for.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kind(id)
    }

    /// Whether the token steers the model, and is neither part of an answer's text nor made from a user's text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == Some(TokenKind::Control)
    }

    /// The ids of all control tokens.
    pub fn control_ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.vocab.len()).filter(|id| self.is_control(*id))
    }

    /// The texts of all control tokens.
    pub fn control_texts(&self) -> impl Iterator<Item = &str> {
        self.control_ids().filter_map(|id| self.vocab.text(id)).filter(|text| !text.is_empty())
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos
    }

    /// The tokens that end an answer, the file's own first.
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.eos
    }

    /// The token for what can't be spelled.
    pub fn unk_id(&self) -> Option<u32> {
        self.special.unk
    }

    /// The token that fills up batches.
    pub fn pad_id(&self) -> Option<u32> {
        self.special.pad
    }

    /// The text of the token that begins a text; empty if there is none.
    pub fn bos_text(&self) -> &str {
        self.special.bos.and_then(|id| self.vocab.text(id)).unwrap_or_default()
    }

    /// The text of the token that ends an answer; empty if there is none.
    pub fn eos_text(&self) -> &str {
        self.special.eos.first().and_then(|id| self.vocab.text(*id)).unwrap_or_default()
    }

    /// Whether a text is begun by [`Self::bos_id`].
    pub fn adds_bos(&self) -> bool {
        self.special.bos.is_some_and(|bos| self.special.before.first() == Some(&bos))
    }

    /// The chat template that came with the tokenizer's files.
    pub fn chat_template_source(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Takes a chat template in place of all that came with the tokenizer's files.
    pub fn set_chat_template(&mut self, source: String) {
        self.chat_template = Some(source);
        self.named_templates.clear();
    }

    /// Chat templates with a name, such as `tool_use`.
    pub fn named_chat_templates(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named_templates.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// The text of `ids`, control tokens left out. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If an id is outside of the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut stream = crate::Detokenizer::new(self);
        let mut text = String::new();
        for id in ids {
            if *id >= self.vocab.len() {
                return Err(TokenizerError::NoSuchToken { id: *id, size: self.vocab.len() });
            }
            text.push_str(&stream.push(*id));
        }
        text.push_str(&stream.flush());
        Ok(text)
    }
}
