//! Progress, tables and numbers for people.
//!
//! Progress goes to stderr: a bar on a terminal, else a plain line every few seconds, so that logs
//! stay readable and short work stays silent.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line says how far it is where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// A running piece of work.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts a piece of work of `total` steps; 0 means that nobody knows how many.
    pub(crate) fn start(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = if total == 0 {
                (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos}")
            } else {
                (ProgressBar::new(total), "{msg} [{bar:32}] {human_pos}/{human_len} ({eta} left)")
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, what: what.to_owned(), total, last_line: Instant::now() }
    }

    /// Says how far it is.
    pub(crate) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let of = if self.total > 0 { format!("/{}", thousands(self.total)) } else { String::new() };
            say(format_args!("{}: {}{of}", self.what, thousands(done)));
        }
    }

    /// Changes the words in front of the bar; does nothing where there is no bar.
    pub(crate) fn say(&self, what: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }

    /// Prints a line on stderr without tearing the bar.
    pub(crate) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(format_args!("{line}"))),
            None => say(format_args!("{line}")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rows of a name and a value, aligned.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, String)>,
}

impl Table {
    /// Adds a row.
    pub(crate) fn row(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.rows.push((name.into(), value.into()));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &self.rows {
            writeln!(f, "  {name:<width$}  {value}")?;
        }
        Ok(())
    }
}

/// Prints a line on stdout; false when nobody reads it any more.
pub(crate) fn line(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Prints a line on stderr. Whether anybody reads it changes nothing.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes 12345 as 12,345.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a size with the unit that keeps it short: 812 B, 3.4 KiB, 12.0 MiB.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Writes a time with the unit that keeps it short: 0.42 ms, 17.3 ms, 2.31 s.
pub(crate) fn span(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", ms / 1_000.0)
    }
}

/// Writes "1 record", "2,000 records".
pub(crate) fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes text from outside harmless for a terminal and short enough for a line.
pub(crate) fn printable(text: &str, characters_max: usize) -> String {
    let mut out: String = text.chars().take(characters_max).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(characters_max).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [thousands(0), thousands(999), thousands(1_000), thousands(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [bytes(1023), bytes(1024), bytes(1536), bytes(3 << 20)],
            ["1023 B", "1.0 KiB", "1.5 KiB", "3.0 MiB"]
        );
        assert_eq!(span(Duration::from_micros(420)), "0.42 ms");
        assert_eq!(span(Duration::from_millis(2_310)), "2.31 s");
        assert_eq!([plural(1, "record"), plural(2_000, "record")], ["1 record", "2,000 records"]);
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }

    #[test]
    fn text_from_outside_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb", 10), "a?[2Jb");
        assert_eq!(printable("abcdef", 3), "abc...");
    }

    #[test]
    fn tables_align() {
        let mut table = Table::default();
        table.row("a", "1");
        table.row("long", "2");
        assert_eq!(table.to_string(), "  a     1\n  long  2\n");
    }
}
