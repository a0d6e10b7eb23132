//! What a GGUF vocabulary may leave out.

#[cfg(test)]
mod keys;
