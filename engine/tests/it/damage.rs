//! Damaged files: every bit, every length, groups moved about.
//!
//! The rule that is tested: a file that was closed cleanly opens with all of its content or with an error that has
//! a name. A file that was not may in addition lose its last group, which looks like a torn tail.

use blazedb_engine::env::SimDisk;
use blazedb_engine::{OpenError, Options, Store};

use crate::support::{Model, NAME, model_of, options, put};

const LOG: usize = 128 << 10;

/// A small file; the states after each commit; whether it was closed.
fn small(options: &Options, closed: bool) -> (Vec<u8>, Vec<Model>) {
    let disk = SimDisk::new(1);
    let store = Store::open(disk.env(NAME), options.clone()).expect("opens");
    let mut states = vec![Model::new()];
    for n in 0..3_u8 {
        put(&store, "t", &[n], &[n; 40]).expect("commits");
        states.push(model_of(&store));
    }
    if closed {
        store.close().expect("closes");
    }
    (disk.read_file(NAME).expect("is there"), states)
}

fn open_bytes(bytes: &[u8], options: &Options) -> Result<Model, OpenError> {
    let disk = SimDisk::new(2);
    disk.write_file(NAME, bytes);
    Store::open(disk.env(NAME), options.clone().create(false)).map(|store| model_of(&store))
}

/// Flips bits one at a time and counts what came of it: same content, torn tail, refused.
fn flip(options: &Options, closed: bool, bits: fn(usize) -> std::ops::Range<usize>) -> (u64, u64, u64) {
    let (bytes, states) = small(options, closed);
    let newest = states.last().expect("has states");
    assert_eq!(open_bytes(&bytes, options).as_ref().ok(), Some(newest));
    let (mut same, mut torn, mut refused) = (0, 0, 0);
    // The headers and the gaps between them are the same for both; one look is enough.
    let header = (0..4096).chain(64 << 10..(64 << 10) + 4096).chain((4096..64 << 10).step_by(397));
    for at in header.filter(|_| closed).chain(LOG..bytes.len().min(LOG + 4 * 4096)) {
        for bit in bits(at) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match open_bytes(&damaged, options) {
                Ok(found) if found == *newest => same += 1,
                Ok(found) => {
                    let last_group = LOG + 2 * 4096..LOG + 3 * 4096;
                    assert!(
                        !closed && last_group.contains(&at) && found == states[2],
                        "byte {at} bit {bit}: silently wrong"
                    );
                    torn += 1;
                }
                Err(OpenError::Corruption(_)) => refused += 1,
                Err(e) => panic!("byte {at} bit {bit}: {e}"),
            }
        }
    }
    (same, torn, refused)
}

/// spec: E-7, E-8, E-9, E-17
#[test]
fn every_bit_of_a_closed_file() {
    let (same, torn, refused) = flip(&options(), true, |_| 0..8);
    assert_eq!(torn, 0);
    assert_eq!(refused, 3 * 4096 * 8, "each bit of each group, padding included, is noticed");
    assert!(same >= 2 * 4096 * 8, "one damaged header slot is made up for by the other");
}

/// spec: C-8. One bit of every byte here, every bit with encryption: the checksum that notices them is the same.
#[test]
fn every_byte_of_a_closed_unencrypted_file() {
    let (same, torn, refused) = flip(&Options::unencrypted(), true, |at| at % 8..at % 8 + 1);
    assert_eq!((torn, refused), (0, 3 * 4096));
    assert!(same >= 2 * 4096);
}

/// spec: E-9
#[test]
fn every_byte_of_a_file_that_was_not_closed() {
    let (_, torn, refused) = flip(&options(), false, |at| at % 8..at % 8 + 1);
    assert_eq!((torn, refused), (4096, 2 * 4096), "the last group is the torn tail, those before are not");
}

/// spec: E-2, E-4
#[test]
fn both_headers_damaged() {
    let (mut bytes, _) = small(&options(), true);
    bytes[100] ^= 1;
    bytes[(64 << 10) + 100] ^= 1;
    assert!(matches!(open_bytes(&bytes, &options()), Err(OpenError::Corruption(_))));
    assert!(matches!(open_bytes(b"not a store at all", &options()), Err(OpenError::NotAStore { .. })));
    assert!(matches!(open_bytes(b"", &options()), Err(OpenError::NotAStore { .. })));
}

/// A header that somebody changed without the key, checksum made to fit. spec: C-6
#[test]
fn a_forged_header_is_refused() {
    let (bytes, _) = small(&options(), true);
    for at in [16, 24, 56, 72, 80, 128 + 32] {
        let mut forged = bytes.clone();
        for slot in [0, 64 << 10] {
            forged[slot + at] ^= 1;
            let crc = crc32fast::hash(&forged[slot..slot + 4092]);
            forged[slot + 4092..slot + 4096].copy_from_slice(&crc.to_le_bytes());
        }
        match open_bytes(&forged, &options()) {
            Err(OpenError::Corruption(_) | OpenError::WrongKey) => {}
            other => panic!("byte {at}: {:?}", other.map(|m| m.len())),
        }
    }
}

/// spec: E-1, E-5, E-9
#[test]
fn every_length() {
    for (closed, step) in [(true, 1), (false, 1)] {
        let (bytes, states) = small(&options(), closed);
        let disk = SimDisk::new(3);
        for len in (0..LOG).step_by(4093).chain((LOG..LOG + 3 * 4096).step_by(step)) {
            disk.write_file(NAME, &bytes[..len]);
            match Store::open(disk.env(NAME), options().create(false)).map(|store| model_of(&store)) {
                Ok(found) => {
                    // Whole groups may be missing where no close has said how many there were.
                    let whole = len.saturating_sub(LOG) / 4096;
                    assert!(!closed && found == states[whole], "length {len}: silently shorter");
                }
                Err(OpenError::Corruption(_) | OpenError::NotAStore { .. }) => assert!(closed || len < LOG),
                Err(e) => panic!("length {len}: {e}"),
            }
        }
    }
}

/// spec: E-8, C-7
#[test]
fn groups_that_were_moved_copied_or_taken_from_another_file() {
    let (bytes, states) = small(&options(), false);
    let group = |bytes: &[u8], i: usize| bytes[LOG + i * 4096..LOG + (i + 1) * 4096].to_vec();
    let check = |name: &str, order: &[Vec<u8>], want: &dyn Fn(&Result<Model, OpenError>) -> bool| {
        let mut moved = bytes.clone();
        for (i, g) in order.iter().enumerate() {
            moved[LOG + i * 4096..LOG + (i + 1) * 4096].copy_from_slice(g);
        }
        let found = open_bytes(&moved, &options());
        assert!(want(&found), "{name}: {:?}", found.map(|m| states.iter().position(|s| *s == m)));
    };
    let (a, b, c) = (group(&bytes, 0), group(&bytes, 1), group(&bytes, 2));
    let corrupt = |found: &Result<Model, OpenError>| matches!(found, Err(OpenError::Corruption(_)));
    check("swapped", &[b.clone(), a.clone(), c.clone()], &corrupt);
    check("middle one twice", &[a.clone(), b.clone(), b.clone()], &|f| f.as_ref().ok() == Some(&states[2]));
    check("first one missing", &[b.clone(), c.clone(), vec![0; 4096]], &corrupt);
    check("middle one missing", &[a.clone(), vec![0; 4096], c.clone()], &corrupt);
    // Same key, another file: its groups do not fit here.
    let other = SimDisk::new(77);
    let store = Store::open(other.env(NAME), options()).expect("opens");
    put(&store, "t", b"foreign", b"v").expect("commits");
    let foreign = group(&other.read_file(NAME).expect("is there"), 0);
    check("foreign", &[foreign, b, c], &corrupt);
}

/// spec: E-10
#[test]
fn a_damaged_base_is_corruption() {
    let disk = SimDisk::new(4);
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    for n in 0..50_u8 {
        put(&store, "t", &[n], &[n; 500]).expect("commits");
    }
    store.compact().expect("compacts");
    let bytes = disk.read_file(NAME).expect("is there");
    for at in (LOG..bytes.len().min(LOG + 28_000)).step_by(701) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(matches!(open_bytes(&damaged, &options()), Err(OpenError::Corruption(_))), "byte {at}");
    }
    for len in [LOG, LOG + 4096, LOG + 8192] {
        assert!(matches!(open_bytes(&bytes[..len], &options()), Err(OpenError::Corruption(_))), "length {len}");
    }
}

#[test]
fn verify_notices_damage_under_an_open_store() {
    let disk = SimDisk::new(5);
    let store = Store::open(disk.env(NAME), options()).expect("opens");
    for n in 0..5_u8 {
        put(&store, "t", &[n], b"v").expect("commits");
    }
    let mut seen = 0;
    let report = store.verify(&mut |p| seen = p.done_bytes).expect("all is well");
    assert_eq!((report.groups, report.entries, report.log_bytes, seen), (5, 6, 5 * 4096, 5 * 4096));
    disk.flip_bit(NAME, ((LOG + 4096 + 200) * 8) as u64);
    assert!(store.verify(&mut |_| {}).is_err());
}

/// Fields out of range with a checksum that fits: by name, before the key is asked for. spec: E-3
#[test]
fn header_fields_out_of_range() {
    let (bytes, _) = small(&options(), true);
    let check = |at: usize, value: u8, want: fn(&OpenError) -> bool| {
        let mut changed = bytes.clone();
        for slot in [0, 64 << 10] {
            changed[slot + at] = value;
            let crc = crc32fast::hash(&changed[slot..slot + 4092]);
            changed[slot + 4092..slot + 4096].copy_from_slice(&crc.to_le_bytes());
        }
        let error = open_bytes(&changed, &options()).expect_err("out of range");
        assert!(want(&error), "byte {at}: {error:?}");
    };
    check(8, 1, |e| matches!(e, OpenError::UnsupportedVersion(1)));
    check(10, 1, |e| matches!(e, OpenError::Unsupported { what: "feature bits", given: 1 }));
    check(12, 3, |e| matches!(e, OpenError::Unsupported { what: "cipher", given: 3 }));
    check(41, 32, |e| matches!(e, OpenError::Unsupported { what: "log block size", given: 8192 }));
    for at in [13, 44, 48, 64, 96, 128, 129, 210, 600] {
        check(at, 7, |e| matches!(e, OpenError::Corruption(_)));
    }
}
