//! A model's chat template, and what its text tells about the model: think tags, tool syntax, R1's kin.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use levain_chat::{
    ChatRequest, Message, ProviderError, ReasoningEffort, RenderedPrompt, ResponseFormat, Tool, ToolChoice,
};
use levain_tokenizer::{ChatInput, ChatTemplate, Date, RenderedChat, Tokenizer, TokenizerError};
use serde_json::{Map, Value};

use crate::{
    error::{LocalError, from_tokenizer},
    files::Vocabulary,
    guide::{check_schema, invalid},
    messages::{self, Arguments},
    reasoning::{PromptState, ThinkTags},
    sandbox::{TemplateProcesses, TemplateWorker},
    tools::{self, ToolSyntax},
    turn::{self, Ending},
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

/// A prompt, and how to read what follows it.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    /// Where the prompt leaves the model, but for what is `said`.
    pub(crate) state: PromptState,
    /// What the prompt ends with that the answer goes on with; it is read as part of the answer, and not given back.
    pub(crate) said: String,
    /// The syntax of calls, if functions are on offer.
    pub(crate) syntax: Option<ToolSyntax>,
}

impl Template {
    /// Compiles the template of a model, if it has one, or `given` in its place.
    pub(crate) fn load(
        vocabulary: &mut Vocabulary,
        given: Option<String>,
        worker: Option<&TemplateWorker>,
    ) -> Result<Option<Self>, LocalError> {
        let Some(source) = given else {
            let path = &vocabulary.path;
            return Self::compile(&vocabulary.tokenizer, worker)
                .map_err(|source| LocalError::Tokenizer { path: path.clone(), source });
        };
        vocabulary.tokenizer.set_chat_template(source);
        Self::compile(&vocabulary.tokenizer, worker).map_err(LocalError::ChatTemplate)
    }

    fn compile(
        tokenizer: &Tokenizer,
        worker: Option<&TemplateWorker>,
    ) -> Result<Option<Self>, TokenizerError> {
        let Some(source) = tokenizer.chat_template_source() else { return Ok(None) };
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

    /// Renders and tokenizes a conversation: the one way from a request to what a model sees.
    pub(crate) fn prompt(
        &self,
        tokenizer: &Tokenizer,
        request: &ChatRequest,
        date: Date,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Prompt, ProviderError> {
        let offered = offered_tools(request)?;
        let (needs_tools, has_tool_parts) =
            (!offered.is_empty(), messages::has_tool_parts(&request.messages));
        let compiled = match &self.with_tools {
            Some(with_tools) if needs_tools || has_tool_parts => with_tools,
            _ => &self.plain,
        };
        if compiled.syntax.is_none() {
            compiled.refuse_tools(needs_tools, has_tool_parts)?;
        }
        let view = View { template: self, compiled, request, offered, date, cancelled };
        let (rendered, state, said) = turn::prompt(&view)?;
        let tokens =
            tokenizer.encode_prompt(&rendered).map_err(|error| from_tokenizer("messages", &error))?;
        let syntax = compiled.syntax.filter(|_| needs_tools);
        Ok(Prompt { text: rendered.text().to_owned(), tokens, state, said, syntax })
    }
}

/// A request as one of a model's templates sees it.
pub(crate) struct View<'a> {
    template: &'a Template,
    compiled: &'a Compiled,
    pub(crate) request: &'a ChatRequest,
    offered: &'a [Tool],
    date: Date,
    cancelled: &'a dyn Fn() -> bool,
}

impl View<'_> {
    pub(crate) fn tags(&self) -> Option<&ThinkTags> {
        self.template.tags.as_ref()
    }

    pub(crate) fn render(
        &self,
        messages: &[Message],
        ending: Ending<'_>,
    ) -> Result<RenderedChat, ProviderError> {
        let kwargs = self.variables()?;
        self.compiled.render(messages, ending, self, kwargs)
    }

    /// What the template should have written, where a turn begins, to make the model think, or not.
    pub(crate) fn suffix(&self, state: PromptState) -> String {
        let Some(ThinkTags { open, close }) = self.tags() else { return String::new() };
        let thinks = thinks(self.request);
        match state {
            PromptState::Open if !thinks => format!("\n{close}\n\n"),
            PromptState::Before if !thinks => format!("{open}\n\n{close}\n\n"),
            // Early copies of R1's templates leave the opening tag to the model, which then often skips thinking.
            PromptState::Before if self.template.is_r1 && !self.compiled.template.mentions(open) => {
                format!("{open}\n")
            }
            _ => String::new(),
        }
    }

    /// The request's variables for the template, and those that its other fields mean.
    fn variables(&self) -> Result<Map<String, Value>, ProviderError> {
        let request = self.request;
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
        let speaks_of_effort = self.compiled.template.mentions("reasoning_effort");
        if let Some(word) = word {
            if self.tags().is_none() && !speaks_of_effort {
                return Err(ProviderError::Unsupported {
                    param: "reasoning_effort".into(),
                    message: "this model does not think before it answers; leave the field out".to_owned(),
                });
            }
            variables.entry("reasoning_effort").or_insert_with(|| word.into());
        }
        if self.tags().is_some() {
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
                param: param.into(),
                message: "this model's chat template has no tools, or writes calls in a form that is not known here; \
                          choose a model that was made for tools"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn render(
        &self,
        messages: &[Message],
        ending: Ending<'_>,
        view: &View<'_>,
        kwargs: Map<String, Value>,
    ) -> Result<RenderedChat, ProviderError> {
        let tools = (!view.offered.is_empty()).then(|| messages::tools_to_template(view.offered));
        let render = |input: &ChatInput| self.template.render_unless(input, view.cancelled);
        let mut input = ChatInput {
            messages: Value::Null,
            tools,
            add_generation_prompt: ending == Ending::NewTurn,
            date: Some(view.date),
            kwargs,
        };
        let list = |arguments| {
            let mut list = messages::to_template(messages, arguments)?;
            if let (Ending::Content(text), Some(last)) = (ending, list.last_mut()) {
                last["content"] = text.into();
            }
            Ok::<_, ProviderError>(list)
        };
        let mut shown = list(Arguments::Object)?;
        input.messages = shown.clone().into();
        let mut rendered = render(&input);
        if matches!(rendered, Err(TokenizerError::TemplateFailed { .. }))
            && messages::has_tool_parts(messages)
        {
            shown = list(Arguments::Text)?;
            input.messages = shown.clone().into();
            rendered = render(&input).or(rendered);
        }
        let rendered = rendered.map_err(|error| from_tokenizer("messages", &error))?;
        let Some(syntax) = self.syntax.filter(|_| input.tools.is_some()) else { return Ok(rendered) };
        let Some(tools) = input.tools.take() else { return Ok(rendered) };
        let silent = render(&input).map_err(|error| from_tokenizer("messages", &error))?;
        if silent.text() != rendered.text() {
            return Ok(rendered);
        }
        // The template knows calls and results but does not tell the model of the functions: DeepSeek's.
        tools::describe(syntax, &tools, &mut shown);
        input.messages = shown.into();
        render(&input).map_err(|error| from_tokenizer("messages", &error))
    }
}

/// What a model sees of a request: the one function that chats and those who only look go through.
pub(crate) fn prompt(
    template: Option<&Template>,
    tokenizer: &Tokenizer,
    request: &ChatRequest,
    date: Date,
    cancelled: &dyn Fn() -> bool,
) -> Result<Prompt, ProviderError> {
    let template = template.ok_or_else(|| ProviderError::Unsupported {
        param: "messages".into(),
        message:
            "this model has no chat template: give one with --chat-template FILE, or ask /v1/completions"
                .to_owned(),
    })?;
    template.prompt(tokenizer, request, date, cancelled)
}

/// A chat template without a model, rendered by `worker` where there is one, as a model's is.
///
/// # Errors
/// If it is no valid template.
pub fn bare_template(
    source: &str,
    bos: &str,
    eos: &str,
    worker: Option<&TemplateWorker>,
) -> Result<ChatTemplate, TokenizerError> {
    match worker {
        Some(worker) => ChatTemplate::new_by(source, bos, eos, &|source| {
            Ok(Arc::new(TemplateProcesses::start(worker, source)?))
        }),
        None => ChatTemplate::new(source, bos, eos),
    }
}

/// A vocabulary and its chat template without weights: it shows what the model would see.
pub struct PromptRenderer {
    tokenizer: Tokenizer,
    template: Option<Template>,
}

impl PromptRenderer {
    /// Takes the vocabulary's own template, or another in its place.
    ///
    /// # Errors
    /// If the template is no valid one.
    pub fn new(
        mut vocabulary: Vocabulary,
        chat_template: Option<String>,
        worker: Option<&TemplateWorker>,
    ) -> Result<Self, LocalError> {
        let template = Template::load(&mut vocabulary, chat_template, worker)?;
        Ok(Self { tokenizer: vocabulary.tokenizer, template })
    }

    /// The prompt that a model with this vocabulary and template gets for a request on that day.
    ///
    /// # Errors
    /// As a chat with the same request.
    pub fn render(&self, request: &ChatRequest, date: Date) -> Result<RenderedPrompt, ProviderError> {
        let prompt = prompt(self.template.as_ref(), &self.tokenizer, request, date, &|| false)?;
        Ok(RenderedPrompt { text: prompt.text, tokens: prompt.tokens })
    }
}

impl std::fmt::Debug for PromptRenderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptRenderer").field("template", &self.template).finish_non_exhaustive()
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

/// Today, as templates print it.
pub(crate) fn today() -> Date {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date::from_unix(since.as_secs())
}
