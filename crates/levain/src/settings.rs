//! Configuration: a table of settings, and for each where its value came from. Defaults are weakest, then the
//! machine's files, the user's file, the environment, and the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use levain_engine::{KvCacheType, Speculation};
use serde::Serialize;
use toml::{Table, Value};

use crate::error::CliError;
use crate::{env, paths};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// A setting that a file or a variable can hold.
pub(crate) struct Setting {
    /// Its name in the file, with dots for tables.
    pub(crate) key: &'static str,
    /// The variable that sets it.
    pub(crate) env: &'static str,
    /// What it is for.
    pub(crate) help: &'static str,
    /// Its value if nobody sets it, for people.
    pub(crate) default: &'static str,
    /// True if its value must never be shown.
    pub(crate) secret: bool,
    check: fn(&str) -> Result<(), String>,
}

/// The table.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        key: "model",
        env: "LEVAIN_MODEL",
        help: "the model that `levain chat` takes when none is named",
        default: "one that fits this machine",
        secret: false,
        check: |text| levain_hub::ModelRef::parse(text).map(drop).map_err(|error| error.to_string()),
    },
    Setting {
        key: "threads",
        env: "LEVAIN_THREADS",
        help: "how many threads compute",
        default: "one for each core",
        secret: false,
        check: |text| number(text).map(drop),
    },
    Setting {
        key: "context",
        env: "LEVAIN_CONTEXT",
        help: "tokens of prompt and answer together",
        default: "8192, or what the model and the memory allow",
        secret: false,
        check: |text| number(text).map(drop),
    },
    Setting {
        key: "kv_cache_type",
        env: "LEVAIN_KV_CACHE_TYPE",
        help: "how the KV cache stores its numbers: auto, f32, f16 or q8_0",
        default: "auto",
        secret: false,
        check: |text| kv_cache_type(text).map(drop),
    },
    Setting {
        key: "speculate",
        env: "LEVAIN_SPECULATE",
        help: "draft tokens ahead without changing answers: off, lookup (from the text itself), mtp (the model's own layer) or draft (a draft model)",
        default: "off",
        secret: false,
        check: |text| speculation(text).map(drop),
    },
    Setting {
        key: "draft_model",
        env: "LEVAIN_DRAFT_MODEL",
        help: "a smaller model with the same tokens, for speculate = \"draft\"",
        default: "none",
        secret: false,
        check: |text| levain_hub::ModelRef::parse(text).map(drop).map_err(|error| error.to_string()),
    },
    Setting {
        key: "chat_template",
        env: "LEVAIN_CHAT_TEMPLATE",
        help: "a file with a chat template, as Jinja, in place of the models' own",
        default: "the model's own",
        secret: false,
        check: |_| Ok(()),
    },
    Setting {
        key: "memory",
        env: "LEVAIN_MEMORY",
        help: "the most memory to use, for example \"20G\"",
        default: "what is free",
        secret: false,
        check: |text| byte_size(text).map(drop),
    },
    Setting {
        key: "cache_disk",
        env: "LEVAIN_CACHE_DISK",
        help: "keep up to so much of what was computed on the disk, for prompts that begin alike, for example \"4G\"",
        default: "none",
        secret: false,
        check: |text| byte_size(text).map(drop),
    },
    Setting {
        key: "cache_dir",
        env: "LEVAIN_CACHE_DIR",
        help: "the folder for cache_disk",
        default: "kv in Levain's cache folder",
        secret: false,
        check: |_| Ok(()),
    },
    Setting {
        key: "chat.system",
        env: "LEVAIN_SYSTEM",
        help: "the system message of every new conversation",
        default: "none",
        secret: false,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.listen",
        env: "LEVAIN_HOST",
        help: "where `levain serve` listens",
        default: "127.0.0.1:7171",
        secret: false,
        check: |text| address(text).map(drop),
    },
    Setting {
        key: "serve.api_key",
        env: "LEVAIN_API_KEY",
        help: "the key that clients must show; several, separated by commas, are several callers",
        default: "none, and then only this machine is served",
        secret: true,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.origins",
        env: "LEVAIN_ORIGINS",
        help: "web origins whose pages may call, separated by commas; * for all, null for pages from files",
        default: "none",
        secret: false,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.parse_special",
        env: "LEVAIN_PARSE_SPECIAL",
        help: "parse control tokens in raw prompts (/v1/completions)",
        default: "true",
        secret: false,
        check: |text| flag(text).map(drop),
    },
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// A variable.
    Env(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "${name}"),
        }
    }
}

/// All settings that somebody set.
#[derive(Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
    aliases: BTreeMap<String, (String, PathBuf)>,
    files: Vec<ConfigFile>,
    /// Files that nobody named and that this user may not read.
    unreadable: Vec<PathBuf>,
}

/// Without the values of secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_secret = |key: &str| SETTINGS.iter().any(|setting| setting.key == key && setting.secret);
        let values: BTreeMap<_, _> = self
            .values
            .iter()
            .map(|(key, (value, origin))| (key, (if is_secret(key) { "…" } else { value.as_str() }, origin)))
            .collect();
        f.debug_struct("Settings")
            .field("values", &values)
            .field("aliases", &self.aliases)
            .field("files", &self.files)
            .field("unreadable", &self.unreadable)
            .finish()
    }
}

/// A configuration file and whether it is there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConfigFile {
    /// Where it is or would be.
    pub(crate) path: PathBuf,
    /// Whether it is there.
    pub(crate) found: bool,
}

impl Settings {
    /// Reads all files and the environment. A file that was `named` takes the place of the user's and has to be
    /// there.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, CliError> {
        let mut settings = Self::default();
        let own = named.map(Path::to_owned).or_else(paths::user_config);
        for path in paths::system_configs().into_iter().chain(own) {
            let is_named = named == Some(&path);
            let text = match read(&path) {
                // A service's home may be another user's: that is no reason not to work.
                Err(error) if !is_named && is_forbidden(&error) => {
                    settings.unreadable.push(path.clone());
                    None
                }
                read => read?,
            };
            if text.is_none() && named == Some(&path) {
                return Err(CliError::input(format!("there is no configuration file {}", path.display())));
            }
            if text.is_some() && !is_named {
                // It says which model and template to take, and who may call.
                levain_hub::check_owners(&path).map_err(|error| {
                    CliError::input_with(
                        error.to_string(),
                        "make it yours (chown) and yours alone (chmod go-w), or name a file that you trust by --config",
                    )
                })?;
            }
            settings.files.push(ConfigFile { path: path.clone(), found: text.is_some() });
            if let Some(text) = text {
                settings.add_file(&path, &text)?;
            }
        }
        for setting in SETTINGS {
            if let Some(value) = env::get(setting.env) {
                settings.set(setting, value, Origin::Env(setting.env))?;
            }
        }
        Ok(settings)
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), CliError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Its full text quotes the line, on which a key may stand.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let (line, column) =
                (before.split('\n').count(), before.rsplit('\n').next().unwrap_or("").len() + 1);
            CliError::input(format!(
                "{} is not valid TOML at line {line}, column {column}: {}",
                path.display(),
                error.message()
            ))
        })?;
        let mut flat = Vec::new();
        flatten("", &table, &mut flat);
        for (key, value) in flat {
            let Some(text) = plain(value) else {
                return Err(CliError::input(format!(
                    "{}: {key} has a value of the wrong type: write text or a number",
                    path.display()
                )));
            };
            if let Some(alias) = key.strip_prefix("aliases.") {
                levain_hub::ModelRef::parse(&text).map_err(|error| {
                    CliError::input(format!("{}: the alias {alias} can't be used: {error}", path.display()))
                })?;
                self.aliases.insert(alias.to_owned(), (text, path.to_owned()));
                continue;
            }
            let setting = SETTINGS.iter().find(|setting| setting.key == key).ok_or_else(|| {
                let near = levain_hub::nearest(&key, SETTINGS.iter().map(|setting| setting.key));
                let hint = match near.first() {
                    Some(near) => format!("did you mean {near}?"),
                    None => "`levain config show` lists all settings".to_owned(),
                };
                CliError::input_with(format!("{}: there is no setting {key}", path.display()), hint)
            })?;
            // A file in a file is meant beside it.
            let beside = |text: &String| path.parent().map(|folder| folder.join(text).display().to_string());
            let text = if setting.key == "chat_template" { beside(&text).unwrap_or(text) } else { text };
            self.set(setting, text, Origin::File(path.to_owned()))?;
        }
        Ok(())
    }

    fn set(&mut self, setting: &'static Setting, value: String, origin: Origin) -> Result<(), CliError> {
        (setting.check)(&value).map_err(|reason| {
            CliError::input(format!("{origin}: the setting {} can't be used: {reason}", setting.key))
        })?;
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// A value that somebody set.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    /// Where it came from.
    pub(crate) fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    /// What an alias stands for.
    pub(crate) fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.get(name).map(|(target, _)| target.as_str())
    }

    /// All aliases: name, target, file.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = (&str, &str, &Path)> {
        self.aliases.iter().map(|(name, (target, path))| (name.as_str(), target.as_str(), path.as_path()))
    }

    /// Files that nobody named and that this user may not read.
    pub(crate) fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// The files in the order in which they were read.
    pub(crate) fn files(&self) -> &[ConfigFile] {
        &self.files
    }
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            Err(CliError::input(format!("{} is too long for a configuration file", path.display())))
        }
        Ok(_) => std::fs::read_to_string(path).map(Some).map_err(|error| CliError::read(path, error)),
        // A home that is a file, such as /dev/null, holds none either.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(CliError::read(path, error)),
    }
}

fn is_forbidden(error: &CliError) -> bool {
    matches!(error, CliError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

fn flatten<'a>(prefix: &str, table: &'a Table, out: &mut Vec<(String, &'a Value)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, out),
            other => out.push((key, other)),
        }
    }
}

/// A value as the text that a variable would hold.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(items) => {
            items.iter().map(plain).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        _ => None,
    }
}

/// A whole number above zero.
pub(crate) fn number(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("{text:?} is not a whole number above 0"))
}

/// Yes or no.
pub(crate) fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A type of the KV cache.
pub(crate) fn kv_cache_type(text: &str) -> Result<KvCacheType, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(KvCacheType::Auto),
        "f32" => Ok(KvCacheType::F32),
        "f16" => Ok(KvCacheType::F16),
        "q8_0" => Ok(KvCacheType::Q8_0),
        _ => Err(format!("{text:?} is not one of auto, f32, f16 and q8_0")),
    }
}

/// Where drafts for speculative decoding come from.
pub(crate) fn speculation(text: &str) -> Result<Speculation, String> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(Speculation::Off),
        "lookup" => Ok(Speculation::PromptLookup),
        "mtp" => Ok(Speculation::MultiTokenPrediction),
        "draft" => Ok(Speculation::DraftModel),
        _ => Err(format!("{text:?} is not one of off, lookup, mtp and draft")),
    }
}

/// Bytes: `20G`, `512M`, `1.5GiB` or a plain number. Units are powers of 1024, as memory is counted.
pub(crate) fn byte_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write for example 20G or 512M");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(wrong()),
    };
    let value: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = value * 1024_f64.powi(power);
    if !(1.0..1e18).contains(&bytes) {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie from 1 to 10^18"
    )]
    Ok(bytes as u64)
}

/// Where to listen: `host`, `:port`, `host:port` or `http://host:port`.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    const DEFAULT_PORT: u16 = 7171;
    let wrong =
        || format!("{text:?} is not an address: write for example 127.0.0.1:7171, :8000 or localhost");
    let bare = text.trim();
    let bare = bare.strip_prefix("http://").unwrap_or(bare).trim_end_matches('/');
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    if let Ok(ip) = bare.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let (host, port) = match bare.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (bare, DEFAULT_PORT),
    };
    let loopback = std::net::Ipv4Addr::LOCALHOST.into();
    match host {
        "" | "localhost" => Ok(SocketAddr::new(loopback, port)),
        host => host.parse().map(|ip| SocketAddr::new(ip, port)).map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_addresses_are_read_as_people_write_them() {
        assert_eq!(byte_size("20G").unwrap(), 20 << 30);
        assert_eq!(byte_size("1.5 MiB").unwrap(), 3 << 19);
        assert_eq!(byte_size("4096").unwrap(), 4096);
        for wrong in ["", "G", "-1", "1X", "nan", "inf", "1e30", "0"] {
            assert!(byte_size(wrong).is_err(), "{wrong}");
        }
        let shown = |text| address(text).map(|address| address.to_string());
        assert_eq!(shown("localhost").unwrap(), "127.0.0.1:7171");
        assert_eq!(shown(":8000").unwrap(), "127.0.0.1:8000");
        assert_eq!(shown("http://0.0.0.0:80/").unwrap(), "0.0.0.0:80");
        assert_eq!(shown("[::1]:7").unwrap(), "[::1]:7");
        assert_eq!(shown("::1").unwrap(), "[::1]:7171");
        for wrong in ["example.com:80", "1.2.3.4:99999", "http://"] {
            assert!(wrong == "http://" || address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_layered_and_checked() {
        let mut settings = Settings::default();
        let path = Path::new("/c.toml");
        settings.add_file(path, "threads = 2\n[serve]\nlisten = \":80\"\norigins = [\"http://a\", \"http://b\"]\n[aliases]\nfast = \"pypi:x\"\n").unwrap();
        settings.add_file(Path::new("/d.toml"), "threads = 3\n").unwrap();
        assert_eq!(settings.get("threads"), Some("3"));
        assert_eq!(settings.origin("threads").unwrap().to_string(), "/d.toml");
        assert_eq!(settings.get("serve.origins"), Some("http://a,http://b"));
        assert_eq!(settings.alias("fast"), Some("pypi:x"));
        let error = settings.add_file(path, "treads = 2").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean threads?");
        settings.add_file(Path::new("/etc/x/c.toml"), "chat_template = \"own.jinja\"").unwrap();
        assert_eq!(settings.get("chat_template"), Some("/etc/x/own.jinja"));
        settings.add_file(Path::new("/etc/x/c.toml"), "chat_template = \"/own.jinja\"").unwrap();
        assert_eq!(settings.get("chat_template"), Some("/own.jinja"));
        assert!(settings.add_file(path, "threads = 0").is_err());
        assert!(settings.add_file(path, "threads = 1.5").is_err());
        assert!(settings.add_file(path, "[aliases]\nx = \"../..\\u0000\"").is_err());
        assert!(settings.add_file(path, "= 1").unwrap_err().to_string().contains("not valid TOML"));
    }

    #[test]
    fn no_error_and_no_dump_shows_a_key() {
        for (text, said) in [
            ("[serve]\napi_key = \"marked-key", "not valid TOML at line 2, column"),
            ("[serve]\napi_key = marked-key", "line 2"),
            ("[serve]\napi_key \"marked-key\"", "line 2"),
            ("[serve]\napi_key = \"marked-key\" trailing", "line 2"),
            ("[serve]\napi_key = 'marked-key\u{1}'", "line 2"),
            ("[serve]\napi_key = \"marked-key\\q\"", "line 2"),
            ("[serve]\napi_key = [\"marked-key\"", "line 2"),
            ("[serve]\napi_key = \"marked-key\"\napi_key = \"marked-key\"", "line 3"),
            ("serve.api_key = \"marked-key\"\n[serve]\n", "line 2"),
            ("[serve]\napi_key = [{ a = \"marked-key\" }]", "wrong type"),
            ("[serve]\napi_key = { value = \"marked-key\" }", "serve.api_key.value"),
            ("[serve]\napi_kee = \"marked-key\"", "serve.api_kee"),
            ("api_key = \"marked-key\"", "no setting api_key"),
            ("[serve]\napi_key = \"marked-key\"\nlisten = \"nowhere\"", "serve.listen"),
        ] {
            let error = Settings::default().add_file(Path::new("/c.toml"), text).unwrap_err();
            let told = format!("{error} {error:?} {:?}", error.hint());
            assert!(told.contains(said), "{text}: {told}");
            assert!(!told.contains("marked"), "{text}: {told}");
        }
        let mut settings = Settings::default();
        settings.add_file(Path::new("/c.toml"), "threads = 3\n[serve]\napi_key = \"marked-key\"").unwrap();
        let dump = format!("{settings:?}");
        assert!(dump.contains("api_key") && dump.contains('3') && !dump.contains("marked"), "{dump}");
    }
}
