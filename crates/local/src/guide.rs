//! Grammars over the vocabulary: JSON schema, regular expressions and Lark, compiled by llguidance within limits
//! and kept for the next request. Limits count work; none of them looks at a clock.

mod cache;
mod embedded;
mod source;

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use levain_chat::{Places, ProviderError, into_background};
use llguidance::{
    Logger, Matcher, ParserFactory,
    api::{GrammarInit, ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

use crate::{schema::FreeKeys, table::TokenTable};
use cache::Cache;
pub(crate) use source::{Piece, SchemaText, Source, Text};

/// Bytes of a schema, expression or grammar.
pub const GRAMMAR_BYTES_MAX: usize = 64 * 1024;
/// Levels of a JSON schema.
pub const SCHEMA_DEPTH_MAX: usize = 32;
/// llguidance recurses over what it reads; its own thread has room for the deepest input that the limits admit.
const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Grammars that are compiled at the same time.
const PLACES: usize = 4;
/// Those of them that may be one caller's.
const PLACES_OF_ONE: usize = 1;

/// Compiles grammars for one vocabulary.
pub(crate) struct Guide {
    table: Arc<TokenTable>,
    factory: OnceLock<Result<ParserFactory, String>>,
    cache: Mutex<Cache>,
    places: Places,
}

/// A compiled grammar at its beginning; clones of it run.
#[derive(Clone)]
pub(crate) struct Compiled {
    matcher: Arc<Matcher>,
    /// Whether keys may come that the schema does not list.
    pub(crate) keys: FreeKeys,
    /// What stands before the grammar's text and belongs to its JSON.
    pub(crate) opening: &'static str,
    /// What the answer is not held to.
    pub(crate) unenforced: Arc<[String]>,
}

impl Compiled {
    /// A matcher at the grammar's beginning with caches of its own, so that the compiled one stays as small as it is.
    pub(crate) fn start(&self) -> Matcher {
        self.matcher.deep_clone()
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled")
    }
}

impl Guide {
    pub(crate) fn new(table: Arc<TokenTable>) -> Self {
        Self {
            table,
            factory: OnceLock::new(),
            cache: Mutex::default(),
            places: Places::new(PLACES, PLACES_OF_ONE),
        }
    }

    /// Compiles a grammar on a thread of its own, or takes it from the cache.
    ///
    /// # Errors
    /// A grammar that can't be read, that asks for what can't be guaranteed, or that is too complex.
    pub(crate) async fn compile(
        self: &Arc<Self>,
        source: Source,
        caller: Option<&str>,
    ) -> Result<Compiled, ProviderError> {
        let key = format!("{source:?}");
        if let Some(hit) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(hit);
        }
        self.prepare().await?;
        let place = self.places.take(caller).await;
        let guide = Arc::clone(self);
        let param = source.param;
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("levain-grammar".to_owned())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn(move || {
                into_background();
                // The place is given back when the work is done or panics, whether anybody waits for it or not.
                let result = guide.build(&source, key);
                drop(place);
                let _ = send.send(result);
            })
            .map_err(|error| ProviderError::Transient(format!("no thread for the grammar: {error}")))?;
        // A panic of the compiler is the grammar's fault.
        receive
            .await
            .unwrap_or_else(|_| Err(invalid(param, "it can't be compiled; make it simpler".to_owned())))
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

    fn build(&self, source: &Source, key: String) -> Result<Compiled, ProviderError> {
        let (compiled, bytes) = match self.attempt(source) {
            Ok(done) => done,
            // What is no schema stays an error; what is only too much for a grammar need not be one.
            Err(error) => match source.without_lenient().filter(|_| source.ready().is_ok()) {
                Some((weaker, told)) => {
                    let (mut compiled, bytes) = self.attempt(&weaker)?;
                    compiled.unenforced = compiled.unenforced.iter().cloned().chain(told).collect();
                    (compiled, bytes)
                }
                None => return Err(error),
            },
        };
        let bytes = bytes + 8 * key.len() + 64 * 1024;
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(key, compiled.clone(), bytes);
        Ok(compiled)
    }

    fn attempt(&self, source: &Source) -> Result<(Compiled, usize), ProviderError> {
        let param = source.param;
        let ready = source.ready().map_err(|message| invalid(param, message))?;
        let (matcher, bytes) = self
            .matcher(ready.grammar, source.is_callers_own())
            .map_err(|error| self.blame(source, &error))?;
        let (keys, opening, unenforced) = (ready.keys, source.opening, ready.unenforced.into());
        Ok((Compiled { matcher: Arc::new(matcher), keys, opening, unenforced }, bytes))
    }

    /// Says whose fault it is that a grammar can't be compiled.
    fn blame(&self, source: &Source, error: &str) -> ProviderError {
        let schemas = source.pieces.iter().filter_map(|piece| match &piece.text {
            Text::Schema(text) => Some((piece, text)),
            _ => None,
        });
        let several = source.pieces.len() > 1;
        for (piece, text) in schemas {
            let alone = Source {
                pieces: vec![Piece { name: String::new(), text: piece.text.clone() }],
                ..source.clone()
            };
            let fails = !several
                || alone
                    .ready()
                    .map_or_else(Some, |ready| self.matcher(ready.grammar, false).err())
                    .is_some();
            if fails {
                tracing::debug!(error, "a schema can't be compiled");
                return invalid(source.param, text.refusal(&fault(error)));
            }
        }
        if several && !source.is_callers_own() {
            tracing::debug!(error, "a grammar of several pieces can't be compiled");
            let message = "the schemas are too complex together; make them simpler, or send fewer";
            return invalid(source.param, message.to_owned());
        }
        invalid(source.param, words(error))
    }

    fn matcher(&self, grammar: TopLevelGrammar, is_callers_own: bool) -> Result<(Matcher, usize), String> {
        let factory = self.factory().map_err(|error| error.to_string())?;
        let work = std::panic::AssertUnwindSafe(|| {
            let capabilities = InferenceCapabilities::default();
            let (grammar, limits) = (GrammarInit::Serialized(grammar), limits(is_callers_own));
            factory.create_parser_from_init_ext(grammar, Logger::new(0, 0), capabilities, limits)
        });
        let parser = llguidance::panic_utils::catch_unwind(work).map_err(|error| readable(&error))?;
        let bytes = parser.parser.lexer_stats().num_bytes;
        let mut matcher = Matcher::new(Ok(parser));
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(warning);
        }
        // A grammar can be well formed and yet match nothing that the vocabulary can write.
        let mut probe = matcher.deep_clone();
        let accepts = probe.is_accepting().unwrap_or(false);
        let mask = probe.compute_mask_or_eos().map_err(|error| readable(&error))?;
        if mask.is_zero() && !accepts {
            return Err("no output can match it".to_owned());
        }
        Ok((matcher, bytes))
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").field("table", &self.table).finish_non_exhaustive()
    }
}

/// What a compiler's error means to whoever wrote the schema. The text itself speaks of internals.
fn fault(error: &str) -> crate::schema::Problem {
    let advice = if error.contains("nsatisfiable") || error.contains("no output can match") {
        "no value satisfies it; check that its keywords don't contradict each other"
    } else if error.contains("not disjoint") {
        "expressions of `patternProperties` may match the same key; make them exclude each other"
    } else {
        "is too complex to be enforced; make it simpler: fewer alternatives, shorter expressions, smaller bounds"
    };
    crate::schema::Problem::whole(advice)
}

/// What a compiler's error means to whoever wrote the grammar or the expression.
fn words(error: &str) -> String {
    const LIMITS: [&str; 9] =
        ["fuel", "limit", "too large", "too many", "Too many", "too big", "exceed", "precompute", "max is"];
    if LIMITS.iter().any(|mark| error.contains(mark)) {
        tracing::debug!(error, "a grammar is beyond a limit");
        return "is too complex; make it simpler: fewer alternatives, smaller repetitions, no ambiguous recursion".to_owned();
    }
    error.to_owned()
}

/// What it means that a grammar can't go on in the middle of an answer.
pub(crate) fn broken_off(error: &str) -> String {
    format!("the grammar can't go on: {}", words(&readable(&error)))
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
        factory.quiet();
        Ok(factory)
    })
    .map_err(|error| readable(&error))
}

/// What a grammar may cost. A step's cost is its Earley items, each of which is compared with those of its row: a
/// caller's own grammar may be ambiguous, which a schema's is not, and makes far more comparisons of as many items.
fn limits(is_callers_own: bool) -> ParserLimits {
    let (max_items_in_row, step_max_items) = if is_callers_own { (150, 5_000) } else { (1_000, 20_000) };
    ParserLimits {
        max_items_in_row,
        step_max_items,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
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

#[cfg(test)]
mod tests;
