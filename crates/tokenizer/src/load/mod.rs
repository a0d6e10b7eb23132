//! Where tokenizers come from.

mod config;
mod decoder;
pub(crate) mod gguf;
mod json;
mod json_model;
mod json_parts;
mod pair;

/// Texts of tokens that end an answer, whatever else a file says.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
];

/// Whether a token steers the model by the look of it. Published files leave some such tokens unmarked, DeepSeek's
/// `<｜User｜>` among them; a user's text must not become one.
fn looks_like_control(text: &str) -> bool {
    let inside = |open: &str, close: &str| {
        text.strip_prefix(open).and_then(|t| t.strip_suffix(close)).is_some_and(|t| !t.is_empty())
    };
    inside("<|", "|>") || inside("<｜", "｜>")
}

/// Adds what ends an answer in `vocab` by its text to `eos`, once each.
fn complete_ends(vocab: &crate::vocab::Vocab, eos: &mut Vec<u32>) {
    let by_text = ENDS.iter().filter_map(|text| vocab.id_of_text(text));
    for id in by_text.filter(|id| vocab.kind(*id) == Some(crate::vocab::TokenKind::Control)) {
        eos.push(id);
    }
    let mut seen = Vec::new();
    eos.retain(|id| {
        let fresh = !seen.contains(id);
        seen.push(*id);
        fresh
    });
}
