//! What must hold for every file that opens.

use std::path::Path;

use levain_weights::{Array, Checkpoint, Value};

/// Opens a file and uses all of what it describes. An error is as good as a sound checkpoint; what is
/// returned as `Err` here is an unsound one.
pub(crate) fn open_and_examine(path: &Path, file: Vec<u8>) -> Result<bool, String> {
    let len = file.len();
    match Checkpoint::from_bytes(path, file) {
        Ok(checkpoint) => examine(&checkpoint, len).map(|()| true),
        Err(e) if e.to_string().is_empty() => Err("an error without a message".to_owned()),
        Err(_) => Ok(false),
    }
}

fn examine(checkpoint: &Checkpoint, file_len: usize) -> Result<(), String> {
    let mut ranges = Vec::new();
    for entry in checkpoint.entries() {
        if entry.bytes > file_len {
            return Err(format!("{}: {} bytes in a file of {file_len}", entry.name, entry.bytes));
        }
        let Some(dtype) = entry.storage.dtype() else { continue };
        let columns = entry.shape.last().copied().unwrap_or(1) as u128;
        let rows: u128 = entry.shape.iter().rev().skip(1).map(|&d| d as u128).product();
        let needed = columns / dtype.block_len() as u128 * dtype.block_bytes() as u128 * rows;
        let view = checkpoint.tensor(entry.name).ok_or_else(|| format!("{}: no view", entry.name))?;
        if needed != view.bytes.len() as u128 || view.bytes.len() != entry.bytes {
            let found = view.bytes.len();
            return Err(format!("{}: {:?} needs {needed} bytes, has {found}", entry.name, entry.shape));
        }
        let start = view.bytes.as_ptr() as usize;
        ranges.push((start, start + view.bytes.len()));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("tensors overlap".to_owned());
    }
    if let Some(meta) = checkpoint.metadata() {
        for key in meta.keys() {
            match meta.get(key) {
                Some(Value::Array(array)) => walk(array, 1)?,
                Some(_) => {}
                None => return Err(format!("{key}: no value")),
            }
            // Whatever the type is, no getter may do more than refuse.
            let _ = (meta.strings(key), meta.floats(key), meta.integers(key), meta.u32(key), meta.float(key));
        }
    }
    let _ = checkpoint.generation_defaults();
    if let Ok(config) = checkpoint.config() {
        if config.num_attention_heads % config.num_key_value_heads != 0 || config.rope.dim % 2 != 0 {
            return Err(format!("impossible heads: {config:?}"));
        }
        if !config.rms_norm_eps.is_finite() || config.vocab_size == 0 || config.hidden_size == 0 {
            return Err(format!("impossible sizes: {config:?}"));
        }
        for expert in 0..3 {
            let _ = checkpoint.tensor(&format!("model.layers.1.mlp.experts.{expert}.up_proj.weight"));
        }
    }
    Ok(())
}

fn walk(array: Array<'_>, depth: usize) -> Result<(), String> {
    if depth > 4 {
        return Err("arrays nested too deeply".to_owned());
    }
    let mut count = 0;
    for value in array.iter() {
        count += 1;
        if let Value::Array(inner) = value {
            walk(inner, depth + 1)?;
        }
    }
    if count == array.len() { Ok(()) } else { Err(format!("{count} of {} elements", array.len())) }
}
