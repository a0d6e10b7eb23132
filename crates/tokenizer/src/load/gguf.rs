//! The vocabulary of a GGUF file (`tokenizer.ggml.*`).

use hashbrown::HashMap;

use super::{complete_ends, looks_like_control};
use crate::{
    added::{AddedToken, AddedTokens},
    bytes::{CharToByte, byte_to_char, parse_byte_token},
    charsmap::CharsMap,
    error::{Result, TokenizerError},
    model::{
        Model,
        bpe::{Bpe, Merge, Symbols},
        sentencepiece::SentencePiece,
        unigram::Unigram,
        wordpiece::WordPiece,
    },
    normalize::{Normalizer, is_bert_punctuation},
    split::{
        pieces::Behavior,
        presets,
        steps::{Prepend, Step},
    },
    tokenizer::{Joining, SpecialIds, Tokenizer},
    vocab::{TokenKind, Vocab},
};

/// SentencePiece's mark of a blank.
const MARK: char = '▁';
/// The pre-tokenizer whose models have no merges.
const WITHOUT_MERGES: &str = "kimi-k2";

const NO_VOCABULARY: &str = "the file holds no vocabulary; take one of the model's files that does";
const NO_PRE_TOKENIZER: &str = "the file was made before there was that key, and a guess at how texts are cut would \
     give other tokens without a word; take a file of the model that was converted later, or its safetensors";
const NO_MERGES: &str = "without them texts fall into single bytes; take another file of the model";
const NO_TYPES: &str = "without them the tokens that steer the model can't be told from text; take another file of \
     the model";
const NO_SCORES: &str = "without them a text could be cut in any way; take another file of the model";
const NO_BEGIN: &str = "the file asks for that token before every text; take another file of the model";
const NO_END: &str = "the file asks for that token behind every text; take another file of the model";

/// What a GGUF file says about its tokenizer, field by field. Absent keys stay at their default.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2`, `llama`, `t5` or `bert`.
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer of a `gpt2` model, which can't do without.
    pub pre: String,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`; may be empty for `gpt2`.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`; `gpt2` and `llama` can't do without.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: two tokens with a blank between them; `gpt2` can't do without.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.bos_token_id`. Ids that no token has stand for "none", here and below.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.seperator_token_id` (spelled so).
    pub sep: Option<u32>,
    /// `tokenizer.ggml.cls_token_id`.
    pub cls: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.ggml.remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `tokenizer.ggml.precompiled_charsmap`.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, with the names of `tokenizer.chat_templates`.
    pub named_chat_templates: Vec<(String, String)>,
}

/// The four kinds of model.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bpe,
    SentencePiece,
    Unigram,
    WordPiece,
}

impl Tokenizer {
    /// Makes a tokenizer from the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// If the model or the pre-tokenizer is not known by name, or if ids, types and scores do not fit together.
    pub fn from_gguf(mut file: GgufVocab) -> Result<Self> {
        let kind = match file.model.as_str() {
            "" => return Err(TokenizerError::missing("tokenizer.ggml.model", NO_VOCABULARY)),
            "gpt2" => Kind::Bpe,
            "llama" => Kind::SentencePiece,
            "t5" => Kind::Unigram,
            "bert" => Kind::WordPiece,
            other => {
                return Err(TokenizerError::unsupported(
                    "tokenizer.ggml.model",
                    other,
                    &["gpt2", "llama", "t5", "bert"],
                ));
            }
        };
        check(&file, kind)?;
        file.forget_unknown_ids();
        let kinds = token_kinds(&file);
        let vocab = fill_vocab(&file, &kinds, kind)?;
        let added = (0..)
            .zip(file.tokens.iter().zip(&kinds))
            .filter(|(_, (_, kind))| {
                matches!(kind, TokenKind::Control | TokenKind::Added | TokenKind::Unknown)
            })
            .map(|(id, (text, kind))| AddedToken {
                id,
                text: if *kind == TokenKind::Added && is_marked(&file.model) {
                    text.replace(MARK, " ")
                } else {
                    text.clone()
                },
                control: *kind != TokenKind::Added,
                ..AddedToken::default()
            })
            .collect::<Vec<_>>();
        let control = added.iter().filter(|token| token.control).cloned().collect();
        let mut special = special_ids(&file, &vocab);
        let bos = special.bos;
        let mut normalizers = Vec::new();
        let mut joining = Joining::default();
        let mut restart_after_token = false;
        let (steps, model) = match kind {
            Kind::Bpe => {
                let preset = presets::preset(&file.pre)?;
                set_ends(&mut special, &file, preset.add_bos, false, bos, file.eos);
                check_ends(&special, &file, preset.add_bos)?;
                (preset.steps, Model::Bpe(byte_level_bpe(&file, &vocab, preset.ignore_merges)))
            }
            Kind::SentencePiece => {
                let prefixed = file.add_space_prefix.unwrap_or(true);
                joining.strip_leading = usize::from(prefixed);
                restart_after_token = true;
                set_ends(&mut special, &file, true, false, bos, file.eos);
                check_ends(&special, &file, true)?;
                let model = SentencePiece {
                    scores: file.scores.iter().take(file.tokens.len()).copied().collect(),
                    bytes: byte_tokens(&file, &kinds),
                    unk: special.unk,
                };
                (vec![metaspace(prefixed, true, false)], Model::SentencePiece(model))
            }
            Kind::Unigram => {
                if !file.precompiled_charsmap.is_empty() {
                    normalizers
                        .push(Normalizer::Precompiled(CharsMap::new(&file.precompiled_charsmap, false)?));
                }
                let collapsed = file.remove_extra_whitespaces.unwrap_or(false);
                if collapsed {
                    normalizers.push(Normalizer::CollapseBlanks);
                }
                let prefixed = collapsed || file.add_space_prefix.unwrap_or(false);
                joining.strip_leading = usize::from(prefixed);
                restart_after_token = true;
                set_ends(&mut special, &file, false, true, bos, file.eos);
                let model = unigram(&file, &kinds, special.unk)?;
                (vec![metaspace(prefixed, true, false)], Model::Unigram(model))
            }
            Kind::WordPiece => {
                normalizers.push(Normalizer::Bert {
                    clean_text: true,
                    chinese: true,
                    strip_accents: true,
                    lowercase: true,
                });
                joining.strip_leading = 1;
                let begin = file.cls.or(bos);
                let end = file.sep.or(file.eos);
                set_ends(&mut special, &file, true, true, begin, end);
                let steps = vec![
                    Step::Chars { is: char::is_whitespace, behavior: Behavior::Removed },
                    Step::Chars { is: is_bert_punctuation, behavior: Behavior::Isolated },
                ];
                let model = WordPiece {
                    unk: special.unk,
                    continuing_prefix: String::new(),
                    first_prefix: MARK.to_string(),
                    piece_chars_max: usize::MAX,
                };
                (steps, Model::WordPiece(model))
            }
        };
        Ok(Self {
            vocab,
            added: AddedTokens::new(added)?,
            control: AddedTokens::new(control)?,
            added_normalized: AddedTokens::default(),
            normalizers,
            steps,
            model,
            special,
            joining,
            restart_after_token,
            chat_template: file.chat_template,
            named_templates: file.named_chat_templates,
        })
    }
}

impl GgufVocab {
    /// As llama.cpp does, an id outside of the vocabulary counts as none.
    fn forget_unknown_ids(&mut self) {
        let count = self.tokens.len();
        let ids = [
            &mut self.bos,
            &mut self.eos,
            &mut self.eot,
            &mut self.eom,
            &mut self.unk,
            &mut self.pad,
            &mut self.sep,
            &mut self.cls,
        ];
        for id in ids {
            *id = id.filter(|id| (*id as usize) < count);
        }
    }
}

fn is_marked(model: &str) -> bool {
    model != "gpt2"
}

fn metaspace(prefixed: bool, doubled: bool, split: bool) -> Step {
    let prepend = if prefixed { Prepend::First } else { Prepend::Never };
    Step::Metaspace { mark: MARK, prepend, doubled, split }
}

fn check(file: &GgufVocab, kind: Kind) -> Result<()> {
    let count = file.tokens.len();
    let problem = |part: &str, problem: String| Err(TokenizerError::malformed(part, problem));
    if count == 0 {
        return problem("tokenizer.ggml.tokens", "it is empty".into());
    }
    let missing = |part, problem| Err(TokenizerError::missing(part, problem));
    if kind == Kind::Bpe && file.pre.is_empty() {
        return missing("tokenizer.ggml.pre", NO_PRE_TOKENIZER);
    }
    if kind == Kind::Bpe && file.merges.is_none() && file.pre != WITHOUT_MERGES {
        return missing("tokenizer.ggml.merges", NO_MERGES);
    }
    if file.token_types.is_empty() && matches!(kind, Kind::Bpe | Kind::SentencePiece) {
        return missing("tokenizer.ggml.token_type", NO_TYPES);
    }
    // What is longer than the vocabulary is read as far as that goes.
    if !file.token_types.is_empty() && file.token_types.len() < count {
        let found = file.token_types.len();
        return problem("tokenizer.ggml.token_type", format!("{found} types for {count} tokens"));
    }
    let scored = matches!(kind, Kind::SentencePiece | Kind::Unigram);
    if scored && file.scores.is_empty() {
        return missing("tokenizer.ggml.scores", NO_SCORES);
    }
    if scored && file.scores.len() < count {
        let found = file.scores.len();
        return problem("tokenizer.ggml.scores", format!("{found} scores for {count} tokens"));
    }
    if scored && file.scores.iter().any(|s| s.is_nan()) {
        return problem("tokenizer.ggml.scores", "one is not a number".into());
    }
    Ok(())
}

fn token_kinds(file: &GgufVocab) -> Vec<TokenKind> {
    let named = [file.bos, file.eos, file.eot, file.eom, file.pad, file.sep, file.cls];
    (0u32..)
        .zip(&file.tokens)
        .map(|(id, text)| match file.token_types.get(id as usize) {
            Some(2) => TokenKind::Unknown,
            Some(3) => TokenKind::Control,
            Some(4) if looks_like_control(text) => TokenKind::Control,
            Some(4) => TokenKind::Added,
            Some(5) => TokenKind::Unused,
            Some(6) => TokenKind::Byte,
            Some(_) => TokenKind::Normal,
            None if named.contains(&Some(id)) || looks_like_control(text) => TokenKind::Control,
            None if file.unk == Some(id) => TokenKind::Unknown,
            None if is_marked(&file.model) && parse_byte_token(text).is_some() => TokenKind::Byte,
            None => TokenKind::Normal,
        })
        .collect()
}

fn fill_vocab(file: &GgufVocab, kinds: &[TokenKind], model: Kind) -> Result<Vocab> {
    let bytes = CharToByte::new();
    let mut vocab = Vocab::with_capacity(file.tokens.len());
    for (text, kind) in file.tokens.iter().zip(kinds) {
        let spelled = match (model, kind) {
            (_, TokenKind::Control | TokenKind::Unknown) => None,
            (Kind::Bpe, TokenKind::Normal | TokenKind::Unused) => bytes.decode(text),
            (Kind::Bpe, _) => None,
            (_, TokenKind::Byte) => parse_byte_token(text).map(|byte| vec![byte]),
            (Kind::WordPiece, _) if !text.starts_with(MARK) => None,
            _ => Some(text.replace(MARK, " ").into_bytes()),
        };
        let piece = matches!(kind, TokenKind::Normal | TokenKind::Unused);
        vocab.push(text, spelled.as_deref().unwrap_or(text.as_bytes()), *kind, piece)?;
    }
    Ok(vocab)
}

fn byte_level_bpe(file: &GgufVocab, vocab: &Vocab, ignore_merges: bool) -> Bpe {
    let mut table = Box::new([None; 256]);
    for (byte, slot) in (0..=255u8).zip(table.iter_mut()) {
        *slot = vocab.id_of_text(byte_to_char(byte).encode_utf8(&mut [0; 4]));
    }
    let lines = file.merges.as_deref().unwrap_or_default();
    let mut merges = HashMap::with_capacity(lines.len());
    let mut joined = String::new();
    for (rank, line) in (0u32..).zip(lines) {
        // A blank in first place is part of the left token.
        let Some(at) = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at) else {
            continue;
        };
        let (left, right) = (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default());
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        // A merge of tokens that the vocabulary lacks can never apply.
        if let (Some(left), Some(right), Some(merged)) =
            (vocab.id_of_text(left), vocab.id_of_text(right), vocab.id_of_text(&joined))
        {
            merges.entry((left, right)).or_insert(Merge { rank, merged });
        }
    }
    Bpe { symbols: Symbols::Bytes(table), merges, ignore_merges }
}

fn byte_tokens(file: &GgufVocab, kinds: &[TokenKind]) -> Box<[Option<u32>; 256]> {
    let mut table = Box::new([None; 256]);
    for (id, (text, kind)) in (0u32..).zip(file.tokens.iter().zip(kinds)) {
        if *kind == TokenKind::Byte
            && let Some(slot) = parse_byte_token(text).and_then(|b| table.get_mut(usize::from(b)))
        {
            *slot = Some(id);
        }
    }
    table
}

fn unigram(file: &GgufVocab, kinds: &[TokenKind], unk: Option<u32>) -> Result<Unigram> {
    let scored = || (0u32..).zip(file.tokens.iter().zip(kinds).zip(&file.scores));
    let worst = scored()
        .filter(|(_, ((_, kind), _))| **kind == TokenKind::Normal)
        .map(|(_, (_, score))| f64::from(*score))
        .fold(f64::INFINITY, f64::min);
    let tokens = scored()
        .filter(|(_, ((_, kind), _))| {
            matches!(kind, TokenKind::Normal | TokenKind::Added | TokenKind::Unused)
        })
        .map(|(id, ((text, kind), score))| {
            let score = if *kind == TokenKind::Added { 0.0 } else { f64::from(*score) };
            (text.as_str(), id, score)
        });
    Unigram::new(tokens, if worst.is_finite() { worst } else { 0.0 }, unk, None)
}

fn special_ids(file: &GgufVocab, vocab: &Vocab) -> SpecialIds {
    // What llama.cpp takes where a file is silent.
    let (bos, eos, unk) = match file.model.as_str() {
        "llama" => (Some(1), Some(2), Some(0)),
        "t5" => (None, Some(1), Some(2)),
        "bert" => (Some(101), None, Some(100)),
        _ => (None, None, None),
    };
    let default = |id: Option<u32>| id.filter(|id| *id < vocab.len());
    let mut ends: Vec<u32> =
        [file.eos.or_else(|| default(eos)), file.eot, file.eom].into_iter().flatten().collect();
    complete_ends(vocab, &mut ends);
    SpecialIds {
        bos: file.bos.or_else(|| default(bos)),
        eos: ends,
        unk: file.unk.or_else(|| default(unk)),
        pad: file.pad,
        before: Vec::new(),
        after: Vec::new(),
    }
}

/// What is put around a text: by the file's word, else by the model's custom.
fn set_ends(
    special: &mut SpecialIds,
    file: &GgufVocab,
    add_bos: bool,
    add_eos: bool,
    begin: Option<u32>,
    end: Option<u32>,
) {
    if file.add_bos.unwrap_or(add_bos) {
        special.before.extend(begin);
    }
    if file.add_eos.unwrap_or(add_eos) {
        special.after.extend(end.or(special.eos.first().copied()));
    }
}

/// Refuses a file that asks for a token and does not say which.
fn check_ends(special: &SpecialIds, file: &GgufVocab, add_bos: bool) -> Result<()> {
    if file.add_bos.unwrap_or(add_bos) && special.before.is_empty() {
        return Err(TokenizerError::missing("tokenizer.ggml.bos_token_id", NO_BEGIN));
    }
    if file.add_eos == Some(true) && special.after.is_empty() {
        return Err(TokenizerError::missing("tokenizer.ggml.eos_token_id", NO_END));
    }
    Ok(())
}
