//! What a restore does with the history of a backup: it takes trees back to a moment, while it reads. spec: BK-14
//!
//! ```text
//! trees    loaded as they are in the backup
//! kept     of which trees history is there, and from which commit on
//! times    which commit a time means
//! twins    of each key the first version behind that commit takes the place of what was loaded
//! ```
//!
//! Versions of one key stand together, in the order of commits, so that nothing is remembered but the last key.

use std::collections::BTreeMap;

use super::error::RestoreError;
use super::format::Header;
use super::past::{KEPT_BYTES, Kept};
use super::read::Chain;
use super::restore::{Filler, fill_row};
use crate::history::Moment;
use crate::history::key::{self, TwinKey};
use crate::history::ledger::{MARK_MS, decode_point_key, decode_u64};
use crate::store::Store;
use crate::txn::TreeId;

/// What is known of the history in a backup.
pub(super) struct Rewind {
    moment: Option<Moment>,
    commit_no: u64,
    made_ms: u64,
    /// Trees of the backup, and which of them have a history.
    pub(super) trees: BTreeMap<String, TreeId>,
    kept: BTreeMap<String, Kept>,
    twins: usize,
    /// The last commit that is known to be made by the time that was asked for, when, and the first one after it that is
    /// known.
    by_then: Option<(u64, u64)>,
    after: Option<u64>,
    /// The newest time of a commit.
    newest_ms: u64,
    /// The commit whose state is restored, as soon as it is known.
    target: Option<u64>,
    /// The key whose versions are being read, and whether one of them has counted.
    last: Option<(Vec<u8>, bool)>,
}

impl Rewind {
    pub(super) fn new(moment: Option<Moment>, header: &Header) -> Result<Self, RestoreError> {
        let (commit_no, made_ms) = (header.commit_no, header.wall_ms);
        let is_ahead = match moment {
            Some(Moment::Commit(at)) => at > commit_no,
            // When the backup was made a clock may have been behind: what it says of its commits counts as well.
            Some(Moment::Time(_)) | None => false,
        };
        if is_ahead {
            return Err(RestoreError::AfterBackup { newest: commit_no, made_ms });
        }
        Ok(Self {
            moment,
            commit_no,
            made_ms,
            trees: BTreeMap::new(),
            kept: BTreeMap::new(),
            twins: 0,
            by_then: None,
            after: None,
            newest_ms: 0,
            target: None,
            last: None,
        })
    }

    /// Takes what is kept of a tree.
    pub(super) fn kept(&mut self, chain: &mut Chain<'_>) -> Result<(), RestoreError> {
        let broken = || chain.damaged("what is kept is said of trees of this backup, in 24 bytes");
        let name = std::str::from_utf8(&chain.key).ok().filter(|name| self.trees.contains_key(*name));
        let name = name.filter(|_| chain.value_len == KEPT_BYTES as u64).ok_or_else(broken)?.to_owned();
        let mut bytes = [0; KEPT_BYTES];
        chain.read_value(&mut bytes)?;
        let kept = Kept::decode(&bytes).filter(|kept| kept.oldest <= self.commit_no);
        let kept = kept.ok_or_else(|| chain.damaged("history begins with a commit that is there"))?;
        self.kept.insert(name, kept);
        Ok(())
    }

    /// Takes when a commit was made.
    pub(super) fn time(&mut self, chain: &mut Chain<'_>) -> Result<(), RestoreError> {
        let broken = || chain.damaged("a time is said of a commit that is there, in 8 bytes");
        let at = decode_point_key(&chain.key).filter(|&(number, at)| number == 0 && at <= self.commit_no);
        let (_, commit_no) = at.filter(|_| chain.value_len == 8).ok_or_else(broken)?;
        let mut bytes = [0; 8];
        chain.read_value(&mut bytes)?;
        let at_ms = decode_u64(&bytes);
        self.newest_ms = self.newest_ms.max(at_ms.unwrap_or(0));
        let Some(Moment::Time(wall_ms)) = self.moment else { return Ok(()) };
        match at_ms {
            Some(at_ms) if at_ms <= wall_ms => (self.by_then, self.after) = (Some((commit_no, at_ms)), None),
            _ => {
                self.after.get_or_insert(commit_no);
            }
        }
        Ok(())
    }

    /// Returns the commit whose state is restored; `None`: that of the backup.
    pub(super) fn target(&mut self) -> Result<Option<u64>, RestoreError> {
        let Some(moment) = self.moment else { return Ok(None) };
        if let Some(target) = self.target {
            return Ok(Some(target));
        }
        if matches!(moment, Moment::Time(at_ms) if at_ms > self.made_ms.max(self.newest_ms)) {
            return Err(RestoreError::AfterBackup { newest: self.commit_no, made_ms: self.made_ms });
        }
        let target = match moment {
            Moment::Commit(commit_no) => Some(commit_no),
            Moment::Time(wall_ms) => self.by_then.map(|(commit_no, at_ms)| match self.after {
                // The first commit a second after one whose time is known has a time of its own.
                _ if wall_ms < at_ms.saturating_add(MARK_MS) => commit_no,
                Some(after) => after.saturating_sub(1).max(commit_no),
                None => self.commit_no,
            }),
        };
        let oldest = self.kept.values().map(|kept| kept.oldest).max();
        let target = match (target, oldest) {
            (Some(target), _) if target == self.commit_no => target,
            _ if self.kept.values().all(|kept| kept.oldest == self.commit_no) => {
                return Err(RestoreError::NoHistory { newest: self.commit_no, made_ms: self.made_ms });
            }
            (Some(target), Some(oldest)) if target >= oldest => target,
            (_, oldest) => return Err(RestoreError::BeforeHistory { oldest: oldest.unwrap_or(self.commit_no) }),
        };
        self.target = Some(target);
        Ok(Some(target))
    }

    /// Begins the twin of a tree. All trees are loaded by now.
    pub(super) fn begin_twin(
        &mut self,
        name: &str,
        chain: &Chain<'_>,
        filler: &mut Filler<'_>,
    ) -> Result<TreeId, RestoreError> {
        let tree = self.trees.get(name).filter(|_| self.kept.contains_key(name));
        let tree = *tree.ok_or_else(|| chain.damaged("a twin is of a tree whose history is kept"))?;
        if self.target()?.is_some() && self.twins == 0 {
            filler.settle()?;
        }
        self.twins += 1;
        self.last = None;
        Ok(tree)
    }

    /// Takes a version of a key of that tree.
    pub(super) fn version(
        &mut self,
        tree: TreeId,
        chain: &mut Chain<'_>,
        filler: &mut Filler<'_>,
    ) -> Result<(), RestoreError> {
        let found = key::decode(&chain.key).filter(|found| (1..=self.commit_no).contains(&found.until));
        let found = found.filter(|found| found.is_value || chain.value_len == 0);
        let TwinKey { key, until, is_value } =
            found.ok_or_else(|| chain.damaged("an entry of a twin says what a commit that is there superseded"))?;
        let Some(target) = self.target()? else { return Ok(()) };
        let has_counted = self.last.as_ref().is_some_and(|(last, counted)| *last == key && *counted);
        let counts = until > target && !has_counted;
        if counts {
            if is_value {
                fill_row(filler, tree, &key, chain)?;
            } else {
                filler.delete(tree, &key)?;
            }
        }
        self.last = Some((key, counts || has_counted));
        Ok(())
    }

    /// Says what the backup should have had, and switches history on where it was. Returns trees without one.
    pub(super) fn finish(&mut self, chain: &Chain<'_>, store: &Store) -> Result<Vec<String>, RestoreError> {
        self.target()?;
        if self.twins != self.kept.len() {
            return Err(chain.damaged("every tree whose history is kept has a twin"));
        }
        for (name, kept) in &self.kept {
            store.set_history(self.trees[name], Some(kept.keep))?;
        }
        let is_rewound = self.target.is_some_and(|target| target != self.commit_no);
        let without = self.trees.keys().filter(|name| is_rewound && !self.kept.contains_key(*name));
        Ok(without.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Totals;
    use super::super::read::{ROW, TREE, TREE_END, made};
    use super::super::restore::{RestoreAt, restore_at};
    use super::*;
    use crate::env::Env;
    use crate::history::ledger::{mark_key, point_key};
    use crate::options::Options;

    type Row<'r> = (&'r [u8], &'r [u8]);

    /// A backup that nobody wrote: its seals hold, and its trees are these.
    fn backup(trees: &[(&[u8], Vec<Row<'_>>)]) -> Vec<u8> {
        let (mut out, mut totals) = (Vec::new(), Totals::default());
        for (name, rows) in trees {
            out.push(TREE);
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name);
            for (key, value) in rows {
                out.push(ROW);
                out.extend_from_slice(&(key.len() as u16).to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
                totals.bytes += (key.len() + value.len()) as u64;
            }
            out.push(TREE_END);
            out.extend_from_slice(&(rows.len() as u64).to_le_bytes());
            totals.trees += 1;
            totals.rows += rows.len() as u64;
        }
        made(&out, 1, None, &totals)
    }

    fn twin_key(key: &[u8], until: u64, is_value: bool) -> Vec<u8> {
        let mut out = Vec::new();
        key::push_twin_key(&mut out, key, until, is_value);
        out
    }

    fn restored(trees: &[(&[u8], Vec<Row<'_>>)], moment: Moment) -> Result<Option<Vec<u8>>, RestoreError> {
        let (env, options) = (Env::memory(1), Options::unencrypted());
        let bytes = backup(trees);
        let at = RestoreAt::new(moment);
        restore_at(env.clone(), options.clone(), vec![&mut &bytes[..]], &options.key, at, &mut |_| {})?;
        let store = Store::open(env, options).expect("a whole store");
        let tree = store.tree("t").expect("a good name");
        Ok(store.read().get(tree, b"k").expect("reads").map(|value| value.to_vec()))
    }

    fn rule(trees: &[(&[u8], Vec<Row<'_>>)]) -> &'static str {
        match restored(trees, Moment::Commit(5)) {
            Err(RestoreError::Damaged { damage, .. }) => damage.rule,
            other => panic!("{other:?}"),
        }
    }

    /// spec: BK-13, BK-14
    #[test]
    fn the_first_version_behind_a_moment_counts_and_a_time_means_the_last_commit_by_then() {
        let kept = Kept { keep: crate::history::History::ALL, oldest: 2 }.encode();
        let versions = [(3, &b"two"[..]), (6, b"five"), (8, b"")];
        let entries = versions.map(|(until, value)| (twin_key(b"k", until, !value.is_empty()), value));
        let marks = [3, 6, 7].map(|commit_no| (mark_key(commit_no), (commit_no * 1000).to_le_bytes()));
        let trees: [(&[u8], Vec<Row<'_>>); 4] = [
            (b"t", vec![(b"k", b"nine")]),
            (b"\xfd", vec![(b"t", &kept)]),
            (b"\xfe", marks.iter().map(|(key, value)| (&key[..], &value[..])).collect()),
            (b"\xfft", entries.iter().map(|(key, value)| (&key[..], *value)).collect()),
        ];
        let commits = [(2, Some("two")), (3, Some("five")), (5, Some("five")), (6, None), (7, None), (8, Some("nine"))];
        for (at, want) in commits.into_iter().chain([(9, Some("nine"))]) {
            let found = restored(&trees, Moment::Commit(at)).expect("it is there");
            assert_eq!(found.as_deref(), want.map(str::as_bytes), "{at}");
        }
        let times =
            [(3000, Some("five")), (5999, Some("five")), (6000, None), (8000, Some("nine")), (9000, Some("nine"))];
        for (at_ms, want) in times {
            let found = restored(&trees, Moment::Time(at_ms)).expect("it is there");
            assert_eq!(found.as_deref(), want.map(str::as_bytes), "at {at_ms}");
        }
        for moment in [Moment::Commit(1), Moment::Time(2999)] {
            let refused = restored(&trees, moment);
            assert!(matches!(refused, Err(RestoreError::BeforeHistory { oldest: 2 })), "{refused:?}");
        }
        for moment in [Moment::Commit(10), Moment::Time(9001)] {
            let refused = restored(&trees, moment);
            assert!(matches!(refused, Err(RestoreError::AfterBackup { newest: 9, .. })), "{refused:?}");
        }
        let refused = restored(&trees[..1], Moment::Commit(8));
        assert!(matches!(refused, Err(RestoreError::NoHistory { newest: 9, .. })), "{refused:?}");
    }

    /// spec: BK-13
    #[test]
    fn a_history_that_breaks_its_rules_is_refused() {
        let says = |oldest| Kept { keep: crate::history::History::ALL, oldest }.encode();
        let (good, late) = (says(2), says(10));
        let t: (&[u8], Vec<Row<'_>>) = (b"t", vec![(b"k", b"v")]);
        let kept: (&[u8], Vec<Row<'_>>) = (b"\xfd", vec![(b"t", &good)]);
        let twin = |key: &[u8], value: &[u8]| rule(&[t.clone(), kept.clone(), (b"\xfft", vec![(key, value)])]);
        let entry = "an entry of a twin says what a commit that is there superseded";
        for key in [twin_key(b"k", 10, true), twin_key(b"k", 0, true), b"k".to_vec(), vec![0xff; 20]] {
            assert_eq!(twin(&key, b"v"), entry);
        }
        assert_eq!(twin(&twin_key(b"k", 9, false), b"v"), entry);
        assert_eq!(twin(&[0x80; 1162], b"v"), "a key has at most 1024 bytes, one of a twin 1161");
        let whose = "what is kept is said of trees of this backup, in 24 bytes";
        for row in [(&b"u"[..], &good[..]), (b"t", &good[..23]), (b"\xff", &good)] {
            assert_eq!(rule(&[t.clone(), (b"\xfd", vec![row])]), whose);
        }
        assert_eq!(rule(&[t.clone(), (b"\xfd", vec![(b"t", &late)])]), "history begins with a commit that is there");
        assert_eq!(rule(&[t.clone(), kept.clone()]), "every tree whose history is kept has a twin");
        let of = "a twin is of a tree whose history is kept";
        assert_eq!(rule(&[t.clone(), (b"\xfft", vec![])]), of);
        assert_eq!(rule(&[t.clone(), kept.clone(), (b"\xffu", vec![])]), of);
        let time = "a time is said of a commit that is there, in 8 bytes";
        for (key, value) in [(mark_key(10), &[0; 8][..]), (mark_key(3), &[0; 7]), (point_key(1, 3), &[0; 8])] {
            assert_eq!(rule(&[t.clone(), kept.clone(), (b"\xfe", vec![(&key, value)])]), time);
        }
        let name = "a tree's name is UTF-8 of 1 to 512 bytes, or says what it is of history";
        for wrong in [&b"\xff"[..], b"\xfdt", b"\xfe\xfe", b"\xff\xff", b"\xf0"] {
            assert_eq!(rule(&[t.clone(), (wrong, vec![])]), name);
        }
    }
}
