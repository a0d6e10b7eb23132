//! Every crate that is built on one of the policy's platforms has an allowed licence, and the shipped tree stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;
use super::policy::Policy;
use super::spdx::is_satisfied;

/// The most crates that the program may be built from.
const SHIPPED_CRATES_MAX: usize = 250;
/// Where they are counted.
const COUNTED_ON: &str = "x86_64-unknown-linux-gnu";

pub(super) fn check(root: &Path, policy: &Policy) -> Vec<Finding> {
    let lock = root.join("Cargo.lock");
    let mut findings = Vec::new();
    match metadata(root, policy.graph.targets.iter().map(String::as_str)) {
        Ok(metadata) => {
            let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
            let bad = packages.iter().filter_map(|package| refusal(package, &policy.licenses.allow));
            findings.extend(bad.map(|message| Finding::new(&lock, 0, message)));
        }
        Err(message) => findings.push(Finding::new(&lock, 0, message)),
    }
    match metadata(root, [COUNTED_ON].into_iter()) {
        Ok(metadata) => {
            let shipped = shipped_crates(&metadata);
            if shipped > SHIPPED_CRATES_MAX {
                let message =
                    format!("the program is built from {shipped} crates; {SHIPPED_CRATES_MAX} is the most");
                findings.push(Finding::new(lock, 0, message));
            }
        }
        Err(message) => findings.push(Finding::new(lock, 0, message)),
    }
    findings
}

/// What is wrong with the licence of a crate that is not our own.
fn refusal(package: &Value, allow: &[String]) -> Option<String> {
    if package["source"].is_null() {
        return None;
    }
    let licence = package["license"].as_str().unwrap_or("none stated");
    (!is_satisfied(licence, allow))
        .then(|| format!("{} has the licence {licence}, which deny.toml does not allow", package["name"]))
}

fn metadata<'t>(root: &Path, targets: impl Iterator<Item = &'t str>) -> Result<Value, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(targets.flat_map(|target| ["--filter-platform", target]))
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_without_an_allowed_licence_is_named() {
        let allow = ["MIT".to_owned()];
        let package =
            |source: Value, licence: Value| json!({"name": "x", "source": source, "license": licence});
        assert_eq!(refusal(&package(json!("registry"), json!("MIT OR GPL-3.0")), &allow), None);
        assert_eq!(refusal(&package(Value::Null, Value::Null), &allow), None);
        for licence in [json!("GPL-3.0"), Value::Null] {
            let told = refusal(&package(json!("registry"), licence), &allow).unwrap();
            assert!(told.contains("\"x\""), "{told}");
        }
    }
}
