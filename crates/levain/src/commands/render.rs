//! `levain render`

use std::time::{SystemTime, UNIX_EPOCH};

use levain_tokenizer::{ChatInput, ChatTemplate, Date};
use serde_json::{Map, Value, json};

use crate::app::{App, read_text};
use crate::cli::RenderArgs;
use crate::commands::tokenize;
use crate::error::CliError;

/// Prints what a model sees of a conversation: exactly, with nothing at the end.
pub(crate) fn run(app: &App, args: &RenderArgs) -> Result<(), CliError> {
    let input = input(args)?;
    let vocabulary = args.model.as_deref().map(|model| tokenize::open(app, model)).transpose()?;
    let own = args.template.as_deref().map(read_text).transpose()?;
    let template = match (&vocabulary, &own) {
        (Some(vocabulary), own) => {
            let source = own.as_deref().or(vocabulary.template.as_deref());
            if source.is_none() && vocabulary.tokenizer.chat_template_source().is_none() {
                let message = format!("{} has no chat template", vocabulary.path.display());
                return Err(CliError::input_with(message, "give one with --template FILE.jinja"));
            }
            vocabulary.tokenizer.chat_template(source)?
        }
        (None, Some(source)) => {
            ChatTemplate::new(source, args.bos.as_deref().unwrap_or(""), args.eos.as_deref().unwrap_or(""))?
        }
        (None, None) => return Err(CliError::input("name a model, or give a template with --template")),
    };
    if vocabulary.is_some() && (args.bos.is_some() || args.eos.is_some()) {
        return Err(CliError::input("--bos and --eos go with --template alone: a model brings its own"));
    }
    let rendered = template.render(&input)?;
    if !args.json {
        return app.printer.text(rendered.text());
    }
    let mut out = json!({ "text": rendered.text() });
    if let Some(vocabulary) = &vocabulary {
        out["tokens"] = json!(vocabulary.tokenizer.encode_prompt(&rendered)?);
    }
    app.printer.json(&out)
}

fn input(args: &RenderArgs) -> Result<ChatInput, CliError> {
    let mut messages = json_file(&args.messages)?;
    let mut tools = args.tools.as_deref().map(json_file).transpose()?;
    // A whole request works as well as its list of messages.
    if let Value::Object(request) = &mut messages {
        let missing = || CliError::input(format!("{} holds no \"messages\"", args.messages.display()));
        tools = tools.or_else(|| request.remove("tools"));
        messages = request.remove("messages").ok_or_else(missing)?;
    }
    if !messages.is_array() {
        return Err(CliError::input(format!("{} holds no list of messages", args.messages.display())));
    }
    let kwargs = match &args.kwargs {
        None => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(kwargs)) => kwargs,
            Ok(_) => return Err(CliError::input("--kwargs is not a JSON object")),
            Err(error) => return Err(CliError::input(format!("--kwargs is not JSON: {error}"))),
        },
    };
    let date = match &args.date {
        Some(text) => day(text)
            .ok_or_else(|| CliError::input(format!("{text:?} is not a day: write for example 2025-01-20")))?,
        None => {
            Date::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
        }
    };
    Ok(ChatInput {
        messages,
        tools: tools.filter(|tools| !tools.is_null()),
        add_generation_prompt: !args.no_generation_prompt,
        date: Some(date),
        kwargs,
    })
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
