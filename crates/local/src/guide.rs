//! Grammars over the vocabulary: JSON schema, regular expressions and Lark, compiled by llguidance within limits
//! and kept for the next request.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use levain_chat::{ProviderError, ResponseFormat};
use llguidance::{
    Matcher, ParserFactory,
    api::{GrammarWithLexer, ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

use crate::table::TokenTable;

/// Bytes of a schema, expression or grammar.
pub const GRAMMAR_BYTES_MAX: usize = 64 * 1024;
/// Levels of a JSON schema.
pub const SCHEMA_DEPTH_MAX: usize = 32;
/// Bytes that compiled grammars may hold together.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// How long a grammar may take to compile.
const COMPILE_TIME_MAX: Duration = Duration::from_millis(1000);
/// Grammars that are compiled at the same time.
const COMPILES_MAX: usize = 2;
/// llguidance recurses over what it reads; its own thread has room for the deepest input that the limits admit.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// White space between the parts of JSON: what pretty printers write, but no endless run of it.
const WHITE_SPACE: &str = r"[ \t]{1,8}|\n[ \t]{0,40}";

/// Compiles grammars for one vocabulary.
pub(crate) struct Guide {
    table: Arc<TokenTable>,
    factory: OnceLock<Result<ParserFactory, String>>,
    cache: Mutex<Cache>,
    permits: tokio::sync::Semaphore,
}

/// A compiled grammar at its beginning; clones of it run.
#[derive(Clone)]
pub(crate) struct Compiled(Arc<Matcher>);

impl Compiled {
    /// A matcher at the grammar's beginning with caches of its own, so that the compiled one stays as small as it is.
    pub(crate) fn start(&self) -> Matcher {
        self.0.deep_clone()
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled")
    }
}

/// The parts of a grammar: what the whole is made of, and what can stand in it by name.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The request's field, for errors.
    pub(crate) param: &'static str,
    pub(crate) grammar: TopLevelGrammar,
}

impl Source {
    /// The grammar of a response format; `None` for free text.
    ///
    /// # Errors
    /// What is larger or deeper than the limits.
    pub(crate) fn of_format(format: &ResponseFormat) -> Result<Option<Self>, ProviderError> {
        let part = match format {
            ResponseFormat::Text => return Ok(None),
            ResponseFormat::JsonObject => {
                GrammarWithLexer::from_json_schema(spaced(json!({"type": "object"})))
            }
            ResponseFormat::JsonSchema(schema) => {
                check_schema("response_format", schema)?;
                let schema = match schema {
                    Value::Bool(true) => json!({}),
                    other => other.clone(),
                };
                if !schema.is_object() {
                    return Err(invalid("response_format", "the schema must be a JSON object".to_owned()));
                }
                GrammarWithLexer::from_json_schema(spaced(schema))
            }
            ResponseFormat::Regex(text) => {
                check_bytes("response_format", "the regular expression", text.len())?;
                GrammarWithLexer::from_regex(text)
            }
            ResponseFormat::Grammar(text) => {
                check_bytes("response_format", "the grammar", text.len())?;
                GrammarWithLexer::from_lark(text.clone())
            }
        };
        Ok(Some(Self { param: "response_format", grammar: TopLevelGrammar::from_grammar(part) }))
    }

    /// A grammar in Lark syntax that this program wrote itself, in which `@content` may stand for `content`.
    pub(crate) fn of_rules(param: &'static str, rules: String, content: Option<Self>) -> Self {
        let mut grammars = vec![GrammarWithLexer::from_lark(rules)];
        if let Some(mut part) = content.and_then(|source| source.grammar.grammars.into_iter().next()) {
            part.name = Some("content".to_owned());
            grammars.push(part);
        }
        Self { param, grammar: TopLevelGrammar { grammars, max_tokens: None } }
    }
}

impl Guide {
    pub(crate) fn new(table: Arc<TokenTable>) -> Self {
        Self {
            table,
            factory: OnceLock::new(),
            cache: Mutex::default(),
            permits: tokio::sync::Semaphore::new(COMPILES_MAX),
        }
    }

    /// Compiles a grammar on a thread of its own, or takes it from the cache.
    ///
    /// # Errors
    /// A grammar that can't be read, that asks for what can't be guaranteed, or that takes too long.
    pub(crate) async fn compile(self: &Arc<Self>, source: Source) -> Result<Compiled, ProviderError> {
        let param = source.param;
        let key = serde_json::to_string(&source.grammar).map_err(|error| {
            ProviderError::Internal(format!("a grammar could not be written down: {error}"))
        })?;
        if let Some(hit) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(hit);
        }
        self.prepare().await?;
        let guide = Arc::clone(self);
        let (send, receive) = tokio::sync::oneshot::channel();
        let work = async {
            // The thread gives its permit back when it is done, not when the caller has stopped waiting: a grammar
            // that takes long can keep others waiting, but never more than a few cores busy.
            let permit = self.permits.acquire().await.map_err(|_| ProviderError::ShuttingDown)?;
            permit.forget();
            std::thread::Builder::new()
                .name("levain-grammar".to_owned())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn(move || {
                    let result = guide.build(source, key);
                    guide.permits.add_permits(1);
                    let _ = send.send(result);
                })
                .map_err(|error| {
                    self.permits.add_permits(1);
                    ProviderError::Transient(format!("no thread for the grammar: {error}"))
                })?;
            receive
                .await
                .map_err(|_| ProviderError::Internal("the grammar's thread ended early".to_owned()))?
        };
        tokio::time::timeout(COMPILE_TIME_MAX, work).await.unwrap_or_else(|_| {
            Err(invalid(param, "the grammar takes too long to compile; make it simpler".to_owned()))
        })
    }

    /// Puts the vocabulary into the form that grammars need, once; it does not count as a grammar's own time.
    async fn prepare(self: &Arc<Self>) -> Result<(), ProviderError> {
        if self.factory.get().is_some() {
            return Ok(());
        }
        let guide = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || guide.factory().map(|_| ()));
        work.await.map_err(|error| ProviderError::Internal(error.to_string()))?
    }

    fn factory(&self) -> Result<&ParserFactory, ProviderError> {
        match self.factory.get_or_init(|| parser_factory(&self.table)) {
            Ok(factory) => Ok(factory),
            Err(error) => Err(ProviderError::Internal(format!("no grammars for this vocabulary: {error}"))),
        }
    }

    fn build(&self, source: Source, key: String) -> Result<Compiled, ProviderError> {
        let param = source.param;
        let factory = self.factory()?;
        let parser =
            factory.create_parser(source.grammar).map_err(|error| invalid(param, readable(&error)))?;
        let bytes = parser.parser.lexer_stats().num_bytes + 8 * key.len() + 64 * 1024;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(invalid(param, warning));
        }
        // A grammar can be well formed and yet match nothing that the vocabulary can write.
        let mut probe = matcher.deep_clone();
        let accepts = probe.is_accepting().unwrap_or(false);
        let mask = probe.compute_mask_or_eos().map_err(|error| invalid(param, readable(&error)))?;
        if mask.is_zero() && !accepts {
            return Err(invalid(param, "no output can match it".to_owned()));
        }
        let compiled = Compiled(Arc::new(matcher));
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, compiled.clone(), bytes);
        Ok(compiled)
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Refuses a schema that is larger or deeper than the limits.
pub(crate) fn check_schema(param: &'static str, schema: &Value) -> Result<(), ProviderError> {
    let mut stack = vec![(schema, 1)];
    while let Some((value, depth)) = stack.pop() {
        if depth > SCHEMA_DEPTH_MAX {
            return Err(invalid(param, format!("the schema is deeper than {SCHEMA_DEPTH_MAX} levels")));
        }
        match value {
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => stack.extend(fields.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    check_bytes(param, "the schema", schema.to_string().len())
}

fn check_bytes(param: &'static str, what: &str, bytes: usize) -> Result<(), ProviderError> {
    if bytes > GRAMMAR_BYTES_MAX {
        return Err(invalid(param, format!("{what} has {bytes} bytes and may have {GRAMMAR_BYTES_MAX}")));
    }
    Ok(())
}

/// A schema with the white space of this program, whatever it asks for itself.
fn spaced(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE}));
    }
    schema
}

fn parser_factory(table: &TokenTable) -> Result<ParserFactory, String> {
    // The engine decides about stop tokens; the grammar's own end is a token behind the vocabulary.
    let end = u32::try_from(table.len()).map_err(|_| "it is too large".to_owned())?;
    let mut words: Vec<Vec<u8>> = (0..end).map(|id| table.bytes(id).to_vec()).collect();
    words.push(b"\xff<end>".to_vec());
    let info = TokRxInfo::new(end.saturating_add(1), end);
    llguidance::panic_utils::catch_unwind(move || {
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(factory)
    })
    .map_err(|error| readable(&error))
}

fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..Default::default()
    }
}

/// The first lines of an error: what follows is a backtrace or a dump.
pub(crate) fn readable(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let text = text.split("<backtrace>").next().unwrap_or_default().trim();
    let text = text.split("\n<state>").next().unwrap_or_default().trim();
    text.chars().take(400).collect()
}

pub(crate) fn invalid(param: impl Into<Cow<'static, str>>, message: String) -> ProviderError {
    ProviderError::invalid(param, message)
}

/// Compiled grammars, the least recently used first.
#[derive(Default)]
struct Cache {
    entries: Vec<(String, Compiled, usize)>,
    bytes: usize,
}

impl Cache {
    fn get(&mut self, key: &str) -> Option<Compiled> {
        let at = self.entries.iter().position(|(known, ..)| known == key)?;
        let entry = self.entries.remove(at);
        let hit = entry.1.clone();
        self.entries.push(entry);
        Some(hit)
    }

    fn insert(&mut self, key: String, compiled: Compiled, bytes: usize) {
        if bytes > CACHE_BYTES_MAX || self.entries.iter().any(|(known, ..)| *known == key) {
            return;
        }
        self.bytes += bytes;
        self.entries.push((key, compiled, bytes));
        while self.bytes > CACHE_BYTES_MAX {
            let (_, _, oldest) = self.entries.remove(0);
            self.bytes -= oldest;
        }
    }
}

#[cfg(test)]
mod tests;
