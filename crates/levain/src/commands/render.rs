//! `levain render`

use std::time::{SystemTime, UNIX_EPOCH};

use levain_chat::ChatRequest;
use levain_local::{PromptRenderer, bare_template};
use levain_tokenizer::{ChatInput, Date};
use levain_wire::openai::ChatCall;
use serde_json::{Map, Value, json};

use crate::app::{App, read_text};
use crate::cli::RenderArgs;
use crate::commands::tokenize;
use crate::error::CliError;
use crate::model::template_worker;

/// Prints what a model sees of a conversation: exactly, with nothing at the end.
pub(crate) fn run(app: &App, args: &RenderArgs) -> Result<(), CliError> {
    let body = body(args)?;
    let date = date(args)?;
    let own = args.template.as_deref().map(read_text).transpose()?;
    let out = match (&args.model, own) {
        (Some(model), own) => {
            if args.bos.is_some() || args.eos.is_some() {
                let message = "--bos and --eos go with --template alone: a model brings its own";
                return Err(CliError::input(message));
            }
            let vocabulary = tokenize::open(app, model)?;
            if own.is_none() && vocabulary.tokenizer.chat_template_source().is_none() {
                let message = format!("{} has no chat template", vocabulary.path.display());
                return Err(CliError::input_with(message, "give one with --chat-template FILE"));
            }
            let request = request(body)?;
            let renderer = PromptRenderer::new(vocabulary, own, template_worker().as_ref())?;
            let prompt = renderer.render(&request, date)?;
            json!({ "text": prompt.text, "tokens": prompt.tokens })
        }
        (None, Some(source)) => {
            let (bos, eos) = (args.bos.as_deref().unwrap_or(""), args.eos.as_deref().unwrap_or(""));
            let template = bare_template(&source, bos, eos, template_worker().as_ref())?;
            let rendered = template.render(&bare_input(body, date)?)?;
            json!({ "text": rendered.text() })
        }
        (None, None) => return Err(CliError::input("name a model, or give a template with --template")),
    };
    if args.json {
        return app.printer.json(&out);
    }
    app.printer.text(out["text"].as_str().unwrap_or_default())
}

/// The request that the files and options make up, as a client would send it.
fn body(args: &RenderArgs) -> Result<Map<String, Value>, CliError> {
    let mut body = match json_file(&args.messages)? {
        // A whole request works as well as its list of messages.
        Value::Object(request) if request.contains_key("messages") => request,
        Value::Object(_) => {
            return Err(CliError::input(format!("{} holds no \"messages\"", args.messages.display())));
        }
        messages => Map::from_iter([("messages".to_owned(), messages)]),
    };
    if !body["messages"].is_array() {
        return Err(CliError::input(format!("{} holds no list of messages", args.messages.display())));
    }
    if let Some(tools) = &args.tools {
        body.insert("tools".to_owned(), json_file(tools)?);
    }
    if let Some(text) = &args.kwargs {
        let kwargs = match serde_json::from_str(text) {
            Ok(Value::Object(kwargs)) => kwargs,
            Ok(_) => return Err(CliError::input("--kwargs is not a JSON object")),
            Err(error) => return Err(CliError::input(format!("--kwargs is not JSON: {error}"))),
        };
        body.insert("chat_template_kwargs".to_owned(), kwargs.into());
    }
    if args.no_generation_prompt {
        body.insert("add_generation_prompt".to_owned(), false.into());
    }
    Ok(body)
}

/// The body as the server reads it.
fn request(mut body: Map<String, Value>) -> Result<ChatRequest, CliError> {
    body.insert("model".to_owned(), "-".into());
    let call = ChatCall::from_bytes(Value::from(body).to_string().as_bytes());
    call.map(|call| call.request).map_err(|error| CliError::input(error.message))
}

/// A template without a model gets what transformers would give to it: no model's ways are known.
fn bare_input(mut body: Map<String, Value>, date: Date) -> Result<ChatInput, CliError> {
    let kwargs = match body.remove("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) => return Err(CliError::input("chat_template_kwargs is not a JSON object")),
    };
    let add_generation_prompt = match body.remove("add_generation_prompt") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(add)) => add,
        Some(_) => return Err(CliError::input("add_generation_prompt is neither true nor false")),
    };
    if body.remove("continue_final_message") == Some(Value::Bool(true)) {
        let message = "a template alone can't say where a message goes on: name a model as well";
        return Err(CliError::input(message));
    }
    Ok(ChatInput {
        messages: body.remove("messages").unwrap_or_default(),
        tools: body.remove("tools").filter(|tools| !tools.is_null()),
        add_generation_prompt,
        date: Some(date),
        kwargs,
    })
}

fn date(args: &RenderArgs) -> Result<Date, CliError> {
    match &args.date {
        Some(text) => day(text)
            .ok_or_else(|| CliError::input(format!("{text:?} is not a day: write for example 2025-01-20"))),
        None => Ok(Date::from_unix(
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        )),
    }
}

fn json_file(path: &std::path::Path) -> Result<Value, CliError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| CliError::input(format!("{} is not valid JSON: {error}", path.display())))
}

fn day(text: &str) -> Option<Date> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    Date::from_ymd(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)
}
