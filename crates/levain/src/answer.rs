//! An answer while it arrives: text to standard output, thinking to standard error, figures at the end.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use levain_chat::{ChatEvent, ChatRequest, FinishReason, Message, Part, Provider, Role, Sampling, Usage};

use crate::cli::AnswerArgs;
use crate::error::CliError;
use crate::printer::{DIM, Printer};
use crate::progress::seconds;

/// What came of a request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The answer's text.
    pub(crate) text: String,
    /// The model's thinking.
    pub(crate) reasoning: String,
    /// Why it ended; `None` if it was stopped by the user.
    pub(crate) finish: Option<FinishReason>,
    /// Counts and times, if the answer came to its end.
    pub(crate) usage: Option<Usage>,
}

impl Answer {
    /// The answer as a turn of the conversation; `None` if nothing was said.
    pub(crate) fn message(&self) -> Option<Message> {
        let mut parts = Vec::new();
        if !self.reasoning.is_empty() {
            parts.push(Part::Reasoning { text: self.reasoning.clone() });
        }
        if !self.text.is_empty() {
            parts.push(Part::Text { text: self.text.clone() });
        }
        (!parts.is_empty()).then_some(Message { role: Role::Assistant, parts })
    }
}

/// What to show while an answer arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    /// The text, on standard output.
    pub(crate) text: bool,
    /// The thinking, on standard error.
    pub(crate) reasoning: bool,
}

/// The request for a conversation.
pub(crate) fn request(model: &str, messages: Vec<Message>, args: &AnswerArgs) -> ChatRequest {
    ChatRequest {
        model: model.to_owned(),
        messages,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            seed: args.seed,
            ..Sampling::default()
        },
        max_tokens: args.max_tokens,
        reasoning_budget: args.reasoning_budget,
        n: 1,
        ..ChatRequest::default()
    }
}

/// Asks, shows what comes, and gathers it until `interrupted` is ready; what came before is kept.
pub(crate) async fn stream(
    printer: Printer,
    provider: &dyn Provider,
    request: ChatRequest,
    show: Show,
    interrupted: impl Future<Output = ()>,
) -> Result<Answer, CliError> {
    let mut answer = Answer::default();
    let mut screen = Screen { printer, show, in_reasoning: false, line_open: false };
    tokio::pin!(interrupted);
    let mut events = tokio::select! {
        events = provider.chat(request) => events?,
        () = &mut interrupted => return Ok(answer),
    };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut interrupted => break,
        };
        match event {
            None => break,
            Some(Err(error)) => {
                screen.end()?;
                return Err(error.into());
            }
            Some(Ok(ChatEvent::Reasoning { text, .. })) => {
                screen.reasoning(&text);
                answer.reasoning.push_str(&text);
            }
            Some(Ok(ChatEvent::Text { text, .. })) => {
                screen.text(&text)?;
                answer.text.push_str(&text);
            }
            Some(Ok(ChatEvent::Finish { reason, .. })) => answer.finish = Some(reason),
            Some(Ok(ChatEvent::Usage(usage))) => answer.usage = Some(usage),
            Some(Ok(_)) => {}
        }
    }
    screen.end()?;
    Ok(answer)
}

/// Keeps thinking and answer apart on the screen.
struct Screen {
    printer: Printer,
    show: Show,
    in_reasoning: bool,
    line_open: bool,
}

impl Screen {
    fn reasoning(&mut self, text: &str) {
        if self.show.reasoning {
            self.in_reasoning = true;
            let text = printable(text);
            self.printer.say_part(format_args!("{DIM}{text}{DIM:#}"));
        }
    }

    fn text(&mut self, text: &str) -> Result<(), CliError> {
        if !self.show.text {
            return Ok(());
        }
        if self.in_reasoning {
            self.in_reasoning = false;
            self.printer.say_part("\n\n");
        }
        if let Some(last) = text.chars().last() {
            self.line_open = last != '\n';
        }
        self.printer.text(text)
    }

    fn end(&mut self) -> Result<(), CliError> {
        if self.in_reasoning {
            self.printer.say("");
        }
        if self.line_open { self.printer.raw(b"\n") } else { Ok(()) }
    }
}

/// A model's text without what a terminal would obey: control characters but line ends and tabs.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Tokens a second; `None` if there were none or no time passed.
pub(crate) fn rate(tokens: u64, time: Duration) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = tokens as f64 / time.as_secs_f64();
    (tokens > 0 && rate.is_finite()).then_some(rate)
}

/// One line of figures.
pub(crate) fn figures(usage: &Usage) -> String {
    let fresh = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let mut parts = Vec::new();
    if usage.reasoning_tokens > 0 {
        parts.push(format!(
            "thought for {}, {} tokens",
            seconds(usage.reasoning_time),
            usage.reasoning_tokens
        ));
    }
    let mut prefill = format!("prefill {fresh} tokens");
    if let Some(rate) = rate(fresh, usage.prefill_time) {
        prefill += &format!(" at {rate:.0} tok/s");
    }
    if usage.cached_tokens > 0 {
        prefill += &format!(" ({} cached)", usage.cached_tokens);
    }
    parts.push(prefill);
    let mut decode = format!("decode {} tokens", usage.completion_tokens);
    // The first token belongs to the prefill.
    if let Some(rate) = rate(usage.completion_tokens.saturating_sub(1), usage.decode_time) {
        decode += &format!(" at {rate:.1} tok/s");
    }
    if usage.drafted_tokens > 0 {
        decode += &format!(" ({} of {} drafted were right)", usage.accepted_tokens, usage.drafted_tokens);
    }
    parts.push(decode);
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_can_not_drive_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\tc\n\u{9b}2J\x07é"), "a\u{fffd}[31mb\tc\n\u{fffd}2J\u{fffd}é");
    }

    #[test]
    fn figures_leave_out_what_is_not_known() {
        let usage = Usage {
            prompt_tokens: 110,
            cached_tokens: 10,
            completion_tokens: 21,
            prefill_time: Duration::from_millis(500),
            decode_time: Duration::from_secs(2),
            ..Usage::default()
        };
        assert_eq!(
            figures(&usage),
            "prefill 100 tokens at 200 tok/s (10 cached) · decode 21 tokens at 10.0 tok/s"
        );
        let drafted = Usage { drafted_tokens: 9, accepted_tokens: 4, ..usage };
        assert!(figures(&drafted).ends_with("decode 21 tokens at 10.0 tok/s (4 of 9 drafted were right)"));
        assert_eq!(figures(&Usage::default()), "prefill 0 tokens · decode 0 tokens");
    }
}
