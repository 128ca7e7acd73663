//! Reads a log back and decides where it ends. spec: E-8, E-9, E-19
//!
//! The end rule: the first group that fails, and that no generation follows, is the torn tail, unless something proves
//! that it was acknowledged: a later group that says so, or the header's floor. Then the bytes are damaged and the
//! store does not open. A damaged last group of a store that was not closed cleanly cannot be told from a torn tail.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::group::{self, GroupHeader, HEADER_BYTES, Nonce};
use super::redo::{self, Effects};
use super::search::Proof;
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
    /// Whether everything behind the end was looked through for a proof that it was not the end.
    pub(crate) is_searched: bool,
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
        is_searched: true,
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
    let proof = match end.durable >= expected {
        true => Proof::Durable(end.durable),
        false => reader.proof(&end.at, expected).map_err(io)?,
    };
    if let Proof::Durable(durable) = proof {
        let what = CorruptionKind::AcknowledgedGroup { commit_no: expected, durable };
        return Err(Corruption { offset: end.at.offset, what }.into());
    }
    end.is_searched = proof == Proof::None;
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
pub(super) struct GroupReader<'a> {
    keys: &'a FileKeys,
    uuid: [u8; 16],
    block_bytes: u64,
    files: [Option<LogFile>; FILES],
    /// What was read last, and what a search reads far ahead of that.
    read: Stretch,
    ahead: Stretch,
    /// The last subkey, which is mostly the next group's, too.
    sealer: Option<Subkey>,
    /// The last group, opened.
    group: Vec<u8>,
}

struct LogFile {
    file: Arc<dyn StorageFile>,
    len: u64,
}

/// Bytes of a file from some offset on.
#[derive(Default)]
struct Stretch {
    bytes: Vec<u8>,
    of: usize,
    from: u64,
}

impl Stretch {
    /// Returns `n` bytes and reads on from there where it does not have them; `None` where the file does not.
    fn bytes(&mut self, files: &[Option<LogFile>; FILES], of: usize, at: u64, n: usize) -> io::Result<Option<&[u8]>> {
        let Some(LogFile { file, len }) = &files[of] else { return Ok(None) };
        let left = len.saturating_sub(at);
        if n as u64 > left {
            return Ok(None);
        }
        let is_inside = of == self.of && at >= self.from && at + n as u64 <= self.from + self.bytes.len() as u64;
        if !is_inside {
            self.bytes.resize((READ_AHEAD.max(n) as u64).min(left) as usize, 0);
            let got = file.read_at(at, &mut self.bytes)?;
            // Where the file was cut under our eyes there are fewer.
            self.bytes.truncate(got);
            (self.of, self.from) = (of, at);
        }
        let skip = (at - self.from) as usize;
        Ok(self.bytes.get(skip..skip + n))
    }
}

impl<'a> GroupReader<'a> {
    pub(super) fn open(env: &Env, header: &Superblock, keys: &'a FileKeys) -> io::Result<Self> {
        let mut files = [const { None }; FILES];
        for (i, name) in log_file_names(&env.name).iter().enumerate() {
            match env.storage.open(name, OpenMode::Read) {
                Ok(file) => files[i] = Some(LogFile { len: file.len()?, file }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self {
            keys,
            uuid: header.uuid,
            block_bytes: u64::from(header.log_block_bytes),
            files,
            read: Stretch::default(),
            ahead: Stretch::default(),
            sealer: None,
            group: Vec::new(),
        })
    }

    /// Returns the length of a generation's file.
    pub(super) fn len_of(&self, at: &LogPosition) -> u64 {
        self.files[at.file()].as_ref().map_or(0, |file| file.len)
    }

    /// Returns the group at this place if its checksum and seal hold; `payload` gives its payload then.
    fn group_at(&mut self, at: &LogPosition) -> io::Result<Option<GroupHeader>> {
        let Some(h) = self.header_at(at)? else { return Ok(None) };
        // Remains that claim to be long cost no memory.
        let is_there = h.total_bytes() <= READ_AHEAD as u64 || self.long_sum_holds(at, &h)?;
        Ok(if is_there && self.open_at(at, &h)? { Some(h) } else { None })
    }

    /// Opens the group at this place: reads it, checks its checksum and its seal.
    pub(super) fn open_at(&mut self, at: &LogPosition, h: &GroupHeader) -> io::Result<bool> {
        let Nonce { epoch, subkey: name, .. } = h.nonce;
        if self.sealer.as_ref().is_none_or(|known| known.epoch != epoch || known.name != name) {
            // Remains of a master key that the header has dropped cannot be right here.
            let Some(sealer) = self.keys.log_sealer(epoch, &name) else { return Ok(false) };
            self.sealer = Some(Subkey { epoch, name, sealer });
        }
        let Some(Subkey { sealer, .. }) = &self.sealer else { return Ok(false) };
        let total = h.total_bytes() as usize;
        self.group.clear();
        if total <= READ_AHEAD {
            // One that was long goes.
            self.group.shrink_to(READ_AHEAD);
            let bytes = self.read.bytes(&self.files, at.file(), at.offset, total)?;
            self.group.extend_from_slice(bytes.unwrap_or_default());
        } else if let Some(LogFile { file, .. }) = &self.files[at.file()] {
            self.group.shrink_to(total);
            self.group.reserve_exact(total);
            self.group.resize(total, 0);
            let got = file.read_at(at.offset, &mut self.group)?;
            self.group.truncate(got);
        }
        Ok(self.group.len() == total && group::open(&mut self.group, h, &self.uuid, &**sealer))
    }

    fn payload(&self, h: &GroupHeader) -> &[u8] {
        &self.group[HEADER_BYTES..][..h.len as usize]
    }

    /// Returns what may be a group's header. Its length is checked against the file before anything is allocated.
    pub(super) fn header_at(&mut self, at: &LogPosition) -> io::Result<Option<GroupHeader>> {
        let left = self.len_of(at).saturating_sub(at.offset);
        let bytes = self.read.bytes(&self.files, at.file(), at.offset, HEADER_BYTES)?;
        Ok(bytes.and_then(GroupHeader::parse).filter(|h| h.total_bytes() <= left))
    }

    /// Returns a group's bytes up to the end of its checksum.
    pub(super) fn first_bytes(&mut self, at: &LogPosition) -> io::Result<Option<&[u8]>> {
        self.read.bytes(&self.files, at.file(), at.offset, group::SUM_END)
    }

    /// Returns up to `n` bytes from an offset on, of which both are multiples of 64, for who reads far ahead; at least
    /// 64 of them.
    pub(super) fn bytes_ahead(&mut self, at: &LogPosition, offset: u64, n: u64) -> io::Result<Option<&[u8]>> {
        let aligned = READ_AHEAD as u64;
        self.ahead.bytes(&self.files, at.file(), offset, n.min(aligned - offset % aligned) as usize)
    }

    /// Returns whether the checksum of a long group holds.
    fn long_sum_holds(&mut self, at: &LogPosition, h: &GroupHeader) -> io::Result<bool> {
        let Some(first) = self.first_bytes(at)? else { return Ok(false) };
        let (before, stated) = group::split_sum(first);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(before);
        let (mut offset, end) = (at.offset + group::SUM_END as u64, at.offset + h.total_bytes());
        while offset < end {
            let Some(bytes) = self.bytes_ahead(at, offset, end - offset)? else { return Ok(false) };
            hasher.update(bytes);
            offset += bytes.len() as u64;
        }
        Ok(hasher.finalize() == stated)
    }
}
