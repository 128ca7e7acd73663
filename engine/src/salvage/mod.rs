//! Salvage: everything that can still be read of a damaged store, into a new one, and what could not.
//!
//! ```text
//! header    the newest one that holds; the older one where the newest one's tree of roots cannot be read
//! log       commits after it, up to the first damage
//! roots     and names: leaves in use that no branch leads to any more say themselves what they are
//! trees     walked from their roots; what cannot be read is a hole, with the keys that it is for
//! orphans   pages in use that no walk has reached: they lie below holes. Each finds its hole by level and keys
//! target    made like a restored store (`backup::Making`): it has its name when it is whole
//! ```
//!
//! The damaged file is opened for reading, locked, and never written. Nothing is left out silently: each hole is in the
//! report, by tree and keys, with what was found again below it; and each tree with as many rows as it should have had.
//!
//! A page below a hole says which keys it has and not which tree it is of. Where holes of two trees would take it, it is
//! in neither: its rows are in a tree of their own, `lost+found/1` and on, and the report says so.

mod loose;
mod report;
mod saving;

use std::error::Error;
use std::io;
use std::sync::Arc;

pub use self::report::{Loss, SalvageError, SalvageProgress, SalvageReport, SalvagedTree};
use self::saving::Saving;
use crate::backup::Making;
use crate::btree::{CellValue, Met, Subtree, TreeRoot, walk_damaged};
use crate::env::{Env, LockOutcome, OpenMode, StorageFile};
use crate::error::{CorruptionKind, OpenError};
use crate::keys::FileKeys;
use crate::open::read_headers;
use crate::options::Options;
use crate::pager::{MissFrom, PageError, Pages, Space};
use crate::recover::survey_damaged;
use crate::snapshot::{Layers, Root};
use crate::store::Store;
use crate::superblock::{Reach, Superblock};

/// What is done with a new store before it gets its name.
pub type SalvageFinish<'f> = dyn FnMut(&Store, &mut SalvageReport) -> Result<(), Box<dyn Error + Send + Sync>> + 'f;

/// Copies everything that can be read of a damaged store into a new one. `from` is opened with `options`, for reading;
/// it must not be open for writing anywhere. `to` gets its name when all is there; `into` says how it is made. The report
/// says what was lost, and is to be read: `Ok` does not mean that nothing was.
pub fn salvage(
    from: Env,
    options: &Options,
    to: Env,
    into: Options,
    progress: &mut dyn FnMut(SalvageProgress),
) -> Result<SalvageReport, SalvageError> {
    salvage_then(from, options, to, into, progress, &mut |_, _| Ok(()))
}

/// As [`salvage`]; when everything is in the new store, and before it gets its name, `finish` may change it and the report.
pub fn salvage_then(
    from: Env,
    options: &Options,
    to: Env,
    into: Options,
    progress: &mut dyn FnMut(SalvageProgress),
    finish: &mut SalvageFinish<'_>,
) -> Result<SalvageReport, SalvageError> {
    let making = Making::prepare(&to)?;
    let damaged = Damaged::open(&from, options)?;
    progress(SalvageProgress::default());
    making.finish(into, |store| {
        let mut saving = Saving::new(&damaged, store, progress);
        saving.all()?;
        let mut report = saving.report;
        // An empty store would look like what is left.
        if report.rows == 0 && !report.losses.is_empty() {
            return Err(SalvageError::Nothing(Box::new(report)));
        }
        finish(store, &mut report).map_err(SalvageError::Finish)?;
        Ok(report)
    })
}

/// A store that may be damaged, as far as it can be opened.
struct Damaged {
    layers: Layers,
    space: Result<Space, String>,
    log_error: Option<(u64, String)>,
    roots_error: Option<String>,
    /// Leaves of the tree of roots that its branches no longer lead to.
    loose_roots: Vec<u64>,
    log_commit_no: u64,
    older_header: bool,
    /// Pages that the file can have.
    end: u64,
    /// Keeps the lock.
    _file: Arc<dyn StorageFile>,
}

impl Damaged {
    fn open(env: &Env, options: &Options) -> Result<Self, OpenError> {
        let path = env.describe();
        let io = |during| move |source| OpenError::Io { during, source };
        let file = env.storage.open(&env.name, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound { path: path.clone() },
            _ => io("opening the file")(error),
        })?;
        // A system that locks only what is open for writing does not say no.
        if matches!(file.try_lock(), Ok(LockOutcome::Held)) {
            return Err(OpenError::Locked { path, pid: None, own_process: false });
        }
        let (headers, keys, lost) = read_headers(&file, &options.key, &path)?;
        let len = file.len().map_err(io("reading the file's length"))?;
        let durable = headers.iter().map(|header| header.durable_floor).max().unwrap_or(0);
        let mut best: Option<(Superblock, Opened)> = None;
        let mut older_header = lost.is_some();
        for (i, header) in headers.into_iter().enumerate() {
            let opened = Opened::open(&file, &header, &keys, options, len)?;
            let is_whole = opened.error.is_none();
            if best.is_none() || is_whole {
                older_header |= i > 0;
                best = Some((header, opened));
            }
            if is_whole {
                break;
            }
        }
        let (header, opened) = best.expect("there is one header at least");
        let Opened { root, space, end, error: roots_error, loose_roots, .. } = opened;
        let (table, log_commit_no, end_of_log) = survey_damaged(env, &header, &keys, options);
        let layers = Layers { root: Arc::new(root), frozen: None, active: Arc::new(table) };
        let why = match end_of_log {
            // Nothing is lost that somebody else can read.
            Err(OpenError::Io { during, source }) if source.kind() == io::ErrorKind::PermissionDenied => {
                return Err(OpenError::Io { during, source });
            }
            Err(error) => Some(chain(&error)),
            // The older header was taken, and the log does not reach as far as the newest one.
            Ok(_) if log_commit_no < durable => Some("it ends before commits that were durable".into()),
            Ok(end) => match lost.map_or(Reach::Surely, |lost| lost.reach(&header, end.last_commit)) {
                Reach::Surely => None,
                Reach::NotUpTo(commit) => Some(format!(
                    "the newest header cannot be read, and the log does not reach commit {commit}, which that seems to name"
                )),
                Reach::Unknown => Some(
                    "one of the two headers cannot be read, and the log does not show that it reaches what the newest one \
                     named"
                        .into(),
                ),
            },
        };
        let log_error = why.map(|why| (log_commit_no, why));
        Ok(Self { layers, space, log_error, roots_error, loose_roots, log_commit_no, older_header, end, _file: file })
    }

    fn root(&self) -> &Root {
        &self.layers.root
    }
}

/// What a header names, as far as it can be read.
struct Opened {
    root: Root,
    space: Result<Space, String>,
    end: u64,
    /// Rows of the tree of roots that were read.
    roots: u64,
    /// Why some could not be.
    error: Option<String>,
    loose_roots: Vec<u64>,
}

impl Opened {
    fn open(
        file: &Arc<dyn StorageFile>,
        header: &Superblock,
        keys: &FileKeys,
        options: &Options,
        file_bytes: u64,
    ) -> Result<Self, OpenError> {
        let page_bytes = header.page_bytes as usize;
        let pages = Pages::new(Arc::clone(file), keys.clone(), page_bytes, options.memory.cache_bytes, MissFrom::File)
            .map_err(|source| OpenError::Io { during: "making room for the page cache", source })?;
        let root = Root {
            checkpoint: header.sequence,
            commit_no: header.commit_no,
            trees: vec![TreeRoot::default()],
            roots: header.roots,
            space: header.space,
            pages: Arc::new(pages),
            map: None,
            history_floor: 0,
        };
        let space = match header.space {
            Some(at) => Space::load(&root, at, header.sequence).map_err(|error| why(&error)),
            None => Ok(Space::new(page_bytes, header.sequence + 1)),
        };
        let end = header.page_count.min(file_bytes / u64::from(header.page_bytes));
        let mut opened = Self { root, space, end, roots: 0, error: None, loose_roots: Vec::new() };
        opened.read_roots();
        Ok(opened)
    }

    fn read_roots(&mut self) {
        let mut found = Vec::new();
        if let Some(at) = subtree_of(&self.root.roots) {
            let walked: Result<(), ()> = walk_damaged(&self.root, at, &mut |met| {
                match met {
                    Met::Row(key, CellValue::Inline(value)) => found.extend(loose::read_root(key, value)),
                    Met::Hole(hole) => self.error = Some(why(&hole.error)),
                    Met::Row(..) | Met::Page(_) => {}
                }
                Ok(())
            });
            let Ok(()) = walked else { unreachable!("nothing here fails") };
        }
        if let (Some(_), Ok(space)) = (&self.error, &self.space) {
            for leaf in loose::root_leaves(&self.root, space, self.end) {
                self.loose_roots.push(leaf.no);
                found.extend(leaf.rows.into_iter().map(|(_, row)| row));
            }
        }
        for (tree, root) in found {
            let trees = &mut self.root.trees;
            trees.resize(trees.len().max(tree as usize + 1), TreeRoot::default());
            if trees[tree as usize] == TreeRoot::default() {
                trees[tree as usize] = root;
                self.roots += 1;
            }
        }
        if self.roots == self.root.roots.entries {
            self.error = None;
        }
    }
}

fn subtree_of(root: &TreeRoot) -> Option<Subtree> {
    let page = root.page?;
    Some(Subtree { page, level: root.height.checked_sub(1)?, low: Vec::new(), high: None })
}

fn why(error: &PageError) -> String {
    match error {
        PageError::Corruption(corruption) => match corruption.what {
            CorruptionKind::Page { rule, .. } | CorruptionKind::Node { rule, .. } => rule.to_owned(),
            _ => corruption.to_string(),
        },
        PageError::DiskFull { during, source } | PageError::Io { during, source } => format!("{during}: {source}"),
    }
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
