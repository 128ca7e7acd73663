//! Opening a store: which file that is, making a new one, its header and keys, what pages it uses, what its log says.

use std::io;
use std::sync::Arc;

use crate::background::Background;
use crate::btree::{TreeRoot, value_pages};
use crate::checkpoint::due;
use crate::disk::{Disk, load_roots};
use crate::env::{Env, LockOutcome, OpenMode, StorageFile};
use crate::error::{Corruption, CorruptionKind, OpenError};
use crate::history::check::{history_floor, read_twins};
use crate::history::purge::Purge;
use crate::keys::{EpochKey, FileKeys, KeySlot, UnwrapError, WrapError};
use crate::limits::PAGE_BYTES;
use crate::log::writer::{LogPosition, LogWriter, check_log_names, log_file_names};
use crate::options::{KeySource, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, Memory, Options, PageAccess, TABLE_BYTES_MAX};
use crate::pager::{MissFrom, PageError, Pages, Space, SpaceCounts, first_page};
use crate::readers::{LogAt, Visible};
use crate::recover::{IntoPages, Stored, Surveyed, read_names, survey};
use crate::rekey::KeyState;
use crate::seal::Cipher;
use crate::snapshot::{Layers, Root};
use crate::store::{Closer, Config, Inner, Store};
use crate::superblock::{
    FIRST_EPOCH, LostSlot, NOTE_MAGIC, NOTE_OFFSET, PAGES_START, Reach, SLOT_BYTES, SLOT_OFFSETS, Superblock,
    Unchecked, has_magic, is_whole,
};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use crate::sync::{Condvar, Mutex};
use crate::txn::head::Head;

impl Store {
    /// Opens a store, creating it where `Options::create` says so. Recovers what a crash left behind: every
    /// acknowledged commit is there, no transaction is there in half. Reads the header and the log, never the
    /// whole file.
    ///
    /// A name that ends in `.restoring` is that of a store in the making, which whoever makes it anew removes: for writing it
    /// is refused.
    pub fn open(env: Env, options: Options) -> Result<Self, OpenError> {
        if env.name.ends_with(MAKING_SUFFIX) && !options.read_only {
            return Err(OpenError::ReservedName { suffix: MAKING_SUFFIX });
        }
        Self::open_any(env, options)
    }

    /// Opens a store, one in the making included.
    pub(crate) fn open_any(env: Env, options: Options) -> Result<Self, OpenError> {
        let path = env.describe();
        check_options(&options)?;
        let file = open_file(&env, &options, &path)?;
        let Found { header, older, lost, keys, own_slot, root, log } = read_state(&env, &file, &options, &path)?;
        let Surveyed { table, fits, stored, mut end, twins } = log;
        let memory = options.memory;
        let config = Config {
            table_bytes: memory.table_bytes as u64,
            group_bytes: memory.group_bytes(),
            log_bytes: memory.log_bytes,
            snapshot_bytes_max: options.snapshot_bytes_max,
            auto_vacuum: options.auto_vacuum,
        };
        let mut layers = Layers { root: Arc::new(root), frozen: None, active: Arc::new(table) };
        let mut names = read_names(&layers)?;
        let mut key_state = KeyState::of(&header);
        let sequence = header.sequence;
        // Whoever writes has mended it when the store is open.
        let header_damaged = older.is_none() && options.read_only;
        let recovered_surely =
            end.is_searched && lost.is_none_or(|lost| lost.reach(&header, end.last_commit) == Reach::Surely);
        let mut counts = SpaceCounts { end: header.page_count, ..SpaceCounts::default() };
        let (writer, disk) = if options.read_only {
            (None, None)
        } else {
            header.check_room_for_more()?;
            let len = file.len().map_err(|source| OpenError::Io { during: "reading the file's length", source })?;
            let space = open_space(len, &layers.root, &stored, &header, older.as_ref())?;
            counts = space.counts();
            let mut writer = LogWriter::open(&env, &header, &keys, &mut end)?;
            leave_note(&file);
            let pages = Arc::clone(&layers.root.pages);
            let mut disk = Disk::new(&env, Arc::clone(&file), pages, header.clone(), keys, space, own_slot);
            disk.purge = Purge::new(config.table_bytes);
            complete_headers(&mut disk, older.as_ref())
                .map_err(|source| OpenError::Io { during: "writing the header", source })?;
            if !fits {
                let into = IntoPages { env: &env, header: &header, memory, stored: &stored, end: &end, twins };
                let poured = into.write(&mut disk, &layers.root, &mut writer)?;
                (layers, names) = (Layers::of_pages(poured.root, memory.table_bytes, poured.twins), poured.names);
                counts = disk.space.lock().counts();
            }
            key_state.count(&disk, counts);
            (Some(Box::new(writer)), Some(disk))
        };
        let log = match &writer {
            Some(writer) => writer.at(),
            None => LogAt { durable_commit: end.durable, ..LogAt::default() },
        };
        // What the log has brought waits for commits to come: opening does not.
        let full = config.table_bytes;
        let due = due::first(full, counts.used).max(layers.active.bytes() + full / 8).min(full);
        let inner = Arc::new(Inner {
            path,
            config,
            head: Mutex::new(Head::new(layers.clone(), writer, config.table_bytes, due)),
            turn: Condvar::new(),
            visible: Mutex::new(Visible::new(Arc::new(layers), log)),
            ahead: disk.as_ref().map(|disk| Arc::clone(disk.ahead())),
            disk: Mutex::new(disk),
            background: Background::default(),
            names,
            feed_count: AtomicU32::new(0),
            subscribing: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            closing: Mutex::new(()),
            changing_keys: Mutex::new(()),
            snapshots_ended: AtomicU64::new(0),
            space_counts: Mutex::new(counts),
            key_state: Mutex::new(key_state),
            recovered: end,
            header_damaged,
            recovered_surely,
            read_only_of: options.read_only.then_some((file, sequence)),
            env,
        });
        if inner.env.threads && !options.read_only {
            // Without a thread of its own the store works, and its callers write the checkpoints.
            let _ = Background::start(&inner);
        }
        inner.checkpoint_if_due();
        Ok(Self { _closer: Closer::of(&inner), inner })
    }
}

fn check_options(options: &Options) -> Result<(), OpenError> {
    let Memory { cache_bytes, table_bytes, log_bytes } = options.memory;
    let (page_bytes, block_bytes) = (options.page_bytes as u64, options.log_block_bytes as u64);
    let (cache, table, log) = (cache_bytes as u64, table_bytes as u64, log_bytes);
    let is_page = PAGE_BYTES.contains(&options.page_bytes);
    for (option, given, is_allowed, allowed) in [
        ("page_bytes", page_bytes, is_page, "4096, 8192 or 16384"),
        ("log_block_bytes", block_bytes, [4096, 16384].contains(&block_bytes), "4096 or 16384"),
        ("memory.cache_bytes", cache, cache <= MEMORY_BYTES_MAX, "at most 16 TiB"),
        ("memory.table_bytes", table, (MEMORY_BYTES_MIN..=TABLE_BYTES_MAX).contains(&table), "from 1 KiB to 64 GiB"),
        ("memory.log_bytes", log, (MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&log), "from 1 KiB to 16 TiB"),
    ] {
        if !is_allowed {
            return Err(OpenError::BadOption { option, given, allowed });
        }
    }
    Ok(())
}

/// Reads which pages are in use: what the header names, what the log names beyond it, and what the header before the
/// newest may be asked for.
fn open_space(
    file_bytes: u64,
    root: &Root,
    stored: &Stored,
    header: &Superblock,
    older: Option<&Superblock>,
) -> Result<Space, OpenError> {
    let mut space = match header.space {
        Some(at) => Space::load(root, at, header.sequence)?,
        None => Space::new(header.page_bytes as usize, header.sequence + 1),
    };
    // Else the next pages could be written over them.
    let roots = [&header.roots].into_iter().chain(&root.trees).filter_map(|tree| tree.page);
    if let Some(at) = roots.into_iter().find(|at| !space.is_named(at.no)) {
        return Err(PageError::node(at.no, header.page_bytes as usize, "a tree's root is not in use").into());
    }
    // Should the newest header be damaged before the next one is written, the older one must still hold. Where it does
    // not hold now, there is nothing to keep.
    if let Some(older) = older
        && let Some(at) = older.space
        && let Ok(older) = Space::load(root, at, older.sequence)
    {
        space.hold(&older);
    }
    // Compared before it is claimed, as a claim makes the bitmap as long as its number asks for.
    let end = file_bytes / u64::from(header.page_bytes);
    let mut wrong = None;
    for at in stored.values() {
        value_pages(root, &at, &mut |no| {
            if no >= end || !space.claim(no) {
                wrong.get_or_insert(no);
            }
        })?;
    }
    match wrong {
        None => Ok(space),
        Some(no) => Err(Corruption {
            offset: no * u64::from(header.page_bytes),
            what: CorruptionKind::Page {
                no,
                rule: "a value in the log names it, and it is in use or there can be no such page",
            },
        }
        .into()),
    }
}

/// Opens the pages that a header names. Reads the roots of the trees, nothing else.
fn open_pages(
    file: &Arc<dyn StorageFile>,
    header: &Superblock,
    keys: &FileKeys,
    options: &Options,
) -> Result<Root, OpenError> {
    let io = |during| move |source| OpenError::Io { during, source };
    let page_bytes = header.page_bytes as usize;
    let len = file.len().map_err(io("reading the file's length"))?;
    if len < header.page_count * page_bytes as u64 {
        return Err(Corruption { offset: len, what: CorruptionKind::CutShort }.into());
    }
    // Beside a writer pages may be used again while we look at them: never through a mapping then.
    let map_wanted = match options.access {
        PageAccess::Auto => header.cipher == Cipher::None,
        PageAccess::Map => true,
        PageAccess::Read => false,
    } && !options.read_only;
    let miss_from = if options.access == PageAccess::Map { MissFrom::Map } else { MissFrom::File };
    let pages = Pages::new(Arc::clone(file), keys.clone(), page_bytes, options.memory.cache_bytes, miss_from)
        .map_err(io("making room for the page cache"))?;
    let pages = Arc::new(pages.with_map(map_wanted));
    let map = pages.map_to(header.page_count, None)?;
    let mut root = Root {
        checkpoint: header.sequence,
        commit_no: header.commit_no,
        trees: Vec::new(),
        roots: header.roots,
        space: header.space,
        pages,
        map,
        history_floor: 0,
    };
    root.trees = load_roots(&root, &header.roots)?;
    Ok(root)
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

/// What the name of a store ends in until it is whole, beside that of a restore or a salvage.
pub(crate) const MAKING_SUFFIX: &str = ".restoring";

/// Whether a file is what a creation that was cut off may have left: of no more than a new store's length, and of its two
/// slots any sectors, of the rest nothing.
fn is_leftover(env: &Env, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
    if file.len()? > PAGES_START {
        return Ok(false);
    }
    // A creation has no log yet, and none under this name: where there is one, it is a store that is called so.
    for log in log_file_names(name) {
        if env.storage.exists(&log)? {
            return Ok(false);
        }
    }
    let mut bytes = vec![0; PAGES_START as usize];
    file.read_at(0, &mut bytes)?;
    let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let mut is_ours = true;
    for at in SLOT_OFFSETS {
        let slot = &mut bytes[at as usize..][..SLOT_BYTES];
        is_ours &= has_magic(slot) || is_zero(&slot[..SECTOR_BYTES]);
        slot.fill(0);
    }
    Ok(is_ours && is_zero(&bytes))
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Makes a new, empty store under another name and gives it its name when it is whole. spec: E-5
fn create_file(env: &Env, options: &Options, path: &str) -> Result<(), OpenError> {
    let io = |during| move |source| OpenError::Io { during, source };
    let new_name = new_file_name(&env.name);
    check_log_names(env)?;
    let file = env.storage.open(&new_name, OpenMode::Create).map_err(io("creating the file"))?;
    if file.try_lock().map_err(io("locking the new file"))? == LockOutcome::Held {
        return Err(OpenError::Locked { path: path.to_owned(), pid: None, own_process: false });
    }
    if !is_leftover(env, &new_name, &*file).map_err(io("looking at the new file's name"))? {
        return Err(OpenError::InTheWay { path: new_name });
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
    let key = if encrypted {
        EpochKey::draw(FIRST_EPOCH, cipher, &*env.entropy).map_err(io(drawing))?
    } else {
        EpochKey::new(FIRST_EPOCH, cipher, None)
    };
    let mut slots: [KeySlot; 4] = Default::default();
    if let Some(master) = key.master() {
        slots[0] =
            KeySlot::wrap(master, &options.key, options.kdf, cipher, &uuid, &*env.entropy).map_err(|e| match e {
                WrapError::Io(source) => io(drawing)(source),
                WrapError::Provider(source) => OpenError::KeyProvider { source },
            })?;
    }
    let keys = FileKeys::new(uuid, key);
    let header = Superblock {
        sequence: 0,
        uuid,
        cipher,
        key_epoch: FIRST_EPOCH,
        previous: None,
        log_block_bytes: options.log_block_bytes as u32,
        page_bytes: options.page_bytes as u32,
        commit_no: 0,
        durable_floor: 0,
        log: LogPosition { generation: 0, offset: 0, tag: seed },
        roots: TreeRoot::default(),
        space: None,
        page_count: first_page(options.page_bytes),
        wall_ms: env.clock.wall_ms(),
        slots,
    };
    file.set_len(0).map_err(io("emptying the new file"))?;
    // Both slots, so that from the first moment on damage of one of them costs nothing.
    for sequence in [1, 2] {
        let bytes = Superblock { sequence, ..header.clone() }.encode(&keys);
        file.write_at(SLOT_OFFSETS[(sequence % 2) as usize], &bytes[..]).map_err(io("writing the header"))?;
    }
    file.set_len(PAGES_START).and_then(|()| file.sync_all()).map_err(io("syncing the new file"))?;
    env.storage.rename(&new_name, &env.name).map_err(io("naming the new file"))?;
    env.storage.sync_dir().map_err(io("syncing the folder"))
}

pub(crate) fn new_file_name(name: &str) -> String {
    format!("{name}.new")
}

/// Returns the sequence of the newest header in a file, as far as one can be made out.
pub(crate) fn newest_sequence(file: &dyn StorageFile) -> Option<u64> {
    let slot = |offset| {
        let mut block = Box::new([0; SLOT_BYTES]);
        let got = file.read_at(offset, &mut block[..]).ok()?;
        let slot = (got == SLOT_BYTES).then(|| Unchecked::decode(block, offset).ok().flatten())??;
        Some(slot.superblock.sequence)
    };
    SLOT_OFFSETS.into_iter().filter_map(slot).max()
}

/// So often a slot that seems damaged is read, where a writer may be writing it.
const TRIES_BESIDE_A_WRITER: usize = 5;

/// Reads one slot; what the file does not have of it is zeros.
fn read_slot(file: &dyn StorageFile, offset: u64, beside_a_writer: bool) -> io::Result<Box<[u8; SLOT_BYTES]>> {
    let mut tries = if beside_a_writer { TRIES_BESIDE_A_WRITER } else { 1 };
    loop {
        let mut block = Box::new([0; SLOT_BYTES]);
        file.read_at(offset, &mut block[..])?;
        tries -= 1;
        if tries == 0 || is_whole(&block) {
            return Ok(block);
        }
    }
}

/// Whether both slots can be read as they lie there now.
pub(crate) fn headers_hold(file: &dyn StorageFile, beside_a_writer: bool) -> bool {
    let mut slots = SLOT_OFFSETS.into_iter().map(|offset| read_slot(file, offset, beside_a_writer));
    slots.all(|slot| slot.is_ok_and(|block| is_whole(&block)))
}

/// Both slots, as far as they can be told without a key.
struct Slots {
    /// The newest one first.
    found: Vec<Unchecked>,
    /// One whose checksum or magic fails, or that the disk does not give.
    lost: Option<LostSlot>,
    /// One whose checksum holds, and whose content does not.
    refused: Option<(OpenError, LostSlot)>,
    /// Why there is nothing to go on with where none of them is any good.
    nothing: OpenError,
}

impl Slots {
    /// Fails where a slot is of a format that is not known here, whichever slot it is, and whatever the other one is.
    /// spec: E-45
    fn read(file: &dyn StorageFile, beside_a_writer: bool, path: &str) -> Result<Self, OpenError> {
        let nothing = OpenError::NotAStore { path: path.to_owned() };
        let mut slots = Self { found: Vec::new(), lost: None, refused: None, nothing };
        for offset in SLOT_OFFSETS {
            // What the disk does not give is as what it damaged, where the other one can be read.
            let block = read_slot(file, offset, beside_a_writer).unwrap_or_else(|source| {
                slots.nothing = OpenError::Io { during: "reading the header", source };
                Box::new([0; SLOT_BYTES])
            });
            if block[..7] == *b"BLAZEDB" && matches!(slots.nothing, OpenError::NotAStore { .. }) {
                slots.nothing = Corruption { offset: 0, what: CorruptionKind::Headers }.into();
            }
            let lost = LostSlot::of(&block);
            match Unchecked::decode(block, offset) {
                Ok(Some(slot)) => slots.found.push(slot),
                Ok(None) => slots.lost = Some(lost),
                Err(error @ (OpenError::UnsupportedVersion(_) | OpenError::Unsupported { .. })) => return Err(error),
                Err(error) => slots.refused = Some((error, lost)),
            }
        }
        slots.found.sort_by_key(|slot| std::cmp::Reverse(slot.superblock.sequence));
        Ok(slots)
    }
}

/// Reads both slots, takes the newest that is not damaged, finds the key, authenticates. Writes nothing. A wrong key,
/// or an authentication that fails, is no reason to go on with the older slot: it might open with an older passphrase.
/// The older header is returned, too, if it holds: what it names is kept until it is written over. spec: E-4, C-6
fn read_header(file: &Arc<dyn StorageFile>, options: &Options, path: &str) -> Result<Headers, OpenError> {
    let Slots { found, mut lost, refused, nothing } = Slots::read(&**file, options.read_only, path)?;
    if let Some((error, _)) = refused {
        return Err(error);
    }
    let mut found = found.into_iter();
    let Some(newest) = found.next() else { return Err(nothing) };
    let (keys, own_slot) = unlock(&newest.superblock, &options.key)?;
    let offset = newest.offset();
    let header = newest.verify(&keys)?;
    if !add_previous(&keys, &header) {
        return Err(Corruption { offset, what: CorruptionKind::HeaderField("previous key") }.into());
    }
    let mut older = None;
    if let Some(slot) = found.next() {
        let left = LostSlot::from(&slot.superblock);
        // Of the epoch before, where the master key was being changed when the header was written.
        older = slot.verify(&keys).ok().filter(|older| older.uuid == header.uuid);
        // Where that change has just ended, the older header's pages may still be of the epoch before.
        older = older.filter(|older| add_previous(&keys, older));
        // What lies in the newest one's place is not what was written there last.
        if older.is_none() || !left.is_before(&header) {
            lost = Some(left);
        }
    }
    Ok(Headers { header, older, lost, keys, own_slot })
}

/// Reads the headers of a damaged file, the newest first, with their keys: those whose checksum and authentication hold. An
/// older one is taken where the newest one is not to be trusted: whoever salvages asks for what can be had. The last is the
/// one that cannot be read or was refused.
pub(crate) fn read_headers(
    file: &Arc<dyn StorageFile>,
    key: &KeySource,
    path: &str,
) -> Result<(Vec<Superblock>, FileKeys, Option<LostSlot>), OpenError> {
    let Slots { found, mut lost, refused, nothing } = Slots::read(&**file, false, path)?;
    let mut refused = refused.map(|(error, slot)| {
        lost = Some(slot);
        error
    });
    let mut keys: Option<FileKeys> = None;
    let mut headers = Vec::new();
    for slot in found {
        let left = LostSlot::from(&slot.superblock);
        let opened = match &keys {
            Some(keys) => Ok(keys.clone()),
            None => unlock(&slot.superblock, key).map(|(keys, _)| keys),
        };
        let verified = opened.and_then(|keys| Ok((slot.verify(&keys)?, keys)));
        match verified {
            Ok((header, of_header)) if add_previous(&of_header, &header) => {
                // What lies in the newest one's place is not what was written there last.
                if headers.first().is_some_and(|newest| !left.is_before(newest)) {
                    lost = Some(left);
                }
                keys = Some(of_header);
                headers.push(header);
            }
            Ok(_) => lost = Some(left),
            Err(error) => {
                lost = Some(left);
                refused = Some(error);
            }
        }
    }
    match keys {
        Some(keys) => Ok((headers, keys, lost)),
        None => Err(refused.unwrap_or(nothing)),
    }
}

/// Takes in the master key of the epoch before, if the header has it. False: it does not unwrap.
fn add_previous(keys: &FileKeys, header: &Superblock) -> bool {
    let Some(previous) = &header.previous else { return true };
    let unwrapped = keys.of(header.key_epoch).and_then(|newest| previous.unwrap(&newest, &header.uuid));
    unwrapped.map(|key| keys.add(key)).is_some()
}

/// Both headers, the newest one first, and what opens them.
struct Headers {
    header: Superblock,
    older: Option<Superblock>,
    /// One that cannot be read.
    lost: Option<LostSlot>,
    keys: FileKeys,
    own_slot: Option<usize>,
}

/// Both header slots must say the same before anything is sealed or shown. Of the keys, as one of them may have been
/// written, and not the other, when a key was changed: else a key that was removed would open the older one, or a master
/// key would seal what the older one cannot open. Of the state, as no log may hold the newest one's commit: else damage to
/// one slot would take it away again. spec: C-3, E-15
fn complete_headers(disk: &mut Disk, older: Option<&Superblock>) -> io::Result<()> {
    let header = &disk.header;
    let has_same_keys = |older: &Superblock| {
        (older.key_epoch, older.cipher, &older.previous, &older.slots)
            == (header.key_epoch, header.cipher, &header.previous, &header.slots)
    };
    let has_same_state = |older: &Superblock| {
        (older.commit_no, older.log, older.roots, older.space)
            == (header.commit_no, header.log, header.roots, header.space)
    };
    if older.is_some_and(|older| has_same_keys(older) && has_same_state(older)) {
        return Ok(());
    }
    if header.previous.is_none()
        && let Some(previous) = older.and_then(|older| older.previous.as_ref())
    {
        disk.retire_key(previous.epoch);
    }
    disk.write_header(|_| {})
}

/// Returns the keys, and the slot that gave them.
fn unlock(header: &Superblock, source: &KeySource) -> Result<(FileKeys, Option<usize>), OpenError> {
    let (key, slot) = unlock_slots(&header.slots, header.key_epoch, header.cipher, &header.uuid, source)?;
    Ok((FileKeys::new(header.uuid, key), slot))
}

/// Returns the master key that slots wrap, and the slot that gave it.
pub(crate) fn unlock_slots(
    slots: &[KeySlot],
    epoch: u16,
    cipher: Cipher,
    uuid: &[u8; 16],
    source: &KeySource,
) -> Result<(EpochKey, Option<usize>), OpenError> {
    let key = |master| EpochKey::new(epoch, cipher, master);
    match (cipher, source) {
        (Cipher::None, KeySource::None) => return Ok((key(None), None)),
        (Cipher::None, _) => return Err(OpenError::NotEncrypted),
        (_, KeySource::None) => return Err(OpenError::KeyMissing),
        _ => {}
    }
    let mut refused = OpenError::WrongKey;
    for (i, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.fits(source)) {
        match slot.unwrap(source, cipher, uuid) {
            Ok(master) => return Ok((key(Some(master)), Some(i))),
            Err(UnwrapError::WrongKey) => {}
            Err(UnwrapError::Costs { what, given }) => return Err(OpenError::Unsupported { what, given }),
            // The next slot may be the one that it has a key for.
            Err(UnwrapError::Provider(source)) => refused = OpenError::KeyProvider { source },
        }
    }
    Err(refused)
}

/// A state as the file and its log have it.
struct Found {
    header: Superblock,
    older: Option<Superblock>,
    lost: Option<LostSlot>,
    keys: FileKeys,
    own_slot: Option<usize>,
    root: Root,
    log: Surveyed,
}

/// Reads header, roots and log. A reader without the lock may look while they are being written over: what seems
/// damaged may be a moment old, or lost for having been written over between one look and the next, and then everything is
/// read again: some times where nothing has changed, and more often where there is another header each time. spec: E-6
fn read_state(env: &Env, file: &Arc<dyn StorageFile>, options: &Options, path: &str) -> Result<Found, OpenError> {
    const TRIES: usize = 5;
    const TRIES_OF_A_MOVING_FILE: usize = 100;
    let (mut tries, mut all_tries) = if options.read_only { (TRIES, TRIES_OF_A_MOVING_FILE) } else { (1, 1) };
    let mut last = None;
    loop {
        let mut seen = None;
        let found = read_header(file, options, path).and_then(|headers| {
            let Headers { header, older, lost, keys, own_slot } = headers;
            seen = Some(header.sequence);
            let mut root = open_pages(file, &header, &keys, options)?;
            let twins = read_twins(&root, &root.trees)?.map(Arc::new);
            root.history_floor = history_floor(&root, &root.trees, twins.as_deref())?;
            let log = survey(env, &header, &keys, options, twins)?;
            Ok(Found { header, older, lost, keys, own_slot, root, log })
        });
        all_tries -= 1;
        let has_moved = seen.is_some() && std::mem::replace(&mut last, seen).is_some_and(|last| Some(last) != seen);
        tries = if has_moved && options.read_only { TRIES } else { tries - 1 };
        let may_have_moved = match &found {
            Ok(found) => found.lost.is_some(),
            Err(error) => matches!(error, OpenError::Corruption(_)),
        };
        if !may_have_moved || tries == 0 || all_tries == 0 {
            return found;
        }
    }
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
