//! The app: what somebody does with it in a day, and what must be in the store for it.

use std::collections::BTreeMap;

use blazedb_engine::{ReadError, Store, TreeId, WriteTransaction};

use crate::Rng;

/// Files that are attached most of the time.
pub(super) const FILES: usize = 30;

type Id = [u8; 16];

/// One note as it must be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Note {
    seed: u64,
    len: usize,
    changed: u64,
}

/// All of it, kept outside of the store.
#[derive(Clone, Default)]
pub(super) struct Truth {
    notes: BTreeMap<Id, Note>,
    /// By time of the last change, as the store's index has it.
    by_time: BTreeMap<(u64, Id), ()>,
    files: BTreeMap<u64, Note>,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
    ticks: u64,
}

/// Trees of the app.
pub(super) struct Trees {
    pub(super) notes: TreeId,
    by_time: TreeId,
    files: TreeId,
}

impl Trees {
    pub(super) fn open(store: &Store) -> Result<Self, String> {
        let tree = |name| store.tree(name).map_err(|e| e.to_string());
        Ok(Self { notes: tree("notes")?, by_time: tree("notes by time")?, files: tree("files")? })
    }
}

/// A value that follows from its seed. Half of it is text that repeats.
fn value(note: &Note) -> Vec<u8> {
    let mut rng = Rng::new(note.seed);
    let mut bytes = Vec::with_capacity(note.len + 8);
    while bytes.len() < note.len {
        bytes.extend_from_slice(&rng.draw().to_le_bytes());
    }
    bytes.truncate(note.len);
    bytes
}

fn index_key(changed: u64, id: &Id) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&changed.to_be_bytes());
    key[8..].copy_from_slice(id);
    key
}

impl Truth {
    pub(super) fn notes(&self) -> usize {
        self.notes.len()
    }

    /// Writes a note of 60 to 900 bytes, one that is new or another version of one that is there.
    fn put(&mut self, tx: &mut WriteTransaction, trees: &Trees, id: Id, rng: &mut Rng) -> Result<(), String> {
        self.ticks += 1;
        let note = Note { seed: rng.draw(), len: 60 + rng.below(29) * rng.below(30), changed: self.ticks };
        let failed = |e: blazedb_engine::WriteError| e.to_string();
        tx.put(trees.notes, &id, &value(&note)).map_err(failed)?;
        tx.put(trees.by_time, &index_key(note.changed, &id), b"").map_err(failed)?;
        self.bytes += (16 + 24 + note.len) as u64;
        self.by_time.insert((note.changed, id), ());
        if let Some(before) = self.notes.insert(id, note) {
            tx.delete(trees.by_time, &index_key(before.changed, &id)).map_err(failed)?;
            self.by_time.remove(&(before.changed, id));
            self.bytes -= (16 + 24 + before.len) as u64;
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, tx: &mut WriteTransaction, trees: &Trees, rng: &mut Rng) -> Result<(), String> {
        let (a, b) = (rng.draw(), rng.draw());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&a.to_be_bytes());
        id[8..].copy_from_slice(&b.to_be_bytes());
        self.put(tx, trees, id, rng)
    }

    /// Some note; the ones that were changed last are the likeliest.
    fn some(&self, rng: &mut Rng) -> Option<Id> {
        if rng.chance(60) {
            return self.by_time.keys().rev().nth(rng.below(100)).map(|(_, id)| *id);
        }
        let mut from = [0; 16];
        from[..8].copy_from_slice(&rng.draw().to_be_bytes());
        self.notes.range(from..).next().or_else(|| self.notes.iter().next()).map(|(id, _)| *id)
    }

    pub(super) fn edit(&mut self, tx: &mut WriteTransaction, trees: &Trees, rng: &mut Rng) -> Result<(), String> {
        match self.some(rng) {
            Some(id) => self.put(tx, trees, id, rng),
            None => self.insert(tx, trees, rng),
        }
    }

    fn remove(&mut self, tx: &mut WriteTransaction, trees: &Trees, id: Id) -> Result<(), String> {
        let Some(note) = self.notes.remove(&id) else { return Ok(()) };
        self.by_time.remove(&(note.changed, id));
        self.bytes -= (16 + 24 + note.len) as u64;
        tx.delete(trees.notes, &id).map_err(|e| e.to_string())?;
        tx.delete(trees.by_time, &index_key(note.changed, &id)).map_err(|e| e.to_string())
    }

    pub(super) fn delete(&mut self, tx: &mut WriteTransaction, trees: &Trees, rng: &mut Rng) -> Result<(), String> {
        self.some(rng).map_or(Ok(()), |id| self.remove(tx, trees, id))
    }

    /// Deletes the note that nobody has changed for longest.
    pub(super) fn delete_oldest(&mut self, tx: &mut WriteTransaction, trees: &Trees) -> Result<(), String> {
        let oldest = self.by_time.keys().next().map(|(_, id)| *id);
        oldest.map_or(Ok(()), |id| self.remove(tx, trees, id))
    }

    /// Adds a file of 20 to 120 KB, and deletes the oldest one where there are enough.
    pub(super) fn attach(&mut self, tx: &mut WriteTransaction, trees: &Trees, rng: &mut Rng) -> Result<(), String> {
        self.ticks += 1;
        let file = Note { seed: rng.draw(), len: 20_000 + rng.below(100_000), changed: self.ticks };
        tx.put(trees.files, &self.ticks.to_be_bytes(), &value(&file)).map_err(|e| e.to_string())?;
        self.files.insert(self.ticks, file);
        self.bytes += (8 + file.len) as u64;
        if self.files.len() > FILES
            && let Some((key, gone)) = self.files.pop_first()
        {
            self.bytes -= (8 + gone.len) as u64;
            tx.delete(trees.files, &key.to_be_bytes()).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// What somebody looks at: the 30 newest notes, 10 others, a file.
    pub(super) fn look(&self, store: &Store, trees: &Trees, rng: &mut Rng) -> Result<(), String> {
        let view = store.read();
        let newest = view.range(trees.by_time, ..).rev().take(30);
        let found: Result<Vec<_>, ReadError> = newest.map(|item| item.map(|(key, _)| key)).collect();
        let found = found.map_err(|e| e.to_string())?;
        let wanted = self.by_time.keys().rev().take(30).map(|(changed, id)| index_key(*changed, id));
        if !found.iter().map(|key| &key[..]).eq(wanted.clone().map(|key| key.to_vec())) {
            return Err("the newest notes are not those that were written last".to_owned());
        }
        for key in found {
            let id: Id = key[8..].try_into().map_err(|_| "an index key has an id")?;
            self.check(&view, trees, &id)?;
        }
        for _ in 0..10 {
            if let Some(id) = self.some(rng) {
                self.check(&view, trees, &id)?;
            }
        }
        if let Some((key, file)) = self.files.iter().nth(rng.below(self.files.len().max(1))) {
            let found = view.get(trees.files, &key.to_be_bytes()).map_err(|e| e.to_string())?;
            if found.as_deref() != Some(&value(file)[..]) {
                return Err(format!("file {key} is not as it was written"));
            }
        }
        Ok(())
    }

    fn check(&self, view: &blazedb_engine::ReadView, trees: &Trees, id: &Id) -> Result<(), String> {
        let found = view.get(trees.notes, id).map_err(|e| e.to_string())?;
        let wanted = self.notes.get(id).map(value);
        if found.as_deref() == wanted.as_deref() {
            Ok(())
        } else {
            Err(format!("note {id:02x?} is not as it was written"))
        }
    }

    /// Compares everything.
    pub(super) fn compare(&self, store: &Store, trees: &Trees) -> Result<(), String> {
        let view = store.read();
        for id in self.notes.keys() {
            self.check(&view, trees, id)?;
        }
        for (tree, wanted, what) in [
            (trees.notes, self.notes.len(), "notes"),
            (trees.by_time, self.by_time.len(), "entries of the index"),
            (trees.files, self.files.len(), "files"),
        ] {
            let found = view.len(tree).map_err(|e| e.to_string())?;
            if found != wanted as u64 {
                return Err(format!("{found} {what} instead of {wanted}"));
            }
        }
        Ok(())
    }
}
