//! redb: a copy-on-write B+tree.

use std::path::Path;

use redb::{Durability as Level, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::{Durability, Failure, Key, Reader, Row, Spec, Subject, Views, Work};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

pub(super) fn spec() -> Spec {
    Spec {
        id: "redb",
        title: "redb",
        settings: "`Durability::Immediate`, or `None` where buffered",
        open,
        open_by_reads: None,
    }
}

fn open(folder: &Path, cache_bytes: usize) -> Result<Box<dyn Subject>, Failure> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    Ok(Box::new(builder.create(folder.join("redb"))?))
}

fn put(database: &redb::Database, rows: &mut dyn Iterator<Item = Row>, level: Level) -> Result<(), Failure> {
    let mut tx = database.begin_write()?;
    tx.set_durability(level)?;
    {
        let mut table = tx.open_table(ROWS)?;
        for (key, value) in rows {
            table.insert(key.as_slice(), value.as_slice())?;
        }
    }
    tx.commit()?;
    Ok(())
}

impl Subject for redb::Database {
    fn commit(&self, rows: &[Row], durability: Durability) -> Result<(), Failure> {
        let level = match durability {
            Durability::Durable => Level::Immediate,
            Durability::Buffered => Level::None,
        };
        put(self, &mut rows.iter().copied(), level)
    }

    fn bulk_load(&self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failure> {
        put(self, rows, Level::Immediate)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), Failure> {
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(ROWS)?;
            for key in keys {
                table.remove(key.as_slice())?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Failure> {
        // Says whether it has done anything; again until it has not.
        while redb::Database::compact(self)? {}
        Ok(true)
    }

    fn with_reader(&self, views: Views, work: Work<'_>) -> Result<(), Failure> {
        match views {
            Views::One => work(&mut OneTable(self.begin_read()?.open_table(ROWS)?)),
            Views::PerGet => work(&mut TransactionPerGet(self)),
        }
    }
}

struct OneTable(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Reader for OneTable {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        let found = self.0.get(key.as_slice())?;
        Ok(found.map(|value| see(value.value())).is_some())
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        for row in self.0.range(from.as_slice()..)?.take(count) {
            let (key, value) = row?;
            see(key.value(), value.value());
        }
        Ok(())
    }
}

struct TransactionPerGet<'d>(&'d redb::Database);

impl Reader for TransactionPerGet<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        OneTable(self.0.begin_read()?.open_table(ROWS)?).get(key, see)
    }

    fn range(&mut self, from: &Key, count: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
        OneTable(self.0.begin_read()?.open_table(ROWS)?).range(from, count, see)
    }
}
