//! Verbs that open models, with tiny ones made by code.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use levain_testkit::model::{ModelSpec, TinyModel};
use serde_json::json;

use crate::support::Home;

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A tiny model with a chat template, and its folder.
pub(crate) fn model() -> (Home, TinyModel, String) {
    let model = ModelSpec::llama().build().unwrap();
    std::fs::write(model.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let path = model.path().display().to_string();
    (Home::new(), model, path)
}

#[test]
fn text_becomes_tokens_and_special_ones_only_on_demand() {
    let (home, _model, path) = model();
    let json = home.run(&["tokenize", &path, "Hello", "--json"]).json();
    let ids: Vec<u64> = json["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert!(!ids.is_empty());
    let line: Vec<String> = ids.iter().map(u64::to_string).collect();
    assert_eq!(home.run(&["tokenize", &path, "Hello"]).ok(), line.join(" ") + "\n");
    assert_eq!(home.run_with(&["tokenize", &path], "Hello").ok(), line.join(" ") + "\n");
    let bare = format!("{path}/tokenizer.json");
    assert_eq!(home.run(&["tokenize", &bare, "Hello"]).ok(), line.join(" ") + "\n");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(&path).join("tokenizer_config.json")).unwrap())
            .unwrap();
    let special = config["eos_token"].as_str().unwrap();
    let count = |flags: &[&str]| {
        let args: Vec<&str> = ["tokenize", &path, special, "--json"].iter().chain(flags).copied().collect();
        home.run(&args).json()["tokens"].as_array().unwrap().len()
    };
    assert!(count(&[]) > 1, "a special token's name is plain text");
    assert_eq!(count(&["--parse-special"]), 1);
}

#[test]
fn prompts_are_rendered_exactly() {
    let (home, _model, path) = model();
    let messages = home.file("m.json", r#"[{"role":"user","content":"2 + 2?"}]"#);
    let messages = messages.to_str().unwrap();
    assert_eq!(home.run(&["render", &path, "--messages", messages]).ok(), "<user>2 + 2?\n<assistant>");
    let out = home.run(&["render", &path, "--messages", messages, "--no-generation-prompt"]).ok();
    assert_eq!(out, "<user>2 + 2?\n");
    let json = home.run(&["render", &path, "--messages", messages, "--json"]).json();
    assert_eq!(json["text"], "<user>2 + 2?\n<assistant>");
    assert!(json["tokens"].as_array().unwrap().len() > 5);
    // A whole request is read as the server reads it.
    let request = |body: serde_json::Value| {
        let file = home.file("r.json", &body.to_string());
        home.run(&["render", &path, "--messages", file.to_str().unwrap()])
    };
    let said = json!([{ "role": "user", "content": "2 + 2?" }, { "role": "assistant", "content": "It is" }]);
    assert_eq!(request(said.clone()).ok(), "<user>2 + 2?\n<assistant>It is");
    let new = json!({ "messages": said, "add_generation_prompt": true, "max_tokens": 5 });
    assert_eq!(request(new).ok(), "<user>2 + 2?\n<assistant>It is\n<assistant>");
    for (more, word) in [
        (json!({ "continue_final_message": true, "add_generation_prompt": true }), "contradicts"),
        (json!({ "tools": [{ "type": "function", "function": { "name": "f" } }] }), "tools"),
        (json!({ "max_tokns": 5 }), "max_tokens"),
    ] {
        let mut body = more;
        body["messages"] = said.clone();
        let ran = request(body);
        assert!(ran.code == 1 && ran.err.contains(word), "{}", ran.err);
    }
    let template = home
        .file("t.jinja", "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ eos_token }}{{ tools | length }}");
    let tools = home.file("tools.json", "[{},{}]");
    let args = [
        "render",
        "--template",
        template.to_str().unwrap(),
        "--bos",
        "<b>",
        "--eos",
        "<e>",
        "--date",
        "2025-01-20",
        "--tools",
        tools.to_str().unwrap(),
        "--messages",
        messages,
    ];
    assert_eq!(home.run(&args).ok(), "<b>20 Jan 2025<e>2");
    let raising = home.file("r.jinja", "{{ raise_exception('only one system message') }}");
    let ran = home.run(&["render", "--template", raising.to_str().unwrap(), "--messages", messages]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("only one system message"), "{}", ran.err);
}

#[test]
fn one_question_gets_one_answer() {
    let (home, _model, path) = model();
    let args = ["run", &path, "Hi", "--json", "--max-tokens", "12", "--temperature", "0"];
    let first = home.run(&args).json();
    assert_eq!(first["model"], path.as_str());
    assert!(first["usage"]["completion_tokens"].as_u64().unwrap() <= 12);
    let again = home.run(&args).json();
    assert_eq!(first["text"], again["text"]);
    let plain = home.run(&["run", &path, "Hi", "--max-tokens", "12", "--temperature", "0"]);
    assert_eq!(plain.out.trim_end(), first["text"].as_str().unwrap().trim_end());
    let piped = home.run_with(&["run", &path, "--json", "--max-tokens", "1"], "Hi\n").json();
    assert_eq!(piped["usage"]["prompt_tokens"], first["usage"]["prompt_tokens"]);
    let schema = home.file("s.json", r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}"#);
    let args = [
        "run",
        &path,
        "Hi",
        "--json",
        "--schema",
        schema.to_str().unwrap(),
        "--max-tokens",
        "200",
        "--seed",
        "1",
    ];
    let answer = home.run(&args).json();
    if answer["finish_reason"] == "stop" {
        let text: serde_json::Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
        assert!(text["ok"].is_boolean(), "{text}");
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_and_never_cut() {
    let (home, _model, path) = model();
    let long = "word ".repeat(3000);
    let ran = home.run_with(&["run", &path, "--context", "64"], &long);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
    assert!(ran.err.contains("context"), "{}", ran.err);
    let ran = home.run(&["run", &path, "Hi", "--memory", "4096"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("not enough memory") && ran.err.contains("hint: `levain fit"), "{}", ran.err);
}

#[test]
fn a_conversation_is_kept_and_saved() {
    let (home, _model, path) = model();
    let typed = "/set max_tokens 4\nHello\n/retry\n/undo\n\"\"\"\ntwo\nlines\n\"\"\"\n/hlep\n/stats\n/save chat.json\n/save chat.md\n/save chat.md\n/quit\n";
    let ran = home.run_with(&["chat", &path, "--temperature", "0", "--system", "Be brief."], typed);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("did you mean /help?") && ran.err.contains("chat.md exists already"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("prefill") && ran.err.contains("decode"), "{}", ran.err);
    let saved = std::fs::read_to_string(home.dir.path().join("chat.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["messages"][0], json!({"role":"system","content":"Be brief."}));
    assert_eq!(saved["messages"][1], json!({"role":"user","content":"two\nlines"}));
    assert_eq!(saved["messages"].as_array().unwrap().len(), 3);
    let history = home.dir.path().join(".local/state/levain/chat_history");
    assert!(history.exists());
}

#[test]
fn a_model_is_shown_fitted_and_measured() {
    let (home, _model, path) = model();
    let show = home.run(&["show", &path, "--json"]).json();
    assert_eq!((show["version"].as_u64(), show["config"]["model_type"].as_str()), (Some(1), Some("llama")));
    assert_eq!(show["chat_template"], true);
    let fit = home.run(&["fit", &path, "--json"]).json();
    assert_eq!(fit["fits"], true);
    assert_eq!(
        fit["weights_bytes"].as_u64().unwrap()
            + fit["kv_cache_bytes"].as_u64().unwrap()
            + fit["scratch_bytes"].as_u64().unwrap()
            + fit["program_bytes"].as_u64().unwrap(),
        fit["needed_bytes"].as_u64().unwrap()
    );
    assert!(fit["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    // What it needs at least is enough, and less is not.
    let little = home.run(&["fit", &path, "--json", "--memory", "100K"]).json();
    assert_eq!((&little["fits"], little["usable_bytes"].as_u64()), (&json!(false), Some(102_400)));
    let needed = little["needed_bytes"].as_u64().unwrap();
    assert!(needed > 102_400);
    for (bytes, fits) in [(needed, true), (needed - 1000, false)] {
        let memory = bytes.to_string();
        assert_eq!(home.run(&["fit", &path, "--json", "--memory", &memory]).json()["fits"], fits, "{bytes}");
    }
    let args = [
        "bench",
        &path,
        "--json",
        "--prefill",
        "16",
        "--decode",
        "8",
        "--batch",
        "1,2",
        "--depth",
        "0,8",
        "--reps",
        "1",
    ];
    let out = home.run(&args).ok();
    let measured: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(measured.len(), 4);
    for one in &measured {
        for key in
            ["prefill_tokens_per_s", "decode_tokens_per_s", "ceiling_read_gb_per_s", "ceiling_int8_gop_per_s"]
        {
            assert!(one[key].as_f64().unwrap() > 0.0, "{key}: {one}");
        }
        assert!(one["model"].is_string() && one["threads"] == 2);
    }
    assert_eq!((measured[3]["batch"].as_u64(), measured[3]["depth"].as_u64()), (Some(2), Some(8)));
    let one = &measured[2];
    for key in
        ["prefill_gop_per_s", "decode_gb_per_s", "time_to_first_token_s", "cached_time_to_first_token_s"]
    {
        assert!(one[key].as_f64().unwrap() > 0.0, "{key}: {one}");
    }
    assert!(one.get("decode_ratio").is_none(), "{one}");
}

#[test]
fn each_length_of_prompt_is_measured_once() {
    let (home, _model, path) = model();
    let args = ["bench", &path, "--json", "--prefill", "16,24", "--decode", "4", "--reps", "1"];
    let lines: Vec<serde_json::Value> =
        home.run(&args).ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0]["prefill"].as_u64(), lines[0].get("decode")), (Some(24), None));
    assert_eq!((lines[1]["prefill"].as_u64(), lines[1]["decode"].as_u64()), (Some(16), Some(4)));
    let args = ["bench", &path, "--prefill", "16,24", "--decode", "4", "--reps", "1", "-q"];
    let table = home.run(&args).ok();
    assert!(table.contains("prefill 16") && table.contains("prefill 24"), "{table}");
    assert!(table.contains("% of") && table.contains("resident at most"), "{table}");
    let refused = home.run(&["bench", &path, "--prefill", "16", "--decode", "4", "--context", "8"]);
    assert!(refused.code == 1 && refused.err.contains("these measurements take 17"), "{}", refused.err);
}

#[cfg(unix)]
#[test]
fn the_server_answers_and_ends_in_order() {
    let (home, _model, path) = model();
    let mut child = home.command(&["serve", &path, "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert!(talk.read_line(&mut line).unwrap() > 0, "the server ended without a word");
    }
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let body =
        json!({"model": path, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}).to_string();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"assistant\""), "{answer}");
    let taken = home.run(&["serve", &path, "--listen", &address]);
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("in use"), "{}", taken.err);
    let asked = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_chat_template_of_ones_own_can_be_given_everywhere() {
    let model = ModelSpec::llama().build().unwrap();
    let config = model.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut fields: serde_json::Value = serde_json::from_str(&text).unwrap();
    fields.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&config, fields.to_string()).unwrap();
    let path = model.path().display().to_string();
    let ask = ["run", &path, "--max-tokens", "2", "--temperature", "0", "-q", "hi"];
    let home = Home::new();
    let refused = home.run(&ask);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("--chat-template FILE"), "{}", refused.err);
    // As the refusal says.
    let own = home.file("own.jinja", TEMPLATE);
    let with_own: Vec<&str> = ask.iter().copied().chain(["--chat-template", own.to_str().unwrap()]).collect();
    let answer = home.run(&with_own).ok();
    let messages = home.file("m.json", r#"[{"role":"user","content":"2 + 2?"}]"#);
    for flag in ["--chat-template", "--template"] {
        let args = ["render", &path, "--messages", messages.to_str().unwrap(), flag, own.to_str().unwrap()];
        assert_eq!(home.run(&args).ok(), "<user>2 + 2?\n<assistant>");
    }
    // In the configuration, where a file is meant beside it, and in the environment.
    home.file(".config/levain/config.toml", "chat_template = \"t/own.jinja\"\n");
    home.file(".config/levain/t/own.jinja", TEMPLATE);
    assert_eq!(home.run(&ask).ok(), answer);
    let home = Home::new();
    let own = home.file("own.jinja", TEMPLATE);
    let home = home.var("LEVAIN_CHAT_TEMPLATE", own.to_str().unwrap());
    assert_eq!(home.run(&ask).ok(), answer);
    let with_none: Vec<&str> = ask.iter().copied().chain(["--chat-template", "none.jinja"]).collect();
    let refused = home.run(&with_none);
    assert!(refused.code != 0 && refused.err.contains("none.jinja"), "{}", refused.err);
    for verb in ["chat", "run", "serve", "render"] {
        assert!(home.run(&[verb, "--help"]).ok().contains("chat-template"), "{verb}");
    }
}

#[test]
fn a_chat_template_is_kept_for_the_model_that_it_was_given_for() {
    let (home, _one, first) = model();
    let (_, _other, second) = model();
    let own = home.file("own.jinja", "{{ raise_exception('of my own') }}");
    let own = own.to_str().unwrap();
    let talk = format!("Hi\n/model {second}\nHi\n/model {first}\nHi\n");
    let args = ["chat", &first, "--max-tokens", "2"];
    let named: Vec<&str> = args.iter().copied().chain(["--chat-template", own]).collect();
    let ran = home.run_with(&named, &talk);
    assert_eq!(ran.err.matches("of my own").count(), 2, "{}", ran.err);
    assert_eq!(ran.err.matches("does not hold here").count(), 1, "{}", ran.err);
    assert!(ran.err.contains(&format!("that was given is for {first}")), "{}", ran.err);
    // The one of the configuration is for all.
    let ran = home.var("LEVAIN_CHAT_TEMPLATE", own).run_with(&args, &talk);
    assert_eq!(ran.err.matches("of my own").count(), 3, "{}", ran.err);
    assert!(!ran.err.contains("does not hold here"), "{}", ran.err);
}

#[test]
fn a_model_that_is_named_by_its_path_needs_no_home() {
    let (home, _model, path) = model();
    let ask = ["run", &path, "--max-tokens", "2", "--temperature", "0", "-q", "hi"];
    let answer = home.run(&ask).ok();
    let ran = |set: &dyn Fn(&mut std::process::Command)| {
        let mut command = home.command(&ask);
        set(&mut command);
        crate::support::ran(&command.stdin(std::process::Stdio::null()).output().unwrap())
    };
    let unset = ran(&|command| {
        command.env_remove("HOME");
    });
    assert_eq!(unset.ok(), answer);
    for odd in ["", "/nonexistent/home", "/dev/null", "/proc", "relative"] {
        let out = ran(&|command| {
            command.env("HOME", odd);
        });
        assert_eq!(out.err, "", "HOME={odd}");
        assert_eq!(out.ok(), answer, "HOME={odd}");
    }
    // Nothing but the program's path.
    let bare = ran(&|command| {
        command.env_clear();
    });
    assert_eq!(bare.ok(), answer);
}

#[cfg(unix)]
#[test]
fn a_cache_folder_is_refused_in_which_others_have_a_say() {
    use std::os::unix::fs::PermissionsExt as _;
    let (home, _model, path) = model();
    let shared = home.dir.path().join("shared");
    let folder = shared.join("kv");
    let run = || {
        let folder = folder.to_str().unwrap();
        home.run(&["run", &path, "--cache-disk", "64M", "--cache-dir", folder, "--max-tokens", "1", "Hello"])
    };
    assert_eq!(run().code, 0);
    assert!(folder.is_dir());
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = run();
    assert_eq!(refused.code, 1);
    for said in ["shared is not trusted", "others may write to it", "--cache-dir"] {
        assert!(refused.err.contains(said), "{}", refused.err);
    }
}
