//! One conversation with one model at a time.

use levain_chat::{FinishReason, Message, Role, Usage};
use levain_hub::{Hub, StoredModel};

use super::command::{Command, NAMES};
use super::save::save;
use crate::answer::{self, Answer, Show, printable};
use crate::app::App;
use crate::cli::AnswerArgs;
use crate::error::CliError;
use crate::model::{self, Loaded, Setup};
use crate::printer::{BOLD, DIM, table};

/// The conversation and all that answers it.
pub(crate) struct Session {
    hub: Hub,
    stored: StoredModel,
    /// `None` only while one model makes room for another.
    loaded: Option<Loaded>,
    setup: Setup,
    /// The model that the conversation began with, and that `setup` was made for.
    first: String,
    args: AnswerArgs,
    /// Without the system message.
    messages: Vec<Message>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    answers: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    last: Option<Usage>,
}

impl Session {
    /// An empty conversation.
    pub(crate) fn new(hub: Hub, loaded: Loaded, stored: StoredModel, setup: Setup, args: AnswerArgs) -> Self {
        let (messages, totals) = (Vec::new(), Totals::default());
        let first = stored.reference.clone();
        Self { hub, stored, loaded: Some(loaded), setup, first, args, messages, totals }
    }

    /// Who answers.
    pub(crate) fn model_name(&self) -> &str {
        &self.stored.reference
    }

    /// How long the conversation may grow, in tokens.
    pub(crate) fn context_length(&self) -> usize {
        self.loaded.as_ref().map_or(0, |loaded| loaded.context_length)
    }

    /// A turn: the question, and its answer while it comes.
    pub(crate) fn ask(&mut self, app: &App, question: String) -> Result<(), CliError> {
        self.messages.push(Message::text(Role::User, question));
        let outcome = self.answer(app);
        match &outcome {
            Ok(answer) => match answer.message() {
                Some(message) => self.messages.push(message),
                None => {
                    self.messages.pop();
                    app.printer.say(format_args!(
                        "{DIM}stopped before the answer began; the question is taken back{DIM:#}"
                    ));
                }
            },
            // A refused question would be refused again with every further one.
            Err(_) => drop(self.messages.pop()),
        }
        let answer = outcome?;
        self.account(app, &answer);
        Ok(())
    }

    fn answer(&self, app: &App) -> Result<Answer, CliError> {
        let loaded = self.loaded()?;
        let request = answer::request(&loaded.name, self.conversation(), &self.args);
        let show = Show { text: true, reasoning: !self.args.no_reasoning };
        let interrupted = app.signals.interrupted();
        app.block_on_uninterrupted(answer::stream(app.printer, &*loaded.provider, request, show, interrupted))
    }

    fn loaded(&self) -> Result<&Loaded, CliError> {
        self.loaded
            .as_ref()
            .ok_or_else(|| CliError::input_with("no model is loaded", "choose one with /model REF"))
    }

    /// All messages, the system message first.
    fn conversation(&self) -> Vec<Message> {
        let system = self.args.system.as_ref().map(|text| Message::text(Role::System, text.as_str()));
        system.into_iter().chain(self.messages.iter().cloned()).collect()
    }

    fn account(&mut self, app: &App, answer: &Answer) {
        match answer.finish {
            None => app.printer.say(format_args!("{DIM}stopped; /retry asks once more{DIM:#}")),
            Some(FinishReason::Length) => {
                app.printer
                    .warn("the answer was cut: its length or the context is at its end; /clear begins anew");
            }
            Some(_) => {}
        }
        let Some(usage) = answer.usage else {
            return;
        };
        self.totals.answers += 1;
        self.totals.prompt_tokens += usage.prompt_tokens;
        self.totals.completion_tokens += usage.completion_tokens;
        self.totals.last = Some(usage);
        let used = usage.prompt_tokens + usage.completion_tokens;
        let context = self.context_length();
        app.printer.say(format_args!("{DIM}{} · context {used}/{context}{DIM:#}", answer::figures(&usage)));
    }

    /// Does what a command says.
    pub(crate) fn obey(&mut self, app: &App, command: Command) -> Result<(), CliError> {
        match command {
            Command::Help => help(app),
            Command::Model(None) => {
                app.printer.say(format_args!("{} ({})", self.stored.reference, self.stored.path.display()));
            }
            Command::Model(Some(name)) => return self.change_model(app, &name),
            Command::System(None) => match &self.args.system {
                Some(text) => app.printer.say(printable(text)),
                None => app.printer.say("there is no system message"),
            },
            Command::System(Some(text)) => {
                self.args.system = (!text.is_empty()).then_some(text);
                app.printer.say(format_args!("{DIM}it holds from the next question on{DIM:#}"));
            }
            Command::Retry => return self.retry(app),
            Command::Undo => {
                self.take_back()?;
                app.printer.say(format_args!("{DIM}the last question is taken back{DIM:#}"));
            }
            Command::Clear => {
                self.messages.clear();
                app.printer.say(format_args!("{DIM}a new conversation{DIM:#}"));
            }
            Command::Set(name, value) => self.set(&name, value.as_deref())?,
            Command::Reasoning(Some(shown)) => self.args.no_reasoning = !shown,
            Command::Reasoning(None) => {
                app.printer.say(if self.args.no_reasoning {
                    "thinking is hidden"
                } else {
                    "thinking is shown"
                });
            }
            Command::Stats => self.stats(app)?,
            Command::History => self.history(app)?,
            Command::Save(path) => {
                save(&path, &self.stored.reference, &self.conversation())?;
                app.printer.say(format_args!("written to {}", path.display()));
            }
            Command::Quit => {}
        }
        Ok(())
    }

    /// Removes the last question and what followed it, and returns the question.
    fn take_back(&mut self) -> Result<String, CliError> {
        let last = self.messages.iter().rposition(|message| message.role == Role::User);
        let at = last.ok_or_else(|| CliError::input("nothing was asked yet"))?;
        let question = self.messages[at].plain_text();
        self.messages.truncate(at);
        Ok(question)
    }

    fn retry(&mut self, app: &App) -> Result<(), CliError> {
        let kept = self.messages.clone();
        let question = self.take_back()?;
        // A fixed seed would give the same answer once more.
        let seed = self.args.seed.take();
        let outcome = self.ask(app, question);
        self.args.seed = seed;
        if outcome.is_err() {
            self.messages = kept;
        }
        outcome
    }

    /// How a model is loaded. A chat template that was named beside a model is meant for that one; one of the
    /// configuration is meant for all.
    fn setup_for(&self, app: &App, reference: &str) -> Result<Setup, CliError> {
        let mut setup = self.setup.clone();
        if reference != self.first {
            setup.chat_template = app.chat_template(None)?;
        }
        Ok(setup)
    }

    /// Goes on with another model. The old one makes room first, and comes back if the new one can't be had.
    fn change_model(&mut self, app: &App, name: &str) -> Result<(), CliError> {
        let stored = app.obtain(&self.hub, name)?;
        let before = self.setup_for(app, &self.stored.reference)?;
        let setup = self.setup_for(app, &stored.reference)?;
        self.loaded = None;
        match model::load(app, &stored, &setup) {
            Ok(loaded) => {
                self.loaded = Some(loaded);
                self.stored = stored;
                app.printer.say(format_args!(
                    "{BOLD}{}{BOLD:#} {DIM}goes on with the conversation, context of {} tokens{DIM:#}",
                    self.model_name(),
                    self.context_length()
                ));
                if self.setup.chat_template.is_some() && setup.chat_template != self.setup.chat_template {
                    app.printer.say(format_args!(
                        "{DIM}the chat template that was given is for {} and does not hold here{DIM:#}",
                        self.first
                    ));
                }
                Ok(())
            }
            Err(error) => {
                self.loaded = Some(model::load(app, &self.stored, &before)?);
                app.printer.say(format_args!("{DIM}{} stays{DIM:#}", self.stored.reference));
                Err(error)
            }
        }
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), CliError> {
        fn parsed<T: std::str::FromStr>(value: Option<&str>) -> Result<Option<T>, CliError> {
            value
                .map(|text| {
                    text.parse().map_err(|_| CliError::input(format!("{text:?} is no fitting number")))
                })
                .transpose()
        }
        match name {
            "temperature" => self.args.temperature = parsed(value)?,
            "top_p" => self.args.top_p = parsed(value)?,
            "top_k" => self.args.top_k = parsed(value)?,
            "seed" => self.args.seed = parsed(value)?,
            "max_tokens" => self.args.max_tokens = parsed(value)?,
            "reasoning_budget" => self.args.reasoning_budget = parsed(value)?,
            other => {
                return Err(CliError::input_with(
                    format!("there is nothing named {other} to set"),
                    "temperature, top_p, top_k, seed, max_tokens and reasoning_budget can be set",
                ));
            }
        }
        Ok(())
    }

    fn stats(&self, app: &App) -> Result<(), CliError> {
        let mut rows = vec![
            vec!["model".to_owned(), self.stored.reference.clone()],
            vec!["messages".to_owned(), self.messages.len().to_string()],
            vec!["answers".to_owned(), self.totals.answers.to_string()],
            vec!["prompt tokens".to_owned(), self.totals.prompt_tokens.to_string()],
            vec!["answer tokens".to_owned(), self.totals.completion_tokens.to_string()],
            vec!["context".to_owned(), format!("{} tokens", self.context_length())],
        ];
        if let Some(last) = &self.totals.last {
            rows.push(vec!["last answer".to_owned(), answer::figures(last)]);
        }
        app.printer.data(table(&rows))?;
        self.loaded.as_ref().map_or(Ok(()), |loaded| app.printer.data(&loaded.plan))
    }

    fn history(&self, app: &App) -> Result<(), CliError> {
        for message in self.conversation() {
            let who = message.role.as_str();
            app.printer.line(format_args!("{BOLD}{who}:{BOLD:#} {}", printable(&message.plain_text())))?;
        }
        Ok(())
    }
}

fn help(app: &App) {
    let rows: Vec<Vec<String>> =
        NAMES.iter().map(|(name, what)| vec![(*name).to_owned(), (*what).to_owned()]).collect();
    app.printer.say(table(&rows).trim_end());
    app.printer.say(
        "\nEnter sends; Alt-Enter or a backslash at a line's end begins a new line; \"\"\" begins and ends a block.\n\
         Ctrl-C stops an answer, Ctrl-D leaves, Ctrl-R searches what was typed before.",
    );
}
