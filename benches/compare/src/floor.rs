//! What the disk alone allows: 4 KiB written over a file's own blocks, then fdatasync, in a loop.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{Lap, Watch};
use crate::subjects::Failure;

const BLOCK: usize = 4096;
/// Blocks of the file, all written before the loop starts.
const BLOCKS: usize = 1024;

pub(crate) struct Floor {
    file: File,
    next: usize,
}

impl Floor {
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        let file = File::create(folder.join("floor"))?;
        for block in 0..BLOCKS {
            file.write_all_at(&[0x5a; BLOCK], (block * BLOCK) as u64)?;
        }
        file.sync_all()?;
        Ok(Self { file, next: 0 })
    }

    /// Overwrites so many blocks, one after another, and adds how long each one took.
    pub(crate) fn overwrite(&mut self, times: usize, each: &mut Vec<Duration>) -> Result<Lap, Failure> {
        let watch = Watch::start();
        for _ in 0..times {
            let before = Instant::now();
            self.file.write_all_at(&[self.next as u8; BLOCK], (self.next % BLOCKS * BLOCK) as u64)?;
            self.file.sync_data()?;
            each.push(before.elapsed());
            self.next += 1;
        }
        Ok(watch.read())
    }
}
