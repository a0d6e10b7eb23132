//! `levain bench --compare`, with a stand-in for llama.cpp.

use std::os::unix::fs::PermissionsExt as _;

use levain_testkit::model::{ModelSpec, TinyModel};
use serde_json::Value;

use crate::answers::model;
use crate::support::{Home, Ran};

/// A stand-in for Python with the package: it knows the pipe's rules. `repack` and `no_repack` are what it does in each of
/// llama.cpp's modes: commands of a shell.
fn fake_python(home: &Home, name: &str, repack: &str, no_repack: &str) -> String {
    let script = format!(
        r#"#!/bin/sh
serve() {{ # SECONDS [COMMANDS BEFORE IT DIES OF A SIGNAL, SIGNAL]
  echo '{{"version":"9"}}'
  left=${{2:--1}}
  while read -r command; do
    [ "$left" = 0 ] && kill "-$3" $$
    left=$((left - 1))
    echo "$mode $command" >> asked
    echo "{{\"seconds\":$1}}"
  done
}}
case "$3" in
*'"extra_buffers":true'*) mode=repack; {repack} ;;
*'"extra_buffers":false'*) mode=no-repack; {no_repack} ;;
*) exit 9 ;;
esac
"#
    );
    let path = home.file(name, &script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A tiny model with room for the standard measurements.
fn roomy() -> (Home, TinyModel, String) {
    let model = ModelSpec { max_position_embeddings: 2048, ..ModelSpec::llama() }.build().unwrap();
    let path = model.path().display().to_string();
    (Home::new(), model, path)
}

const SMALL: [&str; 8] = ["--prefill", "16", "--decode", "4", "--batch", "2", "--reps", "2"];

fn bench(home: &Home, path: &str, python: &str, more: &[&str]) -> Ran {
    home.run(&[&["bench", path, "--compare", "--python", python][..], &SMALL[..], more].concat())
}

#[test]
fn a_peer_is_measured_in_turns_in_both_modes() {
    let (home, _model, path) = model();
    let python = fake_python(&home, "python", "serve 0.5", "serve 0.5");
    let one = bench(&home, &path, &python, &["--json"]).json();
    assert_eq!((one["peer"].as_str(), one["peer_version"].as_str()), (Some("llama.cpp"), Some("9")));
    assert_eq!(one["peer_modes"], serde_json::json!(["repack", "no-repack"]));
    assert_eq!(one["peer_lost"], serde_json::json!([]));
    // 16 tokens of one prompt, then 4 tokens of two sequences, in half a second.
    assert_eq!(one["peer_prefill_tokens_per_s"], 32.0);
    assert_eq!(one["peer_decode_tokens_per_s"], 16.0);
    let ratio = one["decode_ratio"].as_f64().unwrap();
    let want = one["decode_tokens_per_s"].as_f64().unwrap() / 16.0;
    assert!((ratio - want).abs() < 0.02 * want, "{one}");
    // A warm-up and two rounds of each, in each mode.
    let asked = std::fs::read_to_string(home.dir.path().join("asked")).unwrap();
    for mode in ["repack", "no-repack"] {
        let lines: Vec<&str> = asked.lines().filter(|line| line.starts_with(&format!("{mode} "))).collect();
        let count = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        assert_eq!(
            (count("prefill"), count("fill") - count("prefill"), count("decode")),
            (3, 1, 3),
            "{asked}"
        );
    }
}

#[test]
fn the_faster_mode_counts() {
    let (home, _model, path) = model();
    for (repack, no_repack, mode) in
        [("serve 0.5", "serve 0.25", "no-repack"), ("serve 0.25", "serve 2.0", "repack")]
    {
        let python = fake_python(&home, "python", repack, no_repack);
        let one = bench(&home, &path, &python, &["--json"]).json();
        for (what, rate) in [("prefill", 64.0), ("decode", 32.0)] {
            assert_eq!(one[format!("peer_{what}_mode")], mode, "{one}");
            assert_eq!(one[format!("peer_{what}_tokens_per_s")], rate, "{one}");
            assert_eq!(one[format!("peer_{what}_tokens_per_s_by_mode")].as_object().unwrap().len(), 2);
        }
        let table = bench(&home, &path, &python, &[]).ok();
        assert!(table.contains("MODE") && table.contains(mode), "{table}");
    }
}

#[test]
fn a_mode_that_dies_is_named_with_its_signal_and_the_other_goes_on() {
    let (home, _model, path) = model();
    for (repack, no_repack, mode, said) in [
        ("kill -ILL $$", "serve 0.5", "no-repack", "llama.cpp (repack) died of SIGILL: it was built with"),
        ("serve 0.5", "kill -SEGV $$", "repack", "llama.cpp (no-repack) died of SIGSEGV"),
        // Its warm-up works, and then it dies within a measurement.
        ("serve 0.1 2 ABRT", "serve 0.5", "no-repack", "llama.cpp (repack) died of SIGABRT"),
        (
            "serve 0.5",
            "serve 0.1 5 KILL",
            "repack",
            "llama.cpp (no-repack) died of SIGKILL: perhaps memory ran out",
        ),
        ("exit 3", "serve 0.5", "no-repack", "llama.cpp (repack) ended with exit code 3"),
        ("echo huh; cat", "serve 0.5", "no-repack", "llama.cpp (repack) spoke out of turn: \"huh\""),
        ("serve '\"soon\"'", "serve 0.5", "no-repack", "llama.cpp (repack) answered"),
        ("exec >&-; exec sleep 60", "serve 0.5", "no-repack", "llama.cpp (repack) closed its output"),
    ] {
        let python = fake_python(&home, "python", repack, no_repack);
        let ran = bench(&home, &path, &python, &["--json"]);
        assert!(ran.code == 0 && ran.err.contains(said), "{repack}, {no_repack}: {ran:#?}");
        let one: Value = serde_json::from_str(ran.out.trim()).unwrap();
        assert_eq!(
            (&one["peer_decode_mode"], one["peer_decode_tokens_per_s"].as_f64()),
            (&mode.into(), Some(16.0))
        );
        assert_eq!(one["peer_modes"], serde_json::json!([mode]));
        assert!(one["peer_lost"][0].as_str().unwrap().starts_with(said), "{one}");
    }
}

#[test]
fn a_peer_that_works_in_no_mode_is_an_error_that_says_why() {
    let (home, _model, path) = model();
    let missing = r#"echo '{"missing":"No module named llama_cpp"}'"#;
    let failing = r#"echo '{"error":"no such model"}'"#;
    for (repack, no_repack, said) in [
        (missing, missing, &["-m pip install --no-binary llama-cpp-python"][..]),
        (
            "exit 3",
            "exit 4",
            &["works in none of its modes", "(repack) ended with exit code 3", "exit code 4"],
        ),
        (failing, failing, &["works in none of its modes", "no such model"]),
        (
            "kill -ILL $$",
            "kill -BUS $$",
            &["(repack) died of SIGILL", "(no-repack) died of SIGBUS", "--python"],
        ),
        ("serve 0.5 1 ILL", "serve 0.5 2 ILL", &["(repack) died of SIGILL", "(no-repack) died of SIGILL"]),
    ] {
        let python = fake_python(&home, "python", repack, no_repack);
        let ran = bench(&home, &path, &python, &[]);
        assert!(ran.code == 1 && ran.out.is_empty(), "{repack}: {ran:#?}");
        assert!(said.iter().all(|said| ran.err.contains(said)), "{repack}: {ran:#?}");
    }
    let ran = bench(&home, &path, "./nowhere", &[]);
    assert!(ran.code == 1 && ran.err.contains("could not be started"), "{ran:#?}");
    assert_eq!(home.run(&["bench", &path, "--python", "x"]).code, 1);
}

#[test]
fn the_standard_measurements_are_told_in_markdown() {
    let (home, _model, path) = roomy();
    let python = fake_python(&home, "python", "serve 0.5", "serve 0.25");
    let all = ["bench", &path, &path, "--all", "--compare", "--python", &python, "--reps", "1"];
    let text = home.run(&all).ok();
    assert!(text.starts_with("### ") && text.contains(" threads\n"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    // A head, a rule, and of each model a prompt and an answer.
    assert_eq!(rows.len(), 2 + 2 * 2, "{text}");
    for what in ["prefill 512 |", "decode 64 |"] {
        assert_eq!(
            rows.iter().filter(|row| row.contains(what) && row.contains("| no-repack |")).count(),
            2,
            "{text}"
        );
    }
    assert!(text.contains("prefetch: "), "{text}");
    let out = home.run(&[&all[..], &["--json"]].concat()).ok();
    let objects: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    for one in &objects {
        assert!(one["processor"].is_string() && one["prefetch"]["first"].is_string(), "{one}");
        assert!(one["warnings"].is_array() && one["prefetch"]["learnt"].is_array(), "{one}");
    }
    for refused in
        [["--prefill", "4"], ["--decode", "4"], ["--batch", "1"], ["--depth", "8"], ["--speculate", "lookup"]]
    {
        let ran = home.run(&[&["bench", &path, "--all"][..], &refused[..]].concat());
        assert!(ran.code == 1 && ran.err.contains("cannot be used with"), "{ran:#?}");
    }
}

/// What was measured before a model that cannot be is told all the same.
#[test]
fn a_model_that_fails_takes_nothing_from_those_before_it() {
    let (home, _model, path) = roomy();
    let damaged = home.dir.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    for entry in std::fs::read_dir(&path).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), damaged.join(entry.file_name())).unwrap();
    }
    std::fs::write(damaged.join("config.json"), "{}").unwrap();
    let ran = home.run(&["bench", &path, damaged.to_str().unwrap(), "--all", "--reps", "1"]);
    assert_ne!(ran.code, 0);
    assert_eq!(ran.out.lines().filter(|line| line.starts_with('|')).count(), 2 + 2, "{ran:#?}");
}
