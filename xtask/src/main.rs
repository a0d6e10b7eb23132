//! `cargo xtask tidy [--advisories DIR] [--release]`: the house rules that a machine can check.

use std::path::PathBuf;
use std::process::ExitCode;

use xtask::tidy::{self, advisories};

const USAGE: &str = "usage: cargo xtask tidy [--advisories DIR] [--release]

Checks dependency arrows, file length, banned calls, large files, links in documents, and what deny.toml says of
licences, banned crates and sources. With a folder of RustSec advisories (LEVAIN_ADVISORY_DB, LEVAIN_SHARED/advisory-db),
also what is locked against them. A missing or old folder is a warning, with --release an error.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some("tidy") {
        return fail(USAGE);
    }
    let root = xtask::repository_root();
    let (mut given, mut release) = (None, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--release" => release = true,
            "--advisories" => match args.next() {
                Some(dir) => given = Some(PathBuf::from(dir)),
                None => return fail(USAGE),
            },
            _ => return fail(USAGE),
        }
    }
    let database = given.or_else(|| advisories::find(&root));
    let mut findings = tidy::check_all(&root);
    findings.extend(database.iter().flat_map(|database| advisories::check(&root, database)));
    let fresh = advisories::fresh(database.as_deref());
    if let Err(problem) = &fresh {
        say(&format!("WARNING: {problem}"));
    }
    for finding in &findings {
        say(&finding.display(&root));
    }
    if !findings.is_empty() {
        return fail(&format!("{} findings", findings.len()));
    }
    if release && fresh.is_err() {
        return fail("a release wants advisories of these days");
    }
    say("tidy");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the one place where this tool speaks")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn fail(line: &str) -> ExitCode {
    say(line);
    ExitCode::FAILURE
}
