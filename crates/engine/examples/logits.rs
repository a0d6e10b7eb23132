//! Writes the logits that follow each token of a text, for comparisons with other programs.
//!
//! `logits MODEL TOKENS OUT`: `TOKENS` is a file of token ids, `OUT` becomes rows of f32, little-endian, a row of the
//! vocabulary's size for each token.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use levain_engine::{EngineConfig, logits};
use levain_weights::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, out] = arguments.as_slice() else {
        return Err("usage: logits MODEL TOKENS OUT".into());
    };
    let tokens = std::fs::read_to_string(tokens)?;
    let tokens = tokens.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let mut out = BufWriter::new(File::create(out)?);
    let mut written = Ok(());
    logits(&Checkpoint::open(Path::new(model))?, &EngineConfig::default(), &tokens, |_, row| {
        for value in row {
            if written.is_ok() {
                written = out.write_all(&value.to_le_bytes());
            }
        }
    })?;
    written?;
    out.flush()?;
    Ok(())
}
