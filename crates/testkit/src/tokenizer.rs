//! The tokenizer of tiny models: byte-level BPE with a token for each byte and a few merges.

use serde_json::{Map, Value, json};

/// Starts a text.
pub(crate) const BOS: u32 = 0;
/// Ends an answer.
pub(crate) const EOS: u32 = 1;
const SPECIAL: [&str; 5] = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"];
/// In the order of merging; `Ġ` stands for a blank.
const MERGES: [(&str, &str); 11] = [
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("a", "n"),
    ("Ġ", "a"),
    ("in", "g"),
    ("l", "o"),
    ("an", "d"),
    ("Ġ", "and"),
    ("o", "n"),
];
/// Tokens in all.
pub(crate) const VOCAB: usize = SPECIAL.len() + 256 + MERGES.len();

pub(crate) fn tokenizer_json() -> Value {
    let mut vocab = Map::new();
    let bytes = (0..=255u8).map(byte_char).map(String::from);
    let merged = MERGES.iter().map(|(left, right)| format!("{left}{right}"));
    for token in SPECIAL.iter().map(|&s| s.to_owned()).chain(bytes).chain(merged) {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab,
            "merges": MERGES.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
        },
    })
}

pub(crate) fn tokenizer_config_json() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[BOS as usize],
        "eos_token": SPECIAL[EOS as usize],
        "pad_token": "<pad>",
        "add_bos_token": true,
        "chat_template": "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\
            {% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}\
            {% if add_generation_prompt %}<|assistant|>{% endif %}",
    })
}

/// The character that stands for a byte in GPT-2's vocabulary: itself if it is printable, else one from
/// U+0100 on, in order.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&b| !printable(b)).count();
    u32::try_from(index).ok().and_then(|index| char::from_u32(0x100 + index)).unwrap_or(' ')
}
