//! `Store`: one file, open. Opening is here; what it does while open is in `txn` and `maintain`.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::change::{ChangeFeed, Commit, FeedQueue};
use crate::env::{Env, LockOutcome, OpenMode, StorageFile};
use crate::error::{Corruption, CorruptionKind, MaintainError, OpenError, ReadError, WriteError};
use crate::keys::{FileKeys, Key, KeySlot, UnwrapError};
use crate::log::redo::Effects;
use crate::log::replay::{LogEnd, replay};
use crate::log::writer::LogWriter;
use crate::memtable::{Record, Table};
use crate::options::{KeySource, Options};
use crate::seal::Cipher;
use crate::superblock::{
    BLOCK_BYTES, LOG_START, NOTE_MAGIC, NOTE_OFFSET, SLOT_BYTES, SLOT_OFFSETS, Superblock, Unchecked,
};
use crate::txn::commit::{Head, Running};
use crate::txn::names::Names;
use crate::txn::{ReadView, TreeId, WriteTransaction};

/// An open store. Clones are handles of the same store; the last one to go closes it.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    // Dropped with the last handle; views and transactions may outlive it.
    _closer: Arc<Closer>,
}

struct Closer(Arc<Inner>);

impl Drop for Closer {
    fn drop(&mut self) {
        // Best effort: whoever wants to know calls `close`.
        let _ = self.0.close();
    }
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    path: String,
    pub(crate) table_bytes_max: u64,
    pub(crate) head: Mutex<Head>,
    /// Told whenever the writer comes home or a group is done.
    pub(crate) turn: Condvar,
    pub(crate) visible: Mutex<Visible>,
    pub(crate) names: Names,
    feed_count: AtomicU32,
    /// Subscriptions that wait for commits on their way.
    subscribing: AtomicU32,
    pub(crate) recovered: LogEnd,
}

/// The newest published table, who reads what, and where the log stood then.
pub(crate) struct Visible {
    pub(crate) table: Arc<Table>,
    pub(crate) readers: BTreeMap<u64, usize>,
    pub(crate) log: Option<LogAt>,
    feeds: Vec<Weak<FeedQueue>>,
}

/// A log that a published table follows from.
#[derive(Clone)]
pub(crate) struct LogAt {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) keys: FileKeys,
    pub(crate) header: Superblock,
    pub(crate) tail: u64,
    pub(crate) durable_commit: u64,
}

impl Store {
    /// Opens a store, creating it where `Options::create` says so. Recovers what a crash left behind: every
    /// acknowledged commit is there, no transaction is there in half.
    pub fn open(env: Env, options: Options) -> Result<Self, OpenError> {
        let path = env.describe();
        let file = open_file(&env, &options, &path)?;
        let (header, keys) = read_header(&file, &options, &path)?;
        let (table, end) = read_log(&file, &header, &keys, &options)?;
        let redo_rule = |rule| Corruption { offset: LOG_START, what: CorruptionKind::Redo(rule) };
        let names = Names::from_catalogue(&table).map_err(redo_rule)?;
        let max = options.table_bytes_max as u64;
        if table.live_bytes > max {
            return Err(OpenError::TableFull { used: table.live_bytes, max });
        }
        let mut end = end;
        if !options.read_only {
            make_durable(&file, &mut end)?;
            leave_note(&file);
        }
        let table = Arc::new(table);
        let log = LogAt {
            file: Arc::clone(&file),
            keys: keys.clone(),
            header: header.clone(),
            tail: end.tail,
            durable_commit: end.durable,
        };
        let file_len = file.len().map_err(|source| OpenError::Io { during: "reading the file's length", source })?;
        let writer = (!options.read_only).then(|| LogWriter::new(env.clone(), file, keys, header, &end, file_len));
        let inner = Arc::new(Inner {
            env,
            path,
            table_bytes_max: max,
            head: Mutex::new(Head::new(Arc::clone(&table), writer)),
            turn: Condvar::new(),
            visible: Mutex::new(Visible { table, readers: BTreeMap::new(), log: Some(log), feeds: Vec::new() }),
            names,
            feed_count: AtomicU32::new(0),
            subscribing: AtomicU32::new(0),
            recovered: end,
        });
        Ok(Self { _closer: Arc::new(Closer(Arc::clone(&inner))), inner })
    }

    /// Returns a view of the newest visible commit. Never waits for a writer.
    pub fn read(&self) -> ReadView {
        ReadView::new(&self.inner)
    }

    /// Begins a transaction on the newest visible commit.
    pub fn write(&self) -> WriteTransaction {
        WriteTransaction::new(&self.inner)
    }

    /// Returns the tree of this name. It comes into being with the first commit that writes to it; the number
    /// stays right as long as the store is open.
    pub fn tree(&self, name: &str) -> Result<TreeId, WriteError> {
        self.inner.names.reserve(name).map(TreeId)
    }

    /// Returns the file's path as a person knows it.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// Returns the world the store lives in.
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Tells every commit that becomes visible after this call, at most `capacity` behind. A view taken after
    /// this call shows at least everything that the feed does not tell.
    pub fn subscribe(&self, capacity: usize) -> ChangeFeed {
        let mut head = self.inner.head.lock();
        // From here on commits are written down for feeds. Those on their way may not have been: they must pass,
        // or be rolled back, before this feed can promise to miss nothing.
        self.inner.subscribing.fetch_add(1, Ordering::AcqRel);
        let last = head.table.commit_no;
        while self.inner.published().commit_no < last && head.table.commit_no >= last {
            self.inner.lead_or_wait(&mut head);
        }
        let (feed, weak) = ChangeFeed::new(capacity);
        let mut visible = self.inner.visible.lock();
        if matches!(head.state, Running::Closed)
            && let Some(queue) = weak.upgrade()
        {
            queue.close();
        }
        visible.feeds.push(weak);
        self.inner.feed_count.store(visible.feeds.len() as u32, Ordering::Release);
        self.inner.subscribing.fetch_sub(1, Ordering::AcqRel);
        feed
    }

    /// Makes every commit so far durable, the buffered ones too.
    pub fn flush(&self) -> Result<(), MaintainError> {
        self.inner.flush()
    }

    /// Closes the store: makes everything durable, leaves the file tidy, releases its lock. Views stay readable;
    /// commits fail with `Closed`. Closing again does nothing.
    pub fn close(&self) -> Result<(), MaintainError> {
        self.inner.close()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn check_tree(&self, tree: TreeId) -> Result<(), ReadError> {
        if self.names.knows(tree.0) { Ok(()) } else { Err(ReadError::UnknownTree(tree)) }
    }

    pub(crate) fn register_reader(&self) -> Arc<Table> {
        let mut visible = self.visible.lock();
        let table = Arc::clone(&visible.table);
        *visible.readers.entry(table.commit_no).or_insert(0) += 1;
        table
    }

    pub(crate) fn unregister_reader(&self, commit_no: u64) {
        let mut visible = self.visible.lock();
        let count = visible.readers.get_mut(&commit_no).expect("this reader was registered");
        *count -= 1;
        if *count == 0 {
            visible.readers.remove(&commit_no);
        }
    }

    /// Returns the commit of the oldest reader, the newest visible commit where nobody reads.
    pub(crate) fn oldest_reader(&self) -> u64 {
        let visible = self.visible.lock();
        visible.readers.first_key_value().map_or(visible.table.commit_no, |(&commit_no, _)| commit_no)
    }

    pub(crate) fn published(&self) -> Arc<Table> {
        Arc::clone(&self.visible.lock().table)
    }

    /// Makes a table visible, and tells the feeds what it has new.
    pub(crate) fn publish(&self, table: Arc<Table>, writer: &LogWriter, told: &[Commit]) {
        let mut visible = self.visible.lock();
        let old = std::mem::replace(&mut visible.table, table);
        visible.log = Some(LogAt::of(writer));
        visible.feeds.retain(|feed| match feed.upgrade() {
            Some(queue) => {
                told.iter().for_each(|commit| queue.push(commit));
                true
            }
            None => false,
        });
        self.feed_count.store(visible.feeds.len() as u32, Ordering::Release);
        drop(visible);
        // Freed outside the lock: a table may be the last to hold many old nodes.
        drop(old);
    }

    pub(crate) fn has_feeds(&self) -> bool {
        self.feed_count.load(Ordering::Acquire) + self.subscribing.load(Ordering::Acquire) > 0
    }

    pub(crate) fn close_feeds(&self) {
        let mut visible = self.visible.lock();
        for queue in visible.feeds.drain(..).filter_map(|feed| feed.upgrade()) {
            queue.close();
        }
        // The lock of the file ends with the last handle of it.
        visible.log = None;
    }
}

impl LogAt {
    pub(crate) fn of(writer: &LogWriter) -> Self {
        Self {
            file: Arc::clone(&writer.file),
            keys: writer.keys.clone(),
            header: writer.header.clone(),
            tail: writer.tail,
            durable_commit: writer.durable_commit,
        }
    }
}

/// Opens and locks the file, creating it if need be.
fn open_file(env: &Env, options: &Options, path: &str) -> Result<Arc<dyn StorageFile>, OpenError> {
    let io = |during| move |source| OpenError::Io { during, source };
    loop {
        let mode = if options.read_only { OpenMode::Read } else { OpenMode::Write };
        let file = match env.storage.open(&env.name, mode) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && options.create && !options.read_only => {
                create_file(env, options, path)?;
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(OpenError::NotFound { path: path.to_owned() }),
            Err(source) => return Err(OpenError::Io { during: "opening the file", source }),
        };
        if options.read_only {
            return Ok(file);
        }
        if file.try_lock().map_err(io("locking the file"))? == LockOutcome::Held {
            return Err(locked(env, &file, path));
        }
        // Somebody may have replaced the file between our opening and our locking it. spec: E-6
        if env.storage.is_current(&env.name, &*file).map_err(io("looking at the file again"))? {
            return Ok(file);
        }
    }
}

/// Makes a new, empty store under another name and gives it its name when it is whole. spec: E-5
fn create_file(env: &Env, options: &Options, path: &str) -> Result<(), OpenError> {
    let io = |during| move |source| OpenError::Io { during, source };
    let new_name = new_file_name(&env.name);
    let file = env.storage.open(&new_name, OpenMode::Create).map_err(io("creating the file"))?;
    if file.try_lock().map_err(io("locking the new file"))? == LockOutcome::Held {
        return Err(OpenError::Locked { path: path.to_owned(), pid: None, own_process: false });
    }
    if env.storage.exists(&env.name).map_err(io("looking for the file"))? {
        // Another creator was faster; what we have locked is a leftover.
        return match env.storage.remove(&new_name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("removing a leftover file")(e)),
            _ => Ok(()),
        };
    }
    let (mut uuid, mut seed) = ([0; 16], [0; 16]);
    let drawing = "drawing random bytes";
    env.entropy.public(&mut uuid).and_then(|()| env.entropy.public(&mut seed)).map_err(io(drawing))?;
    let encrypted = !matches!(options.key, KeySource::None);
    let cipher = if encrypted { Cipher::choose(options.cipher) } else { Cipher::None };
    let master = if encrypted {
        let mut master = Key::default();
        env.entropy.secret(&mut master[..]).map_err(io(drawing))?;
        Some(master)
    } else {
        None
    };
    let mut slots: [KeySlot; 4] = Default::default();
    if let Some(master) = &master {
        slots[0] =
            KeySlot::wrap(master, &options.key, options.kdf, cipher, &uuid, &*env.entropy).map_err(io(drawing))?;
    }
    let keys = FileKeys::new(cipher, uuid, master);
    let header =
        Superblock { sequence: 0, uuid, cipher, base_commit: 0, base_end: LOG_START, durable_floor: 0, seed, slots };
    file.set_len(0).map_err(io("emptying the new file"))?;
    write_both_headers(&file, &header, &keys).map_err(io("writing the header"))?;
    file.set_len(LOG_START).and_then(|()| file.sync_all()).map_err(io("syncing the new file"))?;
    env.storage.rename(&new_name, &env.name).map_err(io("naming the new file"))?;
    env.storage.sync_dir().map_err(io("syncing the folder"))
}

/// Writes sequences n + 1 and n + 2 into both slots of a file that nobody knows yet; not synced.
pub(crate) fn write_both_headers(file: &Arc<dyn StorageFile>, header: &Superblock, keys: &FileKeys) -> io::Result<u64> {
    let mut sequence = header.sequence;
    for _ in SLOT_OFFSETS {
        sequence += 1;
        let bytes = Superblock { sequence, ..header.clone() }.encode(keys);
        file.write_at(SLOT_OFFSETS[(sequence % 2) as usize], &bytes[..])?;
    }
    Ok(sequence)
}

pub(crate) fn new_file_name(name: &str) -> String {
    format!("{name}.new")
}

/// Reads both slots, takes the newest, finds the key, authenticates. Writes nothing. spec: E-4, C-6
fn read_header(
    file: &Arc<dyn StorageFile>,
    options: &Options,
    path: &str,
) -> Result<(Superblock, FileKeys), OpenError> {
    let mut newest: Option<Unchecked> = None;
    let mut magic_seen = false;
    for offset in SLOT_OFFSETS {
        let mut block = Box::new([0; SLOT_BYTES]);
        let got = file
            .read_at(offset, &mut block[..])
            .map_err(|source| OpenError::Io { during: "reading the header", source })?;
        magic_seen |= block[..7] == *b"BLAZEDB";
        if got < SLOT_BYTES {
            continue;
        }
        if let Some(slot) = Unchecked::decode(block, offset)?
            && newest.as_ref().is_none_or(|n| slot.superblock.sequence > n.superblock.sequence)
        {
            newest = Some(slot);
        }
    }
    let Some(newest) = newest else {
        return Err(if magic_seen {
            Corruption { offset: 0, what: CorruptionKind::Headers }.into()
        } else {
            OpenError::NotAStore { path: path.to_owned() }
        });
    };
    let keys = unlock(&newest.superblock, &options.key)?;
    let header = newest.verify(&keys)?;
    Ok((header, keys))
}

fn unlock(header: &Superblock, source: &KeySource) -> Result<FileKeys, OpenError> {
    match (header.cipher, source) {
        (Cipher::None, KeySource::None) => return Ok(FileKeys::new(Cipher::None, header.uuid, None)),
        (Cipher::None, _) => return Err(OpenError::NotEncrypted),
        (_, KeySource::None) => return Err(OpenError::KeyMissing),
        _ => {}
    }
    for slot in header.slots.iter().filter(|slot| slot.fits(source)) {
        match slot.unwrap(source, header.cipher, &header.uuid) {
            Ok(master) => return Ok(FileKeys::new(header.cipher, header.uuid, Some(master))),
            Err(UnwrapError::WrongKey) => {}
            Err(UnwrapError::Costs { what, given }) => return Err(OpenError::Unsupported { what, given }),
        }
    }
    Err(OpenError::WrongKey)
}

/// Builds a table from effects.
pub(crate) struct TableBuilder {
    pub(crate) table: Table,
    max: u64,
    pub(crate) over: bool,
}

impl TableBuilder {
    pub(crate) fn new(max: u64) -> Self {
        Self { table: Table::default(), max, over: false }
    }
}

impl Effects for TableBuilder {
    fn begin_commit(&mut self, commit_no: u64, _label: u32) {
        self.table.commit_no = commit_no;
    }

    fn put(&mut self, tree: u32, record: Record) {
        // The log may pass the ceiling on its way to an end below it, but not without bound.
        self.over |= self.table.live_bytes > self.max.saturating_mul(2);
        if !self.over {
            self.table.put(tree, record, self.table.commit_no);
        }
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.table.remove(tree, key);
    }
}

fn read_log(
    file: &Arc<dyn StorageFile>,
    header: &Superblock,
    keys: &FileKeys,
    options: &Options,
) -> Result<(Table, LogEnd), OpenError> {
    // A reader without the lock may look while a group is being written: what seems damaged may be a moment old.
    let mut tries = if options.read_only { 5 } else { 1 };
    loop {
        tries -= 1;
        let mut builder = TableBuilder::new(options.table_bytes_max as u64);
        builder.table.commit_no = header.base_commit;
        match replay(file, header, keys, None, &mut builder, &mut |_, _| {}) {
            Ok(_) if builder.over => {
                let max = options.table_bytes_max as u64;
                return Err(OpenError::TableFull { used: builder.table.live_bytes, max });
            }
            Ok(end) => return Ok((builder.table, end)),
            Err(OpenError::Corruption(_)) if tries > 0 => {}
            Err(e) => return Err(e),
        }
    }
}

/// Commits that the log does not prove durable may be in the page cache only, a failed sync of the last open
/// among the reasons. Their own bytes are written again, no byte changes, and synced, before anybody relies on
/// them. spec: E-13
fn make_durable(file: &Arc<dyn StorageFile>, end: &mut LogEnd) -> Result<(), OpenError> {
    if end.durable >= end.last_commit {
        return Ok(());
    }
    let io = |during| move |source| OpenError::Io { during, source };
    let mut at = end.unproven_from;
    let mut chunk = vec![0; (256 << 10).min((end.tail - at) as usize)];
    while at < end.tail {
        let n = chunk.len().min((end.tail - at) as usize);
        let got = file.read_at(at, &mut chunk[..n]).map_err(io("reading the log's last groups again"))?;
        if got < n {
            return Err(io("reading the log's last groups again")(io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_at(at, &chunk[..n]).map_err(io("writing the log's last groups again"))?;
        at += n as u64;
    }
    file.sync_data().map_err(io("syncing the recovered log"))?;
    end.durable = end.last_commit;
    Ok(())
}

/// Leaves our process number where the next opener finds it. Not synced, and a failure does not matter.
pub(crate) fn leave_note(file: &Arc<dyn StorageFile>) {
    let mut note = [0; 8];
    note[..4].copy_from_slice(&NOTE_MAGIC);
    note[4..].copy_from_slice(&std::process::id().to_le_bytes());
    let _ = file.write_at(NOTE_OFFSET, &note);
}

fn locked(env: &Env, file: &Arc<dyn StorageFile>, path: &str) -> OpenError {
    let mut note = [0; 8];
    let got = file.read_at(NOTE_OFFSET, &mut note).unwrap_or(0);
    let pid = (got == 8 && note[..4] == NOTE_MAGIC)
        .then(|| u32::from_le_bytes([note[4], note[5], note[6], note[7]]))
        // A note outlives its process; better no number than a wrong one.
        .filter(|&pid| !env.storage.process_is_gone(pid));
    OpenError::Locked { path: path.to_owned(), pid, own_process: pid == Some(std::process::id()) }
}

const _: () = assert!(NOTE_OFFSET.is_multiple_of(BLOCK_BYTES));
