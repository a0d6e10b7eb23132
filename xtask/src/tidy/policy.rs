//! `deny.toml`, as far as these checks keep it. What they do not understand is an error, so that the file can't promise
//! what nobody checks.

use std::path::Path;

use serde::Deserialize;

use super::Finding;

/// The file's name.
const FILE: &str = "deny.toml";

/// What the project takes from others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) graph: Graph,
    #[serde(rename = "advisories")]
    _advisories: Advisories,
    pub(super) licenses: Licences,
    pub(super) bans: Bans,
    #[serde(rename = "sources")]
    _sources: Sources,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Graph {
    /// Platforms whose crates are looked at.
    pub(super) targets: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisories {
    #[serde(rename = "yanked")]
    _yanked: Deny,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Licences {
    /// SPDX identifiers.
    pub(super) allow: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bans {
    #[serde(rename = "multiple-versions")]
    _multiple_versions: Warn,
    pub(super) deny: Vec<Ban>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ban {
    /// A crate's name alone; versions are not told apart.
    #[serde(rename = "crate")]
    pub(super) name: String,
    pub(super) reason: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    #[serde(rename = "unknown-registry")]
    _unknown_registry: Deny,
    #[serde(rename = "unknown-git")]
    _unknown_git: Deny,
}

/// The one level at which a rule is checked here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deny {
    Deny,
}

/// The one level of a rule that breaks nothing: `cargo deny` tells of it, and it is not checked here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Warn {
    Warn,
}

impl Policy {
    pub(super) fn read(root: &Path) -> Result<Self, Finding> {
        let path = root.join(FILE);
        let text =
            std::fs::read_to_string(&path).map_err(|error| Finding::new(&path, 0, error.to_string()))?;
        Self::parse(&text).map_err(|(line, message)| Finding::new(&path, line, message))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let policy: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.get(..start).unwrap_or_default().matches('\n').count();
            (
                line,
                format!("not checked by `cargo xtask tidy`, so it must not stand here: {}", error.message()),
            )
        })?;
        let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if let Some(ban) =
            policy.bans.deny.iter().find(|ban| !plain(&ban.name) || ban.reason.trim().is_empty())
        {
            return Err((0, format!("the ban of {:?} wants a crate's plain name and a reason", ban.name)));
        }
        if policy.graph.targets.is_empty() || policy.licenses.allow.is_empty() {
            return Err((0, "`targets` and `allow` name one thing at least".to_owned()));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = include_str!("../../../deny.toml");

    #[test]
    fn the_projects_own_policy_is_understood() {
        let policy = Policy::parse(OWN).unwrap();
        assert!(policy.licenses.allow.iter().any(|id| id == "MIT"));
        assert!(policy.bans.deny.iter().any(|ban| ban.name == "openssl"));
    }

    #[test]
    fn what_is_not_checked_is_an_error() {
        for (from, to) in [
            ("[graph]\n", "[graph]\nall-features = true\n"),
            ("yanked = \"deny\"", "yanked = \"warn\""),
            ("yanked = \"deny\"", "yanked = \"deny\"\nignore = [\"RUSTSEC-2099-0001\"]"),
            ("[licenses]\n", "[licenses]\nconfidence-threshold = 0.9\n"),
            ("[sources]\n", "[sources]\nallow-git = [\"https://example.org\"]\n"),
            ("unknown-git = \"deny\"", "unknown-git = \"allow\""),
            ("multiple-versions = \"warn\"", "multiple-versions = \"deny\""),
            ("unknown-git = \"deny\"", ""),
            ("crate = \"openssl\"", "crate = \"openssl@1\""),
            ("crate = \"openssl\"", "name = \"openssl\""),
            ("[sources]\n", "[output]\nfeature-depth = 1\n[sources]\n"),
        ] {
            assert!(OWN.contains(from), "{from}");
            let changed = OWN.replacen(from, to, 1);
            assert!(Policy::parse(&changed).is_err(), "{to}");
        }
        let (line, message) = Policy::parse(&OWN.replacen("[graph]\n", "[graph]\nodd = 1\n", 1)).unwrap_err();
        assert!(
            OWN.lines().nth(line - 2).is_some_and(|line| line == "[graph]") && message.contains("odd"),
            "{line}: {message}"
        );
    }
}
