//! The arrows of dependency between the workspace's crates go one way, as ARCHITECTURE.md draws them.

use std::path::Path;

use super::Finding;

/// Crate → the workspace crates that it may use. `dev-dependencies` may add `testkit` and anything below.
const ARROWS: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("weights", &["kernels"]),
    ("tokenizer", &[]),
    ("engine", &["kernels", "weights"]),
    ("chat", &[]),
    ("wire", &["chat"]),
    ("hub", &[]),
    ("local", &["chat", "engine", "hub", "kernels", "tokenizer", "weights"]),
    ("server", &["chat", "wire"]),
    ("testkit", &["chat", "weights", "kernels"]),
    ("levain", &["chat", "engine", "hub", "kernels", "local", "server", "tokenizer", "weights", "wire"]),
];

pub(super) fn check(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(folders) = std::fs::read_dir(root.join("crates")) else {
        return vec![Finding::new(root.join("crates"), 0, "the folder of the crates is missing")];
    };
    for folder in folders.flatten() {
        let manifest = folder.path().join("Cargo.toml");
        let name = folder.file_name().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        let table: toml::Table = match toml::from_str(&text) {
            Ok(table) => table,
            Err(error) => {
                findings.push(Finding::new(manifest, 0, error.to_string()));
                continue;
            }
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
            findings.push(Finding::new(
                manifest,
                0,
                "add this crate and its arrows to xtask's dependency table",
            ));
            continue;
        };
        for used in workspace_dependencies(&table) {
            if !allowed.contains(&used.as_str()) {
                let message = format!("levain-{name} must not depend on levain-{used}");
                findings.push(Finding::new(&manifest, 0, message));
            }
        }
    }
    findings
}

fn workspace_dependencies(manifest: &toml::Table) -> Vec<String> {
    let Some(dependencies) = manifest.get("dependencies").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    dependencies.keys().filter_map(|name| name.strip_prefix("levain-")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_arrow_is_found() {
        let manifest: toml::Table =
            toml::from_str("[dependencies]\nlevain-server.workspace = true\nserde = \"1\"").unwrap();
        assert_eq!(workspace_dependencies(&manifest), ["server"]);
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        // A crate may use only crates that come before it in some order: peel off leaves until none is left.
        let mut left: Vec<_> = ARROWS.to_vec();
        while !left.is_empty() {
            let names: Vec<_> = left.iter().map(|(name, _)| *name).collect();
            let before = left.len();
            left.retain(|(_, uses)| uses.iter().any(|used| names.contains(used)));
            assert!(left.len() < before, "cycle among {names:?}");
        }
    }
}
