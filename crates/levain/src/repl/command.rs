//! The commands that begin with a slash.

use std::path::PathBuf;

use crate::error::CliError;

/// All commands with what they take and do, for /help and for completion.
pub(crate) const NAMES: [(&str, &str); 13] = [
    ("/help", "shows this"),
    ("/model", "[REF]: shows the model, or goes on with another one and the same conversation"),
    ("/system", "[TEXT]: shows or sets the system message; `/system -` takes it away"),
    ("/retry", "asks the last question once more"),
    ("/undo", "takes back the last question and its answer"),
    ("/clear", "begins a new conversation"),
    (
        "/set",
        "NAME VALUE: sets temperature, top_p, top_k, seed, max_tokens or reasoning_budget; VALUE `-` unsets",
    ),
    ("/reasoning", "[show|hide]: whether thinking is shown"),
    ("/stats", "shows token counts, times and memory"),
    ("/history", "shows the conversation so far"),
    ("/save", "FILE: writes the conversation as Markdown, or as JSON if FILE ends with .json"),
    ("/quit", "leaves, as does Ctrl-D"),
    ("/exit", "leaves too"),
];

/// A parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Lists the commands.
    Help,
    /// Shows or changes the model.
    Model(Option<String>),
    /// Shows, sets or (with an empty text) removes the system message.
    System(Option<String>),
    /// The last question once more.
    Retry,
    /// Takes back the last turn.
    Undo,
    /// A new conversation.
    Clear,
    /// Sets (or with `None` unsets) how answers are generated.
    Set(String, Option<String>),
    /// Shows or hides thinking; `None` tells which.
    Reasoning(Option<bool>),
    /// Counts and times.
    Stats,
    /// The conversation so far.
    History,
    /// Writes the conversation.
    Save(PathBuf),
    /// Leaves.
    Quit,
}

impl Command {
    /// `None` if the line is no command: it does not begin with a slash and a letter.
    pub(crate) fn parse(line: &str) -> Option<Result<Self, CliError>> {
        let line = line.trim();
        if !line.strip_prefix('/')?.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        // A path such as /etc/passwd at the begin of a question is no command.
        if name[1..].contains('/') {
            return None;
        }
        let given = (!rest.is_empty()).then(|| rest.to_owned());
        Some(match (name, given) {
            ("/help" | "/?", _) => Ok(Self::Help),
            ("/model", given) => Ok(Self::Model(given)),
            ("/system", given) => {
                Ok(Self::System(given.map(|text| if text == "-" { String::new() } else { text })))
            }
            ("/retry", _) => Ok(Self::Retry),
            ("/undo", _) => Ok(Self::Undo),
            ("/clear" | "/new", _) => Ok(Self::Clear),
            ("/set", given) => set(given.as_deref().unwrap_or_default()),
            ("/reasoning", None) => Ok(Self::Reasoning(None)),
            ("/reasoning", Some(word)) => match word.as_str() {
                "show" | "on" => Ok(Self::Reasoning(Some(true))),
                "hide" | "off" => Ok(Self::Reasoning(Some(false))),
                _ => Err(CliError::input("write /reasoning show or /reasoning hide")),
            },
            ("/stats", _) => Ok(Self::Stats),
            ("/history", _) => Ok(Self::History),
            ("/save", Some(path)) => Ok(Self::Save(PathBuf::from(path))),
            ("/save", None) => {
                Err(CliError::input("write the file's name: /save chat.md or /save chat.json"))
            }
            ("/quit" | "/exit" | "/bye", _) => Ok(Self::Quit),
            (other, _) => {
                let near = levain_hub::nearest(other, NAMES.iter().map(|(name, _)| *name));
                let hint = match near.first() {
                    Some(near) => format!("did you mean {near}?"),
                    None => "/help lists the commands".to_owned(),
                };
                Err(CliError::input_with(format!("there is no command {other}"), hint))
            }
        })
    }
}

fn set(rest: &str) -> Result<Command, CliError> {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    if name.is_empty() || value.is_empty() {
        return Err(CliError::input(
            "write for example /set temperature 0.7, or /set temperature - to unset it",
        ));
    }
    Ok(Command::Set(name.to_owned(), (value != "-").then(|| value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_questions() {
        let parse = |line: &str| Command::parse(line).map(|parsed| parsed.map_err(|error| error.to_string()));
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("/etc/passwd is what?"), None);
        assert_eq!(parse("/ 2"), None);
        assert_eq!(parse(" /help "), Some(Ok(Command::Help)));
        assert_eq!(parse("/model hf:a/b"), Some(Ok(Command::Model(Some("hf:a/b".into())))));
        assert_eq!(parse("/system -"), Some(Ok(Command::System(Some(String::new())))));
        assert_eq!(parse("/set seed 3"), Some(Ok(Command::Set("seed".into(), Some("3".into())))));
        assert!(parse("/save").unwrap().is_err());
        let error = Command::parse("/hlep").unwrap().unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean /help?");
    }
}
