//! Published templates, and some of our own with their idioms, rendered as transformers renders them.
//!
//! `tests/tools/make_template_cases.py` makes more; `LEVAIN_TEMPLATE_CASES` names another folder of its output.

mod common;

use levain_tokenizer::{ChatInput, ChatTemplate, Date, TokenizerError};
use serde_json::Value;

#[test]
fn published_templates_render_as_in_transformers() {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates");
    let folder = std::env::var_os("LEVAIN_TEMPLATE_CASES").map_or(own, Into::into);
    let (mut rendered, mut refused, mut wrong) = (0, 0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let cases: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let label = format!("{}: {}", path.file_stem().unwrap().to_string_lossy(), case["name"]);
            let template = ChatTemplate::new(
                &source,
                case["bos_token"].as_str().unwrap(),
                case["eos_token"].as_str().unwrap(),
            )
            .unwrap_or_else(|error| panic!("{label}: {error}"));
            let input = ChatInput {
                messages: case["messages"].clone(),
                tools: Some(case["tools"].clone()).filter(|t| !t.is_null()),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                date: Date::from_ymd(2025, 1, 20),
                kwargs: case["kwargs"].as_object().cloned().unwrap_or_default(),
            };
            match (template.render(&input), case["expected"].as_str(), case["error"].as_str()) {
                (Ok(found), Some(expected), _) if found.text() == expected => rendered += 1,
                (Err(TokenizerError::TemplateRaised { message }), None, Some(error)) => {
                    if !error.contains(&message) {
                        wrong.push(format!("{label}\n found {message:?}\n expected {error:?}"));
                    }
                    refused += 1;
                }
                (Err(_), None, Some(_)) => refused += 1,
                (found, expected, error) => {
                    wrong.push(format!("{label}\n found    {found:?}\n expected {expected:?} {error:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rendered >= 70 && refused >= 1, "{rendered} rendered, {refused} refused");
}
