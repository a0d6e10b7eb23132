//! The dialects of other people's APIs to and from the neutral vocabulary of `levain-chat`.
//!
//! Everything here is pure: bytes in, values or bytes out. Ids and times are handed in, nothing is read or sent.
//!
//! *Invariant:* a field of a request is honoured, named in a table as one that can't change the answer, or
//! refused by name. Nothing is ignored silently, and nothing from outside can cost more than
//! [`json::Limits`] allows.

pub mod json;
pub mod openai;
