//! What is locked comes from the one registry, is not banned, and was not taken back, as far as this machine knows.

use std::path::{Path, PathBuf};

use rustsec::Lockfile;
use serde_json::Value;

use super::Finding;
use super::policy::{Ban, Policy};

/// Locks of the program and of the fuzz targets.
pub(super) const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(root: &Path, policy: &Policy) -> Vec<Finding> {
    let indexes = registry_indexes();
    let mut findings = Vec::new();
    for lock in LOCKS {
        let path = root.join(lock);
        let lockfile = match Lockfile::load(&path) {
            Ok(lockfile) => lockfile,
            Err(error) => {
                findings.push(Finding::new(path, 0, error.to_string()));
                continue;
            }
        };
        for package in &lockfile.packages {
            let (name, version) = (package.name.as_str(), package.version.to_string());
            let source = package.source.as_ref().map(ToString::to_string);
            let problem = problem_of(name, source.as_deref(), &policy.bans.deny).or_else(|| {
                let yanked = source.is_some() && indexes.iter().any(|index| is_yanked(index, name, &version));
                yanked.then(|| "was yanked: its authors took it back; move to another version".to_owned())
            });
            findings.extend(problem.map(|what| Finding::new(&path, 0, format!("{name} {version} {what}"))));
        }
    }
    findings
}

fn problem_of(name: &str, source: Option<&str>, bans: &[Ban]) -> Option<String> {
    if let Some(ban) = bans.iter().find(|ban| ban.name == name) {
        return Some(format!("is banned: {}", ban.reason));
    }
    let source = source.filter(|source| *source != REGISTRY)?;
    Some(format!("comes from {source}; crates come from crates.io"))
}

/// What cargo has kept of registries' indexes.
fn registry_indexes() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let folders = home.and_then(|home| std::fs::read_dir(home.join("registry/index")).ok());
    folders.into_iter().flatten().flatten().map(|entry| entry.path().join(".cache")).collect()
}

/// Whether an index says that a version was yanked. What it does not know is taken as it is.
fn is_yanked(index: &Path, name: &str, version: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let folder = match lower.len() {
        0..=2 => lower.len().to_string(),
        3 => format!("3/{}", &lower[..1]),
        _ => format!("{}/{}", &lower[..2], &lower[2..4]),
    };
    let Ok(bytes) = std::fs::read(index.join(folder).join(&lower)) else { return false };
    // A header, then each version and its line of JSON, with NULs between them.
    let lines = bytes.split(|&byte| byte == 0).filter(|part| part.first() == Some(&b'{'));
    lines
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .any(|line| line["vers"] == version && line["yanked"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_crates_and_other_sources_are_named() {
        let bans = [Ban { name: "openssl".to_owned(), reason: "one TLS is enough".to_owned() }];
        let problem = |name, source| problem_of(name, source, &bans);
        assert_eq!(problem("serde", Some(REGISTRY)), None);
        assert_eq!(problem("levain-hub", None), None);
        assert!(problem("openssl", Some(REGISTRY)).unwrap().contains("one TLS is enough"));
        for other in ["git+https://github.com/serde-rs/serde#abc", "registry+https://mirror.example/index"] {
            assert!(problem("serde", Some(other)).unwrap().contains(other));
        }
    }

    #[test]
    fn a_yanked_version_is_known_from_the_index() {
        let index = tempfile::tempdir().unwrap();
        let line = |version: &str, yanked: bool| {
            format!("{version}\0{{\"vers\":\"{version}\",\"yanked\":{yanked}}}\0")
        };
        let bytes = format!("\u{3}\0\0\0etag\0{}{}", line("1.0.0", true), line("1.0.1", false));
        for (folder, name) in [("le/ak", "Leaky"), ("3/a", "abc"), ("2", "ab")] {
            let folder = index.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name.to_lowercase()), &bytes).unwrap();
            assert!(is_yanked(index.path(), name, "1.0.0"));
            assert!(!is_yanked(index.path(), name, "1.0.1") && !is_yanked(index.path(), name, "2.0.0"));
        }
        assert!(!is_yanked(index.path(), "unknown", "1.0.0"));
    }
}
