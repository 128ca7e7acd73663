//! Reads a log back and decides where it ends. spec: E-8, E-9, E-19
//!
//! The end rule: the first group that fails, and that no generation follows, is the torn tail, unless something proves
//! that it was acknowledged: a later group that says so, or the header's floor. Then the bytes are damaged and the
//! store does not open. A damaged last group of a store that was not closed cleanly cannot be told from a torn tail.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::Arc;

use super::group::{self, ALIGN_BYTES, GroupHeader, HEADER_BYTES, Nonce};
use super::redo::{self, Effects};
use super::writer::{FILES, LogPosition, log_file_names};
use crate::env::{Env, OpenMode, StorageFile};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::keys::FileKeys;
use crate::seal::Seal;
use crate::superblock::Superblock;

/// Bytes read from a file at once.
const READ_AHEAD: usize = 256 << 10;

/// Where a log ends and how.
#[derive(Clone, Debug)]
pub(crate) struct LogEnd {
    /// Where the next group goes.
    pub(crate) at: LogPosition,
    pub(crate) last_commit: u64,
    pub(crate) groups: u64,
    /// Bytes of these groups, padding included.
    pub(crate) bytes: u64,
    /// Commits up to this one are known to have been durable: the newest statement of a header or group.
    pub(crate) durable: u64,
    /// Where in the last generation the first group begins that holds a commit after `durable`; the end when there
    /// is none. Generations before the last are durable.
    pub(crate) unproven_from: u64,
}

/// Replays the log after `header` into `out`. Writes nothing.
pub(crate) fn replay(
    env: &Env,
    header: &Superblock,
    keys: &FileKeys,
    out: &mut dyn Effects,
) -> Result<LogEnd, OpenError> {
    let io = |source| OpenError::Io { during: "reading the log", source };
    let mut reader = GroupReader::open(env, header, keys).map_err(io)?;
    let mut end = LogEnd {
        at: header.log,
        last_commit: header.commit_no,
        groups: 0,
        bytes: 0,
        durable: header.durable_floor,
        unproven_from: header.log.offset,
    };
    // The last commits of this generation's groups, and where those begin, as far as they may be unproven.
    let mut starts: VecDeque<(u64, u64)> = VecDeque::new();
    loop {
        let mut next = reader.group_at(&end.at).map_err(io)?.filter(|h| follows(h, &end));
        // Behind a sync, and behind a crash, the log goes on in the next block.
        let gap = group::padded(end.at.offset, reader.block_bytes) - end.at.offset;
        if next.is_none() && gap > 0 {
            let behind = LogPosition { offset: end.at.offset + gap, ..end.at };
            next = reader.group_at(&behind).map_err(io)?.filter(|h| follows(h, &end));
            if next.is_some() {
                end.at = behind;
                end.bytes += gap;
            }
        }
        // This generation is over, or the log is. More than two after the header's there cannot be: the third would
        // be in the header's own file.
        if next.is_none() && end.at.generation - header.log.generation < FILES as u64 - 1 {
            let begun = LogEnd { at: LogPosition { generation: end.at.generation + 1, offset: 0, ..end.at }, ..end };
            let first = reader.group_at(&begun.at).map_err(io)?;
            // It begins when all before it is durable, and says so; hence what is unproven lies in one file.
            next = first.filter(|h| follows(h, &begun) && h.durable_commit == begun.last_commit);
            if next.is_some() {
                end = begun;
            }
        }
        let Some(h) = next else { break };
        redo::decode(reader.payload(&h), h.first_commit, h.count, out)
            .map_err(|rule| Corruption { offset: end.at.offset, what: CorruptionKind::Redo(rule) })?;
        starts.push_back((h.last_commit(), end.at.offset));
        while starts.front().is_some_and(|&(last, _)| last <= h.durable_commit) {
            starts.pop_front();
        }
        end.durable = end.durable.max(h.durable_commit.min(h.last_commit()));
        end.last_commit = h.last_commit();
        let total = h.total_bytes();
        end.at = LogPosition { offset: end.at.offset + total, tag: h.tag, ..end.at };
        end.bytes += total;
        end.groups += 1;
    }
    let expected = end.last_commit + 1;
    let proof =
        if end.durable >= expected { Some(end.durable) } else { reader.proof(&end.at, expected).map_err(io)? };
    if let Some(durable) = proof {
        let what = CorruptionKind::AcknowledgedGroup { commit_no: expected, durable };
        return Err(Corruption { offset: end.at.offset, what }.into());
    }
    end.unproven_from = starts.iter().find(|(last, _)| *last > end.durable).map_or(end.at.offset, |&(_, at)| at);
    Ok(end)
}

/// Whether a group, right by itself, is right at the end of what was read. spec: E-8
fn follows(h: &GroupHeader, end: &LogEnd) -> bool {
    h.previous == end.at.tag && h.generation == end.at.generation && h.first_commit == end.last_commit + 1
}

struct Subkey {
    epoch: u16,
    name: [u8; 12],
    sealer: Box<dyn Seal>,
}

/// Reads the log's files; one that does not exist is empty.
struct GroupReader<'a> {
    keys: &'a FileKeys,
    uuid: [u8; 16],
    block_bytes: u64,
    files: [Option<Arc<dyn StorageFile>>; FILES],
    lens: [u64; FILES],
    /// What was read last: bytes of this file from this offset on.
    buffer: Vec<u8>,
    buffer_at: (usize, u64),
    /// The last subkey, which is mostly the next group's, too.
    sealer: Option<Subkey>,
    /// The last group, opened.
    group: Vec<u8>,
}

impl<'a> GroupReader<'a> {
    fn open(env: &Env, header: &Superblock, keys: &'a FileKeys) -> io::Result<Self> {
        let mut files = [const { None }; FILES];
        let mut lens = [0; FILES];
        for (i, name) in log_file_names(&env.name).iter().enumerate() {
            match env.storage.open(name, OpenMode::Read) {
                Ok(file) => {
                    lens[i] = file.len()?;
                    files[i] = Some(file);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self {
            keys,
            uuid: header.uuid,
            block_bytes: u64::from(header.log_block_bytes),
            files,
            lens,
            buffer: Vec::new(),
            buffer_at: (0, 0),
            sealer: None,
            group: Vec::new(),
        })
    }

    /// Returns the group at this place if its checksum and seal hold; `payload` gives its payload then.
    fn group_at(&mut self, at: &LogPosition) -> io::Result<Option<GroupHeader>> {
        let file = at.file();
        let Some(h) = self.header_at(file, at.offset)? else { return Ok(None) };
        let total = h.total_bytes() as usize;
        let mut group = mem::take(&mut self.group);
        group.clear();
        group.extend_from_slice(self.bytes(file, at.offset, total)?.unwrap_or_default());
        self.group = group;
        let Nonce { epoch, subkey: name, .. } = h.nonce;
        if self.sealer.as_ref().is_none_or(|known| known.epoch != epoch || known.name != name) {
            // Remains of a master key that the header has dropped cannot be right here.
            let Some(sealer) = self.keys.log_sealer(epoch, &name) else { return Ok(None) };
            self.sealer = Some(Subkey { epoch, name, sealer });
        }
        let Some(Subkey { sealer, .. }) = &self.sealer else { return Ok(None) };
        // Where the file was cut under our eyes there are fewer bytes.
        let opens = self.group.len() == total && group::open(&mut self.group, &h, &self.uuid, &**sealer);
        Ok(opens.then_some(h))
    }

    fn payload(&self, h: &GroupHeader) -> &[u8] {
        &self.group[HEADER_BYTES..][..h.len as usize]
    }

    /// Looks for a group that says that `expected` was durable: wherever one may begin after the log's end, and in
    /// the generation after it. What is left of older generations says no such thing. spec: E-9
    fn proof(&mut self, end: &LogPosition, expected: u64) -> io::Result<Option<u64>> {
        for from in [*end, LogPosition { generation: end.generation + 1, offset: 0, ..*end }] {
            let mut at = from;
            while at.offset < self.lens[at.file()] {
                if let Some(h) = self.header_at(at.file(), at.offset)?
                    && h.durable_commit >= expected
                    && self.group_at(&at)?.is_some()
                {
                    return Ok(Some(h.durable_commit));
                }
                at.offset += ALIGN_BYTES;
            }
        }
        Ok(None)
    }

    /// Returns what may be a group's header. Its length is checked against the file before anything is allocated.
    fn header_at(&mut self, file: usize, offset: u64) -> io::Result<Option<GroupHeader>> {
        let len = self.lens[file];
        let Some(bytes) = self.bytes(file, offset, HEADER_BYTES)? else { return Ok(None) };
        Ok(GroupHeader::parse(bytes).filter(|h| h.total_bytes() <= len - offset))
    }

    /// Returns `n` bytes; `None` where the file does not have them.
    fn bytes(&mut self, file: usize, offset: u64, n: usize) -> io::Result<Option<&[u8]>> {
        let left = self.lens[file].saturating_sub(offset);
        let Some(handle) = self.files[file].as_ref().filter(|_| n as u64 <= left) else { return Ok(None) };
        let (of, from) = self.buffer_at;
        let inside = of == file && offset >= from && offset + n as u64 <= from + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize((n.max(READ_AHEAD) as u64).min(left) as usize, 0);
            let got = handle.read_at(offset, &mut self.buffer)?;
            self.buffer.truncate(got);
            self.buffer_at = (file, offset);
        }
        let skip = (offset - self.buffer_at.1) as usize;
        Ok(self.buffer.get(skip..skip + n))
    }
}
