//! Where a prompt ends: where the assistant's turn begins, or in the middle of what it has said.
//!
//! A message that is to go on must end exactly where its text ends, whatever the template does to texts and puts behind
//! them. So the template is shown a stand-in for the text, and its output is cut where that stands. What holds thinking
//! is put behind the beginning of a turn instead: templates take thinking out of messages, or write it their own way.

use levain_chat::{Message, Part, ProviderError, Role, Turn};
use levain_tokenizer::RenderedChat;

use crate::{
    guide::invalid,
    reasoning::{PromptState, ThinkTags},
    template::View,
};

/// Stands in for a message that is to go on. A template that changes quotes or line ends would not do with the text.
const STAND_IN: &str = "This message\ngoes \"on\" here";

/// How a rendering ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending<'a> {
    /// With the beginning of the assistant's turn.
    NewTurn,
    /// With the last message, as it is.
    Message,
    /// With the last message, which says this.
    Content(&'a str),
}

/// The prompt of a request, where it leaves the model, and what has been said since.
pub(crate) fn prompt(view: &View<'_>) -> Result<(RenderedChat, PromptState, String), ProviderError> {
    let messages = view.request.messages.as_slice();
    let Some((last, before)) = messages.split_last() else { return new_turn(view, messages) };
    let is_answer = last.role == Role::Assistant;
    match view.request.turn {
        Turn::New => return new_turn(view, messages),
        Turn::None => {
            let rendered = view.render(messages, Ending::Message)?;
            let state = view.tags().map_or(PromptState::Before, |tags| tags.prompt_state(rendered.text()));
            return Ok((rendered, state, String::new()));
        }
        Turn::Auto if !is_answer => return new_turn(view, messages),
        Turn::Continue if !is_answer => {
            let role = last.role.as_str();
            let message =
                format!("the last message is of the role {role}, and only an assistant's can be continued");
            return Err(invalid("continue_final_message", message));
        }
        Turn::Auto | Turn::Continue => {}
    }
    if last.parts.iter().any(|part| matches!(part, Part::ToolCall(_))) {
        let message = "the last one calls functions, and nothing can be added to a call: add the messages with their \
                       results, or begin a new turn with add_generation_prompt";
        return Err(invalid("messages", message.to_owned()));
    }
    let said = Said::of(last);
    match view.tags() {
        _ if said.content.is_empty() && said.reasoning.is_empty() => new_turn(view, before),
        Some(tags) if said.has_thinking(tags) => go_on_thinking(view, before, tags, said),
        None if said.content.is_empty() => Err(ProviderError::Unsupported {
            param: "messages".into(),
            message: "this model does not think before it answers, so that it can't go on with reasoning_content; put \
                      what it should go on with into content"
                .to_owned(),
        }),
        tags => go_on(view, tags, said.content),
    }
}

/// What a message says.
struct Said {
    reasoning: String,
    content: String,
}

impl Said {
    fn of(message: &Message) -> Self {
        let thoughts = message.parts.iter().filter_map(|part| match part {
            Part::Reasoning { text } => Some(text.as_str()),
            _ => None,
        });
        Self { reasoning: thoughts.collect(), content: message.plain_text() }
    }

    fn has_thinking(&self, tags: &ThinkTags) -> bool {
        !self.reasoning.is_empty() || self.content.trim_start().starts_with(&tags.open)
    }
}

fn new_turn(
    view: &View<'_>,
    messages: &[Message],
) -> Result<(RenderedChat, PromptState, String), ProviderError> {
    let mut rendered = view.render(messages, Ending::NewTurn)?;
    let Some(tags) = view.tags() else { return Ok((rendered, PromptState::Before, String::new())) };
    let state = tags.prompt_state(rendered.text());
    rendered.push_template(&view.suffix(state));
    let state = tags.prompt_state(rendered.text());
    Ok((rendered, state, String::new()))
}

fn go_on(
    view: &View<'_>,
    tags: Option<&ThinkTags>,
    content: String,
) -> Result<(RenderedChat, PromptState, String), ProviderError> {
    let mut rendered = view.render(&view.request.messages, Ending::Content(STAND_IN))?;
    if !rendered.end_before(STAND_IN) {
        return Err(ProviderError::Unsupported {
            param: "messages".into(),
            message: "this model's chat template changes the last message's text or leaves it out, so that it can't be \
                      continued; begin a new turn with add_generation_prompt"
                .to_owned(),
        });
    }
    let state = tags.map_or(PromptState::Before, |tags| tags.prompt_state(rendered.text()));
    rendered.push_answer(&content);
    Ok((rendered, state, content))
}

fn go_on_thinking(
    view: &View<'_>,
    before: &[Message],
    tags: &ThinkTags,
    said: Said,
) -> Result<(RenderedChat, PromptState, String), ProviderError> {
    let (mut rendered, mut state, _) = new_turn(view, before)?;
    let ThinkTags { open, close } = tags;
    let Said { reasoning, content } = said;
    if state == PromptState::Closed {
        let message = "the last one holds thinking, and thinking is turned off: leave one of them out";
        return Err(invalid("messages", message.to_owned()));
    }
    if reasoning.is_empty() {
        // The content brings its own opening tag.
        if state == PromptState::Open && rendered.strip_end(open) {
            state = PromptState::Before;
        }
        rendered.push_answer(&content);
        return Ok((rendered, state, content));
    }
    if state == PromptState::Before {
        rendered.push_template(&format!("{open}\n"));
    }
    rendered.push_answer(&reasoning);
    let mut said = reasoning;
    if !content.is_empty() {
        let end = format!("\n{close}\n\n");
        rendered.push_template(&end);
        rendered.push_answer(&content);
        said = said + &end + &content;
    }
    Ok((rendered, PromptState::Open, said))
}
