//! `levain man`

use std::fmt::Write as _;

use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::app::App;
use crate::cli::{Cli, ManArgs};
use crate::env::ENV_VARS;
use crate::error::CliError;

/// Prints the manual's first page, or writes all pages into a folder.
pub(crate) fn run(app: &App, args: &ManArgs) -> Result<(), CliError> {
    let mut root = Cli::command();
    root.build();
    let Some(dir) = &args.out else {
        return app.printer.raw(&page(&root)?);
    };
    let write = |name: &str, page: Vec<u8>| {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|source| CliError::Io {
            action: "write",
            path: path.clone(),
            source,
        })?;
        app.printer.line(path.display())
    };
    std::fs::create_dir_all(dir).map_err(|source| CliError::Io {
        action: "create",
        path: dir.clone(),
        source,
    })?;
    write("levain", page(&root)?)?;
    for verb in root.get_subcommands() {
        let mut name = "levain-".to_owned();
        let _ = write!(name, "{}", verb.get_name());
        write(&name, page(&verb.clone().display_name(name.clone()))?)?;
    }
    Ok(())
}

fn page(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let failed = |error: std::io::Error| CliError::Internal(format!("the manual: {error}"));
    let mut out = Vec::new();
    Man::new(command.clone()).render(&mut out).map_err(failed)?;
    if command.get_name() == "levain" {
        let mut roff = Roff::new();
        roff.control("SH", ["ENVIRONMENT"]);
        for var in ENV_VARS {
            roff.control("TP", []);
            roff.text([bold(var.name)]);
            roff.text([roman(var.purpose)]);
        }
        roff.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in [
            ("0", "success; also when the output's reader has gone"),
            ("1", "refused, or wrong input"),
            ("2", "a failure of the program or the machine"),
            ("130", "interrupted by Ctrl-C"),
        ] {
            roff.control("TP", []);
            roff.text([bold(code)]);
            roff.text([roman(meaning)]);
        }
        roff.to_writer(&mut out).map_err(failed)?;
    }
    Ok(out)
}
