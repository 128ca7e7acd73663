//! Figures, not checks: `cargo test --release -p blazedb-engine --test it figures -- --ignored --nocapture`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use blazedb_engine::{Env, Options, Store};

use crate::support::{Random, options};

#[test]
#[ignore = "prints figures"]
fn figures() {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    for (name, options) in [("encrypted", options()), ("unencrypted", Options::unencrypted())] {
        let env = Env::file(folder.path().join(format!("{name}.blaze")));
        let store = Store::open(env.clone(), options.clone().table_bytes_max(1 << 30)).expect("opens");
        let t = store.tree("t").expect("a good name");
        let mut random = Random::new(1);
        let time = |what: &str, n: u64, run: &mut dyn FnMut()| {
            let from = Instant::now();
            run();
            let ns = from.elapsed().as_nanos() as u64;
            println!("{name:12} {what:42} {:>10.3} us", ns as f64 / n as f64 / 1000.0);
        };
        let mut keys: Vec<[u8; 16]> = Vec::new();
        time("durable commit, one row of 200 B", 2000, &mut || {
            for n in 0..2000_u64 {
                let key = random.bytes(16).try_into().expect("16 bytes");
                keys.push(key);
                let mut tx = store.write();
                tx.put(t, &key, &[n as u8; 200]).expect("a good value");
                tx.commit().expect("commits");
            }
        });
        time("row of 200 B in batches of 1,000", 200_000, &mut || {
            for batch in 0..200_u64 {
                let mut tx = store.write();
                for _ in 0..1000 {
                    let key: [u8; 16] = random.bytes(16).try_into().expect("16 bytes");
                    keys.push(key);
                    tx.put(t, &key, &[batch as u8; 200]).expect("a good value");
                }
                tx.commit().expect("commits");
            }
        });
        let stats = store.stats();
        println!("{name:12} {stats:?}");
        time("begin and drop a view", 1_000_000, &mut || (0..1_000_000).for_each(|_| drop(store.read())));
        let view = store.read();
        let mut sum = 0;
        for (what, keys) in
            [("get, random key of 202,000", &keys[..]), ("get, random key of 1,000 warm ones", &keys[..1000])]
        {
            for _ in 0..3 {
                time(what, 300_000, &mut || {
                    for _ in 0..300_000 {
                        let key = &keys[random.below(keys.len() as u64) as usize];
                        sum += view.get(t, key).expect("a good tree").expect("is there").len();
                    }
                });
            }
        }
        time("scan, per row", 202_000, &mut || sum += view.range(t, ..).map(|(_, v)| v.len()).sum::<usize>());
        time("scan backwards, per row", 202_000, &mut || {
            sum += view.range(t, ..).rev().map(|(_, v)| v.len()).sum::<usize>();
        });
        drop(view);
        time("eight threads, durable, one row each", 4000, &mut || {
            std::thread::scope(|scope| {
                for thread in 0..8_u8 {
                    let store = &store;
                    scope.spawn(move || {
                        for n in 0..500_u32 {
                            let mut tx = store.write();
                            tx.put(t, &[&[thread], &n.to_be_bytes()[..]].concat(), &[7; 200]).expect("a good value");
                            tx.commit().expect("commits");
                        }
                    });
                }
            });
        });
        let after = store.stats();
        println!("{name:12} commits per sync {:.2}", 4000.0 / (after.syncs - stats.syncs) as f64);
        time("buffered commit, one row of 200 B", 2000, &mut || {
            for n in 0..2000_u32 {
                let mut tx = store.write();
                tx.put(t, &n.to_be_bytes(), &[7; 200]).expect("a good value");
                tx.commit_with(blazedb_engine::Durability::Buffered, |_| Ok(())).expect("commits");
            }
        });
        time("verify, whole log", 1, &mut || assert!(store.verify(&mut |_| {}).expect("all is well").groups > 0));
        let log = store.stats().log_bytes;
        time("compact", 1, &mut || store.compact().expect("compacts"));
        drop(store);
        time(&format!("open, log was {} MiB before compaction", log >> 20), 1, &mut || {
            drop(Store::open(env.clone(), options.clone().table_bytes_max(1 << 30)).expect("opens"));
        });
        assert!(sum > 0);
    }
}
