//! The repository keeps its own rules.

use std::io::Write;

use xtask::tidy::{self, advisories};

#[test]
fn the_repository_is_tidy() {
    let root = xtask::repository_root();
    let findings: Vec<_> = tidy::check_all(&root).iter().map(|finding| finding.display(&root)).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn no_locked_crate_has_a_known_hole() {
    let root = xtask::repository_root();
    let database = advisories::find(&root);
    if let Err(problem) = advisories::fresh(database.as_deref()) {
        // Not by `eprintln!`, which is only shown of tests that fail.
        let _ = writeln!(std::io::stderr(), "WARNING: {problem}");
    }
    let findings = database.iter().flat_map(|database| advisories::check(&root, database));
    let findings: Vec<_> = findings.map(|finding| finding.display(&root)).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}
