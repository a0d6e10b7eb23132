//! The engine as its users see it.

#[cfg(test)]
mod common;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod kv_block;
#[cfg(test)]
mod kv_files;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod speculation;
