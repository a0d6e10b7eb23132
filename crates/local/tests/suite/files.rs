//! The files beside the weights: which chat template counts, and what completes the tokenizer.

use std::path::Path;

use levain_chat::Provider as _;
use levain_local::{LocalModel, LocalProvider, folder_vocabulary, read_chat_template};
use levain_testkit::gguf::{Meta, with_metadata};
use levain_testkit::model::{ModelSpec, TinyModel};
use serde_json::{Value, json};

use crate::common::{ask, options};

fn model() -> TinyModel {
    ModelSpec::llama().build().unwrap()
}

fn write(model: &TinyModel, name: &str, content: &str) {
    let path = model.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Changes a field of `tokenizer_config.json`; `null` takes it out.
fn set(model: &TinyModel, field: &str, value: Value) {
    let path = model.path().join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    match value {
        Value::Null => drop(config.as_object_mut().unwrap().remove(field)),
        value => config[field] = value,
    }
    std::fs::write(path, config.to_string()).unwrap();
}

fn sources(folder: &Path) -> (Option<String>, Vec<String>) {
    let tokenizer = folder_vocabulary(folder).unwrap().tokenizer;
    let mut names: Vec<String> =
        tokenizer.named_chat_templates().map(|(name, source)| format!("{name}={source}")).collect();
    names.sort();
    (tokenizer.chat_template_source().map(str::to_owned), names)
}

#[test]
fn the_template_is_the_one_that_transformers_takes() {
    let model = model();
    set(&model, "chat_template", json!("config"));
    assert_eq!(sources(model.path()).0.as_deref(), Some("config"));
    // Processors keep theirs in a file that counts least.
    write(&model, "chat_template.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(sources(model.path()).0.as_deref(), Some("config"));
    set(&model, "chat_template", Value::Null);
    assert_eq!(sources(model.path()).0.as_deref(), Some("processor"));
    set(
        &model,
        "chat_template",
        json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]),
    );
    assert_eq!(sources(model.path()), (Some("d".into()), vec!["default=d".into(), "tool_use=t".into()]));
    // A file of its own goes before the list, its kind of named ones included.
    write(&model, "chat_template.jinja", "file");
    write(&model, "additional_chat_templates/tool_use.jinja", "named file");
    let named = vec!["default=file".to_owned(), "tool_use=named file".to_owned()];
    assert_eq!(sources(model.path()), (Some("file".into()), named));
}

#[test]
fn special_tokens_come_from_their_map_where_the_configuration_is_silent() {
    let model = model();
    let map = json!({"bos_token": {"content": "<|user|>"}, "eos_token": "<pad>", "pad_token": "<pad>"});
    write(&model, "special_tokens_map.json", &map.to_string());
    let texts = |model: &TinyModel| {
        let tokenizer = folder_vocabulary(model.path()).unwrap().tokenizer;
        (tokenizer.bos_text().to_owned(), tokenizer.eos_text().to_owned())
    };
    assert_eq!(texts(&model), ("<s>".into(), "</s>".into()));
    set(&model, "eos_token", Value::Null);
    assert_eq!(texts(&model), ("<s>".into(), "<pad>".into()));
    std::fs::remove_file(model.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(texts(&model), ("<|user|>".into(), "<pad>".into()));
}

#[tokio::test]
async fn a_template_of_ones_own_goes_before_all_of_the_models() {
    let model = model();
    let tool_use = json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]);
    set(&model, "chat_template", tool_use);
    let own = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ tools | length if tools else 0 }}";
    for (template, rendered) in [(None, "d"), (Some(own), "[x]0")] {
        let local = LocalModel::open(model.path(), options(template)).unwrap();
        let provider = LocalProvider::new("tiny", local);
        assert_eq!(provider.render(ask("x")).await.unwrap().text, rendered);
    }
    let error = LocalModel::open(model.path(), options(Some("{% if %}"))).unwrap_err().to_string();
    assert!(error.contains("given chat template") && error.contains("--chat-template FILE"), "{error}");
}

#[test]
fn files_that_are_no_templates_are_refused_by_name() {
    let model = model();
    write(&model, "empty.jinja", " \n");
    std::fs::write(model.path().join("bytes.jinja"), [b'x', 0xff]).unwrap();
    for (name, words) in
        [("empty.jinja", "empty"), ("bytes.jinja", "UTF-8 at byte 1"), ("none.jinja", "can't be read")]
    {
        let error = read_chat_template(&model.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    for (name, content) in [("special_tokens_map.json", "[1]"), ("tokenizer_config.json", "{")] {
        let model = self::model();
        write(&model, name, content);
        let error = LocalModel::open(model.path(), options(None)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn published_gguf_files_are_right_or_refused() {
    let spec = ModelSpec { max_position_embeddings: 64, ..ModelSpec::llama() };
    let model = spec.build().unwrap();
    let file = model.gguf(spec.dtype).unwrap();
    let open = |changes: &[(&str, Option<Meta<'_>>)]| {
        let path = with_metadata(&file, "changed.gguf", changes).unwrap();
        LocalModel::open(&path, options(None)).map_err(|error| error.to_string())
    };
    let tokens = async |model: LocalModel| {
        LocalProvider::new("tiny", model).tokenize("tiny", "and the king", true, false, None).await.unwrap()
    };
    let as_written = tokens(open(&[]).unwrap()).await;
    for name in ["padding", "eos", "eot", "eom", "unknown", "seperator", "cls", "mask"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        for none in [Meta::U32(u32::MAX), Meta::I32(-1), Meta::U32(100_000)] {
            let model = open(&[(&key, Some(none))]).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(tokens(model).await, as_written, "{key}");
        }
        let error = open(&[(&key, Some(Meta::Text("2")))]).err();
        assert!(name == "mask" || error.as_ref().is_some_and(|text| text.contains(&key)), "{key}: {error:?}");
    }
    for key in
        ["pre", "model", "merges", "token_type", "bos_token_id"].map(|key| format!("tokenizer.ggml.{key}"))
    {
        let error = open(&[(&key, None)]).err().unwrap_or_else(|| panic!("{key} is not missed"));
        assert!(error.contains(&format!("{key} is missing")), "{error}");
    }
    // Without the flag a model of this kind begins no text with a token.
    let bare = open(&[("tokenizer.ggml.add_bos_token", None)]).unwrap();
    assert_eq!(tokens(bare).await, as_written[1..]);
    for key in ["tokenizer.chat_template", "tokenizer.ggml.padding_token_id", "general.name"] {
        assert_eq!(tokens(open(&[(key, None)]).unwrap()).await, as_written, "{key}");
    }
}
