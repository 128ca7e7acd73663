//! Many sorted rows of rows become one, a tree after another; of rows with one key the newest wins.
//!
//! A tree of losers: every inner node holds the source that lost there, so that a step compares once per level, along
//! one path. Sources are compared by a number first, tree and first bytes of the key.

use super::LoadProgress;
use super::arena::{ArenaRows, Row, digit_of};
use super::run::RunReader;
use crate::btree::{EditValue, Edits};
use crate::checkpoint::TreesOfEdits;
use crate::pager::PageError;

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4096;

pub(super) enum Source<'s> {
    Arena(ArenaRows<'s>),
    Run(RunReader<'s>),
}

impl Source<'_> {
    #[inline]
    fn row(&self) -> Option<Row<'_>> {
        match self {
            Self::Arena(rows) => rows.row(),
            Self::Run(run) => run.row(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<(), PageError> {
        match self {
            Self::Arena(rows) => rows.advance(),
            Self::Run(run) => run.advance(),
        }
    }
}

/// Where a source is that has no more rows.
const END: u128 = u128::MAX;

/// No source has come here yet.
const NOBODY: usize = usize::MAX;

pub(super) struct Merge<'m> {
    /// Oldest first.
    sources: Vec<Source<'m>>,
    /// By source: tree and first digit of its row's key.
    digits: Vec<u128>,
    /// The winner, then who lost at each inner node; node n's parent is n / 2.
    losers: Vec<usize>,
    /// Key of the row that was given before.
    last: Vec<u8>,
    /// The tree whose rows are given.
    tree: Option<u32>,
    progress: &'m mut dyn FnMut(LoadProgress),
    done: LoadProgress,
}

impl<'m> Merge<'m> {
    /// `total`: rows of all sources.
    pub(super) fn new(sources: Vec<Source<'m>>, total: u64, progress: &'m mut dyn FnMut(LoadProgress)) -> Self {
        let digits = sources.iter().map(digit).collect();
        let losers = vec![NOBODY; sources.len().max(1)];
        let done = LoadProgress { done_rows: 0, total_rows: total };
        let mut merge = Self { sources, digits, losers, last: Vec::new(), tree: None, progress, done };
        (0..merge.sources.len()).for_each(|source| merge.play(source));
        merge
    }

    /// Returns the next row.
    #[inline]
    pub(super) fn row(&self) -> Option<Row<'_>> {
        self.sources.get(self.losers[0])?.row()
    }

    /// Goes on to the next key.
    pub(super) fn next(&mut self) -> Result<(), PageError> {
        let winner = self.losers[0];
        let Some(row) = self.sources[winner].row() else { return Ok(()) };
        self.last.clear();
        self.last.extend_from_slice(row.key);
        let digit = self.digits[winner];
        self.step(winner)?;
        // An older row with the same key comes right behind.
        while self.digits[self.losers[0]] == digit && self.row().is_some_and(|row| row.key == self.last) {
            self.step(self.losers[0])?;
        }
        Ok(())
    }

    fn step(&mut self, source: usize) -> Result<(), PageError> {
        self.sources[source].advance()?;
        self.digits[source] = digit(&self.sources[source]);
        self.done.done_rows += 1;
        if self.done.done_rows.is_multiple_of(PROGRESS_ROWS) {
            (self.progress)(self.done);
        }
        self.play(source);
        Ok(())
    }

    /// Lets a source with a new row play against those on its way up.
    #[inline]
    fn play(&mut self, mut source: usize) {
        let mut node = (source + self.sources.len()) / 2;
        while node > 0 {
            let other = self.losers[node];
            if other == NOBODY {
                // The first to come waits for the one from the other side.
                self.losers[node] = source;
                return;
            }
            if self.beats(other, source) {
                self.losers[node] = source;
                source = other;
            }
            node /= 2;
        }
        self.losers[0] = source;
    }

    /// Whether source a's row comes before source b's; of equal keys the newer one's does.
    #[inline]
    fn beats(&self, a: usize, b: usize) -> bool {
        if self.digits[a] != self.digits[b] {
            return self.digits[a] < self.digits[b];
        }
        let key = |source: usize| self.sources[source].row().map(|row| row.key);
        key(a).cmp(&key(b)).then(b.cmp(&a)).is_lt()
    }
}

fn digit(source: &Source<'_>) -> u128 {
    source.row().map_or(END, |row| u128::from(row.tree) << 64 | u128::from(digit_of(row.key)))
}

impl Edits for Merge<'_> {
    #[inline]
    fn peek(&self) -> Option<(&[u8], EditValue<'_>)> {
        let row = self.row().filter(|row| Some(row.tree) == self.tree)?;
        Some((row.key, EditValue::Put(row.value)))
    }

    fn advance(&mut self) -> Result<(), PageError> {
        self.next()
    }
}

impl TreesOfEdits for Merge<'_> {
    fn next_tree(&mut self) -> Option<u32> {
        self.tree = self.row().map(|row| row.tree);
        self.tree
    }
}
