//! The house rules, one file each. A check returns findings and never stops at the first.

use std::path::{Path, PathBuf};
use std::process::Command;

pub mod advisories;
mod dependencies;
mod files;
mod licences;
mod links;
mod locked;
mod policy;
mod source;
mod spdx;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file at fault.
    pub path: PathBuf,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn new(path: impl Into<PathBuf>, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.into(), line, message: message.into() }
    }

    /// `path:line: message`, the path relative to `root`.
    #[must_use]
    pub fn display(&self, root: &Path) -> String {
        let path = self.path.strip_prefix(root).unwrap_or(&self.path).display();
        format!("{path}:{}: {}", self.line, self.message)
    }
}

/// Every check that needs nothing but the repository.
#[must_use]
pub fn check_all(root: &Path) -> Vec<Finding> {
    let tracked = match tracked_files(root) {
        Ok(tracked) => tracked,
        Err(message) => return vec![Finding::new(root, 0, message)],
    };
    let mut findings = dependencies::check(root);
    findings.extend(files::check(root, &tracked));
    findings.extend(source::check(root, &tracked));
    findings.extend(links::check(root, &tracked));
    match policy::Policy::read(root) {
        Ok(policy) => {
            findings.extend(licences::check(root, &policy));
            findings.extend(locked::check(root, &policy));
        }
        Err(finding) => findings.push(finding),
    }
    findings
}

/// What git tracks, relative to the root; of an unpacked archive without `.git`, every file outside `target/`.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    if let Ok(output) = output
        && output.status.success()
    {
        let listing = String::from_utf8_lossy(&output.stdout);
        let paths = listing.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
        return Ok(paths.filter(|path| root.join(path).is_file()).collect());
    }
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if path.is_dir() && entry.file_name() != "target" && !hidden {
                folders.push(path);
            } else if path.is_file() {
                found.extend(path.strip_prefix(root).map(Path::to_path_buf));
            }
        }
    }
    Ok(found)
}
