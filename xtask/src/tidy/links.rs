//! Relative links in documents lead somewhere.

use std::path::{Path, PathBuf};

use super::Finding;

pub(super) fn check(root: &Path, tracked: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for relative in tracked.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let path = root.join(relative);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let folder = path.parent().unwrap_or(root);
        for (index, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !folder.join(target).exists() {
                    findings.push(Finding::new(
                        &path,
                        index + 1,
                        format!("the link to {target} leads nowhere"),
                    ));
                }
            }
        }
    }
    findings
}

/// The relative targets of `[text](target)`, without fragments.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ', '#']).next()?;
        let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
        (!outside).then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_targets_count() {
        let line = "[a](docs/a.md#part) [b](https://example.org) [c](#here) [d](b.md)";
        assert_eq!(targets(line).collect::<Vec<_>>(), ["docs/a.md", "b.md"]);
    }
}
