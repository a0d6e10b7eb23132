//! Chat templates that come with a stranger's model: none of them ends the program, takes its memory or its time.
//!
//! Bounds are those that the system enforces on the process that renders, so these tests measure no time.

use std::os::unix::process::CommandExt as _;

use levain_testkit::model::ModelSpec;

use crate::support::{Home, ran};

/// One piece of work that a single instruction asks for, or a hundred.
const EXPENSIVE: &[(&str, &str)] = &[
    ("a width of gigabytes", "{{ '{:>4000000000}'.format(1) }}"),
    ("a precision of gigabytes", "{{ '%.4000000000f' % 1 }}{{ '{:.4000000000f}'.format(1.0) }}"),
    ("blanks of gigabytes", "{{ ('a' ~ 'b').center(4000000000) }}{{ 'a'.ljust(4000000000) }}"),
    ("indents of gigabytes", "{{ 'a\nb' | indent(4000000000) }}"),
    (
        "a text doubled",
        "{% set n = namespace(t='ab') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t | length }}",
    ),
    ("a text multiplied", "{{ ('ab' * 4000000000) | length }}"),
    (
        "a text replaced",
        "{% set n = namespace(t='aa') %}{% for i in range(40) %}{% set n.t = n.t.replace('a', 'aa') %}{% endfor %}{{ n.t }}",
    ),
    (
        "lists that hold each other, compared",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
    ),
    (
        "the same, sorted",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ [n.a, n.b] | sort | length }}",
    ),
    (
        "the same, searched",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a in [n.b] }}",
    ),
    (
        "the same as keys",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ {n.a: 1, n.b: 2} }}",
    ),
    (
        "the same, without doubles",
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ [n.a, n.b] | unique | list | length }}",
    ),
    (
        "the same, written",
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
    ),
    (
        "the same, as JSON",
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a | tojson }}",
    ),
    (
        "the same, joined",
        "{% set n = namespace(a=['x']) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a | join }}",
    ),
    (
        "a list nested without end",
        "{% set n = namespace(a=[1]) %}{% for i in range(10000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a == [n.a] }}",
    ),
    ("a range without end", "{{ range(4000000000) | list | length }}{{ range(4000000000) | sum }}"),
    (
        "loops in loops",
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
    ),
    ("a macro that calls itself", "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}"),
    (
        "text cut without end",
        "{% set n = namespace(t=('a ' * 1000000)) %}{% for i in range(1000) %}{% set n.l = n.t.split(' ') %}{% endfor %}",
    ),
];

#[test]
fn a_template_that_asks_for_too_much_ends_its_own_process_only() {
    let model = ModelSpec::llama().build().unwrap();
    let path = model.path().display().to_string();
    let home = Home::new();
    for (what, template) in EXPENSIVE {
        std::fs::write(model.path().join("chat_template.jinja"), template).unwrap();
        let mut command = home.command(&["run", &path, "--max-tokens", "1", "hello"]);
        // Whatever happens, the program itself stays small.
        limit_memory(&mut command);
        let ran = ran(&command.output().unwrap());
        assert!(ran.code == 0 || ran.code == 1, "{what}: {ran:?}");
        assert!(ran.err.len() < 2_000, "{what}: {ran:?}");
        if ran.code == 1 {
            assert!(ran.err.contains("template"), "{what}: {ran:?}");
        }
    }
}

#[test]
fn a_template_without_a_model_is_bounded_as_a_models_own() {
    let home = Home::new();
    let messages = home.file("m.json", r#"[{"role":"user","content":"hello"}]"#);
    let file = home.file("t.jinja", "");
    let args =
        ["render", "--template", file.to_str().unwrap(), "--messages", messages.to_str().unwrap(), "--json"];
    for (what, template) in EXPENSIVE {
        std::fs::write(&file, template).unwrap();
        let mut command = home.command(&args);
        limit_memory(&mut command);
        let ran = ran(&command.output().unwrap());
        assert!(ran.code == 0 || ran.code == 1, "{what}: {ran:?}");
        assert!(ran.err.len() < 2_000, "{what}: {ran:?}");
        if ran.code == 1 {
            assert!(ran.err.contains("template"), "{what}: {ran:?}");
        }
    }
}

/// Far less than these templates ask for.
fn limit_memory(command: &mut std::process::Command) {
    // Set by a shell, as the call that sets it here would be unsafe.
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -v 2000000 && exec \"$0\" \"$@\""]).arg(program).args(arguments);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    limited.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    limited.stderr(std::process::Stdio::piped()).process_group(0);
    *command = limited;
}

#[test]
fn what_a_template_says_reaches_a_terminal_harmless() {
    let model = ModelSpec::llama().build().unwrap();
    let path = model.path().display().to_string();
    let home = Home::new();
    let template = "{{ raise_exception('no\u{1b}]0;owned\u{7}\u{9b}31m') }}";
    std::fs::write(model.path().join("chat_template.jinja"), template).unwrap();
    let ran = home.run(&["run", &path, "hello"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let raw = ran.err.chars().find(|c| c.is_control() && *c != '\n');
    assert!(ran.err.contains("refuses this conversation: no"), "{ran:?}");
    assert_eq!(raw, None, "{ran:?}");
}
