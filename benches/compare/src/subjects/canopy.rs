//! canopydb: a copy-on-write B+tree behind a write-ahead log.

use std::path::Path;

use canopydb::{Database, DbOptions, EnvOptions, Error, ReadTransaction, Tree, WriteTransaction};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

const ROWS: &[u8] = b"rows";

pub(super) fn spec() -> Spec {
    Spec {
        id: "canopydb",
        title: "canopydb",
        settings: "with its log, `commit_with(true)` or `(false)`; optimistic transactions for single rows; no page \
                   checksums, 64 MiB checkpoints, its defaults",
        open,
        open_by_reads: None,
    }
}

fn open(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let mut options = EnvOptions::new(folder);
    options.page_cache_size = cache_bytes;
    let database = Database::with_options(options, DbOptions::default())?;
    let tx = database.begin_write()?;
    tx.get_or_create_tree(ROWS)?;
    tx.commit_with(true)?;
    Ok(Box::new(database))
}

fn put(tx: WriteTransaction, rows: &mut dyn Iterator<Item = Row>, sync: bool) -> Result<(), Error> {
    {
        let mut tree = tx.get_or_create_tree(ROWS)?;
        for (key, value) in rows {
            tree.insert(&key, &value)?;
        }
    }
    tx.commit_with(sync).map(drop)
}

impl Subject for Database {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        loop {
            let tx = if rows.len() == 1 { self.begin_write_concurrent()? } else { self.begin_write()? };
            match put(tx, &mut rows.iter().copied(), durability == Durability::Durable) {
                Err(Error::WriteConflict) => {}
                result => return Ok(result?),
            }
        }
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        Ok(put(self.begin_write()?, rows, true)?)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let tx = self.begin_write()?;
        {
            let mut tree = tx.get_or_create_tree(ROWS)?;
            for key in keys {
                tree.delete(key)?;
            }
        }
        tx.commit_with(true)?;
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        Database::compact(self)?;
        Ok(true)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => {
                let tx = self.begin_read()?;
                work(&mut OneTree(tree(&tx)?))
            }
            Views::PerGet => work(&mut TransactionPerGet(self)),
        }
    }
}

fn tree(tx: &ReadTransaction) -> Result<Tree<'_>, Failure> {
    Ok(tx.get_tree(ROWS)?.ok_or("the tree is gone")?)
}

struct OneTree<'t>(Tree<'t>);

impl Reader for OneTree<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        Ok(self.0.get(key)?.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        for row in self.0.range(from.as_slice()..)?.take(count) {
            let (key, value) = row?;
            see(&key, &value);
        }
        Ok(())
    }
}

struct TransactionPerGet<'d>(&'d Database);

impl Reader for TransactionPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        OneTree(tree(&self.0.begin_read()?)?).get(key, see)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        OneTree(tree(&self.0.begin_read()?)?).range(from, count, see)
    }
}
