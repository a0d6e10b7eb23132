//! The world that templates see: that of Jinja2 as Hugging Face's transformers sets it up.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value, syntax::SyntaxConfig, value::ValueKind,
};

use super::{json, methods, python};

/// Blocks, macros and expressions in each other.
const RECURSION_MAX: usize = 120;

/// The message of `raise_exception`, found again in the error that a rendering ends with.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without a loader: a template can reach nothing but what it is given.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_recursion_limit(RECURSION_MAX);
    // In debug mode an error would carry all variables along.
    env.set_debug(false);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, _state, value| {
        if !value.is_undefined() {
            match value.as_str() {
                Some(text) => out.write_str(text)?,
                None => out.write_str(&python::str(value)?)?,
            }
        }
        Ok(())
    });
    env.set_unknown_method_callback(methods::call);
    env.add_filter("tojson", json::tojson);
    env.add_filter("string", |value: &Value| python::str(value));
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    env.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    });
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let message = python::str(&message)?;
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    Ok(env)
}

/// Makes a method call pay for the text that it reads.
pub(super) fn charge(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}
