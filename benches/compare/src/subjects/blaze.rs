//! BlazeDB's engine, encrypted (its default) and not.

use std::ops::Bound;
use std::path::Path;

use blazedb_engine::{Durability as Level, Env, Memory, Options, PageAccess, ReadView, Store, TreeId};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

pub(crate) const ENCRYPTED: &str = "blazedb";
pub(crate) const UNENCRYPTED: &str = "blazedb-plain";
/// The two that are measured with the preset for clients.
pub(crate) const CLIENT_SUBJECTS: [&str; 2] = [ENCRYPTED, UNENCRYPTED];

const FILE: &str = "store.blaze";
/// A raw key: what a passphrase costs is paid once per open and is not what is measured.
const KEY: [u8; 32] = [7; 32];
/// Commits that wait in memory for the next checkpoint. RocksDB's memtable and canopydb's checkpoints are 64 MiB by
/// default; while a checkpoint runs there are two of ours.
pub(crate) const TABLE_BYTES: usize = 32 << 20;
/// Log before the next checkpoint, up to three times that on disk. fjall and canopydb keep up to 512 and 256 MiB.
pub(crate) const LOG_BYTES: u64 = 64 << 20;

pub(super) fn specs() -> Vec<Spec> {
    vec![
        Spec {
            id: ENCRYPTED,
            title: "BlazeDB",
            settings: "encrypted with AES-256-GCM under a raw key",
            open: |folder, cache| open(folder, Options::raw_key(KEY), cache),
            open_by_reads: None,
        },
        Spec {
            id: UNENCRYPTED,
            title: "BlazeDB, unencrypted",
            settings: "pages through a read-only mapping; by positioned reads in the second line of cold gets",
            open: |folder, cache| open(folder, Options::unencrypted(), cache),
            open_by_reads: Some(|folder, cache| open(folder, Options::unencrypted().access(PageAccess::Read), cache)),
        },
    ]
}

/// Opens the store in the preset for clients.
pub(crate) fn open_client(id: &str, folder: &Path) -> Result<Box<dyn Subject>, Failure> {
    Ok(Box::new(Blaze::of(open_client_store(folder, client_options(id))?)?))
}

/// The same, for what other stores have no call for.
pub(crate) fn open_client_store(folder: &Path, options: Options) -> Result<Store, Failure> {
    Ok(Store::open(Env::file(folder.join(FILE)), options)?)
}

pub(crate) fn client_options(id: &str) -> Options {
    let options = if id == ENCRYPTED { Options::raw_key(KEY) } else { Options::unencrypted() };
    options.memory(Memory::CLIENT)
}

fn open(folder: &Path, options: Options, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let memory = Memory { cache_bytes, table_bytes: TABLE_BYTES, log_bytes: LOG_BYTES };
    Ok(Box::new(Blaze::of(Store::open(Env::file(folder.join(FILE)), options.memory(memory))?)?))
}

struct Blaze {
    store: Store,
    tree: TreeId,
}

impl Blaze {
    fn of(store: Store) -> Result<Self, Failure> {
        let tree = store.tree("rows")?;
        Ok(Self { store, tree })
    }

    fn put(&self, rows: &[Row], level: Level) -> Result<(), Failure> {
        let mut tx = self.store.write();
        for (key, value) in rows {
            tx.put(self.tree, key, value)?;
        }
        tx.commit_with(level, |_| Ok(()))?;
        Ok(())
    }
}

impl Subject for Blaze {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        let level = match durability {
            Durability::Durable => Level::Durable,
            Durability::Buffered => Level::Buffered,
        };
        self.put(rows, level)
    }

    fn commit_in_memory(&self, row: &Row) -> Option<Result<(), Failure>> {
        Some(self.put(std::slice::from_ref(row), Level::None))
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        let mut load = self.store.loader();
        for (key, value) in rows {
            load.put(self.tree, &key, &value)?;
        }
        load.finish()?;
        Ok(())
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let mut tx = self.store.write();
        keys.iter().try_for_each(|key| tx.delete(self.tree, key))?;
        tx.commit()?;
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        Ok(self.store.vacuum(0, &mut |_| {})?.finished)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => work(&mut OneView { view: self.store.read(), tree: self.tree }),
            Views::PerGet => work(&mut ViewPerGet(self)),
        }
    }

    fn commits_and_syncs(&self) -> Option<(u64, u64)> {
        let stats = self.store.stats();
        Some((stats.commits, stats.syncs))
    }

    fn checkpoint(&self) -> Result<(), Failure> {
        Ok(self.store.checkpoint()?)
    }

    fn log_is_full(&self) -> Option<bool> {
        let stats = self.store.stats();
        let nearly = |bytes: u64| bytes - bytes / 16;
        Some(stats.table_bytes >= nearly(stats.table_bytes_max) || stats.log_bytes >= nearly(LOG_BYTES))
    }
}

struct OneView {
    view: ReadView,
    tree: TreeId,
}

impl Reader for OneView {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.view.get_with(self.tree, key, see)?.is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        let mut cursor = self.view.range(self.tree, (Bound::Included(&from[..]), Bound::Unbounded));
        for _ in 0..count {
            if !cursor.advance()? {
                break;
            }
            see(cursor.key(), cursor.value());
        }
        Ok(())
    }
}

struct ViewPerGet<'s>(&'s Blaze);

impl Reader for ViewPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        OneView { view: self.0.store.read(), tree: self.0.tree }.get(key, see)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        OneView { view: self.0.store.read(), tree: self.0.tree }.range(from, count, see)
    }
}
