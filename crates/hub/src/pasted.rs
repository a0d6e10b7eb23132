//! Addresses of the hub's pages, as they are copied from a browser or from other programs:
//! `https://huggingface.co/org/repo/blob/main/model.gguf`, `hf.co/org/repo:Q4_K_M`.

use reqwest::Url;

use crate::reference::{HfRef, ModelRef, RepoId, Wanted, parse_hf, percent_decoded};
use crate::{HubError, names};

const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
/// What else the hub holds, and what one of it is called.
const OTHERS: [(&str, &str); 7] = [
    ("datasets", "a data set"),
    ("spaces", "a space"),
    ("buckets", "a bucket"),
    ("kernels", "a kernel"),
    ("collections", "a collection"),
    ("papers", "a paper"),
    ("docs", "documentation"),
];

/// What follows the hub's name in an address of the hub; `None` for all other texts.
pub(crate) fn of_hub<'a>(input: &'a str, endpoint: Option<&Url>) -> Option<&'a str> {
    let bare = ["https://", "http://"].iter().find_map(|scheme| strip_prefix(input, scheme));
    let (host, rest) = bare.unwrap_or(input).split_once('/')?;
    if HOSTS.iter().any(|known| known.eq_ignore_ascii_case(host)) {
        return Some(rest);
    }
    // A mirror's addresses count with a scheme only: `host/path` could be anything.
    let (endpoint, _) = (endpoint?, bare?);
    let authority = crate::http::host(endpoint);
    let rest = if authority.eq_ignore_ascii_case(host) { rest } else { return None };
    match endpoint.path().trim_matches('/') {
        "" => Some(rest),
        prefix => rest.strip_prefix(prefix)?.strip_prefix('/'),
    }
}

/// Reads what follows the hub's name.
pub(crate) fn parse(input: &str, rest: &str) -> Result<ModelRef, HubError> {
    let refused = |reason: &str| Err(HubError::reference(input, reason));
    let path = rest.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(percent_decoded).collect();
    if let Some((_, what)) = OTHERS.iter().find(|(kind, _)| parts.first().is_some_and(|part| part == kind)) {
        return refused(&format!("that is the address of {what}, not of a model"));
    }
    // The hub's page shows a file's insides under the repository's own address.
    let shown = query.split('&').find_map(|field| field.strip_prefix("show_file_info=")).map(percent_decoded);
    let [org, repo, route @ ..] = parts.as_slice() else {
        return refused("that is the page of a user or an organisation: name one of its repositories");
    };
    // What other programs put behind a repository is written as with `hf:`.
    if repo.contains([':', '@']) {
        return parse_hf(input, &parts.join("/"));
    }
    let repo = RepoId::parse(&format!("{org}/{repo}"))?;
    let (action, tail) = match route {
        [] => ("tree", route),
        [action, tail @ ..] => (action.as_str(), tail),
    };
    // `hf.co/org/repo/model.gguf`, as some write it.
    if route.last().is_some_and(|last| last.to_ascii_lowercase().ends_with(".gguf")) && !is_route(action) {
        let wanted = wanted_file(input, &route.join("/"))?;
        return Ok(ModelRef::Hf(HfRef::new(input, repo, None, wanted)?));
    }
    if !is_route(action) {
        return refused(&format!("a page of the kind /{action} names no model: write hf:{}", repo.as_str()));
    }
    let (revision, path) = split_revision(tail);
    let wanted = match (path.is_empty(), action) {
        (true, _) => shown.map(|file| wanted_file(input, &file)).transpose()?.flatten(),
        (false, "tree") => Some(Wanted::Path(safe(&format!("{path}/"))?)),
        (false, _) => wanted_file(input, &path)?,
    };
    Ok(ModelRef::Hf(HfRef::new(input, repo, (!revision.is_empty()).then_some(revision), wanted)?))
}

/// The kinds of pages that show a revision of a repository.
fn is_route(action: &str) -> bool {
    matches!(action, "tree" | "blob" | "resolve" | "raw" | "blame" | "commit" | "commits")
}

/// Divides what follows a route, or the `@` of `hf://`, into revision and path. References of pull requests hold a
/// slash themselves.
pub(crate) fn split_revision(parts: &[String]) -> (String, String) {
    let length = match parts {
        [refs, kind, _, ..] if refs == "refs" && (kind == "pr" || kind == "convert") => 3,
        _ => 1,
    };
    let (revision, path) = parts.split_at(length.min(parts.len()));
    (revision.join("/"), path.join("/"))
}

/// The model that a file of a repository stands for: `None` is the repository's checkpoint.
pub(crate) fn wanted_file(input: &str, path: &str) -> Result<Option<Wanted>, HubError> {
    let lower = path.to_ascii_lowercase();
    if lower.ends_with(".gguf") {
        return Ok(Some(Wanted::Path(safe(path)?)));
    }
    if lower.ends_with(".safetensors")
        || lower.ends_with(".safetensors.index.json")
        || lower.ends_with("config.json")
    {
        let folder = path.rsplit_once('/').map(|(folder, _)| safe(&format!("{folder}/"))).transpose()?;
        return Ok(folder.map(Wanted::Path));
    }
    Err(HubError::reference(
        input,
        "the file is none of a model's weights: those end in .gguf or .safetensors",
    ))
}

/// A path inside a repository, with or without a slash at its end.
pub(crate) fn safe(path: &str) -> Result<String, HubError> {
    names::safe_path("the reference", path.strip_suffix('/').unwrap_or(path))?;
    Ok(path.to_owned())
}

pub(crate) fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    if start.eq_ignore_ascii_case(prefix) { text.get(prefix.len()..) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_references() {
        for (pasted, reference) in [
            ("https://huggingface.co/org/repo", "hf:org/repo"),
            ("https://huggingface.co/org/repo/", "hf:org/repo"),
            ("HTTPS://HuggingFace.co/org/repo?library=transformers#usage", "hf:org/repo"),
            ("http://www.huggingface.co/org/repo", "hf:org/repo"),
            ("huggingface.co/org/repo", "hf:org/repo"),
            ("hf.co/org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
            ("hf.co/org/repo:latest", "hf:org/repo"),
            ("https://hf.co/org/repo:q8_0", "hf:org/repo:Q8_0"),
            ("hf.co/org/repo@v1:Q8_0", "hf:org/repo@v1:Q8_0"),
            ("hf:https://huggingface.co/org/repo", "hf:org/repo"),
            ("https://huggingface.co/org/repo/tree/main", "hf:org/repo"),
            ("https://huggingface.co/org/repo/tree/v1.0", "hf:org/repo@v1.0"),
            ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F3", "hf:org/repo@refs/pr/3"),
            ("https://huggingface.co/org/repo/tree/refs/pr/3/Q8_0", "hf:org/repo@refs/pr/3:Q8_0/"),
            ("https://huggingface.co/org/repo/tree/main/Q8_0", "hf:org/repo:Q8_0/"),
            ("https://huggingface.co/org/repo/blob/main/m-Q4_0.gguf", "hf:org/repo:m-Q4_0.gguf"),
            ("huggingface.co/org/repo/blob/main/m-Q4_0.gguf", "hf:org/repo:m-Q4_0.gguf"),
            (
                "https://huggingface.co/org/repo/resolve/main/Q8_0/m%20x.gguf?download=true",
                "hf:org/repo:Q8_0/m x.gguf",
            ),
            ("https://huggingface.co/org/repo/resolve/0123abc/m.gguf", "hf:org/repo@0123abc:m.gguf"),
            ("https://huggingface.co/org/repo/commit/0123abc", "hf:org/repo@0123abc"),
            ("https://huggingface.co/org/repo/blob/main/model.safetensors", "hf:org/repo"),
            ("https://huggingface.co/org/repo/blob/main/sub/config.json", "hf:org/repo:sub/"),
            ("hf.co/org/repo:sub/m.gguf", "hf:org/repo:sub/m.gguf"),
            ("hf.co/org/repo/sub/m.gguf", "hf:org/repo:sub/m.gguf"),
            ("https://huggingface.co/org/repo?show_file_info=m-Q4_0.gguf", "hf:org/repo:m-Q4_0.gguf"),
        ] {
            let parsed = ModelRef::parse(pasted).unwrap_or_else(|error| panic!("{pasted}: {error}"));
            assert_eq!(parsed.to_string(), reference, "{pasted}");
            assert_eq!(ModelRef::parse(reference).unwrap(), parsed, "{reference}");
        }
    }

    #[test]
    fn pages_without_a_model_are_explained() {
        for (pasted, words) in [
            ("https://huggingface.co/org", "page of a user"),
            ("https://huggingface.co/datasets/org/data", "data set"),
            ("https://huggingface.co/org/repo/discussions/3", "write hf:org/repo"),
            ("https://huggingface.co/org/repo/blob/main/README.md", "none of a model's weights"),
            ("https://huggingface.co/org/repo/blob/main/..%2f..%2fx.gguf", "refused"),
            ("https://huggingface.co/org/repo/tree/..", "refused"),
        ] {
            let error = ModelRef::parse(pasted).unwrap_err().to_string();
            assert!(error.contains(words), "{pasted}: {error}");
        }
    }

    #[test]
    fn a_mirror_is_known_by_its_whole_address() {
        let mirror = Url::parse("http://127.0.0.1:8/hub").unwrap();
        let parse = |text| ModelRef::parse_with_endpoint(text, &mirror);
        assert_eq!(parse("http://127.0.0.1:8/hub/org/repo/tree/v1").unwrap().to_string(), "hf:org/repo@v1");
        assert!(parse("http://127.0.0.1:8/org/repo").is_err());
        assert!(parse("http://127.0.0.1:9/hub/org/repo").is_err());
        let plain = parse("http://127.0.0.1:9/hub/m.gguf").unwrap();
        assert!(matches!(plain, ModelRef::Url(_)));
    }
}
