//! Backups out of any bytes.

use crate::backup::{BackupOptions, fuzz};
use crate::env::Env;
use crate::options::Options;
use crate::store::Store;

/// Reads any bytes as a backup as they are, and, put into blocks whose seals hold, as the rows and the index of a full one
/// and of an increment to it. What is read is a typed error, or rows that ascend by tree and key; it ends, and takes no more
/// memory than a block and two keys for each backup.
pub fn fuzz_backup(bytes: &[u8]) {
    fuzz(bytes);
}

/// A valid input for `fuzz_backup`: a whole backup for odd seeds, else the rows of two.
pub fn seed_backup(seed: u64) -> Vec<u8> {
    let store = Store::open(Env::memory(seed), Options::unencrypted()).expect("a store in memory");
    let mut tx = store.write();
    let tree = tx.tree("t").expect("a good name");
    for n in 0..seed % 5 {
        tx.put(tree, &n.to_be_bytes(), &vec![n as u8; (n * 11) as usize]).expect("a good value");
    }
    tx.commit().expect("memory takes it");
    if seed % 2 == 1 {
        let mut out = Vec::new();
        store.backup(&mut out, &BackupOptions::default(), &mut |_| {}).expect("memory takes it");
        return out;
    }
    // A row each, and a tree's end; the second keeps what the first has.
    let full = [&b"\x01\x01\0t"[..], b"\x02\x01\0\x02\0\0\0kvv", b"\x05\x01\0\0\0\0\0\0\0"].concat();
    let kept: &[u8] = if seed.is_multiple_of(4) { b"\x03\0\0\0\0\0" } else { b"\x04\x01\0\x02\0\0\0k" };
    let more = [&b"\x01\x01\0t"[..], kept, b"\x05\0\0\0\0\0\0\0\0"].concat();
    let at = (full.len() * 256).div_ceil(full.len() + more.len());
    [&[at as u8][..], &full, &more].concat()
}
