//! `Shape`: the sorted field names of a row, kept outside of its body.
//!
//! Rows of one collection share few shapes; a shape is written once per batch or once per file and rows name it by
//! index. Names strictly ascend by bytes, so that a set of names has one shape (spec: V-22).

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::limits::{FIELDS_MAX, NAME_BYTES_MAX};
use crate::reader::Reader;
use crate::writer::{prefixed_len, put_prefixed, put_uvarint, uvarint_len};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::slice;
use std::sync::Arc;

/// In a shape of at most so many names one is found by looking at all: most differ in length, or in their first byte.
const SCANNED_MAX: usize = 16;

/// The sorted, unique field names of a row. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Option<Arc<Names>>);

/// At least one name; the empty shape allocates nothing.
#[derive(PartialEq, Eq)]
struct Names {
    /// All names, one after another.
    text: Box<str>,
    places: Box<[Place]>,
    /// Length of the encoding: asked for with every operation.
    encoded_len: usize,
}

/// Where to find a name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Names with different marks differ.
    mark: u64,
    /// Where the name ends in the text.
    end: u32,
    len: u32,
}

impl Shape {
    /// Returns the shape without names.
    pub const fn empty() -> Self {
        Self(None)
    }

    /// Returns the shape of these names, which may come in any order.
    pub fn new<I>(names: I) -> Result<Self, EncodeError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let names: Vec<I::Item> = names.into_iter().collect();
        let mut refs: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        refs.sort_unstable();
        if let Some(pair) = refs.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(EncodeError::Duplicate { name: pair[0].to_owned() });
        }
        Self::from_sorted(&refs)
    }

    /// Builds from names that are sorted and unique already.
    pub(crate) fn from_sorted(names: &[&str]) -> Result<Self, EncodeError> {
        if names.is_empty() {
            return Ok(Self::empty());
        }
        if names.len() > FIELDS_MAX {
            return Err(EncodeError::Limit { what: "fields", given: names.len() as u64, max: FIELDS_MAX as u64 });
        }
        let mut text = String::with_capacity(names.iter().map(|name| name.len()).sum());
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            if name.len() > NAME_BYTES_MAX {
                return Err(EncodeError::Limit {
                    what: "field name bytes",
                    given: name.len() as u64,
                    max: NAME_BYTES_MAX as u64,
                });
            }
            text.push_str(name);
            places.push(Place { mark: mark(name.as_bytes()), end: text.len() as u32, len: name.len() as u32 });
        }
        Ok(Self::of(text, places))
    }

    fn of(text: String, places: Vec<Place>) -> Self {
        let encoded_len = uvarint_len(places.len() as u64)
            + places.iter().map(|place| prefixed_len(place.len as usize)).sum::<usize>();
        let (text, places) = (text.into_boxed_str(), places.into_boxed_slice());
        Self(Some(Arc::new(Names { text, places, encoded_len })))
    }

    /// Returns the number of names.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |names| names.places.len())
    }

    /// Returns true if there is no name.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the name at `index`; past the last name, the empty string.
    #[inline]
    pub fn name(&self, index: usize) -> &str {
        self.0.as_ref().and_then(|names| names.get(index)).unwrap_or_default()
    }

    /// Iterates over the names in ascending order.
    #[inline]
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator + Clone {
        self.0
            .as_ref()
            .map_or_else(NameIter::default, |names| NameIter { text: &names.text, places: names.places.iter() })
    }

    /// Returns where `name` stands, if it does.
    #[inline]
    pub fn index_of(&self, name: &str) -> Option<usize> {
        let names = self.0.as_ref()?;
        if names.places.len() > SCANNED_MAX { names.search(name) } else { names.scan(name) }
    }

    /// Returns true if these are exactly the names, in this order.
    pub(crate) fn is_exactly<'n>(&self, names: impl ExactSizeIterator<Item = &'n str>) -> bool {
        self.len() == names.len() && self.names().eq(names)
    }

    /// Returns the first name that both shapes have.
    ///
    /// Searches the larger for each name of the smaller: cheap even where the larger one costs its sender nothing.
    pub(crate) fn first_common<'s>(&'s self, other: &'s Self) -> Option<&'s str> {
        let (few, many) = if self.len() <= other.len() { (self, other) } else { (other, self) };
        few.names().find(|name| many.index_of(name).is_some())
    }

    /// Appends the encoding: the count, then each name with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.len() as u64);
        for name in self.names() {
            put_prefixed(out, name.as_bytes());
        }
    }

    /// Returns how many bytes `encode` appends.
    pub fn encoded_len(&self) -> usize {
        self.0.as_ref().map_or(1, |names| names.encoded_len)
    }

    /// Reads a shape (spec: V-22, L-2, L-3).
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.count(FIELDS_MAX, 1, "fields")?;
        if count == 0 {
            return Ok(Self::empty());
        }
        let mut text = String::new();
        let mut places = Vec::with_capacity(count);
        let mut previous = None;
        for _ in 0..count {
            let at = reader.offset();
            let name = reader.str_prefixed(NAME_BYTES_MAX, "field name bytes")?;
            if previous.is_some_and(|previous| previous >= name) {
                return Err(DecodeError::new(at, DecodeErrorKind::Order("V-22")));
            }
            previous = Some(name);
            text.push_str(name);
            // At most 4096 names of 255 bytes.
            places.push(Place { mark: mark(name.as_bytes()), end: text.len() as u32, len: name.len() as u32 });
        }
        Ok(Self::of(text, places))
    }
}

impl Names {
    /// Looks at one mark after the other.
    #[inline]
    fn scan(&self, name: &str) -> Option<usize> {
        let wanted = mark(name.as_bytes());
        let mut indices = 0..self.places.len();
        indices.find(|&index| self.places[index].mark == wanted && self.bytes(index) == Some(name.as_bytes()))
    }

    fn search(&self, name: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.bytes(middle)?.cmp(name.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Returns the bytes of a name: to compare, nobody has to see that characters begin and end there.
    #[inline]
    fn bytes(&self, index: usize) -> Option<&[u8]> {
        let place = self.places.get(index)?;
        self.text.as_bytes().get((place.end - place.len) as usize..place.end as usize)
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&str> {
        let place = self.places.get(index)?;
        self.text.get((place.end - place.len) as usize..place.end as usize)
    }
}

/// The names of a shape, ascending.
#[derive(Clone, Default)]
struct NameIter<'a> {
    /// The text of the names that are left.
    text: &'a str,
    places: slice::Iter<'a, Place>,
}

impl<'a> Iterator for NameIter<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let (name, text) = self.text.split_at_checked(self.places.next()?.len as usize)?;
        self.text = text;
        Some(name)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl ExactSizeIterator for NameIter<'_> {}

impl DoubleEndedIterator for NameIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let last = self.places.next_back()?.len as usize;
        let (text, name) = self.text.split_at_checked(self.text.len().checked_sub(last)?)?;
        self.text = text;
        Some(name)
    }
}

/// Returns a number that is the same for the same names, and mostly another for others: a few instructions, where
/// comparing takes a call.
#[inline]
fn mark(name: &[u8]) -> u64 {
    let ends = if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(29)
    } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
    } else {
        name.iter().fold(0, |mark, &byte| mark << 8 | u64::from(byte))
    };
    ends ^ (name.len() as u64) << 56
}

/// What else there is follows from these two.
impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.places.iter().for_each(|place| place.end.hash(state));
    }
}

impl Ord for Shape {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for Shape {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_and_are_found() {
        let shape = Shape::new(["b", "", "abc", "a"]).expect("distinct names");
        assert_eq!(shape.names().collect::<Vec<_>>(), ["", "a", "abc", "b"]);
        for (index, name) in ["", "a", "abc", "b"].iter().enumerate() {
            assert_eq!(shape.index_of(name), Some(index));
        }
        assert_eq!(shape.names().rev().collect::<Vec<_>>(), ["b", "abc", "a", ""]);
        assert_eq!(shape.index_of("ab"), None);
        assert_eq!(shape.index_of("c"), None);
        assert_eq!(shape.name(4), "");
        assert!(matches!(Shape::new(["a", "a"]), Err(EncodeError::Duplicate { name }) if name == "a"));
    }

    #[test]
    fn names_with_one_mark_are_told_apart() {
        let (one, other) = ("abcdefgh-abcdefgh", "abcdefgh+abcdefgh");
        assert_eq!(mark(one.as_bytes()), mark(other.as_bytes()));
        let shape = Shape::new([one, other]).expect("distinct names");
        assert_eq!((shape.index_of(one), shape.index_of(other)), (Some(1), Some(0)));
        assert_eq!(shape.index_of("abcdefgh.abcdefgh"), None);
        let long: Vec<String> = (0..40).map(|n| format!("{n:02}-{}", "x".repeat(n))).collect();
        for count in [1, 16, 17, 40] {
            let shape = Shape::new(&long[..count]).expect("distinct names");
            assert!((0..count).all(|index| shape.index_of(&long[index]) == Some(index)));
        }
    }

    // spec: L-2, L-3
    #[test]
    fn limits_hold_at_the_edge() {
        let names = |count: usize| (0..count).map(|n| format!("{n:05}"));
        assert_eq!(Shape::new(names(FIELDS_MAX)).map(|shape| shape.len()), Ok(FIELDS_MAX));
        assert!(Shape::new(names(FIELDS_MAX + 1)).is_err());
        assert!(Shape::new(["x".repeat(NAME_BYTES_MAX)]).is_ok());
        assert!(Shape::new(["x".repeat(NAME_BYTES_MAX + 1)]).is_err());
    }

    // spec: V-22
    #[test]
    fn decode_wants_ascending_names() {
        let shape = Shape::new(["done", "title"]).expect("distinct names");
        let mut out = Vec::new();
        shape.encode(&mut out);
        assert_eq!(out, b"\x02\x04done\x05title");
        assert_eq!(out.len(), shape.encoded_len());
        assert_eq!(Shape::decode(&mut Reader::new(&out)), Ok(shape));
        for bytes in [&b"\x02\x01b\x01a"[..], b"\x02\x01a\x01a"] {
            let error = Shape::decode(&mut Reader::new(bytes)).expect_err("not ascending");
            assert_eq!(error, DecodeError::new(3, DecodeErrorKind::Order("V-22")));
        }
    }
}
