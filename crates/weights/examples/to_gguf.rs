//! Writes a folder of safetensors as GGUF:
//! `cargo run -p levain-weights --example to_gguf -- FOLDER OUT.gguf Q8_0 [combined]`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use levain_kernels::DType;
use levain_weights::{Checkpoint, GgufOptions, MlaLayout, convert_to_gguf_with};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, out, name, combined) = match arguments.as_slice() {
        [folder, out, name] => (folder, out, name, false),
        [folder, out, name, layout] if layout == "combined" => (folder, out, name, true),
        _ => return fail("usage: to_gguf FOLDER OUT.gguf TYPE [combined]"),
    };
    let Some(dtype) = DType::ALL.into_iter().find(|dtype| dtype.name() == name) else {
        let names: Vec<_> = DType::ALL.into_iter().map(DType::name).collect();
        return fail(&format!("unknown type {name}; known: {}", names.join(", ")));
    };
    let mla = if combined { MlaLayout::Combined } else { MlaLayout::Split };
    let options = GgufOptions { dtype, mla, pre_tokenizer: None };
    let done = Checkpoint::open(&PathBuf::from(folder))
        .and_then(|checkpoint| convert_to_gguf_with(&checkpoint, &PathBuf::from(out), &options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(1)
}
