//! A slice of every promise about faults in every test run; the whole of each by `cargo torture`. BLAZE_CI_SIZE
//! multiplies the slices.

use blazedb_harness::torture::{PROMISES, Plan, Plant, Tally, promise};

fn scale() -> u64 {
    std::env::var("BLAZE_CI_SIZE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn keep(name: &str, size: u64, plant: Option<Plant>) -> Result<Tally, String> {
    let promise = promise(name).expect("a promise of this name");
    let plan = Plan { seed: 1, size, only: None, jobs: 1, plant, progress: &|_, _| {} };
    (promise.keep)(&plan).map_err(|failure| {
        let case = failure.case;
        format!("{}\nagain: cargo torture -- {name} --seed 1 --size {size} --only {case}", failure.what)
    })
}

/// Keeps a slice of a promise, and returns what was counted.
fn slice(name: &str) -> Tally {
    let promise = promise(name).expect("a promise of this name");
    keep(name, promise.slice * scale(), None).unwrap_or_else(|what| panic!("{what}"))
}

macro_rules! slices {
    ($($test:ident: $name:literal, $count:literal >= $least:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let tally = slice($name);
                assert!(tally.get($count) >= $least, "{tally}");
            }
        )*

        #[test]
        fn every_promise_has_a_slice() {
            for promise in PROMISES {
                assert!([$($name),*].contains(&promise.name), "{}", promise.name);
            }
        }
    };
}

slices! {
    crash: "crash", "crash points" >= 150;
    sequences: "sequences", "crash points" >= 300;
    recovery: "recovery", "crashes in that recovery" >= 100;
    maintenance: "maintenance", "crash points" >= 30;
    vacuum: "vacuum", "cuts" >= 1;
    history: "history", "commits looked at" >= 1_000;
    restore: "restore", "crash points" >= 20;
    salvage: "salvage", "rows lost and named" >= 10;
    tears: "tears", "subsets" >= 500;
    lies: "lies", "plain errors" >= 1;
    errors: "errors", "stores that stopped for good" >= 3;
    failed_sync: "failed-sync", "stores that stopped for good" >= 3;
    full_disk: "full-disk", "stores that went on without reopening" >= 10;
    bits: "bits", "flipped bits noticed by the checksum" >= 500_000;
    header_and_log_bits: "header-and-log-bits", "refused" >= 200;
    pages: "pages", "cases" >= 100;
    amplification: "amplification", "preset client" >= 10;
    wrong_key: "wrong-key", "openings refused" >= 100;
    syncs: "syncs", "groups" >= 30;
    groups: "groups", "commits per sync" >= 10;
    pauses: "pauses", "commits beside a vacuum" >= 10;
    retention: "retention", "versions purged" >= 1_000;
    reopen: "reopen", "rows recovered" >= 1000;
    determinism: "determinism", "seeds" >= 5;
}

/// A check that no bug can trip checks nothing.
#[test]
fn planted_bugs_are_noticed() {
    for plant in Plant::ALL {
        assert!(keep("crash", 400, Some(plant)).is_err(), "{plant} was not noticed");
    }
}
