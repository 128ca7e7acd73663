//! The space of a file for people and for programs: bars, a table, advice, JSON.
//!
//! The bars are plain characters, so that they say the same without colour, in a log, and to a reader of the screen's text.

use blazedb::{Advice, Document, Estimate, TreeRole, Value};

use super::ui::{self, Table};

/// Characters of a bar.
const BAR: usize = 48;

/// Trees that are shown; the rest is summed up.
const TREES_MAX: usize = 20;

/// Draws so many characters for each part, all together as many as the bar has. A part that is there has one at least.
fn bar(parts: &[(char, u64)], width: usize) -> String {
    let total: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    if total == 0 {
        return String::new();
    }
    let share = |bytes: u64| (u128::from(bytes) * width as u128 / u128::from(total)) as usize;
    let mut widths: Vec<usize> = parts.iter().map(|&(_, bytes)| share(bytes).max(usize::from(bytes > 0))).collect();
    let largest = (0..parts.len()).max_by_key(|&i| parts[i].1).unwrap_or(0);
    let others: usize = widths.iter().enumerate().filter(|&(i, _)| i != largest).map(|(_, width)| width).sum();
    widths[largest] = width.saturating_sub(others);
    parts.iter().zip(widths).flat_map(|(&(mark, _), width)| std::iter::repeat_n(mark, width)).collect()
}

/// Draws the file, then each tree.
pub(crate) fn picture(found: &Estimate) -> String {
    let parts = [
        ('#', "live", found.live_bytes),
        ('+', "history", found.history_bytes),
        ('=', "overhead", found.overhead_bytes),
        ('-', "held", found.held_bytes),
        ('.', "free", found.free_bytes),
    ];
    let drawn: Vec<(char, u64)> = parts.iter().map(|&(mark, _, bytes)| (mark, bytes)).collect();
    let mut text = format!("  [{}] {}\n", bar(&drawn, BAR), ui::bytes(found.file_bytes));
    let shown = parts.iter().filter(|(.., bytes)| *bytes > 0);
    let legend: Vec<String> = shown.map(|(mark, name, bytes)| format!("{mark} {name} {}", ui::bytes(*bytes))).collect();
    text.push_str(&format!("   {}\n", legend.join("   ")));
    let mut trees: Vec<_> = found.trees.iter().filter(|tree| tree.bytes + tree.history_bytes > 0).collect();
    trees.sort_by_key(|tree| std::cmp::Reverse(tree.bytes + tree.history_bytes));
    let most = trees.first().map_or(0, |tree| tree.bytes + tree.history_bytes).max(1);
    let mut table = Table::default();
    for tree in trees.iter().take(TREES_MAX) {
        let name = match TreeRole::of(&tree.name) {
            TreeRole::Documents(name) => ui::printable(name, 40),
            TreeRole::Unsynced(name) => format!("{} (unsynced)", ui::printable(name, 40)),
            TreeRole::Other(name) => format!("({})", ui::printable(name, 40)),
            _ => ui::printable(&tree.name, 40),
        };
        let all = tree.bytes + tree.history_bytes;
        let width = ((u128::from(all) * (BAR as u128 / 2) / u128::from(most)) as usize).max(1);
        let history = if tree.versions > 0 {
            format!(", history {} of {}", ui::plural(tree.versions, "version"), ui::bytes(tree.history_bytes))
        } else {
            String::new()
        };
        let line = format!(
            "{:<half$}  {}, {} of {}{history}",
            bar(&[('#', tree.bytes), ('+', tree.history_bytes)], width),
            ui::bytes(tree.bytes),
            if tree.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", ui::thousands(tree.entries)) },
            ui::bytes(tree.payload_bytes),
            half = BAR / 2,
        );
        table.row(name, line);
    }
    if trees.len() > TREES_MAX {
        let rest: u64 = trees[TREES_MAX..].iter().map(|tree| tree.bytes + tree.history_bytes).sum();
        table.row(format!("{} more", trees.len() - TREES_MAX), ui::bytes(rest));
    }
    text + &table.to_string()
}

/// Puts what is worth doing into words of the command line.
pub(crate) fn advice(found: &Estimate, shown: &str) -> Vec<String> {
    let said = found.advice().into_iter().map(|advice| match advice {
        Advice::Vacuum(vacuum) => format!(
            "{} could be given back, by writing {}: blazedb vacuum --db {shown}",
            ui::bytes(vacuum.frees_bytes),
            ui::bytes(vacuum.moves_bytes)
        ),
        other => other.to_string(),
    });
    said.collect()
}

/// The same for programs.
pub(crate) fn json(found: &Estimate) -> Document {
    let trees = found.trees.iter().map(|tree| {
        Value::Map(object([
            ("name", Value::Text(tree.name.clone())),
            ("entries", number(tree.entries)),
            ("payload_bytes", number(tree.payload_bytes)),
            ("bytes", number(tree.bytes)),
            ("versions", number(tree.versions)),
            ("history_bytes", number(tree.history_bytes)),
        ]))
    });
    let vacuum = object([
        ("frees_bytes", number(found.vacuum.frees_bytes)),
        ("frees_after_readers_bytes", number(found.vacuum.frees_after_readers_bytes)),
        ("moves_bytes", number(found.vacuum.moves_bytes)),
        ("moves_pages", number(found.vacuum.moves_pages)),
    ]);
    let advice = found.advice().into_iter().map(|advice| Value::Text(advice.to_string()));
    object([
        ("commit", number(found.commit_no)),
        ("page_bytes", number(found.page_bytes)),
        ("file_bytes", number(found.file_bytes)),
        ("live_bytes", number(found.live_bytes)),
        ("history_bytes", number(found.history_bytes)),
        ("overhead_bytes", number(found.overhead_bytes)),
        ("held_bytes", number(found.held_bytes)),
        ("free_bytes", number(found.free_bytes)),
        ("log_bytes", number(found.log_bytes)),
        ("trees", Value::Array(trees.collect())),
        ("vacuum", Value::Map(vacuum)),
        ("oldest_reader", found.oldest_reader.map_or(Value::Null, number)),
        ("oldest_reader_ms", number(found.oldest_reader_ms)),
        ("held_by_readers_bytes", number(found.held_by_readers_bytes)),
        ("advice", Value::Array(advice.collect())),
    ])
}

pub(crate) fn object<const N: usize>(pairs: [(&str, Value); N]) -> Document {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(crate) fn number(n: u64) -> Value {
    i64::try_from(n).map_or(Value::U64(n), Value::I64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_as_it_should_be_and_shows_what_is_there() {
        assert_eq!(bar(&[('#', 50), ('.', 50)], 10), "#####.....");
        assert_eq!(bar(&[('#', 1_000_000), ('+', 1), ('.', 0)], 10), "#########+");
        assert_eq!(bar(&[('#', 1), ('+', 1_000_000), ('.', 1)], 10), "#++++++++.");
        assert_eq!(bar(&[('#', u64::MAX / 2), ('.', u64::MAX / 2)], 4), "##..");
        assert_eq!(bar(&[('#', 0), ('.', 0)], 10), "");
    }
}
