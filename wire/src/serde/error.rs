//! Why a Rust value and a stored value do not fit each other, and where.

use std::fmt;

use serde::de::{Expected, Unexpected};

use crate::EncodeError;
use crate::json::path;

/// Why a type and a value do not fit each other, and at which field.
#[derive(Clone, Debug, PartialEq)]
pub struct SerdeError {
    /// Where in the value, like `$.items[3].name`; `$` is the whole.
    pub path: String,
    /// What is wrong.
    pub kind: SerdeErrorKind,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SerdeErrorKind {
    /// The value is of another type than the field.
    InvalidType {
        /// What is stored.
        found: String,
        /// What the type asks for.
        expected: String,
    },
    /// The value is of the right type but not one the field accepts.
    InvalidValue {
        /// What is stored.
        found: String,
        /// What the type asks for.
        expected: String,
    },
    /// An array or a map has another number of items than the type.
    InvalidLength {
        /// How many there are.
        given: usize,
        /// What the type asks for.
        expected: String,
    },
    /// An enum has no variant of this name.
    UnknownVariant {
        /// The name.
        name: String,
        /// The names it has.
        expected: &'static [&'static str],
    },
    /// A struct that refuses unknown fields has none of this name.
    UnknownField {
        /// The name.
        name: String,
        /// The names it has.
        expected: &'static [&'static str],
    },
    /// A field without a default is missing.
    MissingField(&'static str),
    /// A field, possibly under two of its names, is there twice.
    DuplicateField(&'static str),
    /// An integer outside -2^63 .. 2^64.
    IntegerOutOfRange(String),
    /// A number that the field's float type cannot hold.
    Inexact {
        /// The number.
        found: String,
        /// The field's type.
        wanted: &'static str,
    },
    /// A map key that has no text form.
    KeyType(&'static str),
    /// A document was wanted, and the value is not a map.
    NotADocument(&'static str),
    /// Containers nested deeper than a value may.
    TooDeep {
        /// The deepest nesting of a field's value.
        max: usize,
    },
    /// The value breaks a limit of the format.
    Encode(EncodeError),
    /// The type's own `Serialize` or `Deserialize` refused, in its own words.
    Custom(String),
}

impl SerdeError {
    pub(super) fn new(kind: SerdeErrorKind) -> Self {
        Self { path: String::new(), kind }
    }

    pub(super) fn prepend_key(mut self, key: &str) -> Self {
        path::prepend_key(&mut self.path, key);
        self
    }

    pub(super) fn prepend_index(mut self, index: usize) -> Self {
        path::prepend_index(&mut self.path, index as u64);
        self
    }

    pub(super) fn finish(mut self) -> Self {
        path::finish(&mut self.path);
        self
    }
}

impl serde::ser::Error for SerdeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(SerdeErrorKind::Custom(message.to_string()))
    }
}

impl serde::de::Error for SerdeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(SerdeErrorKind::Custom(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(SerdeErrorKind::InvalidType { found: found.to_string(), expected: expected.to_string() })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(SerdeErrorKind::InvalidValue { found: found.to_string(), expected: expected.to_string() })
    }

    fn invalid_length(given: usize, expected: &dyn Expected) -> Self {
        Self::new(SerdeErrorKind::InvalidLength { given, expected: expected.to_string() })
    }

    fn unknown_variant(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(SerdeErrorKind::UnknownVariant { name: name.to_owned(), expected })
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        Self::new(SerdeErrorKind::UnknownField { name: name.to_owned(), expected })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(SerdeErrorKind::MissingField(name))
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::new(SerdeErrorKind::DuplicateField(name))
    }
}

/// A [`SerdeError`] on its way out. One word: what succeeds is not moved about in the room that an error would take.
#[derive(Debug)]
pub(super) struct Fault(Box<SerdeError>);

impl Fault {
    pub(super) fn new(kind: SerdeErrorKind) -> Self {
        SerdeError::new(kind).into()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn prepend_key(mut self, key: &str) -> Self {
        path::prepend_key(&mut self.0.path, key);
        self
    }

    #[cold]
    #[inline(never)]
    pub(super) fn prepend_index(mut self, index: usize) -> Self {
        path::prepend_index(&mut self.0.path, index as u64);
        self
    }

    #[cold]
    #[inline(never)]
    pub(super) fn finish(self) -> SerdeError {
        self.0.finish()
    }
}

impl From<SerdeError> for Fault {
    #[cold]
    fn from(error: SerdeError) -> Self {
        Self(Box::new(error))
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        <SerdeError as serde::de::Error>::custom(message).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        SerdeError::invalid_type(found, expected).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        SerdeError::invalid_value(found, expected).into()
    }

    fn invalid_length(given: usize, expected: &dyn Expected) -> Self {
        SerdeError::invalid_length(given, expected).into()
    }

    fn unknown_variant(name: &str, expected: &'static [&'static str]) -> Self {
        SerdeError::unknown_variant(name, expected).into()
    }

    fn unknown_field(name: &str, expected: &'static [&'static str]) -> Self {
        SerdeError::unknown_field(name, expected).into()
    }

    fn missing_field(name: &'static str) -> Self {
        SerdeError::missing_field(name).into()
    }

    fn duplicate_field(name: &'static str) -> Self {
        SerdeError::duplicate_field(name).into()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for SerdeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: ", self.path)?;
        match &self.kind {
            SerdeErrorKind::InvalidType { found, expected } => {
                write!(f, "found {found}, expected {expected}; change the type or the stored value")
            }
            SerdeErrorKind::InvalidValue { found, expected } => {
                write!(f, "found {found}, expected {expected}; change the stored value")
            }
            SerdeErrorKind::InvalidLength { given, expected } => {
                write!(f, "found {given} items, expected {expected}; change the type or the stored value")
            }
            SerdeErrorKind::UnknownVariant { name, expected } => {
                write!(f, "there is no variant {name:?}; the type has {}", Names(expected))
            }
            SerdeErrorKind::UnknownField { name, expected } => {
                write!(f, "there is no field {name:?}; the type has {}", Names(expected))
            }
            SerdeErrorKind::MissingField(name) => {
                write!(f, "the field {name:?} is missing; give it #[serde(default)], or make it an Option")
            }
            SerdeErrorKind::DuplicateField(name) => {
                write!(f, "the field {name:?} is there twice; look for an alias")
            }
            SerdeErrorKind::IntegerOutOfRange(number) => {
                write!(f, "the integer {number} is outside -2^63 .. 2^64-1; store it as text or bytes")
            }
            SerdeErrorKind::Inexact { found, wanted } => {
                write!(f, "the number {found} has no exact {wanted}; use an integer or a wider type")
            }
            SerdeErrorKind::KeyType(found) => {
                write!(f, "{found} cannot be a map key; use text, an integer, a boolean or a unit variant")
            }
            SerdeErrorKind::NotADocument(found) => {
                write!(f, "{found} is not a document; use a struct or a map")
            }
            SerdeErrorKind::TooDeep { max } => {
                write!(f, "nested deeper than {max} levels; flatten it, or store this part as bytes")
            }
            SerdeErrorKind::Encode(error) => fmt::Display::fmt(error, f),
            SerdeErrorKind::Custom(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for SerdeError {}

/// A list of names in a sentence.
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name:?}")?;
        }
        Ok(())
    }
}
