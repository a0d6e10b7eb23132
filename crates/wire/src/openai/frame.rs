//! JSON texts and server-sent events.

use serde::Serialize;

/// The last event of a good stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A comment, which every client skips: it keeps connections open while the model reads a long prompt.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// A value as JSON text.
pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_json(value, &mut out);
    out
}

/// A value as one event. JSON text holds no line breaks, so one `data:` line carries it.
pub(crate) fn event<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    write_json(value, out);
    out.extend_from_slice(b"\n\n");
}

fn write_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Writing to memory can't fail, and the types here have text keys and derive `Serialize`.
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}
