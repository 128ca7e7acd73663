//! Damaged files: bits, lengths, pages and groups moved about.
//!
//! The rule that is tested: a store that was closed cleanly reads all of its content or gives an error that has a
//! name. One that was not may in addition lose its last group, which looks like a torn tail.

use std::error::Error;

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{MaintainError, OpenError, Options, ReadError, Store, log_file_names};
use sha2::Digest;

use crate::support::{Model, NAME, model_of, open, options, put, roomy, scale, try_content, unencrypted};

const PAGES: usize = 128 << 10;
const PAGE: usize = 4096;

type Files = Vec<(String, Vec<u8>)>;

fn files_of(disk: &SimDisk) -> Files {
    let read = |name: String| disk.read_file(&name).map(|bytes| (name, bytes));
    disk.names().into_iter().filter_map(read).collect()
}

fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new(2);
    for (name, bytes) in files {
        disk.write_file(name, bytes);
    }
    disk
}

/// What came of opening, verifying and reading everything.
#[derive(Debug)]
enum Outcome {
    Content(Model),
    Refused,
}

fn look(disk: &SimDisk, options: &Options) -> Outcome {
    let store = match Store::open(disk.env(NAME), options.clone().create(false)) {
        Ok(store) => store,
        Err(OpenError::Corruption(_)) => return Outcome::Refused,
        Err(e) => panic!("{e}: {:?}", e.source()),
    };
    let verified = store.verify(&mut |_| {});
    match try_content(&store.read()) {
        Ok(content) => match verified {
            Ok(_) => Outcome::Content(content),
            Err(MaintainError::Corruption(_) | MaintainError::Space { .. }) => Outcome::Refused,
            Err(e) => panic!("{e}"),
        },
        Err(ReadError::Corruption(_)) => {
            assert!(verified.is_err(), "verify sees what a reader sees");
            Outcome::Refused
        }
        Err(e) => panic!("{e}"),
    }
}

/// A store of two checkpoints and a few pages, closed cleanly.
fn closed(options: &Options) -> (SimDisk, Model) {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options.clone()).expect("opens");
    for n in 0..40_u8 {
        put(&store, "t", &[n], &[n; 300]).expect("commits");
        if n == 20 {
            store.checkpoint().expect("checkpoints");
        }
    }
    let content = model_of(&store);
    store.close().expect("closes");
    (disk, content)
}

/// Flips bits of the main file one at a time; returns how often the damage was refused, and how often it did not
/// matter.
fn flip(options: &Options, bits: impl Iterator<Item = usize>) -> (u64, u64) {
    let (disk, content) = closed(options);
    assert!(matches!(look(&disk, options), Outcome::Content(found) if found == content));
    let (mut refused, mut same) = (0, 0);
    for bit in bits {
        // A fresh copy: an opened store leaves its note, and a close its header.
        let disk = disk.copy();
        if !disk.flip_bit(NAME, bit as u64) {
            break;
        }
        match look(&disk, options) {
            Outcome::Refused => refused += 1,
            Outcome::Content(found) => {
                assert!(found == content, "byte {} bit {}: silently wrong", bit / 8, bit % 8);
                same += 1;
            }
        }
    }
    (refused, same)
}

/// spec: E-2, E-4
#[test]
fn every_bit_of_the_headers() {
    // Every bit takes its time; one of each byte, another one for each byte, is what a usual run looks at.
    let step = if scale() > 1 { 1 } else { 9 };
    for slot in [0, 64 << 10] {
        let (refused, same) = flip(&options(), (slot * 8..(slot + 4096) * 8).step_by(step));
        assert_eq!(refused, 0, "one damaged header slot is made up for by the other");
        assert_eq!(same, (4096 * 8_u64).div_ceil(step as u64));
    }
}

/// spec: E-17, E-32, C-8
#[test]
fn bits_of_every_page() {
    for options in [options(), unencrypted()] {
        let step = if scale() > 1 { 9 } else { 211 };
        let (refused, same) = flip(&options, (PAGES * 8..usize::MAX).step_by(step));
        assert!(refused > same && same > 0, "pages in use notice it, free ones do not matter: {refused} {same}");
    }
}

/// spec: E-32
#[test]
fn pages_swapped_copied_and_taken_from_an_older_file() {
    for options in [options(), unencrypted()] {
        let (disk, content) = closed(&options);
        let bytes = disk.read_file(NAME).expect("is there");
        // The same store a little later, with the same keys: its pages are of the same kind, and newer.
        let later = disk.copy();
        let store = Store::open(later.env(NAME), options.clone()).expect("opens");
        for n in 0..40_u8 {
            put(&store, "t", &[n], &[n + 1; 300]).expect("commits");
        }
        store.close().expect("closes");
        let replayed = later.read_file(NAME).expect("is there");
        let mut refused = 0;
        let mut check = |changed: Vec<u8>, what: &str| {
            let disk = SimDisk::new(3);
            disk.write_file(NAME, &changed);
            match look(&disk, &options) {
                Outcome::Refused => refused += 1,
                Outcome::Content(found) => assert!(found == content, "{what}: silently wrong"),
            }
        };
        let page = |bytes: &[u8], no: usize| bytes[no * PAGE..(no + 1) * PAGE].to_vec();
        let (first, count) = (PAGES / PAGE, bytes.len() / PAGE);
        for a in first..count {
            for b in first..count {
                let mut changed = bytes.clone();
                changed[a * PAGE..(a + 1) * PAGE].copy_from_slice(&page(&bytes, b));
                check(changed.clone(), "copied");
                changed[b * PAGE..(b + 1) * PAGE].copy_from_slice(&page(&bytes, a));
                check(changed, "swapped");
            }
            if replayed.len() >= (a + 1) * PAGE {
                let mut changed = bytes.clone();
                changed[a * PAGE..(a + 1) * PAGE].copy_from_slice(&page(&replayed, a));
                check(changed, "replayed");
            }
        }
        assert!(refused > count as u64, "{refused} of pages {first} to {count}");
    }
}

/// The newest header is damaged after every checkpoint: the older one opens, and the log holds the rest. spec: E-4
/// spec: E-4, E-18
#[test]
fn the_older_header_holds_everything() {
    for options in [options(), unencrypted()] {
        let disk = SimDisk::new(4);
        let store = Store::open(disk.env(NAME), options.clone()).expect("opens");
        let mut checkpoints = 0;
        for n in 0..150_u32 {
            put(&store, "t", &n.to_be_bytes(), &[n as u8; 300]).expect("commits");
            if n % 10 == 0 {
                let mut tx = store.write();
                let t = tx.tree("t").expect("a good name");
                tx.delete(t, &(n / 2).to_be_bytes()).expect("a good key");
                tx.commit().expect("commits");
            }
            if n % 25 == 3 {
                store.checkpoint().expect("checkpoints");
            }
            if store.stats().checkpoints == checkpoints {
                continue;
            }
            checkpoints = store.stats().checkpoints;
            for more in [0, 1] {
                if more == 1 {
                    put(&store, "t", &n.to_be_bytes(), b"after the checkpoint").expect("commits");
                }
                let content = model_of(&store);
                let mut opened = 0;
                for slot in [0, 64 << 10] {
                    let damaged = disk.copy();
                    assert!(damaged.flip_bit(NAME, (slot + 50) * 8));
                    let store = Store::open(damaged.env(NAME), options.clone()).expect("the other header opens");
                    assert_eq!(model_of(&store), content, "checkpoint {checkpoints}, slot {slot}");
                    store.verify(&mut |_| {}).expect("pages and space agree");
                    // And the store goes on from there, through checkpoints of its own.
                    for n in 0..3_u32 {
                        put(&store, "t", &n.to_be_bytes(), b"goes on").expect("commits");
                        store.checkpoint().expect("checkpoints");
                        store.verify(&mut |_| {}).expect("pages and space agree");
                    }
                    let went_on = model_of(&store);
                    drop(store);
                    assert_eq!(model_of(&open_with(&damaged, &options)), went_on);
                    opened += 1;
                }
                assert_eq!(opened, 2);
            }
        }
        assert!(checkpoints >= 6, "{checkpoints}");
    }
}

/// A close cuts the file behind the last page in use; the older header must not be refused for what was cut.
/// spec: E-17
#[test]
fn either_header_opens_a_file_that_was_cut_when_it_was_closed() {
    let disk = SimDisk::new(6);
    let store = open(&disk);
    for n in 0..400_u32 {
        put(&store, "t", &n.to_be_bytes(), &[n as u8; 300]).expect("commits");
    }
    store.checkpoint().expect("checkpoints");
    let mut tx = store.write();
    let t = tx.tree("t").expect("a good name");
    for n in 0..399_u32 {
        tx.delete(t, &n.to_be_bytes()).expect("a good key");
    }
    tx.commit().expect("commits");
    // Two checkpoints, so that no header needs the old pages; the close finds them free and cuts.
    for n in 0..2_u32 {
        put(&store, "t", &n.to_be_bytes(), b"v").expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    let (long, content) = (disk.read_file(NAME).expect("is there").len(), model_of(&store));
    store.close().expect("closes");
    assert!(disk.read_file(NAME).expect("is there").len() < long, "something was cut");
    for slot in [0, 64 << 10] {
        let damaged = disk.copy();
        assert!(damaged.flip_bit(NAME, (slot + 50) * 8));
        assert_eq!(model_of(&open(&damaged)), content, "slot {slot}");
    }
}

/// What a person does who restores a copy: puts it in the old file's place, and lets the log files lie. After a clean
/// close they say nothing against it, however often the store was open since. spec: E-21
#[test]
fn an_older_copy_put_back_after_a_clean_close_is_that_copy() {
    for lives in 1..8_u8 {
        let disk = SimDisk::new(u64::from(lives));
        let store = open(&disk);
        put(&store, "t", b"k", b"copied").expect("commits");
        store.close().expect("closes");
        let (copy, content) = (disk.read_file(NAME).expect("is there"), model_of(&open(&disk)));
        for life in 0..lives {
            let store = open(&disk);
            for n in 0..3 * lives {
                put(&store, "t", &[life, n], &[life; 200]).expect("commits");
                if n % 4 == 3 {
                    store.checkpoint().expect("checkpoints");
                }
            }
            store.close().expect("closes");
        }
        disk.write_file(NAME, &copy);
        let store = open(&disk);
        assert_eq!(model_of(&store), content, "after {lives} lives");
        // And it goes on from there, through a crash.
        for n in 0..40_u8 {
            put(&store, "t", &[n], b"new").expect("commits");
            let after = disk.after_crash(Survivors::None, u64::from(n));
            assert_eq!(model_of(&open(&after)), model_of(&store), "after {lives} lives, crash behind commit {n}");
        }
    }
}

fn open_with(disk: &SimDisk, options: &Options) -> Store {
    Store::open(disk.env(NAME), options.clone()).expect("opens")
}

/// A store that was not closed: all is in its log. The states after each commit.
fn unclosed(options: &Options) -> (Files, Vec<Model>) {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options.clone()).expect("opens");
    let mut states = vec![Model::new()];
    for n in 0..3_u8 {
        put(&store, "t", &[n], &[n; 40]).expect("commits");
        states.push(model_of(&store));
    }
    (files_of(&disk), states)
}

fn log_of(files: &mut Files) -> &mut Vec<u8> {
    let [log, ..] = log_file_names(NAME);
    &mut files.iter_mut().find(|(name, _)| *name == log).expect("commits are in the first generation").1
}

/// spec: E-7, E-8, E-9
#[test]
fn every_byte_of_the_log() {
    for options in [roomy(), Options::unencrypted()] {
        let (files, states) = unclosed(&options);
        for at in 0..4 * 4096 {
            let mut damaged = files.clone();
            let log = log_of(&mut damaged);
            log[at] ^= 1 << (at % 8);
            // Behind the group is nothing, up to the next block.
            let first = &log[at / 4096 * 4096..];
            let len = u32::from_le_bytes([first[4], first[5], first[6], first[7]]) as usize;
            let is_behind = at % 4096 >= 8 && at / 4096 < 3 && at % 4096 >= (96 + len).next_multiple_of(64);
            match (look(&disk_of(&damaged), &options), at / 4096) {
                (Outcome::Content(found), _) if is_behind => assert!(found == states[3], "byte {at}: nothing is there"),
                (Outcome::Refused, 0 | 1) => {}
                (Outcome::Content(found), 2) => assert!(found == states[2], "byte {at}: a torn tail"),
                (Outcome::Content(found), 3) => assert!(found == states[3], "byte {at}: nothing is there"),
                (other, _) => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

/// spec: E-9
#[test]
fn every_length_of_the_log() {
    let (files, states) = unclosed(&roomy());
    for len in (0..3 * 4096).step_by(97).chain([4095, 4096, 8191, 8192]) {
        let mut cut = files.clone();
        let log = log_of(&mut cut);
        let end_of = |n: usize| {
            let group = &log[n * 4096..];
            n * 4096 + (96 + u32::from_le_bytes([group[4], group[5], group[6], group[7]]) as usize).next_multiple_of(64)
        };
        let whole = (0..3).filter(|&n| end_of(n) <= len).count();
        log.truncate(len);
        // Whole groups may be missing where no close has said how many there were.
        match look(&disk_of(&cut), &roomy()) {
            Outcome::Content(found) => assert_eq!(found, states[whole], "length {len}"),
            Outcome::Refused => panic!("length {len}: nothing proves that there was more"),
        }
    }
}

/// spec: E-1, E-5
#[test]
fn every_length_of_the_main_file() {
    let (disk, content) = closed(&options());
    let bytes = disk.read_file(NAME).expect("is there");
    for len in (0..bytes.len()).step_by(1021) {
        let disk = SimDisk::new(3);
        disk.write_file(NAME, &bytes[..len]);
        let opened = Store::open(disk.env(NAME), options().create(false));
        assert!(
            matches!(opened, Err(OpenError::Corruption(_) | OpenError::NotAStore { .. })),
            "length {len} of {}: {opened:?}",
            bytes.len()
        );
    }
    let longer = disk.copy();
    longer.write_file(NAME, &[&bytes[..], &[7; 10_000]].concat());
    assert_eq!(model_of(&open(&longer)), content, "what lies behind the end is nobody's");
}

/// spec: E-8, C-7
#[test]
fn groups_that_were_moved_copied_or_taken_from_another_file() {
    let (files, states) = unclosed(&roomy());
    let log = log_of(&mut files.clone()).clone();
    let group = |log: &[u8], i: usize| log[i * 4096..(i + 1) * 4096].to_vec();
    let check = |name: &str, order: &[Vec<u8>], want: &dyn Fn(&Outcome) -> bool| {
        let mut moved = files.clone();
        log_of(&mut moved)[..3 * 4096].copy_from_slice(&order.concat());
        let found = look(&disk_of(&moved), &roomy());
        assert!(want(&found), "{name}: {found:?}");
    };
    let (a, b, c) = (group(&log, 0), group(&log, 1), group(&log, 2));
    let refused = |found: &Outcome| matches!(found, Outcome::Refused);
    check("swapped", &[b.clone(), a.clone(), c.clone()], &refused);
    check(
        "middle one twice",
        &[a.clone(), b.clone(), b.clone()],
        &|found| matches!(found, Outcome::Content(found) if *found == states[2]),
    );
    check("first one missing", &[b.clone(), c.clone(), vec![0; 4096]], &refused);
    check("middle one missing", &[a, vec![0; 4096], c.clone()], &refused);
    // Same key, another file: its groups do not fit here.
    let other = SimDisk::new(77);
    let store = Store::open(other.env(NAME), roomy()).expect("opens");
    put(&store, "t", b"foreign", b"v").expect("commits");
    let foreign = group(log_of(&mut files_of(&other)), 0);
    check("foreign", &[foreign, b, c], &refused);
}

/// spec: E-2, E-4
#[test]
fn both_headers_damaged() {
    let (disk, _) = closed(&options());
    assert!(disk.flip_bit(NAME, 100 * 8) && disk.flip_bit(NAME, ((64 << 10) + 100) * 8));
    assert!(matches!(look(&disk, &options()), Outcome::Refused));
    for bytes in [&b"not a store at all"[..], b""] {
        disk.write_file(NAME, bytes);
        let opened = Store::open(disk.env(NAME), options().create(false));
        assert!(matches!(opened, Err(OpenError::NotAStore { .. })));
    }
}

/// Changes a byte of both headers, and makes the checksum fit, as anybody could.
fn forged(bytes: &[u8], at: usize, change: impl Fn(u8) -> u8) -> SimDisk {
    let mut forged = bytes.to_vec();
    for slot in [0, 64 << 10] {
        forged[slot + at] = change(forged[slot + at]);
        let crc = crc32fast::hash(&forged[slot..slot + 4092]);
        forged[slot + 4092..slot + 4096].copy_from_slice(&crc.to_le_bytes());
    }
    let disk = SimDisk::new(3);
    disk.write_file(NAME, &forged);
    disk
}

/// A header that somebody changed without the key, checksum made to fit. spec: C-6
#[test]
fn a_forged_header_is_refused() {
    let (disk, _) = closed(&options());
    let bytes = disk.read_file(NAME).expect("is there");
    for at in [16, 24, 48, 56, 64, 72, 80, 96, 104, 112, 136, 144, 256 + 32] {
        let disk = forged(&bytes, at, |byte| byte ^ 1);
        match Store::open(disk.env(NAME), options().create(false)) {
            Err(OpenError::Corruption(_) | OpenError::WrongKey) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn verify_notices_damage_under_an_open_store() {
    let disk = SimDisk::new(5);
    let store = open(&disk);
    for n in 0..100_u8 {
        put(&store, "t", &[n], &[n; 500]).expect("commits");
    }
    store.checkpoint().expect("checkpoints");
    let mut seen = (0, 0);
    let report = store.verify(&mut |p| seen = (p.done_bytes, p.total_bytes)).expect("all is well");
    assert_eq!((report.entries, report.trees, report.commit_no), (100, 1, 100));
    assert_eq!((report.bytes, report.bytes), seen);
    assert_eq!(report.bytes, report.pages * PAGE as u64);
    let len = disk.read_file(NAME).expect("is there").len();
    for at in (PAGES..len).step_by(PAGE) {
        disk.flip_bit(NAME, (at as u64 + 200) * 8);
    }
    // What the cache holds is still right; the file is not.
    assert!(store.verify(&mut |_| {}).is_err(), "the cache does not hold all of the pages");
}

/// What a writer would count on until no reader accepts it any more. spec: E-3
#[test]
fn numbers_near_their_end_are_read_and_not_written_on() {
    let (disk, _) = closed(&unencrypted());
    let bytes = disk.read_file(NAME).expect("is there");
    for (fields, name) in [(&[16][..], "sequence"), (&[48, 56], "commit number"), (&[64], "log generation")] {
        let mut bytes = bytes.clone();
        for slot in [0, 65536].map(|at| at..at + 4096) {
            let slot = &mut bytes[slot];
            fields.iter().for_each(|at| slot[at + 7] = 0x20);
            let digest = sha2::Sha256::digest(&slot[..4060]);
            slot[4060..4092].copy_from_slice(&digest);
            let crc = crc32fast::hash(&slot[..4092]);
            slot[4092..].copy_from_slice(&crc.to_le_bytes());
        }
        let disk = SimDisk::new(1);
        disk.write_file(NAME, &bytes);
        Store::open(disk.env(NAME), unencrypted().create(false).read_only(true)).expect("it is no damage");
        let opened = Store::open(disk.env(NAME), unencrypted().create(false));
        assert!(matches!(opened, Err(OpenError::Unsupported { what, .. }) if what == name), "{name}: {opened:?}");
        assert_eq!(disk.read_file(NAME).as_deref(), Some(&bytes[..]), "nothing was written");
    }
}

/// Fields out of range with a checksum that fits: by name, before the key is asked for. spec: E-3
#[test]
fn header_fields_out_of_range() {
    let (disk, _) = closed(&options());
    let bytes = disk.read_file(NAME).expect("is there");
    let check = |at: usize, value: u8, want: fn(&OpenError) -> bool| {
        let disk = forged(&bytes, at, |_| value);
        let error = Store::open(disk.env(NAME), options().create(false)).expect_err("out of range");
        assert!(want(&error), "byte {at}: {error:?}");
    };
    check(8, 1, |e| matches!(e, OpenError::UnsupportedVersion(1)));
    check(10, 1, |e| matches!(e, OpenError::Unsupported { what: "feature bits", given: 1 }));
    check(12, 3, |e| matches!(e, OpenError::Unsupported { what: "cipher", given: 3 }));
    check(41, 32, |e| matches!(e, OpenError::Unsupported { what: "log block size", given: 8192 }));
    for at in [13, 60, 100, 130, 256, 257, 600] {
        check(at, 7, |e| matches!(e, OpenError::Corruption(_)));
    }
}
