//! Cargo.lock against a folder of RustSec advisories.

use std::path::Path;

use rustsec::advisory::Informational;
use rustsec::{Advisory, Lockfile};

use super::Finding;

/// Advisories that were looked at and do not concern this program: id, until when, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Every advisory in `database/crates/*/*.md` that a locked crate falls under.
///
/// Notices of crates that are merely unmaintained do not count.
#[must_use]
pub fn check(root: &Path, database: &Path) -> Vec<Finding> {
    let lock = root.join("Cargo.lock");
    let lockfile = match Lockfile::load(&lock) {
        Ok(lockfile) => lockfile,
        Err(error) => return vec![Finding::new(lock, 0, error.to_string())],
    };
    if !database.join("crates").is_dir() {
        return vec![Finding::new(database, 0, "no folder `crates` with advisories here")];
    }
    let mut findings = Vec::new();
    for package in lockfile.packages.iter().filter(|package| package.source.is_some()) {
        let Ok(files) = std::fs::read_dir(database.join("crates").join(package.name.as_str())) else {
            continue;
        };
        for file in files.flatten() {
            let advisory = match Advisory::load_file(file.path()) {
                Ok(advisory) => advisory,
                Err(error) => {
                    findings.push(Finding::new(file.path(), 0, error.to_string()));
                    continue;
                }
            };
            let notice = matches!(
                advisory.metadata.informational,
                Some(Informational::Unmaintained | Informational::Notice)
            );
            let excepted = EXCEPTIONS.iter().any(|(id, _, _)| *id == advisory.metadata.id.as_str());
            if !notice
                && !excepted
                && advisory.metadata.withdrawn.is_none()
                && advisory.versions.is_vulnerable(&package.version)
            {
                let message =
                    format!("{} {}: {} {}", package.name, package.version, advisory.id(), advisory.title());
                findings.push(Finding::new(&lock, 0, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2099-0001\"\npackage = \"leaky\"\ndate = \"2099-01-01\"\n\n[versions]\npatched = [\">= 1.2.0\"]\n```\n\n# A hole\n\nIt leaks.\n";

    fn lock_with(version: &str) -> (tempfile::TempDir, Vec<Finding>) {
        let folder = tempfile::tempdir().unwrap();
        let crates = folder.path().join("db/crates/leaky");
        std::fs::create_dir_all(&crates).unwrap();
        std::fs::write(crates.join("RUSTSEC-2099-0001.md"), ADVISORY).unwrap();
        let lock = format!(
            "version = 4\n\n[[package]]\nname = \"leaky\"\nversion = \"{version}\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n"
        );
        std::fs::write(folder.path().join("Cargo.lock"), lock).unwrap();
        let findings = check(folder.path(), &folder.path().join("db"));
        (folder, findings)
    }

    #[test]
    fn a_vulnerable_version_is_found_and_a_patched_one_is_not() {
        assert_eq!(lock_with("1.1.9").1.len(), 1);
        assert!(lock_with("1.2.0").1.is_empty());
    }
}
