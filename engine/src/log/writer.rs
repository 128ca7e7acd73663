//! Appends groups. Holding the `LogWriter` is being the leader: there is one per open store and it is handed over.
//!
//! Invariants: a group is written once, over zeros, over groups of older generations, or over a torn tail that nobody
//! was told about; no block that was synced is written again; `at` moves only after the write returned; no generation begins before all before it is synced, and
//! none whose file a header still needs; no (subkey, nonce) is used twice: the subkey's name is drawn when the first
//! group of an open is sealed, the counter goes up before each seal.

use std::io;
use std::sync::Arc;

use super::group::{self, GroupHeader, HEADER_BYTES, MAGIC, Nonce};
use super::replay::LogEnd;
use crate::env::{Env, OpenMode, StorageFile};
use crate::error::{OpenError, is_full};
use crate::keys::FileKeys;
use crate::limits::{GROUP_BYTES_MAX, RESERVE_BYTES_MAX, RESERVE_BYTES_MIN, SEALS_PER_GENERATION_MAX};
use crate::readers::LogAt;
use crate::seal::{Seal, Tag};
use crate::superblock::Superblock;

/// Bytes of log that a clean close leaves, for the next open to write over: 64 small commits. They are written once
/// more at each close, as zeros, so more of them would wear out cards of apps that are opened fifty times a day.
const KEPT_BYTES_MAX: u64 = 256 << 10;

/// How much of a file is looked at for a group of a log.
const LOOKED_AT_BYTES: usize = 64 << 10;

/// What is laid out is written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Files that generations share: two that the headers need, one for the commits since.
pub(crate) const FILES: usize = 3;

/// A place in the log, between two groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogPosition {
    pub(crate) generation: u64,
    /// Where in the generation's file.
    pub(crate) offset: u64,
    /// The tag of the group before: what the group at this place has for its predecessor.
    pub(crate) tag: Tag,
}

impl LogPosition {
    /// Returns which file the generation is in. spec: E-18
    pub(crate) fn file(&self) -> usize {
        (self.generation % FILES as u64) as usize
    }
}

/// Returns the names of the files that may lie beside a store's, while it is open or after a crash. After a clean
/// close at most one is left, and nothing in it is needed. spec: E-18
pub fn log_file_names(store: &str) -> [String; FILES] {
    std::array::from_fn(|i| format!("{store}-log.{i}"))
}

/// How an append failed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There was no room to lay out; the log is as it was and the store may go on.
    DiskFull { during: &'static str, source: io::Error },
    /// A write or sync failed; nobody knows what is on the disk, and nobody may write on.
    Broken { during: &'static str, source: io::Error },
}

pub(crate) struct LogWriter {
    env: Env,
    names: [String; FILES],
    keys: FileKeys,
    uuid: [u8; 16],
    block_bytes: u64,
    files: [Option<LogFile>; FILES],
    at: LogPosition,
    /// Where the generations begin that the older and the newer header need.
    needed: [u64; 2],
    /// Bytes of groups that came after the newest header's commit.
    log_bytes: u64,
    last_commit: u64,
    durable_commit: u64,
    subkey: Option<Subkey>,
    /// The key epoch in which a file was begun anew from nothing; `None` where it holds remains of before this opening.
    begun_in: [Option<u16>; FILES],
}

struct LogFile {
    file: Arc<dyn StorageFile>,
    len: u64,
    /// Whether the folder was synced since we opened it: whoever created it may not have lived to do so.
    is_named: bool,
}

struct Subkey {
    epoch: u16,
    name: [u8; 12],
    counter: u64,
    sealer: Box<dyn Seal>,
}

impl LogWriter {
    /// Takes over the log where `replay` found its end, which was with this header. Makes durable what is not
    /// proven to be.
    pub(crate) fn open(env: &Env, header: &Superblock, keys: &FileKeys, end: &mut LogEnd) -> Result<Self, OpenError> {
        let io = |during| move |source| OpenError::Io { during, source };
        let names = log_file_names(&env.name);
        let mut files = [const { None }; FILES];
        for (file, name) in files.iter_mut().zip(&names) {
            *file = open_file(env, name, OpenMode::Write).map_err(io("opening the log"))?;
            if is_foreign(file.as_ref()).map_err(io("opening the log"))? {
                return Err(OpenError::InTheWay { path: name.clone() });
            }
        }
        if end.durable < end.last_commit {
            make_durable(files[end.at.file()].as_ref(), end).map_err(io("making the log durable"))?;
            end.durable = end.last_commit;
        }
        let mut at = LogPosition { offset: group::padded(end.at.offset, u64::from(header.log_block_bytes)), ..end.at };
        if end.groups == 0 && at.offset > files[at.file()].as_ref().map_or(0, |file: &LogFile| file.len) {
            // The file is gone, or the offset is a lie: no zeros are written up to there. spec: E-19
            at = LogPosition { generation: at.generation + 1, offset: 0, ..at };
        }
        Ok(Self {
            env: env.clone(),
            names,
            keys: keys.clone(),
            uuid: header.uuid,
            block_bytes: u64::from(header.log_block_bytes),
            files,
            at,
            // Of the other header we know that it needs at most one generation more; if that is damaged, none.
            needed: [header.log.generation.saturating_sub(1), header.log.generation],
            log_bytes: end.bytes,
            last_commit: end.last_commit,
            durable_commit: end.durable,
            subkey: None,
            begun_in: [None; FILES],
        })
    }

    /// Returns the bytes of log that the next checkpoint makes superfluous, padding included.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    pub(crate) fn last_commit(&self) -> u64 {
        self.last_commit
    }

    /// Returns whether everything that was appended is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable_commit >= self.last_commit
    }

    pub(crate) fn at(&self) -> LogAt {
        let files = self.files.iter().flatten().map(|f| f.len).sum();
        LogAt { durable_commit: self.durable_commit, tail: self.log_bytes, files }
    }

    /// Returns whether a group of this many bytes, header included, can be appended without asking the disk for room.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.end_of(bytes) <= self.file().map_or(0, |f| f.len)
    }

    /// Lays zeros ahead, so that a group of this many bytes, header included, overwrites and its sync writes no
    /// metadata. Not synced: the group's own sync covers the new length.
    pub(crate) fn ensure_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        let during = "making room in the log";
        let slot = self.at.file();
        if self.files[slot].as_ref().is_none_or(|f| !f.is_named) {
            if self.files[slot].is_none() {
                let file = open_file(&self.env, &self.names[slot], OpenMode::Create).map_err(no_room(during))?;
                if is_foreign(file.as_ref()).map_err(no_room(during))? {
                    let why = OpenError::InTheWay { path: self.names[slot].clone() };
                    return Err(no_room(during)(io::Error::new(io::ErrorKind::AlreadyExists, why)));
                }
                self.files[slot] = file;
            }
            self.env.storage.sync_dir().map_err(no_room("syncing the folder"))?;
        }
        let end = self.end_of(bytes);
        let file = self.files[slot].as_mut().expect("opened just now");
        file.is_named = true;
        if end <= file.len {
            return Ok(());
        }
        let new_end = end + group::padded(self.at.offset.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX), 16384);
        let old_len = file.len;
        if let Err(source) = write_zeros(&*file.file, old_len, new_end) {
            // Best effort: what is left beyond the old end is zeros and harms nobody.
            let _ = file.file.set_len(old_len);
            return Err(no_room(during)(source));
        }
        file.len = new_end;
        Ok(())
    }

    /// Seals and writes one group. `group` begins with `HEADER_BYTES` of room and is spent by this.
    pub(crate) fn append(&mut self, group: &mut Vec<u8>, first: u64, count: u32) -> Result<(), AppendError> {
        assert!(first == self.last_commit + 1 && count > 0, "commits are appended in order, none left out");
        // What no reader accepts is never acknowledged. The limits of transactions keep groups far below this.
        if group.len() - HEADER_BYTES > GROUP_BYTES_MAX {
            let source =
                io::Error::new(io::ErrorKind::FileTooLarge, "a group of the log is longer than any reader accepts");
            return Err(AppendError::DiskFull { during: "writing the log", source });
        }
        self.ensure_room(group.len() as u64)?;
        let (uuid, block_bytes) = (self.uuid, self.block_bytes);
        let mut header = GroupHeader {
            len: (group.len() - HEADER_BYTES) as u32,
            count,
            first_commit: first,
            durable_commit: self.durable_commit,
            generation: self.at.generation,
            nonce: Nonce { subkey: [0; 12], counter: 0, epoch: 0 },
            previous: self.at.tag,
            tag: Tag::default(),
        };
        let subkey = self.subkey().map_err(broken("drawing a nonce"))?;
        // Counted up before the seal: whatever happens to the bytes, this nonce is spent. spec: C-5
        subkey.counter += 1;
        header.nonce = Nonce { subkey: subkey.name, counter: subkey.counter, epoch: subkey.epoch };
        let tag = group::seal(group, &header, &uuid, &*subkey.sealer);
        let end = self.at.offset + group.len() as u64;
        // A group that begins a block writes it to its end: what is written over is in no cache, perhaps, and need not
        // be read for it then. What follows in the same block finds it there.
        let block_end = group::padded(end, block_bytes);
        if self.at.offset.is_multiple_of(block_bytes) || block_end - self.at.offset > block_bytes {
            group.resize((block_end - self.at.offset) as usize, 0);
        }
        let file = self.file().expect("there is room in it");
        file.file.write_at(self.at.offset, group).map_err(broken("writing the log"))?;
        self.log_bytes += end - self.at.offset;
        self.at.offset = end;
        self.at.tag = tag;
        self.last_commit = header.last_commit();
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        if let Some(file) = self.file() {
            file.file.sync_data().map_err(broken("syncing the log"))?;
        }
        self.durable_commit = self.last_commit;
        // What was acknowledged as durable shares no block with what is written from here on. spec: E-7
        let begins = group::padded(self.at.offset, self.block_bytes);
        self.log_bytes += begins - self.at.offset;
        self.at.offset = begins;
        Ok(())
    }

    /// Makes everything durable and goes on in the next generation, whose position is returned: for the header that
    /// will name what was appended so far. The position that the last call returned must be in a header by now.
    ///
    /// After a crash between this and the header, the log is a generation further than headers like it. There the
    /// next generation would take a file that the older header needs, so this one goes on, and the position lies in
    /// the middle of it.
    ///
    /// `cut`: the next generation's file loses what it holds of older ones.
    pub(crate) fn switch_generation(&mut self, cut: bool) -> Result<LogPosition, AppendError> {
        if !self.is_durable() {
            self.sync()?;
        }
        let next = self.at.generation + 1;
        if next - self.needed[0] < FILES as u64 {
            self.at = LogPosition { generation: next, offset: 0, ..self.at };
            if cut {
                let slot = self.at.file();
                if let Some(file) = &mut self.files[slot] {
                    file.file.set_len(0).and_then(|()| file.file.sync_data()).map_err(broken("cutting the log"))?;
                    file.len = 0;
                }
                self.begun_in[slot] = Some(self.keys.sealing_epoch());
            }
        }
        self.needed = [self.needed[1], self.at.generation];
        self.log_bytes = 0;
        Ok(self.at)
    }

    /// A commit of this number is in pages, and both headers say so: the next group begins after it.
    pub(crate) fn skip_to(&mut self, commit_no: u64) {
        assert!(commit_no == self.last_commit + 1 && self.is_durable(), "commits are numbered one after another");
        (self.last_commit, self.durable_commit) = (commit_no, commit_no);
    }

    /// Returns whether no file holds anything that was sealed with another key than the one that seals now.
    pub(crate) fn is_of_one_key(&self) -> bool {
        let epoch = self.keys.sealing_epoch();
        self.files.iter().zip(&self.begun_in).all(|(file, begun)| file.is_none() || *begun == Some(epoch))
    }

    /// Ends a log of which nothing is needed any more, both headers being at its end. One file of zeros stays, for
    /// the next open to write over: commits are fast only where bytes were written before. Zeros, because groups
    /// that are left would contradict an older copy of the store that somebody puts back in its place.
    pub(crate) fn fold(mut self) -> Result<(), AppendError> {
        let folding = broken("folding the log");
        let storage = &self.env.storage;
        let lens = self.files.each_ref().map(|file| file.as_ref().map(|f| f.len));
        let active = self.at.file();
        let kept = (0..FILES).max_by_key(|&i| (lens[i], i == active)).expect("there are three");
        if let Some(LogFile { file, len, .. }) = &self.files[kept] {
            if *len > KEPT_BYTES_MAX {
                file.set_len(KEPT_BYTES_MAX).map_err(&folding)?;
            }
            write_zeros(&**file, 0, (*len).min(KEPT_BYTES_MAX)).map_err(&folding)?;
            file.sync_data().map_err(&folding)?;
        }
        // Handles go before names do: not every system renames or removes a file that is open.
        self.files = [const { None }; FILES];
        for i in (0..FILES).filter(|&i| lens[i].is_some() && i != kept && i != active) {
            storage.remove(&self.names[i]).map_err(&folding)?;
        }
        if lens[kept].is_some() && kept != active {
            storage.rename(&self.names[kept], &self.names[active]).map_err(&folding)?;
        }
        storage.sync_dir().map_err(broken("syncing the folder"))
    }

    fn file(&self) -> Option<&LogFile> {
        self.files[self.at.file()].as_ref()
    }

    /// Where the last block of a group of this many bytes would end.
    fn end_of(&self, bytes: u64) -> u64 {
        group::padded(self.at.offset + bytes, self.block_bytes)
    }

    fn subkey(&mut self) -> io::Result<&mut Subkey> {
        let epoch = self.keys.sealing_epoch();
        if self.subkey.as_ref().is_none_or(|s| s.epoch != epoch || s.counter >= SEALS_PER_GENERATION_MAX) {
            let mut name = [0; 12];
            self.env.entropy.public(&mut name)?;
            let sealer = self.keys.log_sealer(epoch, &name).expect("the key that seals is known");
            self.subkey = Some(Subkey { epoch, name, counter: 0, sealer });
        }
        Ok(self.subkey.as_mut().expect("set just now"))
    }
}

fn open_file(env: &Env, name: &str, mode: OpenMode) -> io::Result<Option<LogFile>> {
    match env.storage.open(name, mode) {
        Ok(file) => Ok(Some(LogFile { len: file.len()?, file, is_named: false })),
        Err(e) if e.kind() == io::ErrorKind::NotFound && mode != OpenMode::Create => Ok(None),
        Err(e) => Err(e),
    }
}

/// Before a store is made: whether what lies under the names of its log may be written over. spec: E-5
pub(crate) fn check_log_names(env: &Env) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { during: "looking at the log's names", source };
    for name in log_file_names(&env.name) {
        let file = open_file(env, &name, OpenMode::Read).map_err(io)?;
        if is_foreign(file.as_ref()).map_err(io)? {
            return Err(OpenError::InTheWay { path: name });
        }
    }
    Ok(())
}

fn is_foreign(file: Option<&LogFile>) -> io::Result<bool> {
    file.map_or(Ok(false), |LogFile { file, .. }| is_log(&**file).map(|is_log| !is_log))
}

/// Whether a file may be one of a log: it has nothing in it, begins with zeros laid ahead, give or take a byte that has
/// rotted, or has a group where one may begin. Somebody else's file may bear such a name by chance, and would be written
/// over. spec: E-5
pub(crate) fn is_log(file: &dyn StorageFile) -> io::Result<bool> {
    let mut start = vec![0; LOOKED_AT_BYTES];
    let read = file.read_at(0, &mut start)?;
    let start = &start[..read];
    let zeros = &start[..read.min(512)];
    let written = zeros.iter().filter(|&&byte| byte != 0).count();
    Ok(written == 0 || (written == 1 && zeros.len() == 512) || start.chunks(64).any(|group| group.starts_with(&MAGIC)))
}

fn write_zeros(file: &dyn StorageFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let n = (ZEROS.len() as u64).min(to - at) as usize;
        file.write_at(at, &ZEROS[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// Commits that the log does not prove durable may be in the page cache only, a failed sync of the last open among
/// the reasons. Their own bytes are written again, no byte changes, and synced, before anybody relies on them. They
/// are all in one file: a generation begins only when those before it are durable. spec: E-13
fn make_durable(file: Option<&LogFile>, end: &LogEnd) -> io::Result<()> {
    let file = &file.ok_or(io::ErrorKind::NotFound)?.file;
    let mut at = end.unproven_from;
    let mut chunk = vec![0; (256 << 10).min((end.at.offset - at) as usize)];
    while at < end.at.offset {
        let n = chunk.len().min((end.at.offset - at) as usize);
        if file.read_at(at, &mut chunk[..n])? < n {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(at, &chunk[..n])?;
        at += n as u64;
    }
    file.sync_data()
}

fn broken(during: &'static str) -> impl Fn(io::Error) -> AppendError {
    move |source| AppendError::Broken { during, source }
}

/// For calls before anything of the log is written.
fn no_room(during: &'static str) -> impl Fn(io::Error) -> AppendError {
    move |source| {
        if is_full(source.kind()) {
            AppendError::DiskFull { during, source }
        } else {
            AppendError::Broken { during, source }
        }
    }
}
