//! `levain tokenize`

use levain_hub::ModelRef;
use levain_tokenizer::SpecialTokens;
use serde_json::json;

use crate::app::{App, read_stdin};
use crate::cli::TokenizeArgs;
use crate::error::CliError;
use crate::vocabulary::{self};

/// Prints the ids of a text's tokens, on one line.
pub(crate) fn run(app: &App, args: &TokenizeArgs) -> Result<(), CliError> {
    let vocabulary = open(app, &args.model)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_stdin()?,
    };
    let special = if args.parse_special { SpecialTokens::Parse } else { SpecialTokens::AsText };
    let tokens = if args.add_special {
        vocabulary.tokenizer.encode_with_special_tokens(&text, special)?
    } else {
        vocabulary.tokenizer.encode(&text, special)?
    };
    if args.json {
        return app.printer.json(&json!({ "tokens": tokens }));
    }
    let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
    app.printer.line(ids.join(" "))
}

/// The vocabulary of a model; one that is a file needs no store and no network.
pub(crate) fn open(app: &App, model: &str) -> Result<levain_local::Vocabulary, CliError> {
    if let Ok(ModelRef::File(path)) = ModelRef::parse(model) {
        if !path.exists() {
            return Err(levain_hub::HubError::NoSuchFile { path }.into());
        }
        return vocabulary::open(&path);
    }
    let hub = app.hub()?;
    vocabulary::open(&app.obtain(&hub, model)?.path)
}
