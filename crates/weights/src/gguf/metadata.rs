//! Typed access to a GGUF file's metadata.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Fault, Problem, WeightsError};
use crate::gguf::header::{Header, HeaderError};
use crate::gguf::value::{Array, Value};
use crate::map::Bytes;

/// The metadata of a GGUF file; of a split one, those of its first part. Values are read from the mapped
/// file when asked for: nothing is copied before that.
#[derive(Debug, Clone)]
pub struct GgufMetadata {
    file: PathBuf,
    bytes: Arc<Bytes>,
    header: Arc<Header>,
}

impl GgufMetadata {
    pub(crate) fn parse(file: &Path, bytes: Arc<Bytes>) -> Result<Self, WeightsError> {
        let header = Header::parse(bytes.as_slice()).map_err(|e| match e {
            HeaderError::Wrong(kind) => WeightsError::wrong(file, kind),
            HeaderError::Fault(fault) => fault.in_file(file),
        })?;
        Ok(Self { file: file.to_owned(), bytes, header: Arc::new(header) })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn shared_bytes(&self) -> &Arc<Bytes> {
        &self.bytes
    }

    /// The file that holds the metadata.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The GGUF version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// All keys in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.keys.iter().map(String::as_str)
    }

    /// A key's value, whatever its type.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.header.value(self.bytes.as_slice(), key)
    }

    /// A text.
    ///
    /// # Errors
    /// If the key holds something else; so do the other typed getters.
    pub fn string(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    /// A whole number of any width, signed or not, that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, WeightsError> {
        self.typed(key, "an unsigned integer", |value| match value {
            Value::Unsigned(number) => Some(number),
            Value::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        })
    }

    /// A whole number that fits in 32 bits, such as a token's id.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        self.typed(key, "an unsigned integer of 32 bits", |value| match value {
            Value::Unsigned(number) => u32::try_from(number).ok(),
            Value::Signed(number) => u32::try_from(number).ok(),
            _ => None,
        })
    }

    /// A token's id. What no vocabulary holds, such as 4294967295 or -1, is how converters write that there is none.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        let id = self.typed(key, "a token id", |value| match value {
            Value::Unsigned(number) => Some(u32::try_from(number).ok()),
            Value::Signed(number) => Some(u32::try_from(number).ok()),
            _ => None,
        })?;
        Ok(id.flatten().filter(|&id| id != u32::MAX))
    }

    /// A number, whole or not.
    pub fn float(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        self.typed(key, "a float", |value| match value {
            Value::Float(number) => Some(number),
            #[expect(clippy::cast_precision_loss, reason = "as exact as a float can say it")]
            Value::Unsigned(number) => Some(number as f64),
            #[expect(clippy::cast_precision_loss, reason = "as exact as a float can say it")]
            Value::Signed(number) => Some(number as f64),
            _ => None,
        })
    }

    /// True or false.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// An array of any type.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, WeightsError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
    }

    /// An array of texts, such as `tokenizer.ggml.tokens`; each text is copied once, into the result.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, WeightsError> {
        self.elements(key, "an array of strings", |value| match value {
            Value::String(text) => Some(text.to_owned()),
            _ => None,
        })
    }

    /// An array of numbers as 32-bit floats, such as `tokenizer.ggml.scores`.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, WeightsError> {
        self.elements(key, "an array of floats", |value| match value {
            #[expect(clippy::cast_possible_truncation, reason = "scores are 32-bit floats in practice")]
            Value::Float(number) => Some(number as f32),
            #[expect(clippy::cast_precision_loss, reason = "some converters write whole scores")]
            Value::Signed(number) => Some(number as f32),
            _ => None,
        })
    }

    /// An array of whole numbers that fit in 32 bits, such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, WeightsError> {
        self.elements(key, "an array of 32-bit integers", |value| match value {
            Value::Unsigned(number) => i32::try_from(number).ok(),
            Value::Signed(number) => i32::try_from(number).ok(),
            _ => None,
        })
    }

    fn elements<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, WeightsError> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) => array.iter().map(&convert).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = value.type_name();
        convert(value).map(Some).ok_or_else(|| {
            Fault::new(key, self.header.value_offset(key), Problem::WrongType { found, expected })
                .in_file(&self.file)
        })
    }
}
