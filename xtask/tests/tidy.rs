//! The repository keeps its own rules.

use std::path::PathBuf;

use xtask::tidy;

#[test]
fn the_repository_is_tidy() {
    let root = xtask::repository_root();
    let findings: Vec<_> = tidy::check_all(&root).iter().map(|finding| finding.display(&root)).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn no_locked_crate_has_a_known_hole() {
    let root = xtask::repository_root();
    let given = std::env::var_os("LEVAIN_ADVISORY_DB").map(PathBuf::from);
    let beside = root.join("../shared/advisory-db");
    let Some(database) = given.or_else(|| beside.is_dir().then_some(beside)) else {
        eprintln!("skipped: set LEVAIN_ADVISORY_DB to a checkout of the RustSec advisories");
        return;
    };
    let findings: Vec<_> =
        tidy::advisories::check(&root, &database).iter().map(|finding| finding.display(&root)).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}
