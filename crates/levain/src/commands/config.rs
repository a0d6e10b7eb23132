//! `levain config`

use serde_json::json;

use crate::app::App;
use crate::cli::{ConfigArgs, ConfigTopic};
use crate::commands::JSON_VERSION;
use crate::env::{self, ENV_VARS};
use crate::error::CliError;
use crate::printer::table;
use crate::settings::SETTINGS;

/// Shows settings, files or variables. Secrets are said to be set, and no more.
pub(crate) fn run(app: &App, args: &ConfigArgs) -> Result<(), CliError> {
    match args.topic {
        ConfigTopic::Show => show(app, args.json),
        ConfigTopic::Path => path(app, args.json),
        ConfigTopic::Env => variables(app, args.json),
    }
}

fn show(app: &App, as_json: bool) -> Result<(), CliError> {
    let value = |key: &str, secret: bool| {
        app.settings.get(key).map(|value| if secret { "(set)".to_owned() } else { value.to_owned() })
    };
    if as_json {
        let settings: Vec<_> = SETTINGS
            .iter()
            .map(|setting| {
                json!({
                    "key": setting.key,
                    "value": value(setting.key, setting.secret),
                    "default": setting.default,
                    "origin": app.settings.origin(setting.key).map(ToString::to_string),
                    "variable": setting.env,
                    "help": setting.help,
                })
            })
            .collect();
        let aliases: Vec<_> = app
            .settings
            .aliases()
            .map(|(name, target, file)| json!({ "name": name, "target": target, "origin": file }))
            .collect();
        let all = json!({
            "version": JSON_VERSION, "settings": settings, "aliases": aliases, "files": app.settings.files(),
        });
        return app.printer.json(&all);
    }
    let mut rows = vec![["SETTING", "VALUE", "ORIGIN"].map(str::to_owned).to_vec()];
    for setting in SETTINGS {
        let origin =
            app.settings.origin(setting.key).map_or_else(|| "default".to_owned(), ToString::to_string);
        let value = value(setting.key, setting.secret).unwrap_or_else(|| setting.default.to_owned());
        rows.push(vec![setting.key.to_owned(), value, origin]);
    }
    for (name, target, file) in app.settings.aliases() {
        rows.push(vec![format!("aliases.{name}"), target.to_owned(), file.display().to_string()]);
    }
    app.printer.data(table(&rows))
}

fn path(app: &App, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return app.printer.json(&json!({ "version": JSON_VERSION, "files": app.settings.files() }));
    }
    for file in app.settings.files() {
        let missing = if file.found { "" } else { "  (not there)" };
        app.printer.line(format_args!("{}{missing}", file.path.display()))?;
    }
    Ok(())
}

fn variables(app: &App, as_json: bool) -> Result<(), CliError> {
    if as_json {
        let all: Vec<_> = ENV_VARS
            .iter()
            .map(|var| json!({ "name": var.name, "purpose": var.purpose, "secret": var.secret, "set": env::get(var.name).is_some() }))
            .collect();
        return app.printer.json(&json!({ "version": JSON_VERSION, "variables": all }));
    }
    let mut rows = vec![["VARIABLE", "SET", "PURPOSE"].map(str::to_owned).to_vec()];
    for var in ENV_VARS {
        let set = if env::get(var.name).is_some() { "yes" } else { "-" };
        rows.push(vec![var.name.to_owned(), set.to_owned(), var.purpose.to_owned()]);
    }
    app.printer.data(table(&rows))
}
