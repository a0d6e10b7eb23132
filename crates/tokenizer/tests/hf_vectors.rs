//! Small tokenizers of many kinds, trained and run by Hugging Face's library: the same texts give the same ids.
//!
//! `tests/tools/make_tokenizers.py` makes them; `LEVAIN_TOKENIZER_VECTORS` names another folder of its output.

mod common;

use levain_tokenizer::{SpecialTokens, Tokenizer};
use serde_json::Value;

#[expect(clippy::unwrap_used, reason = "a fixture of another form is to fail the test")]
fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn trained_tokenizers_give_the_same_ids() {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trained");
    let folder = std::env::var_os("LEVAIN_TOKENIZER_VECTORS").map_or(own, Into::into);
    let (mut checked, mut wrong) = (0, Vec::new());
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let json = serde_json::to_vec(&file["tokenizer"]).unwrap();
        let tokenizer = Tokenizer::from_json(&json, None).unwrap();
        let mut bad = 0;
        for case in file["cases"].as_array().unwrap() {
            checked += 1;
            let text = case[0].as_str().unwrap();
            // Hugging Face's unigram and word models spell control tokens by their names; here no text becomes one.
            let names_token = |id: &u32| tokenizer.token_text(*id).is_some_and(|name| text.contains(name));
            let spelled_control = ids(&case[1])
                .iter()
                .any(|id| (tokenizer.is_control(*id) || tokenizer.unk_id() == Some(*id)) && names_token(id));
            let plain = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            let parsed = tokenizer.encode_with_special_tokens(text, SpecialTokens::Parse).unwrap();
            let decoded = tokenizer.decode(&plain).unwrap();
            assert!(
                plain.iter().all(|id| !tokenizer.is_control(*id) || tokenizer.unk_id() == Some(*id)),
                "{name} {text:?}"
            );
            for (what, found, expected) in [
                ("text", format!("{plain:?}"), format!("{:?}", ids(&case[1]))),
                ("parsed", format!("{parsed:?}"), format!("{:?}", ids(&case[2]))),
                ("decoded", decoded, case[3].as_str().unwrap().to_owned()),
            ] {
                if found != expected && (what == "parsed" || !spelled_control) {
                    bad += 1;
                    if bad <= 3 {
                        wrong.push(format!(
                            "{name} {what} {text:?}\n found    {found:?}\n expected {expected:?}"
                        ));
                    }
                }
            }
        }
        if bad > 0 {
            wrong.push(format!("{name}: {bad} wrong"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 2000, "{checked}");
}
