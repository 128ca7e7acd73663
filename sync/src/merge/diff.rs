//! `diff`: the update that turns one row into another.

use blazedb_wire::{RawField, Row, RowRef, Shape};

use super::register::MergeRow;

/// Returns what an update has to set and unset so that `old` becomes `new`, or `None` if they are equal.
///
/// Fields are compared as bytes; since encodings are canonical, equal bytes and equal values are one thing. Without `old` the
/// whole of `new` is set.
pub fn diff(old: Option<RowRef<'_>>, new: &Row) -> Option<(Row, Shape)> {
    // spec: M-22
    let Some(old) = old else {
        return Some((new.clone(), Shape::empty()));
    };
    let mut set: Vec<(&str, RawField<'_>)> = Vec::new();
    let mut unset: Vec<&str> = Vec::new();
    let mut before = MergeRow::new(old);
    let mut after = MergeRow::new(new.as_ref());
    loop {
        match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some((gone, _)), None) => {
                unset.push(gone);
                before.advance();
            }
            (None, Some(added)) => {
                set.push(added);
                after.advance();
            }
            (Some((old_name, old_field)), Some((new_name, new_field))) => {
                if old_name < new_name {
                    unset.push(old_name);
                    before.advance();
                } else if old_name > new_name {
                    set.push((new_name, new_field));
                    after.advance();
                } else {
                    if old_field != new_field {
                        set.push((new_name, new_field));
                    }
                    before.advance();
                    after.advance();
                }
            }
        }
    }
    if set.is_empty() && unset.is_empty() {
        return None;
    }
    let shape = Shape::new(set.iter().map(|(name, _)| *name)).expect("some names of a shape are a shape");
    let fields: Vec<RawField<'_>> = set.into_iter().map(|(_, field)| field).collect();
    let set = Row::from_fields(shape, &fields).expect("one field for each name");
    let unset = Shape::new(unset).expect("some names of a shape are a shape");
    Some((set, unset))
}
