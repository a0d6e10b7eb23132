//! Calls and words that this code base does without.

use std::path::{Path, PathBuf};

use super::Finding;

struct Ban {
    /// What must not stand in a line of code.
    text: &'static str,
    /// What to do instead.
    instead: &'static str,
    /// Paths that may have it all the same.
    except: &'static [&'static str],
}

const BANS: &[Ban] = &[
    Ban { text: "todo!(", instead: "finish it or leave it out", except: &[] },
    Ban { text: "unimplemented!(", instead: "finish it or return an error that says so", except: &[] },
    Ban { text: "#[allow(", instead: "use #[expect(…, reason = \"…\")]", except: &[] },
    Ban { text: "#![allow(", instead: "use #![expect(…, reason = \"…\")]", except: &[] },
    Ban {
        text: "unsafe {",
        instead: "unsafe lives in levain-kernels and in weights/src/map.rs",
        except: UNSAFE,
    },
    Ban {
        text: "unsafe fn",
        instead: "unsafe lives in levain-kernels and in weights/src/map.rs",
        except: UNSAFE,
    },
    Ban {
        text: "unsafe impl",
        instead: "unsafe lives in levain-kernels and in weights/src/map.rs",
        except: UNSAFE,
    },
    Ban {
        text: "process::exit(",
        instead: "return an ExitCode, so that destructors run",
        // A signal ends the program while other threads wait for keys.
        except: &["crates/levain/src/terminal/unix.rs", "crates/levain/src/terminal/other.rs"],
    },
    Ban { text: "target-cpu=native", instead: "detect the CPU at run time", except: &[] },
    Ban { text: "#[ignore", instead: "run it in CI, or skip it with a visible line", except: &[] },
];

const UNSAFE: &[&str] = &["crates/kernels/", "crates/weights/src/map.rs"];

pub(super) fn check(root: &Path, tracked: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for relative in tracked {
        let text = relative.to_string_lossy();
        // This file names what it bans.
        if !text.ends_with(".rs") && !text.ends_with(".toml") || text.ends_with("tidy/source.rs") {
            continue;
        }
        let Ok(source) = std::fs::read_to_string(root.join(relative)) else { continue };
        for (index, line) in source.lines().enumerate() {
            findings.extend(
                check_line(&text, line).map(|message| Finding::new(root.join(relative), index + 1, message)),
            );
        }
    }
    findings
}

fn check_line(path: &str, line: &str) -> Option<String> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    BANS.iter()
        .find(|ban| code.contains(ban.text) && !ban.except.iter().any(|prefix| path.starts_with(prefix)))
        .map(|ban| format!("`{}`: {}", ban.text, ban.instead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_bite_where_they_should() {
        assert!(check_line("crates/engine/src/lib.rs", "    todo!()").is_some());
        assert!(check_line("crates/engine/src/lib.rs", "let x = unsafe { y };").is_some());
        assert!(check_line("crates/kernels/src/lib.rs", "let x = unsafe { y };").is_none());
        assert!(check_line("crates/engine/src/lib.rs", "// a todo!() in a comment").is_none());
    }
}
