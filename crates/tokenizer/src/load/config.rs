//! `tokenizer_config.json`: the ends of a text, tokens that were added later, chat templates.

use serde::Deserialize;
use serde_json::Value;

use super::json::AddedTokenFile;
use crate::{
    error::{Result, TokenizerError},
    tokenizer::SpecialIds,
    vocab::Vocab,
};

/// Bytes of a file that are accepted.
const FILE_BYTES_MAX: usize = 32 << 20;

/// A token's text, or the token with all its fields.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Fields { content: String },
}

impl TokenName {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Fields { content: text } => text,
        }
    }
}

#[derive(Deserialize, Default)]
struct ConfigFile {
    #[serde(default)]
    bos_token: Option<TokenName>,
    #[serde(default)]
    eos_token: Option<TokenName>,
    #[serde(default)]
    unk_token: Option<TokenName>,
    #[serde(default)]
    pad_token: Option<TokenName>,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    add_eos_token: Option<bool>,
    #[serde(default)]
    tokenizer_class: Option<String>,
    #[serde(default)]
    chat_template: Option<Value>,
    #[serde(default)]
    added_tokens_decoder: serde_json::Map<String, Value>,
}

/// What `tokenizer_config.json` adds to `tokenizer.json`.
#[derive(Default)]
pub(super) struct TokenizerConfig {
    file: ConfigFile,
    pub(super) added_tokens: Vec<AddedTokenFile>,
    pub(super) chat_template: Option<String>,
    pub(super) named_templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let place = "tokenizer_config.json";
        if bytes.len() > FILE_BYTES_MAX {
            return Err(TokenizerError::TooLarge {
                part: format!("{place} (bytes)"),
                found: bytes.len() as u64,
                limit: FILE_BYTES_MAX as u64,
            });
        }
        let file: ConfigFile = serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::malformed(place, error.to_string()))?;
        let mut added_tokens = Vec::new();
        for (id, token) in &file.added_tokens_decoder {
            let id = id.parse().map_err(|_| {
                TokenizerError::malformed(place, format!("{id:?} in added_tokens_decoder is no token id"))
            })?;
            let token = AddedTokenFile::deserialize(token)
                .map_err(|error| TokenizerError::malformed(place, format!("added token {id}: {error}")))?;
            added_tokens.push(AddedTokenFile { id, ..token });
        }
        let (mut chat_template, mut named_templates) = (None, Vec::new());
        match &file.chat_template {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => chat_template = Some(source.clone()),
            Some(Value::Array(list)) => {
                for entry in list {
                    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
                    let (Some(name), Some(source)) = (text("name"), text("template")) else {
                        return Err(TokenizerError::malformed(
                            place,
                            "an entry of chat_template lacks name or template",
                        ));
                    };
                    if name == "default" {
                        chat_template = Some(source.clone());
                    }
                    named_templates.push((name, source));
                }
                if let ([(_, only)], None) = (named_templates.as_slice(), &chat_template) {
                    chat_template = Some(only.clone());
                }
            }
            Some(_) => {
                return Err(TokenizerError::malformed(place, "chat_template is neither text nor list"));
            }
        }
        Ok(Self { file, added_tokens, chat_template, named_templates })
    }

    /// The class that reads the tokenizer in transformers, without the mark of its quick form.
    pub(super) fn class(&self) -> &str {
        let class = self.file.tokenizer_class.as_deref().unwrap_or_default();
        class.strip_suffix("Fast").unwrap_or(class)
    }

    /// Fills in the ends of a text.
    pub(super) fn complete(&self, vocab: &Vocab, special: &mut SpecialIds) {
        let id = |name: &Option<TokenName>| name.as_ref().and_then(|n| vocab.id_of_text(n.text()));
        special.bos = id(&self.file.bos_token);
        special.eos = id(&self.file.eos_token).into_iter().collect();
        special.unk = id(&self.file.unk_token);
        special.pad = id(&self.file.pad_token);
        let eos = special.eos.first().copied();
        for (wanted, token, list) in [
            (self.file.add_bos_token, special.bos, &mut special.before),
            (self.file.add_eos_token, eos, &mut special.after),
        ] {
            let Some(token) = token else { continue };
            match wanted {
                Some(true) if !list.contains(&token) => list.push(token),
                Some(false) => list.retain(|id| *id != token),
                _ => {}
            }
        }
        if special.bos.is_none() && self.file.bos_token.is_none() {
            special.bos = special.before.first().copied();
        }
    }
}
