//! `Vector`: numbers of one width, one behind the other, such as an embedding.
//!
//! An array can hold anything and says for each item what it is; a vector is a flat run of little-endian floats, which a
//! reader goes through where it lies. The width is part of the value: a vector of `f32` never equals one of `f64`. As
//! for other floats there is one NaN, and -0.0 is not 0.0.

use crate::error::{DecodeError, DecodeErrorKind};
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What a vector is made of: `f32` or `f64`.
pub trait Element: Copy + fmt::Debug + sealed::Sealed + 'static {
    /// Bytes of one element; the info of the tag.
    #[doc(hidden)]
    const BYTES: usize;
    /// Reads an element; none of other than so many bytes.
    #[doc(hidden)]
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Appends an element, with the one NaN that the format knows.
    #[doc(hidden)]
    fn write(self, out: &mut Vec<u8>);
    /// Returns where the first NaN begins that is not the one of the format (spec: V-26).
    #[doc(hidden)]
    fn other_nan(bytes: &[u8]) -> Option<usize>;
    /// Compares with NaN as one value and the greatest.
    #[doc(hidden)]
    fn compare(self, other: Self) -> Ordering;
    /// Returns the element as a float of 64 bits, which loses nothing.
    #[doc(hidden)]
    fn widen(self) -> f64;
}

macro_rules! element {
    ($float:ident, $nan:expr) => {
        impl Element for $float {
            const BYTES: usize = size_of::<$float>();

            #[inline]
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map($float::from_le_bytes)
            }

            #[inline]
            fn write(self, out: &mut Vec<u8>) {
                let bits = if self.is_nan() { $nan } else { self.to_bits() };
                out.extend_from_slice(&bits.to_le_bytes());
            }

            fn other_nan(bytes: &[u8]) -> Option<usize> {
                let (elements, _) = bytes.as_chunks::<{ size_of::<$float>() }>();
                let is_other = |bytes: &[u8; size_of::<$float>()]| {
                    let element = $float::from_le_bytes(*bytes);
                    element.is_nan() & (element.to_bits() != $nan)
                };
                // Without a way out in between, many are looked at in one step.
                if !elements.iter().fold(false, |any, element| any | is_other(element)) {
                    return None;
                }
                elements.iter().position(is_other).map(|index| index * Self::BYTES)
            }

            fn compare(self, other: Self) -> Ordering {
                let one_nan = |x: $float| if x.is_nan() { $float::from_bits($nan) } else { x };
                one_nan(self).total_cmp(&one_nan(other))
            }

            fn widen(self) -> f64 {
                self.into()
            }
        }
    };
}

element!(f32, 0x7fc0_0000);
element!(f64, 0x7ff8_0000_0000_0000);

/// Numbers of one width, owned. A plain `Vec<f32>` is an array; wrapped in this it is stored flat.
///
/// ```
/// use blazedb_wire::{Value, Vector};
///
/// #[derive(serde::Serialize)]
/// struct Note { text: String, embedding: Vector<f32> }
///
/// let note = Note { text: "milk".into(), embedding: Vector(vec![0.25, -1.0]) };
/// let document = blazedb_wire::serde::to_document(&note)?;
/// assert_eq!(document.get("embedding"), Some(&Value::VectorF32(note.embedding)));
/// # Ok::<(), blazedb_wire::serde::SerdeError>(())
/// ```
#[derive(Clone, Default)]
pub struct Vector<T: Element>(pub Vec<T>);

impl<T: Element> Vector<T> {
    /// Appends the elements, little-endian.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.0.len() * T::BYTES);
        self.0.iter().for_each(|element| element.write(out));
    }

    /// Returns the elements, little-endian.
    pub(crate) fn to_le_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

impl<T: Element> From<Vec<T>> for Vector<T> {
    fn from(elements: Vec<T>) -> Self {
        Self(elements)
    }
}

impl<T: Element> FromIterator<T> for Vector<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self(elements.into_iter().collect())
    }
}

/// Element by element; a prefix is less.
impl<T: Element> Ord for Vector<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut pairs = self.0.iter().zip(&other.0).map(|(a, b)| a.compare(*b));
        pairs.find(|order| order.is_ne()).unwrap_or_else(|| self.0.len().cmp(&other.0.len()))
    }
}

impl<T: Element> PartialOrd for Vector<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Element> PartialEq for Vector<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Element> Eq for Vector<T> {}

impl<T: Element> fmt::Debug for Vector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Numbers of one width, read where they lie; the bytes need not be aligned.
#[derive(Clone, Copy)]
pub struct VectorRef<'a, T> {
    bytes: &'a [u8],
    element: PhantomData<T>,
}

impl<'a, T: Element> VectorRef<'a, T> {
    /// Checks and reads a payload (spec: V-25, V-26).
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some(found) = Self::trusted(payload) else {
            let left = payload.len() % T::BYTES;
            let kind = DecodeErrorKind::UnexpectedEnd { wanted: T::BYTES, left };
            return Err(DecodeError::new(payload.len() - left, kind));
        };
        match T::other_nan(payload) {
            Some(at) => Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("V-26"))),
            None => Ok(found),
        }
    }

    /// Takes a payload whose elements were checked before.
    #[inline]
    pub(crate) fn trusted(payload: &'a [u8]) -> Option<Self> {
        payload.len().is_multiple_of(T::BYTES).then_some(Self { bytes: payload, element: PhantomData })
    }

    /// Returns the number of elements.
    #[inline]
    pub const fn len(&self) -> usize {
        self.bytes.len() / T::BYTES
    }

    /// Returns true if there is no element.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the elements as they lie: little-endian, one behind the other, not aligned.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the element at `index`, in constant time.
    #[inline]
    pub fn get(&self, index: usize) -> Option<T> {
        let start = index.checked_mul(T::BYTES)?;
        self.bytes.get(start..).and_then(|rest| rest.get(..T::BYTES)).and_then(T::read)
    }

    /// Iterates over the elements.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + DoubleEndedIterator + Clone + use<'a, T> {
        self.bytes.chunks_exact(T::BYTES).map(|bytes| T::read(bytes).expect("chunks are as long as an element"))
    }

    /// Returns the vector with elements of its own.
    pub fn to_vector(&self) -> Vector<T> {
        self.iter().collect()
    }
}

impl<T: Element> fmt::Debug for VectorRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: V-25, V-26
    #[test]
    fn one_nan_and_whole_elements() {
        let vector = Vector(vec![1.0f32, -0.0, -f32::NAN]);
        let bytes = vector.to_le_bytes();
        assert_eq!(bytes, [0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 0, 0, 0xc0, 0x7f]);
        let read = VectorRef::<f32>::decode(&bytes).expect("canonical");
        assert_eq!((read.len(), read.get(0), read.get(3)), (3, Some(1.0), None));
        assert_eq!(read.get(usize::MAX), None);
        assert_eq!(read.to_vector(), vector);
        assert_eq!(read.as_bytes(), bytes);
        assert_eq!(VectorRef::<f32>::decode(&bytes[..11]).map_err(|error| error.offset).err(), Some(8));
        let mut other = bytes;
        other[8] = 1;
        let error = VectorRef::<f32>::decode(&other).err();
        assert_eq!(error, Some(DecodeError::new(8, DecodeErrorKind::NotCanonical("V-26"))));
        let wide = Vector(vec![f64::NAN]).to_le_bytes();
        assert_eq!(wide, [0, 0, 0, 0, 0, 0, 0xf8, 0x7f]);
    }

    #[test]
    fn order_is_by_element_and_a_prefix_is_less() {
        let ascending = [vec![], vec![-0.0], vec![0.0], vec![0.0, -1.0], vec![1.0], vec![f64::NAN]].map(Vector);
        assert!(ascending.is_sorted_by(|a, b| a < b));
        assert_eq!(Vector(vec![-f64::NAN]), Vector(vec![f64::NAN]));
    }
}
