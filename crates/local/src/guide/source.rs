//! What a grammar is made of.

use levain_chat::{ProviderError, ResponseFormat};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::{check_bytes, check_schema, embedded, invalid};
use crate::schema::{self, Enforced, FreeKeys, Problem};

/// White space between the parts of JSON: what pretty printers write, but no endless run of it.
const WHITE_SPACE: &str = r"[ \t]{1,8}|\n[ \t]{0,40}";

/// A grammar before it is compiled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// The request's field, for errors.
    pub(crate) param: &'static str,
    /// The first one is the whole; the others stand in it by name.
    pub(crate) pieces: Vec<Piece>,
    /// What stands before the grammar's text and belongs to its JSON.
    pub(crate) opening: &'static str,
}

/// A piece of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) name: String,
    pub(crate) text: Text,
}

/// What a piece is written in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Text {
    Schema(SchemaText),
    Regex(String),
    /// Lark, as a caller wrote it.
    Lark(String),
    /// Lark, as this program wrote it.
    Rules(String),
}

/// A JSON schema and how it is used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SchemaText {
    pub(crate) schema: Value,
    /// Enforces what can be enforced, and tells the rest.
    pub(crate) lenient: bool,
    /// The spacing of Python's `json.dumps`, in which templates write; else what pretty printers write, too.
    pub(crate) compact: bool,
    /// The function whose arguments these are.
    pub(crate) tool: Option<String>,
}

/// A grammar that can be compiled.
pub(super) struct Ready {
    pub(super) grammar: TopLevelGrammar,
    pub(super) keys: FreeKeys,
    pub(super) unenforced: Vec<String>,
}

impl Source {
    /// The grammar of a response format; `None` for free text.
    ///
    /// # Errors
    /// What is larger or deeper than the limits.
    pub(crate) fn of_format(format: &ResponseFormat) -> Result<Option<Self>, ProviderError> {
        let schema = |schema: &Value, lenient| {
            Text::Schema(SchemaText { schema: schema.clone(), lenient, compact: false, tool: None })
        };
        let text = match format {
            ResponseFormat::Text => return Ok(None),
            ResponseFormat::JsonObject => schema(&json!({"type": "object"}), false),
            ResponseFormat::JsonSchema { schema: wanted, strict } => {
                check_schema("response_format", wanted)?;
                if !wanted.is_object() && *wanted != Value::Bool(true) {
                    return Err(invalid("response_format", "the schema must be a JSON object".to_owned()));
                }
                schema(wanted, *strict == Some(false))
            }
            ResponseFormat::Regex(text) => {
                check_bytes("response_format", "the regular expression", text.len())?;
                Text::Regex(text.clone())
            }
            ResponseFormat::Grammar(text) => {
                check_bytes("response_format", "the grammar", text.len())?;
                return Self::of_grammar(text).map(Some);
            }
        };
        let pieces = vec![Piece { name: String::new(), text }];
        Ok(Some(Self { param: "response_format", pieces, opening: "" }))
    }

    /// A caller's grammar in Lark syntax.
    fn of_grammar(text: &str) -> Result<Self, ProviderError> {
        let (rules, schemas) =
            embedded::extract(text).map_err(|message| invalid("response_format", message))?;
        let mut pieces = vec![Piece { name: String::new(), text: Text::Lark(rules) }];
        for (name, schema) in schemas {
            check_schema("response_format", &schema)?;
            let text = SchemaText { schema, lenient: false, compact: false, tool: None };
            pieces.push(Piece { name, text: Text::Schema(text) });
        }
        Ok(Self { param: "response_format", pieces, opening: "" })
    }

    /// A grammar in Lark syntax that this program wrote itself. `@name` stands for the piece of that name, and
    /// `@content` for `content`.
    pub(crate) fn of_rules(
        param: &'static str,
        rules: String,
        pieces: Vec<Piece>,
        content: Option<Self>,
    ) -> Self {
        let mut all = vec![Piece { name: String::new(), text: Text::Rules(rules) }];
        all.extend(pieces);
        if let Some(mut piece) = content.and_then(|source| source.pieces.into_iter().next()) {
            "content".clone_into(&mut piece.name);
            all.push(piece);
        }
        Self { param, pieces: all, opening: "" }
    }

    /// Whether a caller wrote the rules.
    pub(super) fn is_callers_own(&self) -> bool {
        matches!(self.pieces.first(), Some(Piece { text: Text::Lark(_), .. }))
    }

    /// Reads the schemas.
    ///
    /// # Errors
    /// What can't be enforced, in words for whoever wrote it.
    pub(super) fn ready(&self) -> Result<Ready, String> {
        let (mut keys, mut unenforced, mut grammars) = (FreeKeys::None, Vec::new(), Vec::new());
        for piece in &self.pieces {
            let mut grammar = match &piece.text {
                Text::Regex(text) => GrammarWithLexer::from_regex(text),
                Text::Lark(text) | Text::Rules(text) => GrammarWithLexer::from_lark(text.clone()),
                Text::Schema(text) => {
                    let read = text.read().map_err(|problem| text.refusal(&problem))?;
                    // Which keys came is followed where JSON is all that comes.
                    if !self.is_callers_own() {
                        keys = keys.max(read.keys);
                    }
                    unenforced.extend(read.unenforced.iter().map(|problem| text.told(problem)));
                    GrammarWithLexer::from_json_schema(text.spaced(read.schema))
                }
            };
            grammar.name = (!piece.name.is_empty()).then(|| piece.name.clone());
            grammars.push(grammar);
        }
        Ok(Ready { grammar: TopLevelGrammar { grammars, max_tokens: None }, keys, unenforced })
    }

    /// The same with any JSON in place of the lenient schemas, and what that gives up.
    pub(super) fn without_lenient(&self) -> Option<(Self, Vec<String>)> {
        let (mut source, mut told) = (self.clone(), Vec::new());
        for piece in &mut source.pieces {
            if let Text::Schema(text) = &mut piece.text
                && text.lenient
            {
                told.push(text.told(&Problem::whole("is too complex as a whole to be enforced")));
                text.schema = if text.tool.is_some() { json!({"type": "object"}) } else { json!({}) };
            }
        }
        (!told.is_empty() && source != *self).then_some((source, told))
    }
}

impl SchemaText {
    fn read(&self) -> Result<Enforced, Problem> {
        schema::enforce(&self.schema, self.lenient)
    }

    fn owner(&self) -> String {
        self.tool.as_ref().map(|name| format!("the parameters of {name:?}: ")).unwrap_or_default()
    }

    pub(super) fn refusal(&self, problem: &Problem) -> String {
        let advice = if self.lenient { "" } else { " (or send `strict: false` to have the rest enforced)" };
        format!("{}{problem}{advice}", self.owner())
    }

    fn told(&self, problem: &Problem) -> String {
        format!("{}{problem}", self.owner())
    }

    fn spaced(&self, schema: Value) -> Value {
        let options = if self.compact {
            json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "})
        } else {
            json!({"whitespace_pattern": WHITE_SPACE})
        };
        let mut schema = schema;
        if let Some(object) = schema.as_object_mut() {
            object.insert("x-guidance".into(), options);
        }
        schema
    }
}
