//! Loads: against a model, beside everything else that a store does, with crashes and errors at every call.

use std::io;

use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};
use blazedb_engine::{CommitError, Durability, FeedEvent, Memory, Options, Store, WriteError};

use crate::support::{
    Model, NAME, Random, content, model_of, open, options, put, random_changes, roomy, scale, unencrypted,
};

/// Loads random rows into store and model alike. `spread`: how many different keys there are.
fn load(store: &Store, random: &mut Random, model: &mut Model, rows: u64, spread: u64) -> Result<u64, CommitError> {
    let mut loader = store.loader();
    let mut loaded = model.clone();
    for _ in 0..rows {
        let name = ["rows", "operations", "index", "more"][random.below(4) as usize];
        let tree = loader.tree(name).expect("a good name");
        let mut key = random.below(spread).to_be_bytes()[5..].to_vec();
        if random.below(5) == 0 {
            key.splice(0..0, *b"a long beginning that many keys have in common");
        }
        let len = match random.below(300) {
            0 => 20_000,
            1..20 => 1500,
            _ => 120,
        };
        let len = random.below(len);
        let value = random.bytes(len);
        loader.put(tree, &key, &value)?;
        loaded.entry(name.to_owned()).or_default().insert(key, value);
    }
    assert_eq!(loader.rows(), rows);
    let mut told = 0;
    let info = loader.finish_with(&mut |progress| {
        assert!(progress.done_rows > told && progress.done_rows <= progress.total_rows);
        told = progress.done_rows;
    })?;
    *model = loaded;
    Ok(info.commit_no)
}

/// Loads between commits, deletes, checkpoints and reopenings, large enough for many runs, compared with a map.
#[test]
fn loads_between_all_else_are_as_a_map_says() {
    for (seed, chosen) in [(1, options()), (2, unencrypted()), (3, unencrypted().page_bytes(16384))] {
        let disk = SimDisk::new(seed);
        let mut store = Store::open(disk.env(NAME), chosen.clone()).expect("opens");
        let (mut random, mut model) = (Random::new(seed), Model::new());
        let mut views = Vec::new();
        for step in 0..14 * scale() {
            let rows = [3, 200, 5_000, 60_000][random.below(4) as usize];
            let spread = [50, 3_000, 1 << 20][random.below(3) as usize];
            let before = store.stats().commit_no;
            let commit_no = load(&store, &mut random, &mut model, rows, spread).expect("loads");
            assert_eq!((commit_no, store.stats().durable_commit_no), (before + 1, before + 1));
            views.push((store.read(), model.clone()));
            for _ in 0..random.below(40) {
                let mut tx = store.write();
                random_changes(&mut random, &mut tx, &mut model);
                tx.commit_with(Durability::Buffered, |_| Ok(())).expect("nobody else writes");
            }
            store.verify(&mut |_| {}).expect("pages and space agree");
            if views.len() > 3 {
                let (view, then) = views.remove(random.below(3) as usize);
                assert_eq!(content(&view), then, "seed {seed}, step {step}");
            }
            if random.below(4) == 0 {
                views.clear();
                store.close().expect("closes");
                store = Store::open(disk.env(NAME), chosen.clone()).expect("opens again");
                assert_eq!(model_of(&store), model, "seed {seed}, step {step}");
            }
        }
        views.clear();
        assert_eq!(model_of(&store), model);
        store.close().expect("closes");
        let store = Store::open(disk.env(NAME), chosen).expect("opens");
        assert_eq!(model_of(&store), model);
        store.verify(&mut |_| {}).expect("no page was lost");
    }
}
