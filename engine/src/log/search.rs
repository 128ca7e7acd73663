//! Looks behind a log's end for a group that proves it was not the end. spec: E-9
//!
//! Anybody whose values are stored without encryption may have filled what lies there with headers of groups. So the
//! work is bounded by the file's length, whatever it holds: one pass of checksums, of which every stretch's follows at
//! once, and seals only where a checksum holds. Checksums that hold for groups inside of each other can be made, and
//! nobody but a forger makes many: what their seals cost is bounded by a budget.

use std::collections::VecDeque;
use std::io;

use super::group::{self, ALIGN_BYTES, GroupHeader};
use super::replay::GroupReader;
use super::writer::LogPosition;

/// Bytes that a search sums up and opens, for each byte of the file that it searches: one is the pass of checksums, the
/// rest for seals. Groups that writers wrote do not overlap, and need one more.
const WORK_PER_BYTE: u64 = 4;

/// What a search has done, and what it may.
struct Work {
    done: u64,
    budget: u64,
}

/// What a search has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Commits up to this one were durable.
    Durable(u64),
    None,
    /// None in the groups that were opened. Others were not, as groups inside of groups had used up the budget.
    Unknown,
}

impl GroupReader<'_> {
    /// Looks for a group that says that `expected` was durable: wherever one may begin after the log's end, and in
    /// the generation after it. What is left of older generations says no such thing.
    pub(super) fn proof(&mut self, end: &LogPosition, expected: u64) -> io::Result<Proof> {
        let here = self.proof_from(end, expected)?.0;
        if matches!(here, Proof::Durable(_)) {
            return Ok(here);
        }
        let next = LogPosition { generation: end.generation + 1, offset: 0, ..*end };
        let there = self.proof_from(&next, expected)?.0;
        Ok(if there == Proof::None { here } else { there })
    }

    /// Searches one file; returns what it took, too, in bytes that were summed up or opened.
    fn proof_from(&mut self, from: &LogPosition, expected: u64) -> io::Result<(Proof, u64)> {
        let len = self.len_of(from);
        let mut sums = Sums::default();
        let mut work = Work { done: 0, budget: WORK_PER_BYTE.saturating_mul(len.saturating_sub(from.offset)) };
        let mut at = *from;
        let mut found = Proof::None;
        while at.offset < len {
            if let Some(h) = self.header_at(&at)?
                && h.durable_commit >= expected
                && self.sum_holds(&mut sums, &mut work, &at, &h)?
            {
                if work.done + h.total_bytes() > work.budget {
                    found = Proof::Unknown;
                } else {
                    work.done += h.total_bytes();
                    if self.open_at(&at, &h)? {
                        return Ok((Proof::Durable(h.durable_commit), work.done));
                    }
                }
            }
            at.offset += ALIGN_BYTES;
        }
        Ok((found, work.done))
    }

    /// Returns whether a group's checksum is right. Sums up no byte that was summed up before.
    fn sum_holds(&mut self, sums: &mut Sums, work: &mut Work, at: &LogPosition, h: &GroupHeader) -> io::Result<bool> {
        sums.begin_at(at.offset);
        let end = at.offset + h.total_bytes();
        while sums.end() < end {
            let Some(bytes) = self.bytes_ahead(at, sums.end(), end - sums.end())? else { return Ok(false) };
            work.done += bytes.len() as u64;
            sums.add(bytes);
        }
        let Some(first) = self.first_bytes(at)? else { return Ok(false) };
        let (before, stated) = group::split_sum(first);
        // What the sum up to behind the checksum adds to that of all up to the end is taken away again.
        let through = moved(sums.until(at.offset), first.len() as u64) ^ crc32fast::hash(first);
        let rest = h.total_bytes() - first.len() as u64;
        Ok(moved(crc32fast::hash(before) ^ through, rest) ^ sums.until(end) == stated)
    }
}

/// Returns the sum of bytes of this sum with `zeros` behind them; those sums may be added to each other.
fn moved(sum: u32, zeros: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(sum);
    hasher.combine(&crc32fast::Hasher::new_with_initial_len(0, zeros));
    hasher.finalize()
}

/// Checksums of a file from some place up to each place where a group may begin or end: four bytes for each 64, of as
/// much as the longest group takes.
#[derive(Default)]
struct Sums {
    /// The place of the first one.
    from: u64,
    sums: VecDeque<u32>,
}

impl Sums {
    /// Forgets what lies before a place, which the search has come to.
    fn begin_at(&mut self, place: u64) {
        if self.sums.is_empty() || self.end() < place {
            (self.from, self.sums) = (place, VecDeque::from([0]));
        }
        while self.from < place {
            self.sums.pop_front();
            self.from += ALIGN_BYTES;
        }
    }

    /// Returns the place that the last one goes up to.
    fn end(&self) -> u64 {
        self.from + (self.sums.len() as u64 - 1) * ALIGN_BYTES
    }

    /// Goes on with the bytes at `end`, a multiple of 64.
    fn add(&mut self, bytes: &[u8]) {
        let mut hasher =
            crc32fast::Hasher::new_with_initial(*self.sums.back().expect("there is one for the beginning"));
        for piece in bytes.chunks_exact(ALIGN_BYTES as usize) {
            hasher.update(piece);
            self.sums.push_back(hasher.clone().finalize());
        }
    }

    fn until(&self, place: u64) -> u32 {
        self.sums[((place - self.from) / ALIGN_BYTES) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{SimDisk, Survivors};
    use crate::log::group::{HEADER_BYTES, Nonce};
    use crate::log::tests::{header, keys};
    use crate::log::writer::log_file_names;
    use crate::options::Options;
    use crate::seal::Cipher;
    use crate::store::Store;
    use crate::superblock::FIRST_EPOCH;

    const LEN: u64 = 256 << 10;
    const EACH: u64 = 128;

    fn claims(first_commit: u64, len: u64) -> GroupHeader {
        GroupHeader {
            len: (len - HEADER_BYTES as u64) as u32,
            count: 1,
            first_commit,
            durable_commit: first_commit - 1,
            generation: 1,
            nonce: Nonce { subkey: [0; 12], counter: 0, epoch: FIRST_EPOCH },
            previous: [0; 16],
            tag: [0; 16],
        }
    }

    /// A value's bytes that look like groups, one every 128 bytes, each to the file's end. `sums`: their checksums hold.
    fn forged(sums: bool) -> Vec<u8> {
        let mut file = vec![0; LEN as usize];
        for at in (0..LEN / EACH).rev().map(|n| n * EACH) {
            let mut one = vec![0; HEADER_BYTES];
            let sealer = keys(&header(Cipher::None, 4096)).log_sealer(FIRST_EPOCH, &[0; 12]).expect("the first key");
            group::seal(&mut one, &claims(1000, HEADER_BYTES as u64), &[0; 16], &*sealer);
            one[4..8].copy_from_slice(&((LEN - at) as u32 - HEADER_BYTES as u32).to_le_bytes());
            let at = at as usize;
            file[at..at + HEADER_BYTES].copy_from_slice(&one[..HEADER_BYTES]);
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&file[at..at + 8]);
            hasher.update(&file[at + group::SUM_END..]);
            let sum = hasher.finalize() ^ u32::from(!sums);
            file[at + 8..at + group::SUM_END].copy_from_slice(&sum.to_le_bytes());
        }
        file
    }

    fn search(cipher: Cipher, file: &[u8]) -> (Proof, u64) {
        let header = header(cipher, 4096);
        let disk = SimDisk::new(1);
        disk.write_file("a-log.1", file);
        let keys = keys(&header);
        let mut reader = GroupReader::open(&disk.env("a"), &header, &keys).expect("a disk that works");
        reader.proof_from(&header.log, 7).expect("a disk that works")
    }

    /// What ever lies behind the log's end, each of its bytes is summed up once. It took as often as there are headers
    /// before it. spec: E-9
    #[test]
    fn a_value_full_of_headers_is_summed_up_once() {
        let file = forged(false);
        for cipher in [Cipher::None, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (proof, work) = search(cipher, &file);
            assert_eq!(proof, Proof::None);
            assert!((LEN / 2..=LEN).contains(&work), "{work} bytes of work for {LEN}");
        }
    }

    /// Headers whose checksums hold, one group in the other: what their seals cost is bounded, and said. spec: E-9
    #[test]
    fn groups_in_groups_are_opened_within_a_budget() {
        let file = forged(true);
        for cipher in [Cipher::None, Cipher::ChaCha20Poly1305] {
            let (proof, work) = search(cipher, &file);
            assert_eq!(proof, Proof::Unknown);
            assert!((3 * LEN..=WORK_PER_BYTE * LEN).contains(&work), "{work} bytes of work for {LEN}");
        }
    }

    /// A right group is found wherever it begins and however long it is, and none that one bit is wrong of. spec: E-9
    #[test]
    fn a_proof_is_found_among_what_looks_like_it() {
        for cipher in [Cipher::None, Cipher::Aes256Gcm] {
            let header = header(cipher, 4096);
            let sealer = keys(&header).log_sealer(FIRST_EPOCH, &[0; 12]).expect("the first key is known");
            for (at, len) in [(0, 96), (64, 97), (4096, 161), (64 * 999, 5000), (LEN - 70_016, 70_000)] {
                let mut real = vec![7; len as usize];
                group::seal(&mut real, &claims(9, len), &header.uuid, &*sealer);
                let mut file = forged(false);
                file[at as usize..][..real.len()].copy_from_slice(&real);
                assert_eq!(search(cipher, &file).0, Proof::Durable(8), "{len} bytes at {at}");
                for byte in [8, 30, 90, real.len() - 1] {
                    let mut file = file.clone();
                    file[at as usize + byte] ^= 1;
                    assert_eq!(search(cipher, &file).0, Proof::None, "{len} bytes at {at} without byte {byte}");
                }
            }
        }
    }

    /// A store whose log ends before such groups opens, and says that it could not look through all of them.
    #[test]
    fn a_store_says_where_it_could_not_look_behind_its_end() {
        let disk = SimDisk::new(1);
        let store = Store::open(disk.env("a"), Options::unencrypted()).expect("opens");
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        tx.put(tree, b"k", b"v").expect("room");
        tx.commit().expect("commits");
        let disk = disk.after_crash(Survivors::All, 1);
        let begins = |name: &String| disk.read_file(name).is_some_and(|log| log.starts_with(b"BLZG"));
        let name = log_file_names("a").into_iter().find(begins).expect("the commit is in the log");
        for (sums, surely) in [(false, true), (true, false)] {
            let disk = disk.copy();
            let mut log = disk.read_file(&name).expect("is there");
            log.truncate(4096);
            log.extend(forged(sums));
            disk.write_file(&name, &log);
            let store = Store::open(disk.env("a"), Options::unencrypted()).expect("what follows proves nothing");
            assert_eq!(store.stats().recovered_surely, surely);
            let tree = store.tree("t").expect("a good name");
            assert_eq!(store.read().get(tree, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
        }
    }
}
