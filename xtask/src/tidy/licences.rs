//! Every crate in the lock file has a permissive licence, and the shipped tree stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;

/// SPDX identifiers that may be linked into a program under MIT OR Apache-2.0.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// The most crates that the program may be built from.
const SHIPPED_CRATES_MAX: usize = 250;

pub(super) fn check(root: &Path) -> Vec<Finding> {
    let lock = root.join("Cargo.lock");
    let metadata = match metadata(root) {
        Ok(metadata) => metadata,
        Err(message) => return vec![Finding::new(lock, 0, message)],
    };
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let mut findings: Vec<_> = packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("none stated");
            (!is_permissive(licence))
                .then(|| Finding::new(&lock, 0, format!("{} has the licence {licence}", package["name"])))
        })
        .collect();
    let shipped = shipped_crates(&metadata);
    if shipped > SHIPPED_CRATES_MAX {
        let message = format!("the program is built from {shipped} crates; {SHIPPED_CRATES_MAX} is the most");
        findings.push(Finding::new(lock, 0, message));
    }
    findings
}

fn metadata(root: &Path) -> Result<Value, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

/// An SPDX expression is fine if one side of some `OR` has only permissive terms.
fn is_permissive(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" OR ").any(|side| side.split(" AND ").all(|term| PERMISSIVE.contains(&term.trim())))
}

/// How many crates the program needs, build scripts and macros included, tests excluded.
fn shipped_crates(metadata: &Value) -> usize {
    let empty = Vec::new();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap_or(&empty);
    let edges: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .filter_map(|node| {
            let shipped = node["deps"].as_array()?.iter().filter(|dependency| {
                let kinds = dependency["dep_kinds"].as_array();
                kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
            });
            Some((
                node["id"].as_str()?,
                shipped.filter_map(|dependency| dependency["pkg"].as_str()).collect(),
            ))
        })
        .collect();
    let program = edges.keys().find(|id| id.contains("/crates/levain#"));
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = program.copied().into_iter().collect();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    seen.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        assert!(is_permissive("MIT OR Apache-2.0"));
        assert!(is_permissive("MIT/Apache-2.0"));
        assert!(is_permissive("GPL-3.0 OR MIT"));
        assert!(is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!is_permissive("GPL-3.0-only"));
        assert!(!is_permissive("MIT AND GPL-3.0-only"));
    }
}
