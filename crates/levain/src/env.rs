//! Every environment variable that Levain reads, in one table: `levain config env` and the manual print it.

/// One variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnvVar {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is for, in one sentence without a full stop.
    pub(crate) purpose: &'static str,
    /// True if its value must never be shown.
    pub(crate) secret: bool,
}

const fn var(name: &'static str, purpose: &'static str) -> EnvVar {
    EnvVar { name, purpose, secret: false }
}

const fn secret(name: &'static str, purpose: &'static str) -> EnvVar {
    EnvVar { name, purpose, secret: true }
}

/// Moves everything.
pub(crate) const LEVAIN_HOME: &str = "LEVAIN_HOME";
/// Switches progress bars off.
pub(crate) const LEVAIN_NO_PROGRESS: &str = "LEVAIN_NO_PROGRESS";
/// Filters log lines.
pub(crate) const LEVAIN_LOG: &str = "LEVAIN_LOG";
/// Names the Python of the engine that `levain bench --compare` measures too.
pub(crate) const LEVAIN_PEER_PYTHON: &str = "LEVAIN_PEER_PYTHON";

/// The table.
pub(crate) const ENV_VARS: &[EnvVar] = &[
    var(LEVAIN_HOME, "moves configuration, cache, data and state of Levain below this folder"),
    var("LEVAIN_MODEL", "the model that `levain chat` takes when none is named"),
    var("LEVAIN_THREADS", "how many threads compute"),
    var("LEVAIN_CONTEXT", "tokens of prompt and answer together"),
    var("LEVAIN_SPECULATE", "draft tokens ahead without changing answers: off, lookup, mtp or draft"),
    var("LEVAIN_DRAFT_MODEL", "the smaller model that drafts"),
    var("LEVAIN_KV_CACHE_TYPE", "how the KV cache stores its numbers: auto, f32, f16 or q8_0"),
    var("LEVAIN_CHAT_TEMPLATE", "a file with a chat template in place of the models' own"),
    var("LEVAIN_SYSTEM", "the system message of every new conversation"),
    var("LEVAIN_MEMORY", "the most memory to use, for example 20G"),
    var(
        "LEVAIN_CACHE_DISK",
        "keep up to so much of what was computed on the disk, for prompts that begin alike",
    ),
    var("LEVAIN_CACHE_DIR", "the folder for LEVAIN_CACHE_DISK"),
    var("LEVAIN_HOST", "where `levain serve` listens: host, :port, host:port or http://host:port"),
    secret("LEVAIN_API_KEY", "the key that clients of `levain serve` must show"),
    var("LEVAIN_ORIGINS", "web origins whose pages may call `levain serve`, separated by commas"),
    var("LEVAIN_PARSE_SPECIAL", "false takes control tokens in raw prompts of `levain serve` for plain text"),
    var("LEVAIN_KERNELS", "forces a set of kernels: scalar, neon, avx2, avxvnni or avx512"),
    var(
        "LEVAIN_PREFETCH",
        "fixes how weights are asked for, which is learnt otherwise: HINT:BYTES:PANELS, for example t0:512:8, \
         t1:4096:1 or nta:4096:1",
    ),
    var("LEVAIN_BF16_DOT", "on or off: whether AVX-512 kernels multiply BF16 by the instruction for it"),
    var("LEVAIN_OFFLINE", "1 forbids the network"),
    var(LEVAIN_NO_PROGRESS, "1 switches progress bars off"),
    var(LEVAIN_PEER_PYTHON, "the Python with llama-cpp-python that `levain bench --compare` takes"),
    var(LEVAIN_LOG, "filters log lines, for example debug or levain_engine=trace"),
    var("NO_COLOR", "any value switches colours off"),
    var("HF_HOME", "where the Hugging Face tools keep their cache and token"),
    var("HF_HUB_CACHE", "where models of the Hugging Face hub are kept"),
    var("HUGGINGFACE_HUB_CACHE", "the older name of HF_HUB_CACHE"),
    var("HF_ENDPOINT", "the hub's address, for mirrors"),
    secret("HF_TOKEN", "the hub's access token"),
    secret("HUGGING_FACE_HUB_TOKEN", "the older name of HF_TOKEN"),
    var("HF_TOKEN_PATH", "the file that holds the hub's access token"),
    var("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1 keeps the hub's access token from being sent"),
    var("HF_HUB_OFFLINE", "1 forbids the network, as for the Hugging Face tools"),
    var("TRANSFORMERS_OFFLINE", "as HF_HUB_OFFLINE, where that is not set"),
    secret("PIP_INDEX_URL", "the Python package index, as for pip"),
    secret("PIP_EXTRA_INDEX_URL", "further package indexes, as for pip"),
    var("PIP_CONFIG_FILE", "pip's configuration file"),
    var("PIP_NO_INDEX", "1 forbids package indexes, as for pip"),
    var("PIP_FIND_LINKS", "folders that hold wheels, as for pip"),
    var("PIP_CERT", "certificates to trust for the package index, as for pip"),
    var("SSL_CERT_FILE", "certificates to trust in place of the system's"),
    var("HTTPS_PROXY", "the proxy for https"),
    var("NO_PROXY", "hosts that are reached without the proxy"),
    var("XDG_CONFIG_HOME", "where configuration is"),
    var("XDG_CACHE_HOME", "where models are"),
    var("XDG_STATE_HOME", "where the history of `levain chat` is"),
    secret("OPENAI_API_KEY", "reserved for hosted models"),
    var("OPENAI_BASE_URL", "reserved for hosted models"),
    secret("ANTHROPIC_API_KEY", "reserved for hosted models"),
    secret("GEMINI_API_KEY", "reserved for hosted models"),
    secret("DEEPSEEK_API_KEY", "reserved for hosted models"),
    secret("DASHSCOPE_API_KEY", "reserved for hosted models"),
];

/// Reads a variable; an empty one counts as not set.
pub(crate) fn get(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// As [`get`]; where services and containers leave `HOME` out, the system's list of users still knows the folder.
pub(crate) fn with_home(name: &str) -> Option<String> {
    let listed = || std::env::home_dir()?.into_os_string().into_string().ok();
    get(name).or_else(|| if name == "HOME" { listed().filter(|home| !home.is_empty()) } else { None })
}

/// True for 1, true, yes and on.
pub(crate) fn is_set(name: &str) -> bool {
    get(name).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_purposes_end_without_a_full_stop() {
        let names: std::collections::BTreeSet<&str> = ENV_VARS.iter().map(|var| var.name).collect();
        assert_eq!(names.len(), ENV_VARS.len());
        assert!(ENV_VARS.iter().all(|var| !var.purpose.ends_with('.') && !var.purpose.is_empty()));
        for var in ENV_VARS {
            let switch = var.name.contains("_DISABLE_");
            let sounds_secret = !switch && (var.name.ends_with("_KEY") || var.name.ends_with("TOKEN"));
            assert!(!sounds_secret || var.secret, "{} must not be shown", var.name);
        }
    }
}
