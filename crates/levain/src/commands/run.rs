//! `levain run`

use std::io::IsTerminal as _;

use levain_chat::{FinishReason, Message, ResponseFormat, Role, Usage};
use serde_json::{Value, json};

use crate::answer::{self, Answer, Show, rate};
use crate::app::{App, read_stdin, read_text};
use crate::cli::RunArgs;
use crate::error::CliError;
use crate::model::{self, Setup};

/// Asks once. The answer goes to standard output, all else to standard error.
pub(crate) fn run(app: &App, args: RunArgs) -> Result<(), CliError> {
    // Whatever is wrong with the input is said before a model is fetched or loaded.
    let prompt = prompt(args.prompt.as_deref())?;
    let schema = args.schema.as_deref().map(schema).transpose()?;
    let chat_template = app.chat_template(args.chat_template.as_deref())?;
    let hub = app.hub()?;
    let stored = app.obtain(&hub, &args.model)?;
    let engine = app.engine_config(&args.engine)?.for_single_answers();
    let draft = app.draft_model(&hub, &args.engine, &engine)?;
    let loaded = model::load(app, &stored, &Setup { engine, draft, chat_template })?;
    let system = args.answer.system.as_deref().or(app.settings.get("chat.system"));
    let mut messages: Vec<Message> =
        system.map(|text| Message::text(Role::System, text)).into_iter().collect();
    messages.push(Message::text(Role::User, prompt));
    let mut request = answer::request(&loaded.name, messages, &args.answer);
    if let Some(schema) = schema {
        request.response_format = ResponseFormat::JsonSchema { schema, strict: None };
    }
    let show = Show { text: !args.json, reasoning: !args.json && !args.answer.no_reasoning };
    let interrupted = app.signals.interrupted();
    let answer = answer::stream(app.printer, &*loaded.provider, request, show, interrupted);
    let answer = app.block_on_uninterrupted(answer)?;
    if answer.finish.is_none() {
        return Err(CliError::Interrupted);
    }
    if args.json {
        app.printer.json(&report(&loaded.name, &answer, args.answer.no_reasoning))?;
    } else if let Some(usage) = &answer.usage {
        app.printer.detail(answer::figures(usage));
    }
    if answer.finish == Some(FinishReason::Length) {
        let tokens = answer.usage.map_or(0, |usage| usage.completion_tokens);
        app.printer.warn(format_args!(
            "the answer was cut after {tokens} tokens; --max-tokens or --context allow more"
        ));
    }
    Ok(())
}

/// The prompt with standard input behind it, if something was piped in.
fn prompt(typed: Option<&str>) -> Result<String, CliError> {
    let piped = if std::io::stdin().is_terminal() { String::new() } else { read_stdin()? };
    let piped = piped.trim_end_matches(['\n', '\r']);
    match (typed, piped) {
        (None | Some(""), "") => Err(CliError::input_with(
            "there is no prompt",
            "write it behind the model's name, or pipe it in; `levain chat MODEL` begins a conversation",
        )),
        (None, piped) => Ok(piped.to_owned()),
        (Some(typed), "") => Ok(typed.to_owned()),
        (Some(typed), piped) => Ok(format!("{typed}\n\n{piped}")),
    }
}

fn schema(path: &std::path::Path) -> Result<Value, CliError> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| CliError::input(format!("{} is not valid JSON: {error}", path.display())))
}

fn report(model: &str, answer: &Answer, without_reasoning: bool) -> Value {
    let reasoning =
        if without_reasoning { None } else { Some(&answer.reasoning).filter(|text| !text.is_empty()) };
    json!({
        "model": model,
        "text": answer.text,
        "reasoning": reasoning,
        "finish_reason": answer.finish,
        "usage": answer.usage.as_ref().map(usage),
    })
}

/// Token counts and times; a rate that is not known is null.
pub(crate) fn usage(usage: &Usage) -> Value {
    let fresh = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "drafted_tokens": usage.drafted_tokens,
        "accepted_tokens": usage.accepted_tokens,
        "queue_s": usage.queue_time.as_secs_f64(),
        "prefill_s": usage.prefill_time.as_secs_f64(),
        "decode_s": usage.decode_time.as_secs_f64(),
        "reasoning_s": usage.reasoning_time.as_secs_f64(),
        "prefill_tokens_per_s": rate(fresh, usage.prefill_time),
        "decode_tokens_per_s": rate(usage.completion_tokens.saturating_sub(1), usage.decode_time),
    })
}
