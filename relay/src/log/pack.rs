//! Packing: entries of the log for one who reads columns.
//!
//! What is read for a connection that is behind goes out as few frames of columns, compressed, instead of one frame for
//! each entry. It happens where the log is read, on the threads of the log, so that the hub waits for nobody's
//! compressor; entries that are new go to everybody as they are.

use std::collections::BTreeSet;

use blazedb_wire::limits::COLUMNS_BATCHES_MAX;
use blazedb_wire::{Batch, Codec, Columns, Envelope, Frame, FrameKind, Reads, columns_frame, compress_frame};

use super::StoredEntry;
use crate::limits::{ENTRIES_PACK_BYTES_MAX, ENTRIES_PACK_BYTES_MIN};

/// How entries may be packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// What their reader can read.
    pub reads: Reads,
    /// Numbers up to this one were durable when it was asked for them; later entries stay as they are.
    pub until_seq: u64,
    /// First numbers of entries that their reader has pushed itself: it gets acks, made of the entries as they are.
    pub acks: BTreeSet<u64>,
}

impl Packing {
    /// Packs entries that were read one after another; together they have the same numbers as before.
    pub fn pack(&self, entries: Vec<StoredEntry>) -> Vec<StoredEntry> {
        let Some(codec) = self.codec() else { return entries };
        let mut out = Vec::new();
        let mut group: Vec<StoredEntry> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let alone = entry.last_seq > self.until_seq || self.acks.contains(&entry.first_seq);
            let full = bytes + entry.frame.len() > ENTRIES_PACK_BYTES_MAX || group.len() == COLUMNS_BATCHES_MAX;
            if alone || full {
                self.close(std::mem::take(&mut group), codec, &mut out);
                bytes = 0;
            }
            if alone {
                out.push(entry);
            } else {
                bytes += entry.frame.len();
                group.push(entry);
            }
        }
        self.close(group, codec, &mut out);
        out
    }

    /// The best codec that is read; none if nothing can be done.
    fn codec(&self) -> Option<Codec> {
        let Reads { zstd, lz4, columns } = self.reads;
        match (zstd, lz4) {
            (true, _) => Some(Codec::Zstd),
            (false, true) => Some(Codec::Lz4),
            (false, false) => columns.then_some(Codec::None),
        }
    }

    fn close(&self, group: Vec<StoredEntry>, codec: Codec, out: &mut Vec<StoredEntry>) {
        let bytes: usize = group.iter().map(|entry| entry.frame.len()).sum();
        if bytes < ENTRIES_PACK_BYTES_MIN {
            return out.extend(group);
        }
        if self.reads.columns
            && let Some(packed) = in_columns(&group, codec)
            && packed.frame.len() < bytes
        {
            return out.push(packed);
        }
        out.extend(group.into_iter().map(|entry| StoredEntry { frame: compress_frame(&entry.frame, codec), ..entry }));
    }
}

/// One frame for all; none if they cannot share one. What is damaged is left for its reader to refuse.
fn in_columns(group: &[StoredEntry], codec: Codec) -> Option<StoredEntry> {
    let entries: Vec<(Envelope, Batch)> = group
        .iter()
        .map(|entry| match Frame::decode(entry.frame.clone()) {
            Ok(Frame::Entry { envelope, batch }) => Some((envelope, batch)),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let columns = Columns::encode_entries(&entries).ok()?;
    let frame = compress_frame(&columns_frame(FrameKind::Entries, &columns), codec);
    Some(StoredEntry { first_seq: group.first()?.first_seq, last_seq: group.last()?.last_seq, frame })
}
