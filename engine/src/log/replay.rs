//! Reads a log back and decides where it ends. spec: E-8 to E-10, E-13
//!
//! The end rule: the first group that fails is the torn tail, unless something proves that it was acknowledged: a
//! later group of this file that says so, or the header's floor. Then the bytes are damaged and the store does
//! not open. A damaged last group of a file that was not closed cleanly cannot be told from a torn tail.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::env::StorageFile;
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::keys::FileKeys;
use crate::log::group::{self, GroupHeader, GroupKind};
use crate::log::redo::{self, Effects};
use crate::seal::{Seal, Tag};
use crate::superblock::{BLOCK_BYTES, LOG_START, Superblock};

/// Bytes read from the file at once.
const READ_AHEAD: usize = 256 << 10;

/// Where a log ends and how.
#[derive(Clone, Debug)]
pub(crate) struct LogEnd {
    pub(crate) tail: u64,
    pub(crate) last_tag: Tag,
    pub(crate) last_commit: u64,
    pub(crate) groups: u64,
    /// Commits up to this one are known to have been durable: the newest statement of a header or group.
    pub(crate) durable: u64,
    /// Where the first group begins that holds a commit after `durable`; `tail` when there is none.
    pub(crate) unproven_from: u64,
}

/// Replays the whole log of `file` into `out`. `until` stops it early, at a tail known to its caller.
pub(crate) fn replay(
    file: &Arc<dyn StorageFile>,
    header: &Superblock,
    keys: &FileKeys,
    until: Option<u64>,
    out: &mut dyn Effects,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<LogEnd, OpenError> {
    let io = |source| OpenError::Io { during: "reading the log", source };
    let file_len = file.len().map_err(io)?.min(until.unwrap_or(u64::MAX));
    if file_len < LOG_START {
        return Err(Corruption { offset: file_len, what: CorruptionKind::CutShort }.into());
    }
    let mut reader = GroupReader { file, len: file_len, buffer: Vec::new(), buffer_at: 0, sealer: None, keys, header };
    let mut end = LogEnd {
        tail: LOG_START,
        last_tag: header.seed,
        last_commit: header.base_commit,
        groups: 0,
        durable: header.durable_floor,
        unproven_from: LOG_START,
    };
    let mut starts: VecDeque<(u64, u64)> = VecDeque::new();
    loop {
        let in_base = end.tail < header.base_end;
        let expected = if in_base { header.base_commit } else { end.last_commit + 1 };
        let group = reader.group_at(end.tail).map_err(io)?;
        let fits = group.filter(|(h, _)| {
            h.previous == end.last_tag && h.first_commit == expected && (h.kind == GroupKind::Base) == in_base
        });
        let Some((h, payload)) = fits else { break };
        let count = if in_base { 1 } else { h.count };
        redo::decode(&payload, h.first_commit, count, out)
            .map_err(|rule| Corruption { offset: end.tail, what: CorruptionKind::Redo(rule) })?;
        if !in_base {
            starts.push_back((h.last_commit(), end.tail));
            while starts.front().is_some_and(|&(last, _)| last <= h.durable_commit) {
                starts.pop_front();
            }
        }
        end.durable = end.durable.max(h.durable_commit.min(h.last_commit()));
        end.last_commit = h.last_commit();
        end.last_tag = h.tag;
        end.tail += h.total_bytes();
        end.groups += 1;
        progress(end.tail - LOG_START, file_len.saturating_sub(LOG_START));
    }
    if end.tail < header.base_end {
        return Err(Corruption { offset: end.tail, what: CorruptionKind::Base }.into());
    }
    let expected = end.last_commit + 1;
    let acknowledged = |durable| Corruption {
        offset: end.tail,
        what: CorruptionKind::AcknowledgedGroup { commit_no: expected, durable },
    };
    if end.durable >= expected {
        return Err(acknowledged(end.durable).into());
    }
    if until.is_none()
        && let Some(durable) = reader.proof_after(end.tail, expected).map_err(io)?
    {
        return Err(acknowledged(durable).into());
    }
    end.unproven_from = starts.iter().find(|(last, _)| *last > end.durable).map_or(end.tail, |&(_, at)| at);
    Ok(end)
}

struct GroupReader<'a> {
    file: &'a Arc<dyn StorageFile>,
    len: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    sealer: Option<([u8; 12], Box<dyn Seal>)>,
    keys: &'a FileKeys,
    header: &'a Superblock,
}

impl GroupReader<'_> {
    /// Returns the group at `offset` if its checksum and seal hold.
    fn group_at(&mut self, offset: u64) -> std::io::Result<Option<(GroupHeader, Vec<u8>)>> {
        if offset + BLOCK_BYTES > self.len {
            return Ok(None);
        }
        let Some(block) = self.bytes(offset, BLOCK_BYTES as usize)? else { return Ok(None) };
        let Some(header) = GroupHeader::parse(block) else { return Ok(None) };
        // The length is checked against the file before anything is allocated for it.
        if header.total_bytes() > self.len - offset {
            return Ok(None);
        }
        let Some(bytes) = self.bytes(offset, header.total_bytes() as usize)? else { return Ok(None) };
        let mut bytes = bytes.to_vec();
        if self.sealer.as_ref().is_none_or(|(generation, _)| *generation != header.generation) {
            self.sealer = Some((header.generation, self.keys.log_sealer(&header.generation)));
        }
        let (_, sealer) = self.sealer.as_ref().expect("set just now");
        let uuid = &self.header.uuid;
        if group::open(&mut bytes, &header, uuid, &**sealer).is_none() {
            return Ok(None);
        }
        bytes.truncate(group::HEADER_BYTES + header.len as usize);
        bytes.drain(..group::HEADER_BYTES);
        Ok(Some((header, bytes)))
    }

    /// Looks at every block from `tail` on for a group that says that `expected` was durable.
    fn proof_after(&mut self, tail: u64, expected: u64) -> std::io::Result<Option<u64>> {
        let mut at = tail;
        while at + BLOCK_BYTES <= self.len {
            if let Some((h, _)) = self.group_at(at)?
                && h.durable_commit >= expected
            {
                return Ok(Some(h.durable_commit));
            }
            at += BLOCK_BYTES;
        }
        Ok(None)
    }

    fn bytes(&mut self, offset: u64, n: usize) -> std::io::Result<Option<&[u8]>> {
        let inside = offset >= self.buffer_at && offset + n as u64 <= self.buffer_at + self.buffer.len() as u64;
        if !inside {
            let wanted = n.max(READ_AHEAD).min((self.len - offset) as usize);
            self.buffer.resize(wanted, 0);
            let got = self.file.read_at(offset, &mut self.buffer)?;
            self.buffer.truncate(got);
            self.buffer_at = offset;
        }
        let from = (offset - self.buffer_at) as usize;
        Ok(self.buffer.get(from..from + n))
    }
}
