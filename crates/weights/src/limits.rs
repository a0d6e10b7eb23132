//! The largest sizes that are accepted from a file. Real models stay far below; a hostile file can't make
//! the loader reserve more than these, and never more than the file's own length.

/// Longest metadata key, tensor name or other text, in bytes.
pub const STRING_BYTES_MAX: u64 = 1 << 20;
/// Longest chat template, in bytes.
pub const TEMPLATE_BYTES_MAX: u64 = 4 << 20;
/// Most elements in a metadata array.
pub const ARRAY_ELEMENTS_MAX: u64 = 16 << 20;
/// Deepest arrays within arrays.
pub const ARRAY_NESTING_MAX: u32 = 4;
/// Most metadata entries in a file.
pub const METADATA_ENTRIES_MAX: u64 = 64 << 10;
/// Most tensors in a file.
pub const TENSORS_MAX: u64 = 64 << 10;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: u64 = 4;
/// Longest safetensors header, in bytes; the format's own limit.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100_000_000;
/// Longest `config.json` or `generation_config.json`, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Longest `model.safetensors.index.json`, in bytes.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Most files a checkpoint may be split into.
pub const SHARDS_MAX: u64 = 4096;
/// Largest alignment of tensor data, in bytes.
pub const ALIGNMENT_MAX: u64 = 1 << 20;
