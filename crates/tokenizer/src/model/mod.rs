//! The models that turn one piece of text into tokens.

pub(crate) mod bpe;
pub(crate) mod sentencepiece;
pub(crate) mod unigram;
pub(crate) mod wordpiece;

use crate::{error::Result, vocab::Vocab};

/// How pieces become tokens.
pub(crate) enum Model {
    Bpe(bpe::Bpe),
    SentencePiece(sentencepiece::SentencePiece),
    Unigram(unigram::Unigram),
    WordPiece(wordpiece::WordPiece),
    /// A piece is a token or unknown.
    WordLevel {
        unk: Option<u32>,
    },
}

impl Model {
    /// Appends the tokens of `piece`.
    pub(crate) fn encode(&self, vocab: &Vocab, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        match self {
            Self::Bpe(bpe) => bpe.encode(vocab, piece, out),
            Self::SentencePiece(model) => model.encode(vocab, piece, out),
            Self::Unigram(unigram) => unigram.encode(piece, out),
            Self::WordPiece(model) => {
                model.encode(vocab, piece, out);
                Ok(())
            }
            Self::WordLevel { unk } => {
                out.extend(vocab.id_of_piece_text(piece).or(*unk));
                Ok(())
            }
        }
    }
}
