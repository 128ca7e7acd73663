//! Dictionaries: what occurs again is a number.
//!
//! A reference of 0 introduces the next new thing; n refers to the n-th last that was introduced, so that neighbours
//! are cheap. Things of a fixed width lie in planes: all first bytes, then all second bytes, since the first bytes of
//! ids and floats are alike and a compressor sees that only when they are neighbours.

use super::numbers::{Numbers, put_numbers};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::small::first_repeat;
use crate::writer::put_prefixed;
use std::collections::BTreeMap;

/// Appends things of one width as planes.
pub(super) fn put_planes<const N: usize>(out: &mut Vec<u8>, things: &[[u8; N]]) {
    let mut planes = Vec::with_capacity(things.len() * N);
    for plane in 0..N {
        planes.extend(things.iter().map(|thing| thing[plane]));
    }
    put_prefixed(out, &planes);
}

/// Things of one width, read one after another or by place.
pub(super) struct Planes<'a, const N: usize> {
    bytes: &'a [u8],
    at: usize,
    count: usize,
    next: usize,
}

impl<'a, const N: usize> Planes<'a, N> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes = reader.bytes_prefixed(FRAME_BODY_BYTES_MAX, "stream bytes")?;
        let at = reader.offset() - bytes.len();
        // spec: K-7
        if bytes.len() % N != 0 {
            return Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("K-7")));
        }
        Ok(Self { bytes, at, count: bytes.len() / N, next: 0 })
    }

    fn get(&self, index: usize) -> [u8; N] {
        std::array::from_fn(|plane| self.bytes.get(plane * self.count + index).copied().unwrap_or(0))
    }

    pub(super) fn next(&mut self) -> Result<[u8; N], DecodeError> {
        if self.next == self.count {
            return Err(DecodeError::new(self.at, DecodeErrorKind::UnexpectedEnd { wanted: N, left: 0 }));
        }
        self.next += 1;
        Ok(self.get(self.next - 1))
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.count - self.next {
            0 => Ok(()),
            left => Err(DecodeError::new(self.at, DecodeErrorKind::TrailingBytes(left * N))),
        }
    }
}

/// Numbers things in order of first use and writes references to them.
struct Dictionary<T> {
    places: BTreeMap<T, usize>,
    news: Vec<T>,
    refs: Vec<u64>,
}

impl<T: Ord + Copy> Dictionary<T> {
    fn of(things: impl IntoIterator<Item = T>) -> Self {
        let mut dictionary = Self { places: BTreeMap::new(), news: Vec::new(), refs: Vec::new() };
        for thing in things {
            let next = dictionary.news.len();
            let place = *dictionary.places.entry(thing).or_insert(next);
            if place == next {
                dictionary.news.push(thing);
            }
            // The place of a new one is the next, so that it becomes 0.
            dictionary.refs.push((next - place) as u64);
        }
        dictionary
    }
}

/// Appends ids: references, then the new ones.
pub(super) fn put_ids(out: &mut Vec<u8>, ids: &[[u8; 16]]) {
    // As numbers they are compared at once, and their order is nobody's business.
    let dictionary = Dictionary::of(ids.iter().map(|id| u128::from_be_bytes(*id)));
    put_numbers(out, &dictionary.refs);
    put_planes(out, &dictionary.news.iter().map(|id| id.to_be_bytes()).collect::<Vec<_>>());
}

/// Appends byte strings: references, lengths of the new ones, the new ones.
pub(super) fn put_strings(out: &mut Vec<u8>, strings: &[&[u8]]) {
    let dictionary = Dictionary::of(strings.iter().copied());
    put_numbers(out, &dictionary.refs);
    put_numbers(out, &dictionary.news.iter().map(|string| string.len() as u64).collect::<Vec<_>>());
    put_prefixed(out, &dictionary.news.concat());
}

/// Reads a reference: nothing for a new thing, else its place (spec: K-8).
fn reference(refs: &mut Numbers<'_>, known: usize) -> Result<Option<usize>, DecodeError> {
    let back = refs.below(known as u64 + 1, "reference")? as usize;
    Ok((back > 0).then(|| known - back))
}

/// Ids that are being read.
pub(super) struct Ids<'a> {
    refs: Numbers<'a>,
    news: Planes<'a, 16>,
}

impl<'a> Ids<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { refs: Numbers::read(reader)?, news: Planes::read(reader)? })
    }

    pub(super) fn next(&mut self) -> Result<[u8; 16], DecodeError> {
        match reference(&mut self.refs, self.news.next)? {
            Some(place) => Ok(self.news.get(place)),
            None => self.news.next(),
        }
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.refs.finish()?;
        self.news.finish()?;
        let all: Vec<[u8; 16]> = (0..self.news.count).map(|index| self.news.get(index)).collect();
        distinct(&all, self.news.at)
    }
}

/// Byte strings that are being read.
pub(super) struct Strings<'a> {
    refs: Numbers<'a>,
    lens: Numbers<'a>,
    news: Reader<'a>,
    known: Vec<&'a [u8]>,
}

impl<'a> Strings<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let refs = Numbers::read(reader)?;
        let lens = Numbers::read(reader)?;
        let bytes = reader.bytes_prefixed(FRAME_BODY_BYTES_MAX, "stream bytes")?;
        let news = Reader::with_offset(bytes, reader.offset() - bytes.len());
        Ok(Self { refs, lens, news, known: Vec::new() })
    }

    pub(super) fn next(&mut self) -> Result<&'a [u8], DecodeError> {
        if let Some(place) = reference(&mut self.refs, self.known.len())? {
            return Ok(self.known.get(place).copied().unwrap_or_default());
        }
        let len = self.lens.next()?;
        let string = self.news.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        self.known.push(string);
        Ok(string)
    }

    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.refs.finish()?;
        self.lens.finish()?;
        self.news.finish()?;
        distinct(&self.known, self.news.offset())
    }
}

/// Checks that nothing was introduced twice (spec: K-8).
pub(super) fn distinct<T: Ord>(things: &[T], at: usize) -> Result<(), DecodeError> {
    match first_repeat(things) {
        None => Ok(()),
        Some(_) => Err(DecodeError::new(at, DecodeErrorKind::NotCanonical("K-8"))),
    }
}
