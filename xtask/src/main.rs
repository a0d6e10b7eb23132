//! `cargo xtask tidy [--advisories DIR]`: the house rules that a machine can check.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use xtask::tidy;

const USAGE: &str = "usage: cargo xtask tidy [--advisories DIR]

Checks dependency arrows, file length, banned calls, large files, links in documents and licences.
With a folder of RustSec advisories (or LEVAIN_ADVISORY_DB), also Cargo.lock against them.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some("tidy") {
        return fail(USAGE);
    }
    let mut advisories = std::env::var_os("LEVAIN_ADVISORY_DB").map(PathBuf::from);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.next()) {
            ("--advisories", Some(dir)) => advisories = Some(dir.into()),
            _ => return fail(USAGE),
        }
    }
    let root = xtask::repository_root();
    let mut findings = tidy::check_all(&root);
    match &advisories {
        Some(dir) => findings.extend(tidy::advisories::check(&root, dir)),
        None => say("no advisory database given: Cargo.lock was not compared with known advisories"),
    }
    report(&root, &findings)
}

fn report(root: &Path, findings: &[tidy::Finding]) -> ExitCode {
    for finding in findings {
        say(&finding.display(root));
    }
    if findings.is_empty() {
        say("tidy");
        return ExitCode::SUCCESS;
    }
    fail(&format!("{} findings", findings.len()))
}

#[expect(clippy::print_stderr, reason = "the one place where this tool speaks")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn fail(line: &str) -> ExitCode {
    say(line);
    ExitCode::FAILURE
}
