//! The file's own catalogue of shapes: a record names its field list by a small number instead of repeating it.
//!
//! Numbers are given out in memory. A transaction that uses a number writes the catalogue entry along with its
//! records until some transaction is known to have made that entry durable, so that no crash leaves a record whose
//! shape is unknown.

use std::collections::HashMap;

use blazedb_engine::ReadView;
use blazedb_sync::ShapeCatalogue;
use blazedb_wire::{Reader, Shape};
use parking_lot::RwLock;

use crate::{Error, ErrorKind, layout};

/// Most shapes of one file: what keeps the catalogue's memory bounded when every document has fields of its own.
pub(crate) const SHAPES_MAX: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Shapes {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    by_number: Vec<Shape>,
    by_shape: HashMap<Shape, u32>,
    /// Numbers below this one are durable.
    durable: Vec<bool>,
}

impl Shapes {
    pub(crate) fn load(view: &ReadView) -> Result<Self, Error> {
        let mut state = State::default();
        if let Some(tree) = view.tree(layout::SHAPES)? {
            for item in view.range(tree, ..) {
                let (key, value) = item?;
                if key[..] != (state.by_number.len() as u32).to_be_bytes() {
                    return Err(Error::new(ErrorKind::Corrupt, "the file's catalogue of shapes has a gap"));
                }
                let mut r = Reader::new(&value);
                let shape = Shape::decode(&mut r)
                    .and_then(|s| r.finish().map(|()| s))
                    .map_err(|e| Error::corrupt("the file's catalogue of shapes", e))?;
                state.by_shape.insert(shape.clone(), state.by_number.len() as u32);
                state.by_number.push(shape);
                state.durable.push(true);
            }
        }
        Ok(Self { state: RwLock::new(state) })
    }

    /// Returns the shape's number, a new one if need be.
    pub(crate) fn number(&self, shape: &Shape) -> Result<u32, Error> {
        if let Some(&n) = self.state.read().by_shape.get(shape) {
            return Ok(n);
        }
        let mut state = self.state.write();
        if let Some(&n) = state.by_shape.get(shape) {
            return Ok(n);
        }
        let n = state.by_number.len();
        if n >= SHAPES_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("a file holds at most {SHAPES_MAX} different field lists; put varying keys into a nested map"),
            ));
        }
        state.by_shape.insert(shape.clone(), n as u32);
        state.by_number.push(shape.clone());
        state.durable.push(false);
        Ok(n as u32)
    }

    pub(crate) fn get(&self, number: u32) -> Option<Shape> {
        self.state.read().by_number.get(number as usize).cloned()
    }

    /// Returns the catalogue entries up to `number` that are not known to be durable: number and encoding.
    ///
    /// All lower ones are included, because the catalogue is read back as a sequence without gaps.
    pub(crate) fn not_durable_through(&self, number: u32) -> Vec<(u32, Vec<u8>)> {
        let state = self.state.read();
        let mut out = Vec::new();
        for n in (0..=number as usize).rev() {
            match (state.durable.get(n), state.by_number.get(n)) {
                (Some(false), Some(shape)) => {
                    let mut bytes = Vec::new();
                    shape.encode(&mut bytes);
                    out.push((n as u32, bytes));
                }
                // Durable numbers form a prefix: nothing lower is missing.
                _ => break,
            }
        }
        out.reverse();
        out
    }

    /// Notes that a committed transaction wrote the entries up to `through`.
    pub(crate) fn mark_durable(&self, through: Option<u32>) {
        let Some(through) = through else { return };
        let mut state = self.state.write();
        for n in (0..=through as usize).rev() {
            match state.durable.get_mut(n) {
                Some(d) if !*d => *d = true,
                _ => break,
            }
        }
    }
}

impl ShapeCatalogue for Shapes {
    fn shape(&self, number: u32) -> Option<Shape> {
        self.get(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_offered_until_they_are_durable() {
        let shapes = Shapes::default();
        let a = shapes.number(&Shape::new(["a"]).unwrap()).unwrap();
        let b = shapes.number(&Shape::new(["b"]).unwrap()).unwrap();
        assert_eq!((a, b), (0, 1));
        assert_eq!(shapes.number(&Shape::new(["a"]).unwrap()).unwrap(), 0);
        let offered: Vec<_> = shapes.not_durable_through(1).into_iter().map(|(n, _)| n).collect();
        assert_eq!(offered, [0, 1]);
        shapes.mark_durable(Some(0));
        let offered: Vec<_> = shapes.not_durable_through(1).into_iter().map(|(n, _)| n).collect();
        assert_eq!(offered, [1]);
        shapes.mark_durable(Some(1));
        assert!(shapes.not_durable_through(1).is_empty());
    }
}
