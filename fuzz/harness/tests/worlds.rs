//! Some hundred worlds in every test run; thousands by `cargo sim`. BLAZE_CI_SIZE multiplies them.

use blazedb_harness::{Bug, Config, World};

fn size() -> u64 {
    std::env::var("BLAZE_CI_SIZE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn run(seed: u64, bug: Option<Bug>) -> Result<blazedb_harness::Report, String> {
    World::new(Config { seed, steps: 400, bug }).run()
}

#[test]
fn worlds_come_to_rest_and_are_right() {
    let mut ops = 0;
    for seed in 1..=200 * size() {
        match run(seed, None) {
            Ok(report) => ops += report.ops,
            Err(what) => panic!("seed {seed}: {what}\nagain: cargo sim -- --seed {seed} --steps 400"),
        }
    }
    assert!(ops > 2000, "the worlds did nothing: {ops} operations");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 5, 8] {
        assert_eq!(run(seed, None).unwrap(), run(seed, None).unwrap());
    }
    assert_ne!(run(3, None).unwrap().trace, run(5, None).unwrap().trace);
}

fn found(bug: Bug) {
    for seed in 1..=300 {
        if run(seed, Some(bug)).is_err() {
            return;
        }
    }
    panic!("the planted bug {bug} was not found in 300 worlds");
}

#[test]
fn an_ack_before_the_sync_is_found() {
    found(Bug::AckBeforeSync);
}

#[test]
fn a_disk_that_lies_about_sync_is_found() {
    found(Bug::LyingSync);
}

#[test]
fn a_sequence_taken_outside_the_critical_section_is_found() {
    found(Bug::SequenceOutside);
}

#[test]
fn a_counter_used_again_after_a_restore_is_found() {
    found(Bug::CounterReused);
}
