//! What the disk alone allows: 4 KiB written over a file's own blocks, then fdatasync, in a loop.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::measure::{Load, Timing};

const BLOCK: usize = 4096;
/// Blocks of the file, all written before the loop starts.
const BLOCKS: usize = 1024;

pub(crate) fn overwrite(folder: &Path, load: &Load) -> Result<Timing, Box<dyn Error>> {
    let file = File::create(folder.join("floor"))?;
    for block in 0..BLOCKS {
        file.write_all_at(&[0x5a; BLOCK], (block * BLOCK) as u64)?;
    }
    file.sync_all()?;
    let mut each = Vec::with_capacity(load.singles);
    let started = Instant::now();
    for i in 0..load.singles {
        let before = Instant::now();
        file.write_all_at(&[i as u8; BLOCK], (i % BLOCKS * BLOCK) as u64)?;
        file.sync_data()?;
        each.push(before.elapsed());
    }
    Ok(Timing::new(load.singles, started.elapsed(), each))
}
