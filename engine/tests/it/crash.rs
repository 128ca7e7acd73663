//! Power cuts: at every call that changes the disk, with five ways for pending sectors to survive; again during
//! the recovery; and with a planted bug, to see that these tests can fail.

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{OpenError, Options, Store, log_file_names};

use crate::support::{Model, NAME, Run, model_of, options, put, roomy, unencrypted, workload};

/// Opens what a crash left, and panics unless it is a state the run may show.
fn check_after(disk: &SimDisk, options: &Options, run: &Run, context: &str) {
    match Store::open(disk.env(NAME), options.clone().create(false)) {
        Ok(store) => {
            run.check(&model_of(&store), context);
            store.verify(&mut |_| {}).expect("pages and space agree");
        }
        Err(OpenError::NotFound { .. }) => run.check(&Model::new(), context),
        Err(e) => panic!("{context}: {e}: {:?}", std::error::Error::source(&e).map(ToString::to_string)),
    }
}

fn crash_everywhere(options: &Options, seed: u64, steps: u64) -> u64 {
    let whole = SimDisk::new(seed);
    let run = workload(whole.env(NAME), options, seed, steps, Model::new());
    assert!(run.finished, "without a crash the workload ends");
    let points = whole.changes();
    for point in 0..points {
        let disk = SimDisk::new(seed);
        disk.crash_at(point);
        let run = workload(disk.env(NAME), options, seed, steps, Model::new());
        assert!(disk.is_dead() && !run.finished, "the crash comes");
        for survivors in Survivors::ALL {
            for chance in 0..if survivors == Survivors::RandomSubset { 3 } else { 1 } {
                let after = disk.after_crash(survivors, point * 31 + chance);
                check_after(&after, options, &run, &format!("seed {seed} point {point} {survivors:?} {chance}"));
            }
        }
    }
    points
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged() {
    let mut points = 0;
    for seed in 1..=6 {
        points += crash_everywhere(&options(), seed, 25);
    }
    points += crash_everywhere(&unencrypted(), 7, 25);
    assert!(points > 400, "{points} crash points");
}

/// Crash, open and go on, crash again at every point of that, open and go on, and once more.
#[test]
fn a_crash_in_recovery_and_again_in_that_recovery() {
    let options = options();
    let mut second_points = 0;
    for seed in 1..=3_u64 {
        for point in (0..60).step_by(7) {
            let first = SimDisk::new(seed);
            first.crash_at(point);
            let run = workload(first.env(NAME), &options, seed, 12, Model::new());
            let survivors = Survivors::ALL[(seed + point) as usize % 5];
            let after_first = first.after_crash(survivors, point);
            let base = {
                let seen = after_first.copy();
                match Store::open(seen.env(NAME), options.clone().create(false)) {
                    Ok(store) => model_of(&store),
                    Err(OpenError::NotFound { .. }) => Model::new(),
                    Err(e) => panic!("{e}"),
                }
            };
            run.check(&base, "first crash");
            for second in 0..12 {
                let disk = after_first.copy();
                disk.crash_at(second);
                let run = workload(disk.env(NAME), &options, seed + 100, 3, base.clone());
                if !disk.is_dead() {
                    break;
                }
                second_points += 1;
                for survivors in Survivors::ALL {
                    let after_second = disk.after_crash(survivors, second);
                    let context = format!("seed {seed} points {point} {second} {survivors:?}");
                    // Opening writes, too, when the tail was not proven durable: cut that short as well.
                    for third in 0..3 {
                        let again = after_second.copy();
                        again.crash_at(third);
                        let _ = Store::open(again.env(NAME), options.clone().create(false));
                        check_after(&again.after_crash(Survivors::RandomSubset, third), &options, &run, &context);
                    }
                    check_after(&after_second, &options, &run, &context);
                }
            }
        }
    }
    assert!(second_points > 100, "{second_points}");
}

/// spec: E-13
#[test]
fn recovery_changes_no_byte_of_the_log() {
    for seed in 1..=10 {
        let disk = SimDisk::new(seed);
        disk.crash_at(15 + seed);
        workload(disk.env(NAME), &roomy(), seed, 25, Model::new());
        let after = disk.after_crash(Survivors::RandomSubset, seed);
        let logs = || log_file_names(NAME).map(|name| after.read_file(&name));
        let before = logs();
        let store = Store::open(after.env(NAME), roomy()).expect("opens");
        assert_eq!(logs(), before);
        drop(store);
    }
}

/// A crash inside a checkpoint leaves the one before it and the whole log, or the new one. spec: E-15
#[test]
fn a_crash_inside_a_checkpoint_and_inside_a_close() {
    let disk = SimDisk::new(11);
    let store = Store::open(disk.env(NAME), roomy()).expect("opens");
    for n in 0..100_u8 {
        put(&store, "rows", &[n], &[n; 100]).expect("commits");
        if n == 60 {
            store.checkpoint().expect("checkpoints");
        }
    }
    let want = model_of(&store);
    // The handle above goes on holding the lock of its own disk only.
    for close in [false, true] {
        let mut point = 0;
        loop {
            let crashing = disk.copy();
            let store = Store::open(crashing.env(NAME), roomy()).expect("opens");
            crashing.crash_at(point);
            let done = if close { store.close() } else { store.checkpoint() };
            for survivors in Survivors::ALL {
                let after = crashing.after_crash(survivors, point);
                let store = Store::open(after.env(NAME), roomy()).expect("opens after the crash");
                assert_eq!(model_of(&store), want, "point {point} {survivors:?}");
                put(&store, "rows", b"more", b"v").expect("writes go on");
                store.checkpoint().expect("checkpoints");
                store.verify(&mut |_| {}).expect("pages and space agree");
            }
            if done.is_ok() {
                break;
            }
            point += 1;
        }
        assert!(point >= if close { 6 } else { 4 }, "{point} crash points");
    }
}

/// Planted bug: syncs that do nothing while the store believes them. The checks above must see it.
#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let mut caught = 0;
    for seed in 1..=5 {
        let disk = SimDisk::new(seed);
        drop(Store::open(disk.env(NAME), options()).expect("opens"));
        disk.lie_about_syncs(true);
        let run = workload(disk.env(NAME), &options(), seed, 8, Model::new());
        assert!(run.acknowledged > 0);
        for survivors in [Survivors::None, Survivors::Prefix, Survivors::RandomSubset] {
            let after = disk.after_crash(survivors, seed);
            let check = std::panic::AssertUnwindSafe(|| check_after(&after, &options(), &run, "planted"));
            let found = std::panic::catch_unwind(check);
            caught += u32::from(found.is_err());
        }
    }
    assert!(caught >= 10, "the crash check caught {caught} of 15 lost acknowledgements");
}

/// A device that lies and then loses power: an older whole state, or an error with a name, never a wrong state.
#[test]
fn a_lying_device_never_gives_a_wrong_state() {
    let (mut older, mut refused) = (0, 0);
    for seed in 1..=60 {
        let disk = SimDisk::new(seed);
        drop(Store::open(disk.env(NAME), options()).expect("opens"));
        disk.lie_about_syncs(true);
        let run = workload(disk.env(NAME), &options(), seed, 10, Model::new());
        let survivors = if seed % 2 == 0 { Survivors::RandomSubset } else { Survivors::Prefix };
        let after = disk.after_crash(survivors, seed);
        match Store::open(after.env(NAME), options()) {
            Ok(store) => {
                let found = model_of(&store);
                assert!(run.states.contains(&found), "seed {seed}: a state that never was");
                older += 1;
            }
            Err(OpenError::Corruption(_) | OpenError::NotAStore { .. }) => refused += 1,
            Err(e) => panic!("seed {seed}: {e}"),
        }
    }
    assert!(older > 0 && refused > 0, "both ends were seen: {older} {refused}");
}

#[test]
fn same_seed_same_trace() {
    let trace = |seed| {
        let disk = SimDisk::new(seed);
        workload(disk.env(NAME), &options(), seed, 20, Model::new());
        disk.trace()
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
