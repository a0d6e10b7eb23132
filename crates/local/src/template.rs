//! A model's chat template, and what its text tells about the model: think tags, tool syntax, R1's kin.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use levain_chat::{ChatRequest, ProviderError, ReasoningEffort, ResponseFormat, Tool, ToolChoice};
use levain_tokenizer::{
    ChatInput, ChatTemplate, Date, RenderedChat, SpecialTokens, Tokenizer, TokenizerError,
};
use serde_json::{Map, Value};

use crate::{
    error::from_tokenizer,
    guide::{check_schema, invalid},
    messages::{self, Arguments},
    reasoning::{PromptState, ThinkTags},
    sandbox::{TemplateProcesses, TemplateWorker},
    tools::{self, ToolSyntax},
};

/// Functions that a request may offer.
const TOOLS_MAX: usize = 128;
/// Variables that requests may not set: what they would change is decided elsewhere.
const RESERVED: &[&str] =
    &["chat_template", "tokenize", "documents", "custom_tools", "builtin_tools", "return_dict"];
/// The variables by which templates turn thinking on and off.
const THINKING_VARIABLES: [&str; 2] = ["enable_thinking", "thinking"];
/// The name of a second template that some models have for conversations with tools.
const TOOL_TEMPLATE: &str = "tool_use";

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    plain: Compiled,
    with_tools: Option<Compiled>,
    pub(crate) tags: Option<ThinkTags>,
    pub(crate) is_r1: bool,
}

struct Compiled {
    template: ChatTemplate,
    syntax: Option<ToolSyntax>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("syntax", &self.syntax).finish_non_exhaustive()
    }
}

/// A prompt ready for the engine, and how to read what follows it.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) state: PromptState,
    /// The syntax of calls, if functions are on offer.
    pub(crate) syntax: Option<ToolSyntax>,
}

impl Template {
    /// Compiles the template of a model, if it has one.
    pub(crate) fn load(
        tokenizer: &Tokenizer,
        source: Option<&str>,
        worker: Option<&TemplateWorker>,
    ) -> Result<Option<Self>, TokenizerError> {
        let Some(source) = source.or(tokenizer.chat_template_source()) else { return Ok(None) };
        let plain = Compiled::new(tokenizer, source, worker)?;
        let named = tokenizer.named_chat_templates().find(|(name, _)| *name == TOOL_TEMPLATE);
        let with_tools = named.map(|(_, source)| Compiled::new(tokenizer, source, worker)).transpose()?;
        let tags = ThinkTags::detect(source, |token| tokenizer.token_to_id(token).is_some());
        let is_r1 = source.contains("<｜Assistant｜>")
            && tags.as_ref().is_some_and(|tags| source.contains(tags.close.as_str()));
        Ok(Some(Self { plain, with_tools, tags, is_r1 }))
    }

    /// Marks of the model's syntaxes, which may be control tokens of its vocabulary.
    pub(crate) fn marks(&self) -> Vec<String> {
        let syntaxes = [self.plain.syntax, self.with_tools.as_ref().and_then(|compiled| compiled.syntax)];
        let tools = syntaxes.into_iter().flatten().flat_map(ToolSyntax::marks).map(|&mark| mark.to_owned());
        let tags = self.tags.iter().flat_map(|tags| [tags.open.clone(), tags.close.clone()]);
        tools.chain(tags).collect()
    }

    /// Renders and tokenizes a conversation.
    pub(crate) fn prompt(
        &self,
        tokenizer: &Tokenizer,
        request: &ChatRequest,
    ) -> Result<Prompt, ProviderError> {
        let offered = offered_tools(request)?;
        let needs_tools = !offered.is_empty();
        let compiled = match &self.with_tools {
            Some(with_tools) if needs_tools || messages::has_tool_parts(&request.messages) => with_tools,
            _ => &self.plain,
        };
        if compiled.syntax.is_none() {
            compiled.refuse_tools(needs_tools, messages::has_tool_parts(&request.messages))?;
        }
        let kwargs = self.variables(compiled, request)?;
        let rendered = compiled.render(request, offered, kwargs)?;
        let mut tokens =
            tokenizer.encode_prompt(&rendered).map_err(|error| from_tokenizer("messages", &error))?;
        let mut text = rendered.text().to_owned();
        let mut state = PromptState::Before;
        if let Some(tags) = &self.tags {
            state = tags.prompt_state(&text);
            let suffix = self.suffix(compiled, tags, state, request);
            if !suffix.is_empty() {
                let more = tokenizer.encode(&suffix, SpecialTokens::Parse);
                tokens.extend(more.map_err(|error| from_tokenizer("messages", &error))?);
                text.push_str(&suffix);
                state = tags.prompt_state(&text);
            }
        }
        Ok(Prompt { text, tokens, state, syntax: compiled.syntax.filter(|_| needs_tools) })
    }

    /// What the template should have written to make the model think, or not.
    fn suffix(
        &self,
        compiled: &Compiled,
        tags: &ThinkTags,
        state: PromptState,
        request: &ChatRequest,
    ) -> String {
        let ThinkTags { open, close } = tags;
        let thinks = thinks(request);
        match state {
            PromptState::Open if !thinks => format!("\n{close}\n\n"),
            PromptState::Before if !thinks => format!("{open}\n\n{close}\n\n"),
            // Early copies of R1's templates leave the opening tag to the model, which then often skips thinking.
            PromptState::Before if self.is_r1 && !compiled.template.mentions(open) => format!("{open}\n"),
            _ => String::new(),
        }
    }

    /// The request's variables for the template, and those that its other fields mean.
    fn variables(
        &self,
        compiled: &Compiled,
        request: &ChatRequest,
    ) -> Result<Map<String, Value>, ProviderError> {
        let mut variables = Map::new();
        for (name, value) in &request.template_kwargs {
            if RESERVED.contains(&name.as_str()) {
                return Err(invalid("chat_template_kwargs", format!("{name:?} can't be set by a request")));
            }
            variables.insert(name.clone(), value.clone());
        }
        let effort = request.reasoning_effort;
        let word = match effort {
            Some(ReasoningEffort::Low) => Some("low"),
            Some(ReasoningEffort::Medium) => Some("medium"),
            Some(ReasoningEffort::High) => Some("high"),
            Some(ReasoningEffort::None) | None => None,
        };
        let speaks_of_effort = compiled.template.mentions("reasoning_effort");
        if let Some(word) = word {
            if self.tags.is_none() && !speaks_of_effort {
                return Err(ProviderError::Unsupported {
                    param: "reasoning_effort",
                    message: "this model does not think before it answers; leave the field out".to_owned(),
                });
            }
            variables.entry("reasoning_effort").or_insert_with(|| word.into());
        }
        if self.tags.is_some() {
            let thinks = thinks(request);
            for name in THINKING_VARIABLES {
                variables.entry(name).or_insert(thinks.into());
            }
        }
        Ok(variables)
    }
}

impl Compiled {
    fn new(
        tokenizer: &Tokenizer,
        source: &str,
        worker: Option<&TemplateWorker>,
    ) -> Result<Self, TokenizerError> {
        let template = match worker {
            Some(worker) => tokenizer.chat_template_by(Some(source), &|source| {
                Ok(Arc::new(TemplateProcesses::start(worker, source)?))
            }),
            None => tokenizer.chat_template(Some(source)),
        };
        Ok(Self { template: template?, syntax: ToolSyntax::detect(source) })
    }

    fn refuse_tools(&self, offered: bool, spoken_of: bool) -> Result<(), ProviderError> {
        let param = if offered { "tools" } else { "messages" };
        if offered || spoken_of {
            return Err(ProviderError::Unsupported {
                param,
                message: "this model's chat template has no tools, or writes calls in a form that is not known here; \
                          choose a model that was made for tools"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn render(
        &self,
        request: &ChatRequest,
        offered: &[Tool],
        kwargs: Map<String, Value>,
    ) -> Result<RenderedChat, ProviderError> {
        let tools = (!offered.is_empty()).then(|| messages::tools_to_template(offered));
        let mut input = ChatInput {
            messages: Value::Null,
            tools,
            add_generation_prompt: true,
            date: Some(now()),
            kwargs,
        };
        let mut list = messages::to_template(&request.messages, Arguments::Object)?;
        input.messages = list.clone().into();
        let mut rendered = self.template.render(&input);
        if matches!(rendered, Err(TokenizerError::TemplateFailed { .. }))
            && messages::has_tool_parts(&request.messages)
        {
            list = messages::to_template(&request.messages, Arguments::Text)?;
            input.messages = list.clone().into();
            rendered = self.template.render(&input).or(rendered);
        }
        let rendered = rendered.map_err(|error| from_tokenizer("messages", &error))?;
        let Some(syntax) = self.syntax.filter(|_| input.tools.is_some()) else { return Ok(rendered) };
        let Some(tools) = input.tools.take() else { return Ok(rendered) };
        let silent = self.template.render(&input).map_err(|error| from_tokenizer("messages", &error))?;
        if silent.text() != rendered.text() {
            return Ok(rendered);
        }
        // The template knows calls and results but does not tell the model of the functions: DeepSeek's.
        tools::describe(syntax, &tools, &mut list);
        input.messages = list.into();
        self.template.render(&input).map_err(|error| from_tokenizer("messages", &error))
    }
}

/// The functions that the model is told of.
///
/// # Errors
/// Names, schemas and choices that don't fit together.
pub(crate) fn offered_tools(request: &ChatRequest) -> Result<&[Tool], ProviderError> {
    if request.tools.len() > TOOLS_MAX {
        let found = request.tools.len();
        return Err(invalid("tools", format!("{found} functions are on offer and {TOOLS_MAX} may be")));
    }
    for (at, tool) in request.tools.iter().enumerate() {
        tools::check_name(&tool.name)?;
        check_schema("tools", &tool.parameters)?;
        if request.tools.iter().take(at).any(|other| other.name == tool.name) {
            return Err(invalid("tools", format!("two functions have the name {:?}", tool.name)));
        }
    }
    match &request.tool_choice {
        ToolChoice::None => Ok(&[]),
        ToolChoice::Auto => Ok(&request.tools),
        ToolChoice::Required if request.tools.is_empty() => {
            Err(invalid("tool_choice", "a call is required but no function is on offer".to_owned()))
        }
        ToolChoice::Named(name) if !request.tools.iter().any(|tool| tool.name == *name) => {
            Err(invalid("tool_choice", format!("no function of the name {name:?} is on offer")))
        }
        ToolChoice::Required | ToolChoice::Named(_) => Ok(&request.tools),
    }
}

/// Whether the model is to think. Templates differ in what they take for granted; here models that can do, unless told
/// not to by the request's effort or its own variable for the template.
fn thinks(request: &ChatRequest) -> bool {
    let own = THINKING_VARIABLES.iter().find_map(|name| request.template_kwargs.get(*name)?.as_bool());
    own.unwrap_or(request.reasoning_effort != Some(ReasoningEffort::None))
}

/// Whether a request wants its answer in a form.
pub(crate) fn is_formatted(format: &ResponseFormat) -> bool {
    *format != ResponseFormat::Text
}

fn now() -> Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date::from_unix(since.as_secs())
}
