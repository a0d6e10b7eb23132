//! Source files stay short, and the repository holds no large files.

use std::path::{Path, PathBuf};

use super::Finding;

const SOURCE_LINES_MAX: usize = 800;
const FILE_BYTES_MAX: u64 = 256 * 1024;
const FIXTURE_BYTES_MAX: u64 = 1024 * 1024;

/// Tables and generated text may be as long as they are.
const MAY_BE_LONG: &[&str] = &["Cargo.lock"];

pub(super) fn check(root: &Path, tracked: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for relative in tracked {
        let path = root.join(relative);
        let text = relative.to_string_lossy();
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let fixture = text.contains("/fixtures/") || text.contains("/corpus/");
        let limit = if fixture { FIXTURE_BYTES_MAX } else { FILE_BYTES_MAX };
        if metadata.len() > limit && !MAY_BE_LONG.contains(&text.as_ref()) {
            let message =
                format!("{} bytes, and {limit} is the most for a tracked file here", metadata.len());
            findings.push(Finding::new(&path, 0, message));
        }
        if text.ends_with(".rs") && !is_test_or_table(&text) {
            let lines = std::fs::read_to_string(&path).map_or(0, |source| source.lines().count());
            if lines > SOURCE_LINES_MAX {
                let message = format!("{lines} lines: split it by idea ({SOURCE_LINES_MAX} is the most)");
                findings.push(Finding::new(&path, 0, message));
            }
        }
    }
    findings
}

fn is_test_or_table(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_table.rs")
}
