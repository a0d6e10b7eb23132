//! One error type for the crate: what was wrong, in which file, at which field and byte.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint can't be opened, read or written. Each message ends with what to do about it where
/// there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused a file operation.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file lost parts while it was in use.
    #[error(
        "{}: the file was cut short while in use, or the disk fails to read it; put it back whole and load it again",
        file.display()
    )]
    Lost {
        /// The file.
        file: PathBuf,
    },
    /// A file was changed while it was in use.
    #[error("{}: the file was changed while in use; load it again once nothing writes to it", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A file breaks the rules of its format.
    #[error("{}: {field} (at byte {offset}): {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The field being read, such as `tensor "blk.0.attn_q.weight" offset`.
        field: String,
        /// Where in the file the field starts, in bytes.
        offset: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A field of a model description is missing or impossible.
    #[error("{}: {field}: {problem}", file.display())]
    Config {
        /// `config.json`, `generation_config.json` or the GGUF file.
        file: PathBuf,
        /// The field or metadata key.
        field: String,
        /// What is wrong with it.
        problem: ConfigProblem,
    },
    /// The file is of a kind that Levain does not read.
    #[error("{}: {kind}", file.display())]
    WrongFile {
        /// The file or folder.
        file: PathBuf,
        /// What it is instead.
        kind: WrongFile,
    },
    /// A tensor the model needs is not in the checkpoint.
    #[error("{}: tensor {name} is missing; the checkpoint is incomplete or of another architecture", file.display())]
    MissingTensor {
        /// The checkpoint.
        file: PathBuf,
        /// The canonical name.
        name: String,
    },
    /// A tensor has another shape than the model description says.
    #[error("{}: tensor {name} has shape {found:?}, but the model description says {expected:?}", file.display())]
    Shape {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// Dimensions in the file, outermost first.
        found: Vec<usize>,
        /// Dimensions the caller asked for, outermost first.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a type that the kernels can't compute with.
    #[error(
        "{}: tensor {name} has type {type_name}, which Levain can't compute yet; choose a file of another \
         quantisation, such as Q4_K_M or Q8_0", file.display()
    )]
    UnsupportedType {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor's name in that file.
        name: String,
        /// The type's name in its format.
        type_name: String,
    },
    /// A writer was given something that its format can't hold.
    #[error("can't write {}: {field}: {problem}", file.display())]
    Unwritable {
        /// The file to be written.
        file: PathBuf,
        /// The tensor or key.
        field: String,
        /// Why not.
        problem: Problem,
    },
    /// A row could not be quantised.
    #[error("can't write {}: {source}", file.display())]
    Quantise {
        /// The file to be written.
        file: PathBuf,
        /// The kernels' reason.
        source: levain_kernels::KernelError,
    },
}

impl WeightsError {
    pub(crate) fn io(file: &Path, source: io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }

    /// The same once more, where a file has lost parts or was changed.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Lost { file } => Some(Self::Lost { file: file.clone() }),
            Self::Changed { file } => Some(Self::Changed { file: file.clone() }),
            _ => None,
        }
    }

    pub(crate) fn wrong(file: &Path, kind: WrongFile) -> Self {
        Self::WrongFile { file: file.to_owned(), kind }
    }

    pub(crate) fn config(file: &Path, field: impl Into<String>, problem: ConfigProblem) -> Self {
        Self::Config { file: file.to_owned(), field: field.into(), problem }
    }
}

/// What is wrong with one field of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file ends before the field does.
    #[error(
        "needs {needed} bytes, but the file has only {available} more; the file is cut short: download it again"
    )]
    Truncated {
        /// Bytes the field needs.
        needed: u64,
        /// Bytes that are left.
        available: u64,
    },
    /// A number is above a limit.
    #[error("{value} is above the limit of {limit}")]
    TooLarge {
        /// The number.
        value: u64,
        /// The largest that is accepted.
        limit: u64,
    },
    /// A product or sum does not fit in 64 bits.
    #[error("the size overflows 64 bits")]
    Overflow,
    /// A number is not one that the format allows.
    #[error("{value} is not allowed; expected {expected}")]
    Unexpected {
        /// The number.
        value: u64,
        /// What the format allows.
        expected: &'static str,
    },
    /// A text is not UTF-8.
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    /// The same name appears twice.
    #[error("the name appears twice")]
    Duplicate,
    /// A metadata value has another type than the key calls for.
    #[error("has type {found}, expected {expected}")]
    WrongType {
        /// The type in the file.
        found: &'static str,
        /// The type that the key calls for.
        expected: &'static str,
    },
    /// A tensor's row is not a whole number of blocks.
    #[error("rows of {columns} values are not a multiple of the {block_len} values of a {type_name} block")]
    RaggedRow {
        /// Values in a row.
        columns: u64,
        /// Values in a block.
        block_len: u64,
        /// The block format.
        type_name: &'static str,
    },
    /// A tensor starts inside its neighbour.
    #[error("overlaps the tensor before it, which ends at {previous_end}")]
    Overlap {
        /// Offset where the neighbour ends, relative to the start of the tensor data.
        previous_end: u64,
    },
    /// Bytes that belong to no tensor where the format allows none.
    #[error("leaves {bytes} bytes before it that belong to no tensor")]
    Gap {
        /// How many.
        bytes: u64,
    },
    /// The file is longer than its header says.
    #[error("{bytes} bytes follow that belong to no tensor")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
    /// A tensor's stated end disagrees with its shape.
    #[error("the shape needs {expected} bytes, the offsets give {found}")]
    SizeMismatch {
        /// Bytes by shape and type.
        expected: u64,
        /// Bytes by the offsets.
        found: u64,
    },
    /// The header's JSON is not what the format asks for.
    #[error("{0}")]
    Json(String),
    /// The parts of a split checkpoint disagree.
    #[error("is {found}, expected {expected}; the parts do not belong together or one is missing")]
    SplitMismatch {
        /// The number in the file.
        found: u64,
        /// The number that the file's name or the first part gives.
        expected: u64,
    },
    /// An index names a tensor that its file does not hold.
    #[error("the index says it is in {file}, but it is not there")]
    NotInShard {
        /// The file the index names.
        file: String,
    },
    /// A file name that leaves the checkpoint's folder.
    #[error("{name:?} is not a plain file name inside the folder")]
    UnsafeName {
        /// The name.
        name: String,
    },
}

/// What is wrong with one field of a model description.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The field is not there.
    #[error("is missing")]
    Missing,
    /// The field has another type.
    #[error("is {found}, expected {expected}")]
    WrongType {
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// A number outside what any model can have.
    #[error("is {value}, expected {expected}")]
    OutOfRange {
        /// The number.
        value: f64,
        /// The accepted range in words.
        expected: String,
    },
    /// Two fields do not fit together.
    #[error("is {value}, which is not a multiple of {other} = {divisor}")]
    NotMultiple {
        /// This field.
        value: usize,
        /// The other field's name.
        other: &'static str,
        /// The other field's value.
        divisor: usize,
    },
    /// Two fields say different things.
    #[error("contradicts {other}: remove one of them")]
    Contradicts {
        /// The other field's name.
        other: &'static str,
    },
    /// A name that Levain does not know.
    #[error("is {found:?}, which Levain doesn't support; supported: {supported}")]
    Unsupported {
        /// The name.
        found: String,
        /// The names that are supported.
        supported: &'static str,
    },
    /// The file is not JSON.
    #[error("is not valid JSON: {0}")]
    Json(String),
}

/// Files that are recognised and not read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WrongFile {
    /// A Python pickle.
    Pickle,
    /// A folder whose only weights are pickles.
    OnlyPickles {
        /// One of them.
        example: String,
    },
    /// A text that stands for a file in Git LFS.
    GitLfsPointer,
    /// A web page, saved in place of a file.
    WebPage,
    /// A GGUF file for machines of the other byte order.
    BigEndianGguf,
    /// A GGUF version that is not read.
    GgufVersion(u32),
    /// A format from before GGUF.
    LegacyGgml,
    /// Nothing that is known.
    Unknown,
    /// An empty file.
    Empty,
    /// One of several files of a checkpoint is not there.
    MissingPart,
    /// A folder without weights.
    NoWeights,
    /// A folder with several models.
    SeveralModels {
        /// Their file names.
        names: Vec<String>,
    },
    /// A LoRA adapter without the model that it changes.
    Adapter,
    /// Weights without a `config.json`.
    NoConfig,
    /// A vocabulary-only file where weights are needed.
    VocabularyOnly,
    /// A file that is too long for its kind.
    TooLong {
        /// Its length in bytes.
        bytes: u64,
        /// The longest accepted.
        limit: u64,
    },
}

impl fmt::Display for WrongFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pickle => f.write_str(
                "this is a Python pickle, which can run code when it is loaded, so Levain does not read it; \
                 use the model's .safetensors or .gguf files, or convert it with save_pretrained(…, safe_serialization=True)",
            ),
            Self::OnlyPickles { example } => write!(
                f,
                "the folder holds weights only as Python pickles ({example}), which can run code when they are \
                 loaded, so Levain does not read them; fetch the model's .safetensors or .gguf files instead",
            ),
            Self::GitLfsPointer => f.write_str(
                "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or use `levain pull`",
            ),
            Self::WebPage => f.write_str("this is a web page, not a model file; the download went wrong: fetch it again"),
            Self::BigEndianGguf => f.write_str(
                "this GGUF file has big-endian byte order, which Levain does not read; use the little-endian one",
            ),
            Self::GgufVersion(version) => write!(
                f,
                "this is GGUF version {version}; Levain reads versions 2 and 3: convert the model again with a current tool",
            ),
            Self::LegacyGgml => f.write_str(
                "this is a GGML file from before GGUF, which Levain does not read; convert the model again with a current tool",
            ),
            Self::Unknown => f.write_str(
                "this is neither GGUF nor safetensors; name a .gguf file, a .safetensors file or a folder with config.json",
            ),
            Self::Empty => f.write_str("the file is empty; the download went wrong: fetch it again"),
            Self::MissingPart => f.write_str("this part of the checkpoint is missing; fetch it from the same place"),
            Self::NoWeights => f.write_str(
                "the folder holds no weights; expected model.safetensors, model.safetensors.index.json or a .gguf file",
            ),
            Self::SeveralModels { names } => {
                write!(f, "the folder holds several models; name one of them: {}", names.join(", "))
            }
            Self::Adapter => f.write_str(
                "the folder holds a LoRA adapter and not the model that it changes; merge it into that model with \
                 merge_and_unload() of the peft package, and save the result",
            ),
            Self::NoConfig => f.write_str("there is no config.json beside the weights; fetch it from the same place"),
            Self::VocabularyOnly => {
                f.write_str("the file holds a vocabulary but no weights; use it for tokenising only")
            }
            Self::TooLong { bytes, limit } => {
                write!(f, "the file has {bytes} bytes, more than the limit of {limit} for its kind")
            }
        }
    }
}

/// A problem in bytes that have no file name yet.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) field: String,
    pub(crate) offset: u64,
    pub(crate) problem: Problem,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, offset: u64, problem: Problem) -> Self {
        Self { field: field.into(), offset, problem }
    }

    pub(crate) fn in_file(self, file: &Path) -> WeightsError {
        WeightsError::Malformed {
            file: file.to_owned(),
            field: self.field,
            offset: self.offset,
            problem: self.problem,
        }
    }
}
