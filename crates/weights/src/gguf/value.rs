//! GGUF metadata values. Texts and arrays stay in the file; what is kept is where they are.

use crate::cursor::Cursor;
use crate::error::{Fault, Problem};
use crate::limits::{ARRAY_ELEMENTS_MAX, ARRAY_NESTING_MAX, STRING_BYTES_MAX, TEMPLATE_BYTES_MAX};

/// The type of a metadata value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// Unsigned, 8 bits.
    U8 = 0,
    /// Signed, 8 bits.
    I8 = 1,
    /// Unsigned, 16 bits.
    U16 = 2,
    /// Signed, 16 bits.
    I16 = 3,
    /// Unsigned, 32 bits.
    U32 = 4,
    /// Signed, 32 bits.
    I32 = 5,
    /// Floating point, 32 bits.
    F32 = 6,
    /// True or false, one byte.
    Bool = 7,
    /// UTF-8 text.
    String = 8,
    /// Values of one type.
    Array = 9,
    /// Unsigned, 64 bits.
    U64 = 10,
    /// Signed, 64 bits.
    I64 = 11,
    /// Floating point, 64 bits.
    F64 = 12,
}

impl ValueType {
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// The type's name in the GGUF specification, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::F32 => "float32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F64 => "float64",
        }
    }

    /// Bytes of one value, if all values of the type have the same.
    fn fixed_bytes(self) -> Option<u64> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String | Self::Array => return None,
        })
    }

    fn read(cursor: &mut Cursor<'_>, field: &str) -> Result<Self, Fault> {
        let at = cursor.offset();
        let id = cursor.u32(field)?;
        Self::from_id(id).ok_or_else(|| {
            let expected = "a value type from 0 to 12";
            Fault::new(field, at, Problem::Unexpected { value: id.into(), expected })
        })
    }
}

/// A value in the file: its type and where its bytes start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) value_type: ValueType,
    pub(crate) offset: usize,
}

/// A metadata value, borrowed from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Any of the unsigned integers.
    Unsigned(u64),
    /// Any of the signed integers.
    Signed(i64),
    /// Either of the floating-point types.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(&'a str),
    /// An array.
    Array(Array<'a>),
}

impl Value<'_> {
    /// The value's type in the GGUF specification's words; the width of numbers is not kept.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a bool",
            Self::String(_) => "a string",
            Self::Array(array) => match array.element_type {
                ValueType::String => "an array of strings",
                ValueType::Array => "an array of arrays",
                ValueType::F32 | ValueType::F64 => "an array of floats",
                ValueType::Bool => "an array of bools",
                _ => "an array of integers",
            },
        }
    }
}

/// An array in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    element_type: ValueType,
    len: usize,
    /// The file from the first element on.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of all elements.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order, borrowed from the file.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let element_type = self.element_type;
        let mut cursor = Cursor::new(self.bytes, 0);
        // The header check has walked all elements already, so this ends early only if the file was
        // changed since.
        (0..self.len).map_while(move |_| read(&mut cursor, element_type, "element").ok())
    }
}

/// Walks over a value, checking all of it, and says where it lies.
pub(crate) fn scan(cursor: &mut Cursor<'_>, key: &str) -> Result<Stored, Fault> {
    let value_type = ValueType::read(cursor, key)?;
    let offset = usize::try_from(cursor.offset()).unwrap_or(usize::MAX);
    skip(cursor, value_type, key, 1)?;
    Ok(Stored { value_type, offset })
}

fn skip(cursor: &mut Cursor<'_>, value_type: ValueType, key: &str, depth: u32) -> Result<(), Fault> {
    let at = cursor.offset();
    match value_type {
        ValueType::String => {
            // Templates may be named: `tokenizer.chat_template.tool_use` is one too.
            let template = key.starts_with("tokenizer.chat_template");
            cursor.text(key, if template { TEMPLATE_BYTES_MAX } else { STRING_BYTES_MAX })?;
        }
        ValueType::Bool => {
            check_bool(cursor.u8(key)?, key, at)?;
        }
        ValueType::Array => {
            if depth > ARRAY_NESTING_MAX {
                let limit = ARRAY_NESTING_MAX.into();
                return Err(Fault::new(key, at, Problem::TooLarge { value: depth.into(), limit }));
            }
            let element_type = ValueType::read(cursor, key)?;
            let len = cursor.count(key, ARRAY_ELEMENTS_MAX)?;
            match element_type.fixed_bytes() {
                Some(size) => {
                    let overflow = || Fault::new(key, at, Problem::Overflow);
                    let start = cursor.offset();
                    let bytes = cursor.take(len.checked_mul(size).ok_or_else(overflow)?, key)?;
                    if element_type == ValueType::Bool {
                        for (i, &b) in bytes.iter().enumerate() {
                            check_bool(b, key, start.saturating_add(i as u64))?;
                        }
                    }
                }
                None => {
                    for _ in 0..len {
                        skip(cursor, element_type, key, depth.saturating_add(1))?;
                    }
                }
            }
        }
        _ => {
            cursor.take(value_type.fixed_bytes().unwrap_or(0), key)?;
        }
    }
    Ok(())
}

fn check_bool(value: u8, key: &str, at: u64) -> Result<bool, Fault> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::new(key, at, Problem::Unexpected { value: value.into(), expected: "0 or 1" })),
    }
}

/// Reads a value that [`scan`] has walked over.
pub(crate) fn read<'a>(
    cursor: &mut Cursor<'a>,
    value_type: ValueType,
    key: &str,
) -> Result<Value<'a>, Fault> {
    let at = cursor.offset();
    Ok(match value_type {
        ValueType::U8 => Value::Unsigned(cursor.u8(key)?.into()),
        ValueType::U16 => Value::Unsigned(cursor.u16(key)?.into()),
        ValueType::U32 => Value::Unsigned(cursor.u32(key)?.into()),
        ValueType::U64 => Value::Unsigned(cursor.u64(key)?),
        ValueType::I8 => Value::Signed(cursor.u8(key)?.cast_signed().into()),
        ValueType::I16 => Value::Signed(cursor.u16(key)?.cast_signed().into()),
        ValueType::I32 => Value::Signed(cursor.u32(key)?.cast_signed().into()),
        ValueType::I64 => Value::Signed(cursor.u64(key)?.cast_signed()),
        ValueType::F32 => Value::Float(f32::from_bits(cursor.u32(key)?).into()),
        ValueType::F64 => Value::Float(f64::from_bits(cursor.u64(key)?)),
        ValueType::Bool => Value::Bool(check_bool(cursor.u8(key)?, key, at)?),
        ValueType::String => Value::String(cursor.text(key, TEMPLATE_BYTES_MAX)?),
        ValueType::Array => {
            let element_type = ValueType::read(cursor, key)?;
            let len = usize::try_from(cursor.count(key, ARRAY_ELEMENTS_MAX)?)
                .map_err(|_| Fault::new(key, at, Problem::Overflow))?;
            let start = cursor.clone();
            match element_type.fixed_bytes() {
                Some(size) => {
                    cursor.take(size.saturating_mul(len as u64), key)?;
                }
                None => {
                    for _ in 0..len {
                        skip(cursor, element_type, key, 2)?;
                    }
                }
            }
            Value::Array(Array { element_type, len, bytes: start.rest() })
        }
    })
}
