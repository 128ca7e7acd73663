//! What commits superseded, where history is kept of it: an entry of the tree's twin for each, which says where the
//! version before lies. Of a key's first version in the table that is below the table.
//!
//! No value is copied: the record of the version before stays in its segment as long as the table, and the entry names
//! it.

use std::sync::Arc;

use bytes::Bytes;

use super::batch::Item;
use super::leaf::{Kind, Version, head_of};
use super::segments::Place;
use crate::history::Twins;
use crate::history::key::push_twin_key;

/// Segment and place in it, lengths of value and key, kind.
const PAST_BYTES: usize = 15;
/// The kind of an entry whose version lies below the table.
const BELOW: u8 = 3;

/// What one commit supersedes.
pub(super) struct NewPast {
    twins: Arc<Twins>,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl NewPast {
    pub(super) fn new(twins: Arc<Twins>) -> Self {
        Self { twins, bytes: Vec::new(), items: Vec::new() }
    }

    /// Returns the twin of a tree whose history is kept.
    pub(super) fn twin_of(&self, tree: u32) -> Option<u32> {
        self.twins.kept(tree).map(|twin| twin.number)
    }

    /// Notes what a commit took the place of; `None`: of what lies below the table.
    pub(super) fn add(&mut self, twin: u32, key: &[u8], commit_no: u64, before: Option<Version>) {
        let at = self.bytes.len();
        // Whether there was a value is not known yet.
        push_twin_key(&mut self.bytes, key, commit_no, false);
        let key_len = self.bytes.len() - at;
        let head = head_of(&self.bytes[at..]);
        self.bytes.extend_from_slice(&encode_past(before));
        let place = Place { segment: 0, at: at as u32 };
        let (key_len, value_len) = (key_len as u16, PAST_BYTES as u32);
        let version = Version { head, commit_no, place, value_len, key_len, kind: Kind::Past };
        self.items.push(Item { tree: twin, version });
    }

    /// Returns the entries, and the segment of this number in which they lie; `None` where there are none.
    pub(super) fn into_segment(mut self, number: u32) -> Option<(Bytes, Vec<Item>)> {
        self.items.iter_mut().for_each(|item| item.version.place.segment = number);
        (!self.items.is_empty()).then(|| (self.bytes.into_boxed_slice().into(), self.items))
    }
}

fn encode_past(before: Option<Version>) -> [u8; PAST_BYTES] {
    let mut bytes = [0; PAST_BYTES];
    bytes[14] = BELOW;
    if let Some(before) = before {
        bytes[..4].copy_from_slice(&before.place.segment.to_le_bytes());
        bytes[4..8].copy_from_slice(&before.place.at.to_le_bytes());
        bytes[8..12].copy_from_slice(&before.value_len.to_le_bytes());
        bytes[12..14].copy_from_slice(&before.key_len.to_le_bytes());
        bytes[14] = before.kind as u8;
    }
    bytes
}

/// Returns the version that an entry names, without its head and its commit; `None` where that lies below the table, and
/// where these bytes are no twin's entry.
pub(super) fn decode_past(bytes: &[u8]) -> Option<Version> {
    let bytes: &[u8; PAST_BYTES] = bytes.try_into().ok()?;
    let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let kind = match bytes[14] {
        0 => Kind::Inline,
        1 => Kind::Stored,
        2 => Kind::Deleted,
        _ => return None,
    };
    Some(Version {
        head: 0,
        commit_no: 0,
        place: Place { segment: number(0), at: number(4) },
        value_len: number(8),
        key_len: u16::from_le_bytes([bytes[12], bytes[13]]),
        kind,
    })
}
