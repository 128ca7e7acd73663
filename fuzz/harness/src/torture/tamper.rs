//! Files that somebody changed: bits, pages that were moved about, and files that are no stores or another's.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{KdfCost, MaintainError, OpenError, Options, ReadError, Store, log_file_names};

use super::journal::NAME;
use super::workload::{Digest, chain, encrypted, shown, unencrypted};
use super::{Cases, Failure, Plan, Tally};
use crate::rng::Rng;

const PAGE: usize = 4096;
/// Where a page's own number, kind, cipher and epoch are.
const AT_KIND: usize = 4;
const AT_NO: usize = 8;

/// On every so many pages the checksum is mended after the flip, so that the seal alone has to notice.
const MENDED_EVERY: usize = 16;

fn failure(error: &dyn std::error::Error) -> Failure {
    Failure { case: 0, what: chain(error) }
}

/// Makes a page's checksum fit again, as anybody could.
fn mend(page: &mut [u8]) {
    let crc = crc32fast::hash(&page[AT_KIND..]);
    page[..AT_KIND].copy_from_slice(&crc.to_le_bytes());
}

/// Fills a store with rows and a few long values, and closes it.
fn filled(options: &Options, seed: u64, bytes: u64) -> Result<SimDisk, Failure> {
    let disk = SimDisk::new(seed);
    let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| failure(&e))?;
    let tree = store.tree("rows").map_err(|e| failure(&e))?;
    let mut rng = Rng::new(seed);
    let mut written = 0;
    while written < bytes {
        let mut tx = store.write();
        for _ in 0..50 {
            let len = if rng.chance(2) { 20_000 } else { 150 };
            let value: Vec<u8> = (0..len / 8).flat_map(|_| rng.draw().to_le_bytes()).collect();
            tx.put(tree, &rng.draw().to_be_bytes(), &value).map_err(|e| failure(&e))?;
            // What a row takes in a leaf that is two thirds full.
            written += len as u64 * 3 / 2;
        }
        tx.commit().map_err(|e| failure(&e))?;
    }
    store.close().map_err(|e| failure(&e))?;
    Ok(disk)
}

/// Every bit of every page.
pub(super) fn bits(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let mut tally = [0; 4];
    // Without encryption another check does the noticing; an eighth of the size is enough to see it.
    for (options, bytes) in [(encrypted(), plan.size << 10), (unencrypted(), plan.size << 7)] {
        let disk = filled(&options, plan.seed, bytes)?;
        let file = disk.read_file(NAME).unwrap_or_default();
        let store = Store::open(disk.env(NAME), options).map_err(|e| failure(&e))?;
        let pages = store.named_pages().map_err(|e| failure(&e))?;
        let mended = AtomicU64::new(0);
        Cases::new(plan, pages.len() as u64).each(|at| {
            let at = at as usize;
            let mut page = file[pages.place(at)].to_vec();
            if !pages.accepts(at, &page) {
                return Err("it is refused as it is".into());
            }
            for bit in 0..PAGE * 8 {
                page[bit / 8] ^= 1 << (bit % 8);
                if pages.accepts(at, &page) {
                    return Err(format!("bit {bit} is not noticed"));
                }
                page[bit / 8] ^= 1 << (bit % 8);
            }
            if at.is_multiple_of(MENDED_EVERY) {
                for bit in AT_KIND * 8..PAGE * 8 {
                    page[bit / 8] ^= 1 << (bit % 8);
                    mend(&mut page);
                    if pages.accepts(at, &page) {
                        return Err(format!("bit {bit}, with a checksum that fits, is not noticed"));
                    }
                    page[bit / 8] ^= 1 << (bit % 8);
                }
                mended.fetch_add(((PAGE - AT_KIND) * 8) as u64, Ordering::Relaxed);
            }
            Ok(())
        })?;
        tally[0] += (file.len() / PAGE) as u64;
        tally[1] += (pages.len() * PAGE * 8) as u64;
        tally[2] += mended.into_inner();
        tally[3] += (file.len() / PAGE - pages.len()) as u64;
    }
    Ok(Tally(vec![
        ("pages of the files", tally[0]),
        ("flipped bits noticed by the checksum", tally[1]),
        ("with a checksum that fits noticed by the seal", tally[2]),
        ("pages that nothing names", tally[3]),
    ]))
}

/// What came of opening, verifying and reading everything.
enum Outcome {
    Content((usize, Digest)),
    Refused,
}

fn look(disk: &SimDisk, options: &Options) -> Result<Outcome, String> {
    let store = match Store::open(disk.env(NAME), options.clone().create(false)) {
        Ok(store) => store,
        Err(OpenError::Corruption(_)) => return Ok(Outcome::Refused),
        Err(error) => return Err(chain(&error)),
    };
    match store.verify(&mut |_| {}) {
        Ok(_) => {}
        Err(MaintainError::Corruption(_) | MaintainError::Space { .. }) => return Ok(Outcome::Refused),
        Err(error) => return Err(chain(&error)),
    }
    match shown(&store.read()) {
        Ok(content) => Ok(Outcome::Content(content)),
        Err(ReadError::Corruption(_)) => Err("verify did not see what a reader sees".into()),
        Err(error) => Err(chain(&error)),
    }
}

const GROUPS: usize = 6;
const SLOTS: [usize; 2] = [0, 64 << 10];

/// Every bit of both headers, and of the groups that the newest one needs, in a store that was not closed.
pub(super) fn header_and_log_bits(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let options = encrypted().memory(blazedb_engine::Memory::TINY);
    let disk = SimDisk::new(plan.seed);
    let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| failure(&e))?;
    let tree = store.tree("rows").map_err(|e| failure(&e))?;
    let mut states = Vec::new();
    for n in 0..10 + GROUPS {
        let mut tx = store.write();
        tx.put(tree, &[n as u8], &[n as u8; 3600]).map_err(|e| failure(&e))?;
        tx.commit().map_err(|e| failure(&e))?;
        if n == 4 || n == 9 {
            store.checkpoint().map_err(|e| failure(&e))?;
        }
        if n >= 9 {
            states.push(shown(&store.read()).map_err(|e| failure(&e))?);
        }
    }
    let disk = disk.after_crash(Survivors::None, 1);
    let newest = states[GROUPS];
    // The groups since the last checkpoint are all in the newest generation, from the start of its file.
    let mut log = None;
    for name in log_file_names(NAME) {
        if let Some(bytes) = disk.read_file(&name).filter(|bytes| bytes.len() > PAGE) {
            let generation = u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes"));
            log = log.max(Some((generation, name)));
        }
    }
    let (_, log) = log.ok_or_else(|| Failure { case: 0, what: "there is no log".into() })?;
    let places: Vec<(&str, usize)> =
        SLOTS.map(|slot| (NAME, slot)).into_iter().chain((0..GROUPS).map(|n| (&log[..], n * PAGE))).collect();
    let flips = plan.size.clamp(1, PAGE as u64 * 8);
    let step = PAGE as u64 * 8 / flips;
    // Where each group ends; nothing is between that and the next block.
    let groups = disk.read_file(&log).unwrap_or_default();
    let ends = places.iter().skip(SLOTS.len()).map(|&(_, from)| {
        let len = groups[from + 4..].first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
        (96 + u64::from(len)).next_multiple_of(64) * 8
    });
    let ends: Vec<u64> = ends.collect();
    let outcomes = [const { AtomicU64::new(0) }; 4];
    let done = Cases::new(plan, flips * places.len() as u64).each(|at| {
        let (block, flip) = ((at / flips) as usize, at % flips);
        let (name, from) = places[block];
        // Another bit of each byte where not all of them are looked at.
        let bit = (flip * step + flip % step).min(PAGE as u64 * 8 - 1);
        let damaged = disk.copy();
        damaged.flip_bit(name, from as u64 * 8 + bit);
        let what = |what: &str| Err(format!("bit {bit} of {name} from {from}: {what}"));
        match (block.checked_sub(SLOTS.len()), look(&damaged, &options)?) {
            (None, Outcome::Content(found)) if found == newest => outcomes[0].fetch_add(1, Ordering::Relaxed),
            (None, _) => return what("the other header did not make up for it"),
            (Some(group), Outcome::Content(found)) if bit >= ends[group] && found == newest => {
                outcomes[3].fetch_add(1, Ordering::Relaxed)
            }
            (Some(group), Outcome::Refused) if group + 1 < GROUPS => outcomes[1].fetch_add(1, Ordering::Relaxed),
            (Some(group), Outcome::Content(found)) if group + 1 == GROUPS && found == states[GROUPS - 1] => {
                outcomes[2].fetch_add(1, Ordering::Relaxed)
            }
            (Some(_), Outcome::Content(_)) => return what("not noticed"),
            (Some(_), Outcome::Refused) => return what("a torn tail was refused"),
        };
        Ok(())
    })?;
    let [other_header, refused, torn, behind] = outcomes.map(AtomicU64::into_inner);
    Ok(Tally(vec![
        ("flipped bits", done),
        ("made up for by the other header", other_header),
        ("refused", refused),
        ("of the last group, taken for a torn tail", torn),
        ("behind a group, where nothing is", behind),
    ]))
}

/// A file with its history, and another one under the same key.
struct Scene {
    options: Options,
    file: Vec<u8>,
    older: Vec<Vec<u8>>,
    other: Vec<u8>,
    store: Store,
}

fn scene(options: &Options, seed: u64) -> Result<Scene, Failure> {
    let disk = filled(options, seed, 300_000)?;
    let mut older = Vec::new();
    let mut rng = Rng::new(seed);
    for _ in 0..6 {
        older.extend(disk.read_file(NAME));
        let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| failure(&e))?;
        let tree = store.tree("rows").map_err(|e| failure(&e))?;
        let view = store.read();
        let keys: Vec<Vec<u8>> = view.range(tree, ..).filter_map(|item| Some(item.ok()?.0.to_vec())).collect();
        drop(view);
        let mut tx = store.write();
        for key in keys {
            if rng.chance(30) {
                tx.put(tree, &key, &rng.draw().to_be_bytes().repeat(20)).map_err(|e| failure(&e))?;
            }
        }
        tx.commit().map_err(|e| failure(&e))?;
        store.close().map_err(|e| failure(&e))?;
    }
    let other = filled(options, seed + 1_000, 300_000)?.read_file(NAME).unwrap_or_default();
    let file = disk.read_file(NAME).unwrap_or_default();
    let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| failure(&e))?;
    Ok(Scene { options: options.clone(), file, older, other, store })
}

/// Pages that are whole, and not the ones that belong there.
pub(super) fn pages(plan: &Plan<'_>) -> Result<Tally, Failure> {
    const KINDS: [&str; 7] = [
        "copied",
        "exchanged",
        "replayed from an older state",
        "copied and relabelled",
        "of another kind",
        "from another file",
        "from another file and relabelled",
    ];
    let counts = [const { AtomicU64::new(0) }; KINDS.len()];
    let scenes = [scene(&encrypted(), plan.seed)?, scene(&unencrypted(), plan.seed)?];
    let named: Vec<_> =
        scenes.iter().map(|s| s.store.named_pages().map_err(|e| failure(&e))).collect::<Result<_, _>>()?;
    let total = Cases::new(plan, plan.size).each(|at| {
        let mut rng = Rng::new(plan.seed ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let which = (at % 2) as usize;
        let (scene, named) = (&scenes[which], &named[which]);
        let kind = (at / 2) as usize % KINDS.len();
        let mut changed = scene.file.clone();
        let victim = rng.below(named.len());
        let place = named.place(victim);
        let another = named.place((victim + 1 + rng.below(named.len() - 1)) % named.len());
        let label = |page: &mut [u8]| {
            page[AT_NO..AT_NO + 8].copy_from_slice(&((place.start / PAGE) as u64).to_le_bytes());
            page[AT_KIND] = scene.file[place.start + AT_KIND];
            mend(page);
        };
        let foreign = {
            let first = (128 << 10) / PAGE;
            let from = (first + rng.below(scene.other.len() / PAGE - first)) * PAGE;
            scene.other[from..from + PAGE].to_vec()
        };
        let mut page = scene.file[another.clone()].to_vec();
        match kind {
            0 => {}
            1 => changed[another.clone()].copy_from_slice(&scene.file[place.clone()]),
            2 => {
                let stale = scene.older.iter().filter_map(|older| older.get(place.clone()));
                let mut stale: Vec<&[u8]> = stale.filter(|old| **old != scene.file[place.clone()]).collect();
                stale.retain(|old| old.iter().any(|&b| b != 0));
                // A page that was never written before has nothing to be replayed; another older page stands in.
                page = match stale.is_empty() {
                    false => rng.pick(&stale).to_vec(),
                    true => scene.older[0][128 << 10..(128 << 10) + PAGE].to_vec(),
                };
            }
            3 => label(&mut page),
            4 => {
                page = scene.file[place.clone()].to_vec();
                page[AT_KIND] = page[AT_KIND] % 6 + 1;
                mend(&mut page);
            }
            5 => page = foreign,
            _ => {
                page = foreign;
                label(&mut page);
            }
        }
        if page[..] == scene.file[place.clone()] {
            return Ok(());
        }
        changed[place.clone()].copy_from_slice(&page);
        if named.accepts(victim, &page) {
            return Err(format!("a page {} is taken for page {}", KINDS[kind], place.start / PAGE));
        }
        let disk = SimDisk::new(at);
        disk.write_file(NAME, &changed);
        match look(&disk, &scene.options)? {
            Outcome::Refused => {
                counts[kind].fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Outcome::Content(_) => Err(format!("page {} {}: not noticed", place.start / PAGE, KINDS[kind])),
        }
    })?;
    let noticed = KINDS.into_iter().zip(counts.map(AtomicU64::into_inner));
    Ok(Tally([("cases", total)].into_iter().chain(noticed).collect()))
}

/// Keys that do not fit, and files that are no stores.
pub(super) fn wrong_keys(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let texts = Mutex::new(BTreeSet::new());
    let refused = AtomicU64::new(0);
    let files = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let passphrase = |words: &str| Options::passphrase(words).kdf(KdfCost::InsecureForTests);
        let right = [passphrase("right"), Options::raw_key([42; 32]), Options::unencrypted()][at as usize % 3].clone();
        let made = SimDisk::new(seed);
        let store = Store::open(made.env(NAME), right.clone()).map_err(|e| chain(&e))?;
        let mut tx = store.write();
        let tree = tx.tree("rows").map_err(|e| chain(&e))?;
        tx.put(tree, b"key", &seed.to_le_bytes()).map_err(|e| chain(&e))?;
        tx.commit().map_err(|e| chain(&e))?;
        // One half was closed; of the other half all is in the log.
        let disk = if at % 2 == 0 {
            made.after_crash(Survivors::None, seed)
        } else {
            store.close().map(|()| made.copy()).map_err(|e| chain(&e))?
        };
        let is_encrypted = at % 3 != 2;
        let check = |disk: &SimDisk, options: Options, want: fn(&OpenError) -> bool| {
            let state =
                |disk: &SimDisk| -> Vec<_> { disk.names().into_iter().map(|n| (disk.read_file(&n), n)).collect() };
            let before = (disk.changes(), state(disk));
            let error = match Store::open(disk.env(NAME), options) {
                Err(error) if want(&error) => error,
                Err(error) => return Err(format!("refused as something else: {}", chain(&error))),
                Ok(_) => return Err("it opens".into()),
            };
            if before != (disk.changes(), state(disk)) {
                return Err("something was written".into());
            }
            refused.fetch_add(1, Ordering::Relaxed);
            if matches!(error, OpenError::WrongKey | OpenError::KeyMissing | OpenError::NotEncrypted) {
                texts.lock().expect("no thread panicked").insert(error.to_string());
            }
            Ok(())
        };
        if is_encrypted {
            for wrong in [passphrase(""), passphrase("Right"), passphrase(&seed.to_string()), Options::raw_key([1; 32])]
            {
                check(&disk, wrong, |e| matches!(e, OpenError::WrongKey))?;
            }
            check(&disk, Options::unencrypted(), |e| matches!(e, OpenError::KeyMissing))?;
        } else {
            for key in [passphrase("right"), Options::raw_key([42; 32])] {
                check(&disk, key, |e| matches!(e, OpenError::NotEncrypted))?;
            }
        }
        let mut rng = Rng::new(seed);
        let random: Vec<u8> = (0..20_000).flat_map(|_| rng.draw().to_le_bytes()).collect();
        for bytes in [&random[..], &random[..100], b"", b"SQLite format 3\0", &[0; 200_000]] {
            let disk = SimDisk::new(seed);
            disk.write_file(NAME, bytes);
            check(&disk, right.clone(), |e| matches!(e, OpenError::NotAStore { .. }))?;
        }
        let store = Store::open(disk.env(NAME), right).map_err(|e| format!("the right key: {}", chain(&e)))?;
        match store.read().get(tree, b"key") {
            Ok(Some(value)) if value[..] == seed.to_le_bytes() => Ok(()),
            other => Err(format!("the right key: {other:?}")),
        }
    })?;
    let texts = texts.into_inner().expect("no thread panicked");
    if texts.len() > 3 {
        return Err(Failure { case: 0, what: format!("the message says which key it was: {texts:?}") });
    }
    Ok(Tally(vec![("files", files), ("openings refused", refused.into_inner()), ("messages", texts.len() as u64)]))
}
