//! Prints what a checkpoint holds: `cargo run -p levain-weights --example show_checkpoint -- PATH`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use levain_weights::{Checkpoint, WeightsError};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        let _ = writeln!(io::stderr(), "usage: show_checkpoint PATH");
        return ExitCode::from(1);
    };
    match show(&path) {
        Ok(text) => {
            let _ = write!(io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "{e}");
            ExitCode::from(1)
        }
    }
}

fn show(path: &std::path::Path) -> Result<String, WeightsError> {
    use std::fmt::Write as _;
    let checkpoint = Checkpoint::open(path)?;
    let mut out = String::new();
    let _ = writeln!(out, "{}, {} bytes", checkpoint.format().name(), checkpoint.file_bytes());
    for key in checkpoint.metadata().into_iter().flat_map(|meta| meta.keys()) {
        let _ = writeln!(out, "  {key}");
    }
    for entry in checkpoint.entries() {
        let _ = writeln!(
            out,
            "  {} {} {:?} ({})",
            entry.name,
            entry.storage.name(),
            entry.shape,
            entry.source_name
        );
    }
    let _ = writeln!(out, "{:#?}", checkpoint.generation_defaults()?);
    let _ = match checkpoint.config() {
        Ok(config) => writeln!(out, "{config:#?}"),
        Err(e) => writeln!(out, "{e}"),
    };
    Ok(out)
}
