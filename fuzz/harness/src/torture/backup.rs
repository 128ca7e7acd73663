//! Backups and what is made of them: power cuts inside a restore, and files with unreadable pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::env::{SeededEntropy, SimDisk, Survivors};
use blazedb_engine::{BackupOptions, Env, Loss, OpenError, Options, ReadView, Store, restore, salvage};

use super::journal::NAME;
use super::workload::{Runner, chain, encrypted, random_step, unencrypted};
use super::{Cases, Failure, Plan, Tally};
use crate::rng::Rng;

/// Tree, key and value of everything.
type Content = BTreeMap<(String, Vec<u8>), Vec<u8>>;

const PAGE: usize = 4096;
const PAGES_START: usize = 128 << 10;

fn env(disk: &SimDisk, case: u64) -> Env {
    Env { entropy: Arc::new(SeededEntropy::new(case)), ..disk.env(NAME) }
}

fn content(view: &ReadView) -> Result<Content, String> {
    let mut content = Content::new();
    for name in view.tree_names().map_err(|e| chain(&e))? {
        let Some(tree) = view.tree(&name).map_err(|e| chain(&e))? else { continue };
        for item in view.range(tree, ..) {
            let (key, value) = item.map_err(|e| chain(&e))?;
            content.insert((name.clone(), key.to_vec()), value.to_vec());
        }
    }
    Ok(content)
}

/// A store after a random run, and rows for several levels of pages; returns its disk too.
fn aged(seed: u64, how: &Options, operations: u64, rows: u64) -> Result<(SimDisk, Store), String> {
    let disk = SimDisk::new(seed);
    let mut runner = Runner::new(&disk, how.clone(), seed);
    while runner.operations() < operations && !runner.has_failed() {
        let step = random_step(runner.rng());
        runner.step(step);
    }
    let disk = disk.copy();
    if let Some(error) = runner.abandon().error {
        return Err(error);
    }
    let store = Store::open(env(&disk, seed + 1), how.clone()).map_err(|e| chain(&e))?;
    let mut loader = store.loader();
    for name in ["bulk", "more"] {
        let tree = loader.tree(name).map_err(|e| chain(&e))?;
        for n in 0..rows {
            let key = format!("{name}{:08}", n.wrapping_mul(2_654_435_761) % 100_000_000);
            let value = vec![n as u8; if n % 90 == 7 { 9_000 } else { 120 }];
            loader.put(tree, key.as_bytes(), &value).map_err(|e| chain(&e))?;
        }
    }
    loader.finish().map_err(|e| chain(&e))?;
    Ok((disk, store))
}

/// Crashes at every I/O of a restore of a full backup and two increments.
pub(super) fn restores(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let (points, whole) = (AtomicU64::new(0), AtomicU64::new(0));
    let stores = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let (_, store) = aged(seed, &encrypted(), at * 13 % 200, 300)?;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut rng = Rng::new(seed);
        for _ in 0..3 {
            let mut out = Vec::new();
            let options = BackupOptions::default();
            let made = match parts.last() {
                None => store.backup(&mut out, &options, &mut |_| {}),
                Some(base) => store.backup_since(&mut &base[..], &mut out, &options, &mut |_| {}),
            };
            made.map_err(|e| chain(&e))?;
            parts.push(out);
            if parts.len() < 3 {
                let mut tx = store.write();
                let tree = tx.tree("bulk").map_err(|e| chain(&e))?;
                for _ in 0..20 {
                    let key = format!("bulk{:08}", rng.draw() % 100_000_000);
                    tx.put(tree, key.as_bytes(), &rng.draw().to_le_bytes()).map_err(|e| chain(&e))?;
                }
                tx.commit().map_err(|e| chain(&e))?;
            }
        }
        let expected = content(&store.read())?;
        let run = |disk: &SimDisk| {
            let mut inputs: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let inputs = inputs.iter_mut().map(|input| input as &mut dyn Read).collect();
            restore(env(disk, seed + 2), encrypted(), inputs, &encrypted().key, &mut |_| {})
        };
        let look = |disk: &SimDisk| match Store::open(env(disk, seed + 3), encrypted().create(false)) {
            Ok(store) if content(&store.read())? == expected => Ok(true),
            Ok(_) => Err("a store has the target's name and is not whole".to_owned()),
            Err(OpenError::NotFound { .. }) => Ok(false),
            Err(error) => Err(chain(&error)),
        };
        let clean = SimDisk::new(seed);
        run(&clean).map_err(|e| chain(&e))?;
        // Before anybody opens it, which writes, too.
        let all = clean.changes();
        if !look(&clean)? {
            return Err("a restore that ends well leaves a store".into());
        }
        for point in 0..all {
            let disk = SimDisk::new(seed);
            disk.crash_at(point);
            if run(&disk).is_ok() {
                return Err(format!("point {point}: a restore on a dead disk ends well"));
            }
            for survivors in Survivors::ALL {
                let after = disk.after_crash(survivors, point);
                let told = |what| format!("point {point}, {survivors:?}: {what}");
                if look(&after).map_err(told)? {
                    whole.fetch_add(1, Ordering::Relaxed);
                } else {
                    run(&after).map_err(|e| told(format!("the next try: {}", chain(&e))))?;
                    look(&after).map_err(told)?;
                }
            }
            points.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let points = points.into_inner();
    Ok(Tally(
        [("stores", stores), ("crash points", points), ("crashes", points * 5), ("whole stores", whole.into_inner())]
            .to_vec(),
    ))
}

/// Overwrites one page in a hundred, and looks for each row of the store: saved, or named. Where roots or the space were
/// overwritten nobody can say whose a lost leaf was: there the rows that are in no other entry of the report may at most be
/// those of the overwritten pages.
pub(super) fn salvages(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let counts: [AtomicU64; 4] = Default::default();
    let files = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let how = if at % 2 == 0 { encrypted() } else { unencrypted() };
        let (disk, store) = aged(seed, &how, at * 13 % 100, 3_000 + at % 5 * 4_000)?;
        let expected = content(&store.read())?;
        store.close().map_err(|e| chain(&e))?;
        let mut file = disk.read_file(NAME).expect("the store's file");
        let pages = (file.len() - PAGES_START) / PAGE;
        let mut rng = Rng::new(seed);
        let damaged = (pages / 100).max(1);
        for _ in 0..damaged {
            let page = PAGES_START + rng.below(pages) * PAGE;
            file[page..page + PAGE].iter_mut().for_each(|byte| *byte = rng.draw() as u8);
        }
        disk.write_file(NAME, &file);
        let target = SimDisk::new(seed);
        let report = salvage(env(&disk, seed + 2), &how, env(&target, seed + 3), how.clone(), &mut |_| {});
        let report = report.map_err(|e| chain(&e))?;
        if disk.read_file(NAME).as_deref() != Some(&file[..]) {
            return Err("the damaged file was changed".into());
        }
        let store = Store::open(env(&target, seed + 4), how.create(false)).map_err(|e| chain(&e))?;
        store.verify(&mut |_| {}).map_err(|e| chain(&e))?;
        let saved = content(&store.read())?;
        let beside: BTreeSet<(&Vec<u8>, &Vec<u8>)> = saved
            .iter()
            .filter(|((tree, _), _)| tree.starts_with("lost+found/"))
            .map(|((_, key), value)| (key, value))
            .collect();
        let nameless = report.losses.iter().any(|loss| matches!(loss, Loss::Roots { .. } | Loss::Space { .. }));
        let (mut lost, mut unnamed_bytes) = (0, 0);
        for (place, value) in &expected {
            match saved.get(place) {
                Some(found) if found == value => {}
                Some(_) => return Err(format!("{place:?} is another value")),
                None if beside.contains(&(&place.1, value)) => {}
                None if report.losses.iter().any(|loss| names(loss, place)) => lost += 1,
                None if nameless => {
                    lost += 1;
                    // What an entry takes at least; of a long value, its name.
                    unnamed_bytes += if value.len() < PAGE / 2 { value.len() + 6 } else { 24 };
                }
                None => return Err(format!("{place:?} is gone, and not in the report")),
            }
        }
        if unnamed_bytes > damaged * PAGE {
            return Err(format!("{unnamed_bytes} bytes of rows are gone for {damaged} pages, and not in the report"));
        }
        if let Some(place) =
            saved.keys().find(|place| !place.0.starts_with("lost+found/") && !expected.contains_key(*place))
        {
            return Err(format!("{place:?} was never there"));
        }
        let again = report.rows_found_again;
        for (count, n) in counts.iter().zip([damaged as u64, report.rows, again, lost]) {
            count.fetch_add(n, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let [damaged, saved, again, lost] = counts.map(AtomicU64::into_inner);
    Ok(Tally(
        [
            ("files", files),
            ("pages overwritten", damaged),
            ("rows saved", saved),
            ("of them below unreadable pages", again),
            ("rows lost and named", lost),
        ]
        .to_vec(),
    ))
}

/// Whether a loss is, or may be, that of this row.
fn names(loss: &Loss, (tree, key): &(String, Vec<u8>)) -> bool {
    match loss {
        Loss::Range { tree: of, from, to, .. } => {
            let inside = from <= key && to.as_ref().is_none_or(|to| key < to);
            // Of a tree whose name or place is lost, or that nobody could tell from others.
            inside && (of == tree || of.starts_with("lost+found/"))
        }
        Loss::Value { tree: of, key: at, .. } => (of == tree || of.starts_with("lost+found")) && at == key,
        _ => false,
    }
}
