//! A slice of the ten years of `cargo decade` in every test run: months instead of years. BLAZE_CI_SIZE multiplies them.

#[path = "../src/counting.rs"]
mod counting;

use blazedb_engine::History;
use blazedb_harness::decade::{Plan, Report};

fn size() -> u64 {
    std::env::var("BLAZE_CI_SIZE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn live(plan: Plan) -> Report {
    let plan = Plan { gauge: counting::GAUGE, ..plan };
    plan.run(&mut |_| {}).unwrap_or_else(|what| panic!("seed {}: {what}", plan.seed))
}

#[test]
fn months_of_use_leave_file_opening_and_memory_as_they_were() {
    let report = live(Plan::new(1, 150 * size(), 1_500));
    assert!(report.days.iter().map(|day| day.power_cuts).sum::<u64>() > 50, "the power went now and then");
    assert!(report.days.iter().all(|day| day.memory_max > 100_000), "memory is counted");
    report.judge(60).unwrap_or_else(|what| panic!("{what}again: cargo decade -- --days 150 --notes 1500"));
}

#[test]
fn a_history_without_an_end_would_be_noticed() {
    let plan = Plan { keep: History::ALL, ..Plan::new(1, 100, 500) };
    let steep = live(plan).judge(60).expect_err("the file grows with its history");
    assert!(steep.starts_with("not flat: file,") && steep.contains("history"), "{steep}");
}

#[test]
fn one_seed_is_one_life() {
    let csv = |seed| live(Plan::new(seed, 10, 300)).csv(1);
    assert_eq!(csv(3), csv(3));
    assert_ne!(csv(3), csv(4));
}
