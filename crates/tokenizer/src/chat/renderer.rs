//! One rendering as data, and who carries it out.
//!
//! A template is a program from a stranger. Fuel bounds its instructions, but not what a single one of them costs:
//! a format asks for gigabytes, a comparison of lists that hold each other does not end. So a job says all that a
//! rendering needs, and a caller may have it done where it can be ended ([`TemplateRenderer`]).

use std::io;

use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    date::Date,
    environment::{self, Raised},
    source,
};
use crate::error::TokenizerError;

/// Bytes of a template's source.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Words and signs in one tag, and branches of conditions. The parser goes one level deeper for each; the largest
/// tags of published templates have some 200.
const TAG_TOKENS_MAX: usize = 2_000;
const BRANCHES_MAX: usize = 500;
/// Stack of the thread that compiles: enough for the deepest tag that may be.
const COMPILE_STACK_BYTES: usize = 64 << 20;
const NAME: &str = "chat_template";

/// All that one rendering needs besides the template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenderJob {
    /// The variables, in which nothing can become a control token any more.
    pub variables: Map<String, Value>,
    /// What `strftime_now` prints.
    pub date: Option<Date>,
    /// Instructions that may be run.
    pub fuel: u64,
    /// Bytes that may be written.
    pub output_bytes_max: usize,
}

/// Why a rendering came to nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RenderFailure {
    /// The source is no valid template.
    Syntax(String),
    /// The template called `raise_exception` with this text.
    Raised(String),
    /// It failed, where and why.
    Failed(String),
    /// It passed a limit: a clause that follows "the chat template".
    Limit(String),
}

impl From<RenderFailure> for TokenizerError {
    fn from(failure: RenderFailure) -> Self {
        match failure {
            RenderFailure::Syntax(problem) => Self::TemplateSyntax { problem },
            RenderFailure::Raised(message) => Self::TemplateRaised { message },
            RenderFailure::Failed(problem) => Self::TemplateFailed { problem },
            RenderFailure::Limit(problem) => Self::TemplateLimit { problem },
        }
    }
}

/// Carries out the renderings of one template.
pub trait TemplateRenderer: Send + Sync + std::fmt::Debug {
    /// The text that the template writes for `job`. It may give up as soon as `cancelled` says so.
    ///
    /// # Errors
    /// [`RenderFailure`].
    fn render(
        &self,
        job: &RenderJob,
        cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<String, RenderFailure>;
}

/// A compiled template that renders on the calling thread: for templates that can be trusted to end.
#[derive(Debug)]
pub struct CompiledTemplate {
    env: Environment<'static>,
}

impl CompiledTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If it is no valid template, or larger or more nested than any in use.
    pub fn new(original: &str) -> std::result::Result<Self, RenderFailure> {
        if original.len() > SOURCE_BYTES_MAX {
            return Err(RenderFailure::Syntax(format!(
                "its source has {} bytes and {SOURCE_BYTES_MAX} may be",
                original.len()
            )));
        }
        let plain = source::with_plain_line_ends(original);
        let extent = source::extent(&plain);
        if extent.tag_tokens > TAG_TOKENS_MAX {
            return Err(RenderFailure::Syntax(format!(
                "one of its tags has {} words and signs, and {TAG_TOKENS_MAX} may be",
                extent.tag_tokens
            )));
        }
        if extent.branches > BRANCHES_MAX {
            return Err(RenderFailure::Syntax(format!(
                "it has {} elif branches, and {BRANCHES_MAX} may be",
                extent.branches
            )));
        }
        let compile = move || {
            let mut env = environment::environment()?;
            env.add_template_owned(NAME, source::without_generation_blocks(&plain))?;
            Ok(env)
        };
        let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES).spawn(compile);
        let thread =
            thread.map_err(|error| RenderFailure::Failed(format!("no thread can be started: {error}")))?;
        let compiled =
            thread.join().map_err(|_| RenderFailure::Syntax("the compiler broke off".to_owned()))?;
        compiled
            .map(|env| Self { env })
            .map_err(|error: minijinja::Error| RenderFailure::Syntax(describe(&error)))
    }
}

impl TemplateRenderer for CompiledTemplate {
    fn render(
        &self,
        job: &RenderJob,
        _cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<String, RenderFailure> {
        let mut variables: Vec<(String, JinjaValue)> =
            job.variables.iter().map(|(name, value)| (name.clone(), to_jinja(value))).collect();
        if let Some(date) = job.date {
            let print = move |format: &str| {
                date.format(format).ok_or_else(|| {
                    minijinja::Error::new(ErrorKind::InvalidOperation, "strftime_now knows no such format")
                })
            };
            variables.push(("strftime_now".to_owned(), JinjaValue::from_function(print)));
        }
        let mut env = self.env.clone();
        env.set_fuel(Some(job.fuel));
        let mut out = Limited { bytes: Vec::new(), limit: job.output_bytes_max, passed: false };
        let variables = JinjaValue::from_pairs(variables);
        let rendered =
            env.get_template(NAME).and_then(|t| t.render_captured_to(variables, &mut out).map(|_| ()));
        if out.passed {
            let limit = out.limit;
            return Err(RenderFailure::Limit(format!(
                "writes more than {limit} bytes for this conversation"
            )));
        }
        rendered.map_err(|error| failure(&error))?;
        String::from_utf8(out.bytes).map_err(|error| RenderFailure::Failed(error.to_string()))
    }
}

fn to_jinja(value: &Value) -> JinjaValue {
    match value {
        Value::Null => JinjaValue::from(()),
        Value::Bool(value) => JinjaValue::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => JinjaValue::from(number),
            (_, Some(number), _) => JinjaValue::from(number),
            (_, _, number) => JinjaValue::from(number.unwrap_or(f64::NAN)),
        },
        Value::String(text) => JinjaValue::from(text.as_str()),
        Value::Array(items) => JinjaValue::from(items.iter().map(to_jinja).collect::<Vec<_>>()),
        Value::Object(fields) => {
            JinjaValue::from_pairs(fields.iter().map(|(key, item)| (key.as_str(), to_jinja(item))))
        }
    }
}

/// A buffer that refuses to grow beyond its limit.
struct Limited {
    bytes: Vec<u8>,
    limit: usize,
    passed: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.passed = true;
            return Err(io::Error::other("the output is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error with its place and causes, in one line.
fn describe(error: &minijinja::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

fn failure(error: &minijinja::Error) -> RenderFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut out_of_fuel = false;
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref::<Raised>() {
            return RenderFailure::Raised(message.clone());
        }
        if let Some(inner) = inner.downcast_ref::<minijinja::Error>() {
            out_of_fuel |= inner.kind() == ErrorKind::OutOfFuel;
        }
        cause = inner.source();
    }
    if out_of_fuel {
        RenderFailure::Limit("does more work than this conversation can need".into())
    } else {
        RenderFailure::Failed(describe(error))
    }
}
