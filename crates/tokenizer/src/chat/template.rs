//! A chat template and what it renders.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    date::Date,
    guard::{self, Guard},
    renderer::{CompiledTemplate, RenderFailure, RenderJob, TemplateRenderer},
    source,
};
use crate::{
    error::{Result, TokenizerError},
    tokenizer::{SpecialTokens, Tokenizer},
};

/// Steps that every rendering may take; one is an instruction or 64 bytes of text.
const FUEL_FREE: u64 = 200_000;
/// Further steps for each value of the input.
const FUEL_PER_VALUE: u64 = 1_000;
/// Bytes of output that every rendering may have, and how many more for each byte of input.
const OUTPUT_BYTES_FREE: usize = 1 << 20;
const OUTPUT_PER_INPUT_BYTE: usize = 4;
/// Variables that only the template's surroundings set.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "raise_exception",
    "strftime_now",
    "namespace",
    "range",
    "dict",
];

/// A conversation to be rendered, in the form that Hugging Face's `apply_chat_template` takes.
#[derive(Debug, Clone, Default)]
pub struct ChatInput {
    /// A list of `{"role": …, "content": …}`.
    pub messages: Value,
    /// A list of `{"type": "function", "function": {…}}`.
    pub tools: Option<Value>,
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// What `strftime_now` prints. Without it the function is not defined, and templates use their own default.
    pub date: Option<Date>,
    /// Further variables, such as `enable_thinking`.
    pub kwargs: serde_json::Map<String, Value>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    renderer: Arc<dyn TemplateRenderer>,
    source: String,
    literals: Vec<String>,
    variables: Vec<(&'static str, String)>,
    guard: Arc<Guard>,
}

impl ChatTemplate {
    /// Compiles a template with the texts of the tokens that begin and end a text. It knows no other control tokens:
    /// [`Tokenizer::chat_template`] makes one whose prompts can be tokenized.
    ///
    /// # Errors
    /// If it is no valid template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        Self::new_by(source, bos, eos, &in_process)
    }

    /// As [`new`](Self::new), rendered by what `renderer` makes of the source.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn new_by(source: &str, bos: &str, eos: &str, renderer: &MakeRenderer<'_>) -> Result<Self> {
        let control = [bos, eos].iter().filter(|t| !t.is_empty()).map(|t| (*t).to_owned()).collect();
        let variables = vec![("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())];
        Self::compile(source, variables, control, renderer)
    }

    fn compile(
        original: &str,
        variables: Vec<(&'static str, String)>,
        control: Vec<String>,
        renderer: &MakeRenderer<'_>,
    ) -> Result<Self> {
        if original.chars().any(guard::is_reserved) {
            return Err(TokenizerError::TemplateSyntax {
                problem: "it holds characters from U+10F000 to U+10F7FF, which stand for others here".into(),
            });
        }
        let renderer = renderer(original)?;
        let literals = source::string_literals(&source::with_plain_line_ends(original));
        let guard = Arc::new(Guard::new(control, &literals)?);
        Ok(Self { renderer, source: original.to_owned(), literals, variables, guard })
    }

    /// The same template for a model with these control tokens besides.
    ///
    /// # Errors
    /// If they can't be told apart from text.
    pub fn guarding(mut self, control: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut all: Vec<String> =
            self.variables.iter().map(|(_, text)| text.clone()).filter(|t| !t.is_empty()).collect();
        all.extend(control);
        all.sort();
        all.dedup();
        self.guard = Arc::new(Guard::new(all, &self.literals)?);
        Ok(self)
    }

    /// The source as given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the source speaks of `name`: a sign that the template can use a variable such as `tools`.
    pub fn mentions(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// If the template refuses it by `raise_exception`, fails, or does more work than a conversation of this size
    /// can need.
    pub fn render(&self, input: &ChatInput) -> Result<RenderedChat> {
        self.render_unless(input, &|| false)
    }

    /// As [`render`](Self::render), given up when `cancelled` says so, if the renderer can.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_unless(&self, input: &ChatInput, cancelled: &dyn Fn() -> bool) -> Result<RenderedChat> {
        let mut size = Size::default();
        let mut protect = |value: &Value| {
            size.add(value);
            self.guard.protect_value(value, false, 0)
        };
        let mut variables = Map::new();
        for (name, value) in &input.kwargs {
            if RESERVED.contains(&name.as_str()) {
                return Err(TokenizerError::TemplateFailed {
                    problem: format!("{name:?} can't be set as a template variable"),
                });
            }
            variables.insert(name.clone(), protect(value)?);
        }
        variables.insert("messages".to_owned(), protect(&input.messages)?);
        variables.insert("tools".to_owned(), input.tools.as_ref().map_or(Ok(Value::Null), protect)?);
        variables.insert("add_generation_prompt".to_owned(), input.add_generation_prompt.into());
        variables.entry("documents").or_insert(Value::Null);
        for (name, text) in &self.variables {
            variables.insert((*name).to_owned(), text.as_str().into());
        }
        let job = RenderJob {
            variables,
            date: input.date,
            fuel: FUEL_FREE + size.values.saturating_mul(FUEL_PER_VALUE).saturating_add(size.bytes),
            output_bytes_max: (size.bytes as usize)
                .saturating_mul(OUTPUT_PER_INPUT_BYTE)
                .saturating_add(OUTPUT_BYTES_FREE),
        };
        let guarded = self.renderer.render(&job, cancelled)?;
        Ok(RenderedChat { text: self.guard.restore(&guarded), guarded, guard: Arc::clone(&self.guard) })
    }
}

/// Makes what carries out the renderings of a source; refuses a source that is no template.
pub type MakeRenderer<'a> =
    dyn Fn(&str) -> std::result::Result<Arc<dyn TemplateRenderer>, RenderFailure> + 'a;

fn in_process(source: &str) -> std::result::Result<Arc<dyn TemplateRenderer>, RenderFailure> {
    Ok(Arc::new(CompiledTemplate::new(source)?))
}

/// How large an input is.
#[derive(Default)]
struct Size {
    values: u64,
    bytes: u64,
}

impl Size {
    fn add(&mut self, value: &Value) {
        // Not recursive: the depth of the input has not been looked at yet.
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            self.values += 1;
            match value {
                Value::String(text) => self.bytes += text.len() as u64,
                Value::Array(items) => open.extend(items),
                Value::Object(fields) => {
                    self.bytes += fields.keys().map(|k| k.len() as u64).sum::<u64>();
                    open.extend(fields.values());
                }
                _ => {}
            }
        }
    }
}

/// A rendered conversation, which still knows what was written by the template and what came from outside.
#[derive(Clone)]
pub struct RenderedChat {
    text: String,
    guarded: String,
    guard: Arc<Guard>,
}

impl RenderedChat {
    /// The prompt as text. Reading it back with control tokens parsed is unsafe: use [`Tokenizer::encode_prompt`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds text of the template's own: control tokens in it count.
    pub fn push_template(&mut self, text: &str) {
        self.guarded.push_str(text);
        self.text.push_str(text);
    }

    /// Adds what an assistant has said: its tags of thinking count as they do inside a message, other control tokens
    /// are text.
    pub fn push_answer(&mut self, text: &str) {
        self.guarded.push_str(&self.guard.protect(text, true));
        self.text.push_str(text);
    }

    /// Ends the prompt before the last place where `said`, the whole content of an assistant's message, was written out.
    /// Returns false, and changes nothing, if the template wrote it nowhere as it is.
    #[must_use]
    pub fn end_before(&mut self, said: &str) -> bool {
        let Some(at) = self.guarded.rfind(&self.guard.protect(said, true)) else { return false };
        self.truncate(at);
        true
    }

    /// Takes `tag`, and the white space behind it, off the end. Returns false, and changes nothing, if the prompt does
    /// not end so.
    #[must_use]
    pub fn strip_end(&mut self, tag: &str) -> bool {
        let Some(rest) = self.guarded.trim_end().strip_suffix(tag) else { return false };
        self.truncate(rest.len());
        true
    }

    fn truncate(&mut self, guarded_bytes: usize) {
        self.guarded.truncate(guarded_bytes);
        self.text = self.guard.restore(&self.guarded);
    }
}

impl std::fmt::Debug for RenderedChat {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("RenderedChat").field(&self.text).finish()
    }
}

impl Tokenizer {
    /// Compiles a chat template for this tokenizer; without a source the one from its files.
    ///
    /// # Errors
    /// If it is no valid template, or if there is none.
    pub fn chat_template(&self, source: Option<&str>) -> Result<ChatTemplate> {
        self.chat_template_by(source, &in_process)
    }

    /// As [`chat_template`](Self::chat_template), rendered by what `renderer` makes of the source.
    ///
    /// # Errors
    /// As [`chat_template`](Self::chat_template).
    pub fn chat_template_by(
        &self,
        source: Option<&str>,
        renderer: &MakeRenderer<'_>,
    ) -> Result<ChatTemplate> {
        let Some(source) = source.or(self.chat_template_source()) else {
            return Err(TokenizerError::TemplateSyntax {
                problem: "the model's files have no chat template".into(),
            });
        };
        let text = |id: Option<u32>| id.and_then(|id| self.token_text(id)).map(str::to_owned);
        let mut variables =
            vec![("bos_token", self.bos_text().to_owned()), ("eos_token", self.eos_text().to_owned())];
        variables.extend(text(self.unk_id()).map(|t| ("unk_token", t)));
        variables.extend(text(self.pad_id()).map(|t| ("pad_token", t)));
        let control: Vec<String> = self.control_texts().map(str::to_owned).collect();
        ChatTemplate::compile(source, variables, Vec::new(), renderer)?.guarding(control)
    }

    /// The tokens of a rendered conversation: the template's control tokens become tokens, what came from outside never
    /// does. Nothing is put around it: templates write the token that begins a text themselves.
    ///
    /// # Errors
    /// If the template was not compiled for this tokenizer, or if the vocabulary can't spell the text.
    pub fn encode_prompt(&self, prompt: &RenderedChat) -> Result<Vec<u32>> {
        if let Some(missing) = self.control_texts().find(|text| !prompt.guard.covers(text)) {
            return Err(TokenizerError::Unguarded { missing: missing.to_owned() });
        }
        let mut out = Vec::with_capacity(prompt.text.len() / 3 + 8);
        let mut at_start = true;
        for fragment in self.control_fragments(&prompt.guarded) {
            match fragment {
                crate::added::Fragment::Token { id } => {
                    out.push(id);
                    at_start = self.restart_after_token;
                }
                crate::added::Fragment::Text { start, end } => {
                    let run = prompt.guard.restore(prompt.guarded.get(start..end).unwrap_or_default());
                    self.encode_run(&run, SpecialTokens::AsText, &mut at_start, &mut out)?;
                }
            }
        }
        Ok(out)
    }
}
