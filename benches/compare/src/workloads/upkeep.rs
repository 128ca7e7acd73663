//! What commits notice of a vacuum and of a backup that run beside them: durable commits of one row, alone and beside each,
//! in turns, in the preset for clients. Automatic vacuums are off: whoever commits alone is alone.

use std::fs::{self, File};
use std::io::BufWriter;
use std::thread;
use std::time::{Duration, Instant};

use blazedb_benches::pair;
use blazedb_engine::{BackupOptions, Store, TreeId};

use super::{BATCH_ROWS, Keys, Rows, SEED, Task, row};
use crate::measure::{Figures, median, percentile_us};
use crate::subjects::{Failure, client_options, open_client_store};

/// Pairs of each kind.
const PAIRS: usize = 5;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let store = open_client_store(&task.folder, client_options(&task.subject).auto_vacuum(None))?;
    let tree = store.tree("rows")?;
    let mut load = store.loader();
    for (key, value) in Rows::new().take(task.rows) {
        load.put(tree, &key, &value)?;
    }
    load.finish()?;

    let mut writer = Writer { store: &store, tree, keys: Keys::new(1, task.rows), commits: 0 };
    let (mut alone, mut vacuum, mut backup) = (Vec::new(), Vec::new(), Vec::new());
    let (mut by_vacuum, mut by_backup, mut shorter) = (Vec::new(), Vec::new(), Vec::new());
    let mut pair_of = |writer: &mut Writer<'_>, beside: &mut Vec<f64>, ratios: &mut Vec<f64>, work: Beside<'_>| {
        let without = writer.commit_for(Duration::from_secs(task.seconds.into()))?;
        let with = writer.commit_beside(work)?;
        alone.push(without);
        beside.push(with);
        ratios.push(with / without);
        Ok::<_, Failure>(())
    };
    for _ in 0..PAIRS {
        for from in (0..task.rows).step_by(BATCH_ROWS) {
            let mut tx = store.write();
            (from..(from + BATCH_ROWS).min(task.rows))
                .filter(|index| index % 2 == 1)
                .try_for_each(|index| tx.delete(tree, &row(index as u64).0))?;
            tx.commit()?;
        }
        store.checkpoint()?;
        let before = store.stats().page_file_bytes;
        pair_of(&mut writer, &mut vacuum, &mut by_vacuum, &|| {
            store.vacuum(0, &mut |_| {})?;
            Ok(())
        })?;
        shorter.push(store.stats().page_file_bytes as f64 / before as f64);
        pair_of(&mut writer, &mut backup, &mut by_backup, &|| {
            // One after another: a single one is over before a hundredth of the commits means anything. Each into a file of
            // its own, as backups are made: a file system may flush one at once that is emptied and written again.
            let until = Instant::now() + Duration::from_secs(task.seconds.into());
            for n in 0.. {
                let path = task.folder.join(format!("backup-{n}"));
                store.backup(&mut BufWriter::new(File::create_new(&path)?), &BackupOptions::default(), &mut |_| {})?;
                fs::remove_file(path)?;
                if Instant::now() >= until {
                    break;
                }
            }
            Ok(())
        })?;
        let mut load = store.loader();
        for (key, value) in Rows::new().take(task.rows) {
            load.put(tree, &key, &value)?;
        }
        load.finish()?;
    }
    let most = |ratios: &[f64]| ratios.iter().copied().fold(f64::NAN, f64::max);
    Ok(Figures::from([
        ("upkeep_vacuum_most".into(), most(&by_vacuum)),
        ("upkeep_backup_most".into(), most(&by_backup)),
        ("upkeep_alone_p99_us".into(), median(&mut alone)),
        ("upkeep_vacuum_p99_us".into(), median(&mut vacuum)),
        ("upkeep_vacuum".into(), median(&mut by_vacuum)),
        ("upkeep_backup_p99_us".into(), median(&mut backup)),
        ("upkeep_backup".into(), median(&mut by_backup)),
        ("upkeep_shorter".into(), median(&mut shorter)),
    ]))
}

/// What a thread does while another one commits.
type Beside<'w> = &'w (dyn Fn() -> Result<(), Failure> + Sync);

/// Commits one row after another.
struct Writer<'s> {
    store: &'s Store,
    tree: TreeId,
    keys: Keys,
    commits: u64,
}

impl Writer<'_> {
    fn commit(&mut self) -> Result<Duration, Failure> {
        self.commits += 1;
        let (key, (_, value)) = (self.keys.next(), pair(SEED + 1, self.commits));
        let started = Instant::now();
        let mut tx = self.store.write();
        tx.put(self.tree, &key, &value)?;
        tx.commit()?;
        Ok(started.elapsed())
    }

    /// Commits for so long. Returns the time that 99 of 100 commits stayed under, in microseconds.
    fn commit_for(&mut self, time: Duration) -> Result<f64, Failure> {
        let (mut each, until) = (Vec::new(), Instant::now() + time);
        while Instant::now() < until {
            each.push(self.commit()?);
        }
        Ok(percentile_us(&mut each, 99))
    }

    /// Commits for as long as something else takes.
    fn commit_beside(&mut self, work: Beside<'_>) -> Result<f64, Failure> {
        thread::scope(|scope| {
            let other = scope.spawn(work);
            let mut each = Vec::new();
            while !other.is_finished() {
                each.push(self.commit()?);
            }
            other.join().map_err(|_| "what ran beside the commits panicked")??;
            Ok(percentile_us(&mut each, 99))
        })
    }
}
