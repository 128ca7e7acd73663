//! Writer and replay together, on disks that fail.

use super::group::{self, GroupHeader, HEADER_BYTES, Nonce};
use super::redo::{CommitEncoder, Effects};
use super::replay::{LogEnd, replay};
use super::writer::{AppendError, LogPosition, LogWriter, log_file_names};
use crate::btree::{TreeRoot, ValueRef};
use crate::env::{CallKind, Env, Fault, SimDisk, Survivors};
use crate::error::{CorruptionKind, OpenError};
use crate::keys::{EpochKey, FileKeys};
use crate::seal::Cipher;
use crate::superblock::{FIRST_EPOCH, Superblock};
use std::collections::HashSet;
use std::io;

#[derive(Default)]
struct Commits(Vec<u64>);

impl Effects for Commits {
    fn begin_commit(&mut self, commit_no: u64, _label: u32) {
        self.0.push(commit_no);
    }
    fn put(&mut self, _tree: u32, key: &[u8], _value: &[u8]) {
        assert_eq!(key, self.0.last().expect("a commit has begun").to_be_bytes());
    }
    fn put_stored(&mut self, _tree: u32, _key: &[u8], _at: ValueRef) {}
    fn delete(&mut self, _tree: u32, _key: &[u8]) {}
}

pub(super) fn header(cipher: Cipher, log_block_bytes: u32) -> Superblock {
    Superblock {
        sequence: 1,
        uuid: [5; 16],
        cipher,
        key_epoch: FIRST_EPOCH,
        previous: None,
        log_block_bytes,
        page_bytes: 4096,
        commit_no: 0,
        durable_floor: 0,
        log: LogPosition { generation: 1, offset: 0, tag: [9; 16] },
        roots: TreeRoot::default(),
        space: None,
        page_count: 32,
        wall_ms: 0,
        slots: Default::default(),
    }
}

pub(super) fn keys(header: &Superblock) -> FileKeys {
    let master = (header.cipher != Cipher::None).then(|| [3; 32].into());
    FileKeys::new(header.uuid, EpochKey::new(header.key_epoch, header.cipher, master))
}

/// A store reduced to its log: two headers, of which a checkpoint replaces the older one.
struct Log {
    env: Env,
    headers: [Superblock; 2],
    writer: LogWriter,
    /// The position that the checkpoint in the making will put into its header.
    then: Option<(LogPosition, u64)>,
}

impl Log {
    fn new(disk: &SimDisk) -> Self {
        Self::with(disk, header(Cipher::ChaCha20Poly1305, 4096))
    }

    fn with(disk: &SimDisk, header: Superblock) -> Self {
        Self::open(disk.env("a"), [header.clone(), header]).expect("an empty log").0
    }

    /// Recovers with the newer header.
    fn open(env: Env, headers: [Superblock; 2]) -> Result<(Self, Vec<u64>), OpenError> {
        let (commits, mut end) = read(&env, &headers[1])?;
        let writer = LogWriter::open(&env, &headers[1], &keys(&headers[1]), &mut end)?;
        assert!(writer.is_durable() && end.durable == end.last_commit);
        Ok((Self { env, headers, writer, then: None }, commits))
    }

    fn append(&mut self, bytes: usize) -> Result<u64, AppendError> {
        let no = self.writer.last_commit() + 1;
        let mut group = vec![0; HEADER_BYTES];
        CommitEncoder::new(&mut group, 0, 1, false).put(1, &no.to_be_bytes(), &vec![no as u8; bytes], &[]);
        self.writer.append(&mut group, no, 1).map(|()| no)
    }

    fn commit(&mut self, bytes: usize) -> Result<u64, AppendError> {
        let no = self.append(bytes)?;
        self.writer.sync().map(|()| no)
    }

    fn commit_many(&mut self, n: u64, bytes: usize) {
        for _ in 0..n {
            self.commit(bytes).expect("a disk that works");
        }
    }

    fn freeze(&mut self) -> Result<(), AppendError> {
        self.then = Some((self.writer.switch_generation(false)?, self.writer.last_commit()));
        Ok(())
    }

    fn write_header(&mut self) {
        let (log, commit_no) = self.then.take().expect("a freeze came before");
        let old = self.headers[1].clone();
        let new = Superblock { sequence: old.sequence + 1, commit_no, durable_floor: commit_no, log, ..old.clone() };
        self.headers = [old, new];
    }

    fn checkpoint(&mut self) {
        self.freeze().expect("a disk that works");
        self.write_header();
    }
}

fn read(env: &Env, header: &Superblock) -> Result<(Vec<u64>, LogEnd), OpenError> {
    let mut commits = Commits::default();
    let end = replay(env, header, &keys(header), &mut commits)?;
    Ok((commits.0, end))
}

fn commits(env: &Env, header: &Superblock) -> Vec<u64> {
    read(env, header).expect("a sound log").0
}

fn is_acknowledged_lost<T>(result: &Result<T, OpenError>) -> bool {
    matches!(result, Err(OpenError::Corruption(c)) if matches!(c.what, CorruptionKind::AcknowledgedGroup { .. }))
}

/// Header n needs its generation, header n - 1 one more, in every cipher and block size. spec: E-18, E-19
#[test]
fn two_headers_and_three_generations() {
    for (cipher, block) in [(Cipher::None, 4096), (Cipher::Aes256Gcm, 4096), (Cipher::ChaCha20Poly1305, 16384)] {
        let disk = SimDisk::new(1);
        let mut log = Log::with(&disk, header(cipher, block));
        for no in 1..60 {
            assert_eq!(log.commit(if no % 5 == 0 { 40_000 } else { 10 }).expect("a disk that works"), no);
            let all = |h: &Superblock| (h.commit_no + 1..=no).collect::<Vec<_>>();
            match no % 4 {
                0 => log.freeze().expect("a disk that works"),
                2 if log.then.is_some() => log.write_header(),
                _ => {}
            }
            for header in &log.headers {
                assert_eq!(commits(&log.env, header), all(header), "commit {no}, header {}", header.sequence);
            }
        }
        let end = read(&log.env, &log.headers[1]).expect("a sound log").1;
        assert_eq!(end.at.offset % group::ALIGN_BYTES, 0);
        assert_eq!(end.at.generation, 15);
        assert_eq!(disk.names(), ["a-log.0", "a-log.1", "a-log.2"]);
    }
}

/// A header older than the last two finds groups that tell it of commits it cannot reach. spec: E-9
#[test]
fn a_header_that_is_too_old_is_refused() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    let first = log.headers[1].clone();
    for _ in 0..3 {
        log.commit(10).expect("a disk that works");
        log.checkpoint();
        log.commit(10).expect("a disk that works");
    }
    assert!(is_acknowledged_lost(&read(&log.env, &first)));
}

/// spec: E-20
#[test]
fn files_are_written_over_and_do_not_grow() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    let round = |log: &mut Log| {
        log.commit_many(20, 5000);
        assert_eq!(log.writer.log_bytes(), 20 * 8192);
        log.checkpoint();
        assert_eq!(log.writer.log_bytes(), 0);
    };
    (0..3).for_each(|_| round(&mut log));
    let (files, folder) = (log.writer.at().files, disk.calls(CallKind::SyncDir));
    (0..10).for_each(|_| round(&mut log));
    assert_eq!((log.writer.at().files, disk.calls(CallKind::SyncDir)), (files, folder));
    assert_eq!(files, disk.names().iter().map(|n| disk.read_file(n).expect("it exists").len() as u64).sum::<u64>());
}

/// After a crash between freeze and header the log is in its header's next generation. Going on to the one after
/// that would take the file of the generation that the older header needs.
#[test]
fn after_a_crash_in_a_checkpoint_both_headers_still_find_their_log() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    log.commit(10).expect("a disk that works");
    log.checkpoint();
    log.commit(10).expect("a disk that works");
    log.freeze().expect("a disk that works");
    log.commit(10).expect("a disk that works");
    let (mut log, found) = Log::open(log.env.clone(), log.headers.clone()).expect("a sound log");
    assert_eq!(found, [2, 3]);
    for no in 4..20 {
        log.freeze().expect("a disk that works");
        assert_eq!(no == 4, log.then.is_some_and(|(at, _)| at.offset > 0), "once in the middle of a generation");
        assert_eq!(log.commit(10).expect("a disk that works"), no);
        for header in &log.headers {
            assert_eq!(commits(&log.env, header), (header.commit_no + 1..=no).collect::<Vec<_>>());
        }
        log.write_header();
    }
}

/// The newer header is damaged, and the log two generations further than the older one.
#[test]
fn a_log_may_go_on_from_the_older_header() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    log.checkpoint();
    for _ in 0..2 {
        log.commit(10).expect("a disk that works");
        log.checkpoint();
    }
    log.commit(10).expect("a disk that works");
    log.freeze().expect("a disk that works");
    log.commit(10).expect("a disk that works");
    let older = log.headers[0].clone();
    let (mut log, found) = Log::open(log.env.clone(), [older.clone(), older]).expect("a sound log");
    assert_eq!(found, [2, 3, 4]);
    for no in 5..20 {
        log.checkpoint();
        assert_eq!(log.commit(10).expect("a disk that works"), no);
        for header in &log.headers {
            assert_eq!(commits(&log.env, header), (header.commit_no + 1..=no).collect::<Vec<_>>());
        }
    }
}

/// Every bit of two generations: what is read is all that was written, or an error; or all but the last group, which
/// cannot be told from a torn tail, unless the floor covers it. spec: E-8, E-9
#[test]
fn no_flipped_bit_goes_unnoticed() {
    for cipher in [Cipher::None, Cipher::ChaCha20Poly1305] {
        let disk = SimDisk::new(1);
        let mut log = Log::with(&disk, header(cipher, 4096));
        log.commit_many(3, 100);
        log.freeze().expect("a disk that works");
        log.commit_many(3, 100);
        log.commit_many(3, 5000);
        let header = &log.headers[1];
        let floor = Superblock { durable_floor: 9, ..header.clone() };
        assert_eq!(commits(&log.env, header), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let (last_group, tail) = (3 * 4096 + 2 * 8192, 3 * 4096 + 3 * 8192);
        let undamaged = disk.copy();
        let clean = |name| undamaged.read_file(name).expect("it exists");
        for (name, len) in [("a-log.1", 3 * 4096), ("a-log.2", tail + 4096)] {
            // All of each group's header, and some of the rest.
            for at in (0..len).filter(|at| at % 4096 < 220 || at % 397 == 0) {
                let bit = 8 * at + at % 8;
                assert!(disk.flip_bit(name, bit));
                let (found, with_floor) = (read(&log.env, header), read(&log.env, &floor));
                let block = |at: u64| GroupHeader::parse(&clean(name)[at as usize..]).map(|h| at + h.total_bytes());
                let is_behind = (0..=at / 4096).rev().find_map(|n| block(n * 4096)).is_some_and(|end| at >= end);
                if is_behind {
                    assert_eq!(found.expect("no group is there").0.len(), 9, "{name} byte {at}");
                } else if name == "a-log.2" && at >= last_group {
                    assert_eq!(found.expect("a torn tail").0.len(), 8, "{name} byte {at}");
                    assert!(is_acknowledged_lost(&with_floor), "{name} byte {at}");
                } else {
                    assert!(is_acknowledged_lost(&found), "{name} byte {at}");
                }
                disk.flip_bit(name, bit);
            }
        }
    }
}

/// Groups that are right by themselves and stand where they do not belong. spec: E-8, E-19
#[test]
fn a_group_that_does_not_follow_is_the_end() {
    let disk = SimDisk::new(1);
    let mut log = Log::with(&disk, header(Cipher::None, 4096));
    log.commit(10).expect("a disk that works");
    log.append(10).expect("a disk that works");
    let header = &log.headers[1];
    let end = read(&log.env, header).expect("a sound log").1;
    let right = GroupHeader {
        len: 0,
        count: 1,
        first_commit: 3,
        durable_commit: 2,
        generation: 2,
        nonce: Nonce { subkey: [0; 12], counter: 0, epoch: FIRST_EPOCH },
        previous: end.at.tag,
        tag: [0; 16],
    };
    let found = |group: GroupHeader| {
        let mut bytes = vec![0; HEADER_BYTES];
        CommitEncoder::new(&mut bytes, 0, 0, false);
        let sealer = keys(header).log_sealer(FIRST_EPOCH, &[0; 12]).expect("the first key is known");
        group::seal(&mut bytes, &group, &header.uuid, &*sealer);
        disk.write_file("a-log.2", &bytes);
        commits(&log.env, header).len()
    };
    assert_eq!(found(right.clone()), 3);
    assert_eq!(found(GroupHeader { previous: [1; 16], ..right.clone() }), 2);
    assert_eq!(found(GroupHeader { generation: 5, ..right.clone() }), 2);
    assert_eq!(found(GroupHeader { first_commit: 4, ..right.clone() }), 2);
    assert_eq!(found(GroupHeader { durable_commit: 1, ..right }), 2, "generation 1 was not durable when 2 began");
}

/// No (subkey, nonce) seals twice, also not after a reopening or where a group was given up. spec: C-5
#[test]
fn nonces_are_never_used_again() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    let mut seen = HashSet::new();
    for round in 0..4 {
        for _ in 0..5 {
            let at = read(&log.env, &log.headers[1]).expect("a sound log").1.at;
            log.commit(10).expect("a disk that works");
            let file = disk.read_file(&log_file_names("a")[at.file()]).expect("it exists");
            // Whether the last open left it in the midst of a block or not.
            let begins = group::padded(at.offset, 4096) as usize;
            let Nonce { subkey, counter, .. } = GroupHeader::parse(&file[begins..]).expect("a group").nonce;
            assert!(seen.insert((subkey, counter)), "round {round}");
        }
        // The last group is lost, and its number is given to another commit.
        let end = read(&log.env, &log.headers[1]).expect("sound").1.at.offset;
        disk.flip_bit("a-log.1", 8 * ((end - 1) / 4096 * 4096));
        log = Log::open(log.env.clone(), log.headers.clone()).expect("a torn tail").0;
    }
    assert_eq!(seen.len(), 20);
}

/// Whole files that are missing, cut, or another generation's. spec: E-9
#[test]
fn lost_files_are_noticed_where_a_later_generation_tells() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    log.commit(10).expect("a disk that works");
    log.freeze().expect("a disk that works");
    log.commit(10).expect("a disk that works");
    let header = log.headers[1].clone();
    for cut in [0, 1, 127, 128] {
        let disk = disk.copy();
        let bytes = disk.read_file("a-log.1").expect("it exists");
        disk.write_file("a-log.1", &bytes[..cut]);
        assert_eq!(is_acknowledged_lost(&read(&disk.env("a"), &header)), cut < 128, "cut at {cut}");
        disk.write_file("a-log.1", &disk.read_file("a-log.2").expect("it exists"));
        assert!(is_acknowledged_lost(&read(&disk.env("a"), &header)));
    }
    // The last generation's file says nothing about itself when it is gone.
    disk.write_file("a-log.2", &[]);
    assert_eq!(commits(&log.env, &header), [1]);
}

/// A leftover of another store, or of a folded log, belongs to no chain. spec: E-8, E-21
#[test]
fn files_of_others_are_ignored_and_written_over() {
    let disk = SimDisk::new(1);
    let mut other = Log::with(&disk, Superblock { uuid: [6; 16], ..header(Cipher::ChaCha20Poly1305, 4096) });
    other.commit_many(5, 10);
    let mut log = Log::new(&disk);
    assert_eq!(log.commit(10).expect("a disk that works"), 1);
    assert_eq!(commits(&log.env, &log.headers[1]), [1]);
}

/// spec: E-16, E-20
#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    // Each room: nothing, a name and no byte, part of the zeros.
    for room in [0, 1, 100_000] {
        let disk = SimDisk::new(1);
        let mut log = Log::new(&disk);
        disk.set_capacity(Some(room));
        let full = |log: &mut Log| {
            let before = log.writer.at();
            let error = log.commit(200_000).expect_err("no room");
            assert!(matches!(error, AppendError::DiskFull { .. }), "{error:?}");
            assert_eq!(disk.read_file("a-log.1").map(|f| f.len() as u64), Some(before.files));
        };
        full(&mut log);
        disk.set_capacity(Some(room + 100_000));
        log.commit(10).expect("there is room now");
        full(&mut log);
        assert_eq!(commits(&log.env, &log.headers[1]), [1]);
        disk.set_capacity(None);
        log.commit(200_000).expect("there is room now");
        assert_eq!(commits(&log.env, &log.headers[1]), [1, 2]);
    }
    for error in [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge] {
        let disk = SimDisk::new(1);
        let mut log = Log::new(&disk);
        disk.fail(Fault { kind: CallKind::Create, nth: 0, error, for_ever: false });
        assert!(matches!(log.commit(10), Err(AppendError::DiskFull { .. })));
        log.commit(10).expect("there is room now");
        disk.fail(Fault { kind: CallKind::Write, nth: 0, error, for_ever: false });
        assert!(matches!(log.commit(200_000), Err(AppendError::DiskFull { .. })));
        log.commit(200_000).expect("there is room now");
    }
}

/// Room that was made is room: nothing is asked of the disk again.
#[test]
fn room_is_kept() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    assert!(!log.writer.has_room(1));
    log.writer.ensure_room(300_000).expect("a disk that works");
    assert!(log.writer.has_room(300_000));
    disk.set_capacity(Some(0));
    log.commit(300_000 - HEADER_BYTES - 20).expect("there is room");
}

/// What a failed sync left in the page cache is written again, the same bytes, before anybody sees it. spec: E-13
#[test]
fn what_a_failed_sync_left_is_made_durable_by_the_next_open() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    log.commit(10).expect("a disk that works");
    log.freeze().expect("a disk that works");
    log.append(300_000).expect("a disk that works");
    disk.fail(Fault { kind: CallKind::Sync, nth: 0, error: io::ErrorKind::Other, for_ever: false });
    log.append(10).expect("a disk that works");
    assert!(matches!(log.writer.sync(), Err(AppendError::Broken { .. })));
    assert_eq!(commits(&disk.after_crash(Survivors::All, 1).env("a"), &log.headers[1]), [1], "lost for good");
    let before = disk.read_file("a-log.2");
    let (log, found) = Log::open(log.env.clone(), log.headers.clone()).expect("a sound log");
    assert_eq!(found, [1, 2, 3]);
    assert_eq!(disk.read_file("a-log.2"), before);
    assert_eq!(commits(&disk.after_crash(Survivors::None, 1).env("a"), &log.headers[1]), [1, 2, 3]);
    // What is proven durable is not written again.
    let writes = disk.calls(CallKind::Write);
    let mut end = read(&log.env, &log.headers[1]).expect("a sound log").1;
    assert_eq!((end.durable, end.unproven_from), (1, 0));
    end.durable = 3;
    LogWriter::open(&log.env, &log.headers[1], &keys(&log.headers[1]), &mut end).expect("a sound log");
    assert_eq!(disk.calls(CallKind::Write), writes);
}

/// A file whose name may be lost is no place for an acknowledged group.
#[test]
fn the_folder_is_synced_before_the_first_group_is_acknowledged() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    disk.fail(Fault { kind: CallKind::SyncDir, nth: 0, error: io::ErrorKind::Other, for_ever: false });
    assert!(matches!(log.commit(10), Err(AppendError::Broken { .. })));
    // The file is there, its name is not on the platter; the next opener cannot know.
    let (mut log, _) = Log::open(log.env.clone(), log.headers.clone()).expect("an empty log");
    log.commit(10).expect("a disk that works");
    assert_eq!(commits(&disk.after_crash(Survivors::None, 1).env("a"), &log.headers[1]), [1]);
}

/// spec: E-21
#[test]
fn a_folded_log_leaves_one_file_to_write_over() {
    for rounds in 1..5 {
        let disk = SimDisk::new(1);
        let mut log = Log::new(&disk);
        for _ in 0..rounds {
            log.commit_many(40, 50_000);
            log.checkpoint();
        }
        let headers = [log.headers[1].clone(), log.headers[1].clone()];
        let active = log_file_names("a")[log.headers[1].log.file()].clone();
        log.writer.fold().expect("a disk that works");
        assert_eq!(disk.names(), [&active[..]]);
        assert_eq!(disk.read_file(&active), Some(vec![0; 256 << 10]));
        // The next session grows nothing, and finds its own commits only.
        let (mut log, found) = Log::open(disk.env("a"), headers).expect("an empty log");
        assert!(found.is_empty() && log.writer.has_room(256 << 10));
        assert_eq!(log.commit(10).expect("a disk that works"), 40 * rounds + 1);
        assert_eq!(commits(&log.env, &log.headers[1]), [40 * rounds + 1]);
    }
    // A log that was never written folds into nothing.
    let disk = SimDisk::new(1);
    Log::new(&disk).writer.fold().expect("nothing to do");
    assert!(disk.names().is_empty());
}

/// The power goes at any call of a fold: what is left belongs to no chain, and the store goes on. spec: E-21
#[test]
fn the_power_goes_while_a_log_is_folded() {
    for nth in 0.. {
        let disk = SimDisk::new(nth);
        let mut log = Log::new(&disk);
        for _ in 0..4 {
            log.commit_many(30, 50_000);
            log.checkpoint();
        }
        let header = log.headers[1].clone();
        disk.crash_at(nth);
        let done = log.writer.fold().is_ok();
        for (seed, survivors) in Survivors::ALL.into_iter().enumerate() {
            let after = disk.after_crash(survivors, seed as u64);
            let (mut log, found) = Log::open(after.env("a"), [header.clone(), header.clone()]).expect("an empty log");
            assert!(found.is_empty());
            log.commit(10).expect("a disk that works");
            let again = after.after_crash(Survivors::None, 1);
            assert_eq!(commits(&again.env("a"), &header), [121], "crash at {nth}, {survivors:?}");
        }
        if done {
            break;
        }
    }
}

/// A position in the middle of a generation whose file is gone, or was cut, is as good as any.
#[test]
fn a_log_can_begin_beyond_the_end_of_its_file() {
    let disk = SimDisk::new(1);
    let mut log = Log::new(&disk);
    log.commit(10).expect("a disk that works");
    log.freeze().expect("a disk that works");
    log.commit_many(30, 50_000);
    let (mut log, _) = Log::open(log.env.clone(), log.headers.clone()).expect("a sound log");
    log.checkpoint();
    let headers = [log.headers[1].clone(), log.headers[1].clone()];
    assert!(headers[1].log.offset > 1 << 20);
    log.writer.fold().expect("a disk that works");
    for gone in [false, true] {
        let disk = disk.copy();
        if gone {
            disk.env("a").storage.remove("a-log.2").expect("it exists");
        }
        let (mut log, found) = Log::open(disk.env("a"), headers.clone()).expect("an empty log");
        assert!(found.is_empty());
        log.commit(10).expect("a disk that works");
        assert_eq!(commits(&disk.after_crash(Survivors::None, 1).env("a"), &log.headers[1]), [32]);
    }
}

/// The power goes at every call in turn, and what reached the disk is anybody's guess: every durable commit is there,
/// none in between is missing, from either header; and the log goes on from there.
#[test]
fn the_power_goes_at_any_call() {
    let script = |log: &mut Log, durable: &mut u64| -> Result<(), AppendError> {
        for i in 0..24_u64 {
            let no = log.append(if i % 7 == 3 { 9000 } else { 30 })?;
            if i % 3 != 1 {
                log.writer.sync()?;
                *durable = no;
            }
            match i % 5 {
                1 => log.freeze()?,
                3 if log.then.is_some() => log.write_header(),
                _ => {}
            }
        }
        Ok(())
    };
    for nth in 0.. {
        let disk = SimDisk::new(nth);
        let mut log = Log::new(&disk);
        let mut durable = 0;
        disk.crash_at(nth);
        let done = script(&mut log, &mut durable).is_ok();
        let written = log.writer.last_commit() + 1;
        for survivors in Survivors::ALL {
            for seed in 0..4 {
                let context = format!("crash at {nth}, {survivors:?}, seed {seed}");
                let after = disk.after_crash(survivors, seed);
                for header in &log.headers {
                    let found = commits(&after.env("a"), header);
                    let last = found.last().copied().unwrap_or(header.commit_no);
                    assert_eq!(found, (header.commit_no + 1..=last).collect::<Vec<_>>(), "{context}");
                    assert!((durable..=written).contains(&last), "{context}: {last} of {durable} to {written}");
                }
                let (mut log, found) = Log::open(after.env("a"), log.headers.clone()).expect("a sound log");
                let first = found.last().copied().unwrap_or(log.headers[1].commit_no) + 1;
                let mut durable = first - 1;
                after.crash_at(20 + nth % 30);
                let _ = script(&mut log, &mut durable);
                let again = after.after_crash(survivors, seed + 9);
                for header in &log.headers {
                    let last = commits(&again.env("a"), header).last().copied().unwrap_or(header.commit_no);
                    assert!(last >= durable, "{context}: {last} of {durable} after the second crash");
                }
            }
        }
        if done {
            break;
        }
    }
}

/// A file that a hostile hand, without a key to overcome, fills with whatever: an error or an end, never a panic.
#[test]
fn hostile_headers_of_groups_are_refused_without_panic() {
    let disk = SimDisk::new(1);
    let mut log = Log::with(&disk, header(Cipher::None, 4096));
    log.commit_many(3, 10);
    let bytes = disk.read_file("a-log.1").expect("it exists");
    for at in 0..96 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut b = bytes.clone();
            b[4096..][at..(at + 8).min(96)].fill(value);
            // The checksum is made to fit, as anybody could.
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&b[4096..4104]);
            hasher.update(&b[4108..8192]);
            b[4104..4108].copy_from_slice(&hasher.finalize().to_le_bytes());
            disk.write_file("a-log.1", &b);
            let _ = read(&log.env, &log.headers[1]);
        }
    }
}

/// A header may say that its log goes on where its file does not reach: the file was deleted, or the header forged.
#[test]
fn a_log_whose_file_is_gone_goes_on_in_the_next_and_writes_no_zeros_up_to_its_place() {
    let disk = SimDisk::new(1);
    let mut forged = header(Cipher::ChaCha20Poly1305, 4096);
    forged.log.offset = 1 << 50;
    let mut log = Log::with(&disk, forged);
    log.commit_many(3, 100);
    let written: u64 =
        log_file_names("a").iter().map(|name| disk.read_file(name).map_or(0, |bytes| bytes.len() as u64)).sum();
    assert!(written <= 4 << 20, "{written} bytes");
    let headers = log.headers.clone();
    drop(log);
    let (mut log, commits) = Log::open(disk.env("a"), headers.clone()).expect("it is whole");
    assert_eq!(commits, [1, 2, 3]);
    log.checkpoint();
    log.commit_many(2, 100);
    log.freeze().expect("a disk that works");
    log.commit_many(2, 100);
    for header in &log.headers {
        let from = header.commit_no + 1;
        assert_eq!(read(&disk.env("a"), header).expect("it is whole").0, (from..=7).collect::<Vec<_>>());
    }
}
