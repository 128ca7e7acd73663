//! What was seen day by day, and whether it grows.

use std::fmt::Write as _;

/// One day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Which one, from 0.
    pub day: u64,
    /// Bytes of the file when the day was over.
    pub file_bytes: u64,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Bytes of keys and values that the app has in it.
    pub live_bytes: u64,
    /// Bytes of keys and values that history keeps.
    pub history_bytes: u64,
    /// Versions that history keeps.
    pub history_versions: u64,
    /// Bytes of the file that are free.
    pub free_bytes: u64,
    /// Openings.
    pub opens: u64,
    /// Sessions that ended with the power.
    pub power_cuts: u64,
    /// Bytes read by the opening that read most.
    pub open_bytes_max: u64,
    /// And by all of them.
    pub open_bytes_all: u64,
    /// Calls of the opening that took most.
    pub open_reads_max: u64,
    /// Bytes of memory at the worst moment.
    pub memory_max: u64,
}

/// All days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What repeats it.
    pub seed: u64,
    /// Each.
    pub days: Vec<Day>,
}

/// A line that must be flat.
struct Line {
    name: &'static str,
    of: fn(&Day) -> u64,
    /// By how many parts of a hundred it may rise from its begin to its end.
    rise_max: f64,
}

/// Opening and memory are of a fixed size but for what a power cut left in the log; the file goes with what is in it.
const LINES: [Line; 6] = [
    Line { name: "file", of: |day| day.file_bytes, rise_max: 8.0 },
    Line { name: "log", of: |day| day.log_bytes, rise_max: 8.0 },
    Line { name: "history", of: |day| day.history_bytes, rise_max: 8.0 },
    Line { name: "bytes read at opening", of: |day| day.open_bytes_all / day.opens.max(1), rise_max: 8.0 },
    Line { name: "calls at opening", of: |day| day.open_reads_max, rise_max: 8.0 },
    Line { name: "memory", of: |day| day.memory_max, rise_max: 8.0 },
];

/// The straight line that is nearest to the values: how much it rises from the first to the last, in parts of a hundred of
/// their mean.
fn rise_percent(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let (middle, mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let over = values.iter().enumerate().map(|(i, value)| (i as f64 - middle) * (value - mean)).sum::<f64>();
    let under = (0..values.len()).map(|i| (i as f64 - middle).powi(2)).sum::<f64>();
    if mean == 0.0 || under == 0.0 { 0.0 } else { over / under * (n - 1.0) / mean * 100.0 }
}

impl Report {
    /// Says of each line by how much it rises after the days in which the file finds its size.
    ///
    /// # Errors
    /// The lines that are not flat.
    pub fn judge(&self, settle_days: usize) -> Result<String, String> {
        let settled = self.days.get(settle_days..).unwrap_or_default();
        if settled.len() < 14 {
            return Err(format!("{} days are too few to tell", self.days.len()));
        }
        let mut said = String::new();
        let mut steep = Vec::new();
        for line in &LINES {
            let values: Vec<f64> = settled.iter().map(|day| (line.of)(day) as f64).collect();
            let rise = rise_percent(&values);
            let (least, most) = values.iter().fold((f64::MAX, 0.0_f64), |(a, b), &v| (a.min(v), b.max(v)));
            let _ = writeln!(said, "{:22} {rise:+6.1} %, from {least:.0} to {most:.0}", line.name);
            if rise > line.rise_max {
                steep.push(line.name);
            }
        }
        if steep.is_empty() { Ok(said) } else { Err(format!("not flat: {}\n{said}", steep.join(", "))) }
    }

    /// Returns a line for every so many days: the worst of them.
    pub fn every(&self, days: usize) -> Vec<Day> {
        let worst = |part: &[Day]| {
            let most = |of: fn(&Day) -> u64| part.iter().map(of).max().unwrap_or(0);
            Day {
                day: part.last().map_or(0, |day| day.day),
                file_bytes: most(|d| d.file_bytes),
                log_bytes: most(|d| d.log_bytes),
                live_bytes: most(|d| d.live_bytes),
                history_bytes: most(|d| d.history_bytes),
                history_versions: most(|d| d.history_versions),
                free_bytes: most(|d| d.free_bytes),
                opens: part.iter().map(|d| d.opens).sum(),
                power_cuts: part.iter().map(|d| d.power_cuts).sum(),
                open_bytes_max: most(|d| d.open_bytes_max),
                open_bytes_all: part.iter().map(|d| d.open_bytes_all).sum(),
                open_reads_max: most(|d| d.open_reads_max),
                memory_max: most(|d| d.memory_max),
            }
        };
        self.days.chunks(days.max(1)).map(worst).collect()
    }

    /// Returns a table of the worst of every so many days.
    pub fn csv(&self, days: usize) -> String {
        let mut text = String::from(
            "day,file_bytes,log_bytes,live_bytes,history_bytes,free_bytes,opens,power_cuts,open_bytes_mean,open_bytes_max,\
             open_reads_max,memory_bytes_max\n",
        );
        for d in self.every(days) {
            let mean = d.open_bytes_all / d.opens.max(1);
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{mean},{},{},{}",
                d.day,
                d.file_bytes,
                d.log_bytes,
                d.live_bytes,
                d.history_bytes,
                d.free_bytes,
                d.opens,
                d.power_cuts,
                d.open_bytes_max,
                d.open_reads_max,
                d.memory_max
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rises_by_what_its_nearest_straight_line_does() {
        assert!((rise_percent(&[5.0; 10])).abs() < 1e-9);
        assert!((rise_percent(&[1.0, 2.0, 3.0]) - 100.0).abs() < 1e-9);
        assert!((rise_percent(&[3.0, 2.0, 1.0]) + 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_steep_line_is_named() {
        let day = |n: u64| Day { day: n, file_bytes: 1_000 + 50 * n, opens: 1, ..Day::default() };
        let report = Report { seed: 1, days: (0..40).map(day).collect() };
        assert!(report.judge(0).expect_err("it doubles").starts_with("not flat: file\n"));
        assert!(report.judge(35).is_err(), "five days tell nothing");
    }
}
