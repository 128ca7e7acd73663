//! Keys of an open store: the slots, and the change of the master key while the store is in use.
//!
//! ```text
//! announce  both headers: slots wrap the new master key, which wraps the one before it (`PreviousKey`)
//! seal      from here on pages and groups are sealed with the new key, and say so
//! walk      steps, each of them a checkpoint: pages of the old key are copied, tree by tree, budgeted
//! sealed    the checkpoint that ends the walk writes the tree of roots and the space anew, too
//! sweep     steps: what free pages held becomes zeros; the log's files are begun anew, each from nothing
//! end       both headers, without the old key; views that are older keep it in memory until they end
//! ```
//!
//! Pages that only old views hold are not swept: they keep what they hold until they are written over.
//!
//! Invariants: nothing is sealed with a key that only one header knows; a header without the old key names no page
//! and no place in the log that needs it, and neither does the header before it; whatever a crash interrupts, opening
//! brings both headers to say the same of the keys, and the walk begins anew, which costs reading where pages are new
//! already. spec: C-10

use std::sync::Arc;
use std::time::Duration;

use crate::btree::{self, Place, TreeRoot, TreesPlace};
use crate::checkpoint::Work;
use crate::disk::Disk;
use crate::error::MaintainError;
use crate::keys::{EpochKey, KeySlot, PreviousKey, SlotKind, UnwrapError, WrapError};
use crate::options::{CipherChoice, KdfCost, KeyKind, KeySlotInfo, KeySource, RekeyOptions, RekeyProgress};
use crate::pager::{PageError, PageKind, PageRead, PageRef, PageWriter, SpaceCounts, first_page};
use crate::seal::Cipher;
use crate::store::{Inner, Store};
use crate::superblock::{KEY_SLOTS, Superblock};
use crate::sync::MutexGuard;

/// Pages of a step of `Store::rekey_all`: 4 MiB of the smallest pages, some 20 ms of work.
const STEP_PAGES: u64 = 1024;

/// How long `Store::rekey_all` waits for whoever seals with the old key, at a time.
const WAIT: Duration = Duration::from_millis(20);

/// What a header says of the keys that anybody may know.
#[derive(Clone, Debug)]
pub(crate) struct KeyState {
    pub(crate) slots: Vec<KeySlotInfo>,
    /// As the header has them, for a backup to take along.
    pub(crate) wrapped: [KeySlot; KEY_SLOTS],
    /// The epoch of the master key that they wrap.
    pub(crate) epoch: u16,
    pub(crate) cipher: Cipher,
    pub(crate) rekey: Option<RekeyProgress>,
}

impl KeyState {
    pub(crate) fn of(header: &Superblock) -> Self {
        let info = |(index, slot): (usize, &KeySlot)| {
            let kind = match slot.kind {
                SlotKind::Empty => return None,
                SlotKind::Passphrase => KeyKind::Passphrase,
                SlotKind::Raw => KeyKind::Raw,
                SlotKind::Provider => KeyKind::Provider,
            };
            let KeySlot { memory_kib, passes, lanes, .. } = *slot;
            Some(KeySlotInfo { index, kind, memory_kib, passes, lanes })
        };
        let slots = header.slots.iter().enumerate().filter_map(info).collect();
        let total = 2 * (header.page_count - first_page(header.page_bytes as usize));
        let rekey = header.previous.as_ref().map(|_| RekeyProgress { done: 0, total, finished: false });
        Self { slots, wrapped: header.slots.clone(), epoch: header.key_epoch, cipher: header.cipher, rekey }
    }

    /// Takes over how far the change of the master key is.
    pub(crate) fn count(&mut self, disk: &Disk, space: SpaceCounts) {
        self.rekey = disk.rekey.as_ref().map(|walk| {
            let first = first_page(disk.pages.page_bytes());
            // Pages in use are looked at, and then all that the file spans.
            let total = space.used.saturating_sub(first) + space.end - first;
            RekeyProgress { done: walk.done, total: total.max(walk.done), finished: false }
        });
    }
}

/// How far the search for pages of the old key is. Pages that are written meanwhile are of the new one, so one walk
/// finds all.
#[derive(Clone, Debug)]
pub(crate) struct RekeyWalk {
    at: TreesPlace,
    /// No header names a page of the old key, but for the older one.
    is_sealed: bool,
    /// Free pages below this number hold nothing.
    pub(crate) swept_to: u64,
    /// And that is durable.
    pub(crate) is_swept_durably: bool,
    /// Pages looked at.
    pub(crate) done: u64,
}

impl Default for RekeyWalk {
    fn default() -> Self {
        Self { at: TreesPlace::default(), is_sealed: false, swept_to: 0, is_swept_durably: true, done: 0 }
    }
}

impl RekeyWalk {
    pub(crate) fn has_begun(&self) -> bool {
        self.done > 0
    }
}

/// One step of the walk, inside a checkpoint; the walk moves on when the checkpoint is durable.
pub(crate) struct RekeyStep {
    pub(crate) walk: RekeyWalk,
    pub(crate) newest: u16,
    pub(crate) budget: u64,
}

impl RekeyStep {
    pub(crate) fn is_sealed(&self) -> bool {
        self.walk.is_sealed
    }

    /// Seals pages of trees anew, as far as the budget goes. Returns whether that was all.
    pub(crate) fn seal_trees(
        &mut self,
        writer: &mut PageWriter<'_>,
        trees: &mut [TreeRoot],
    ) -> Result<bool, PageError> {
        let RekeyWalk { at, done, .. } = &mut self.walk;
        btree::rewrite_trees(writer, trees, at, &mut self.budget, &mut old_pages(self.newest, done))
    }

    /// Seals the tree of roots and the space anew, as the last thing of all. Both are small: at most some 60 pages,
    /// and one for every 128 MiB of the smallest pages.
    pub(crate) fn seal_rest(&mut self, writer: &mut PageWriter<'_>, roots: &mut TreeRoot) -> Result<(), PageError> {
        let all = &mut old_pages(self.newest, &mut self.walk.done);
        (*roots, _) = btree::rewrite(writer, roots, &Place::default(), &mut u64::MAX.clone(), all)?;
        writer.touch_space();
        self.walk.is_sealed = true;
        Ok(())
    }
}

/// Says which pages are not of the newest epoch, and counts those it is asked about.
fn old_pages<'p, 'w>(
    newest: u16,
    done: &'p mut u64,
) -> impl FnMut(&PageWriter<'w>, PageRef, PageKind) -> Result<bool, PageError> + use<'p, 'w> {
    move |pages, at, kind| {
        *done += 1;
        Ok(pages.page(at, kind)?.epoch() != Some(newest))
    }
}

impl Store {
    /// Returns which keys open the file, as far as the file tells; none where it is not encrypted. A store that was
    /// opened read-only tells what was so when it was opened.
    pub fn key_slots(&self) -> Vec<KeySlotInfo> {
        self.inner.key_state.lock().slots.clone()
    }

    /// Returns the cipher that pages and groups are sealed with from now on; `None` where the file is not encrypted.
    pub fn cipher(&self) -> Option<CipherChoice> {
        self.inner.key_state.lock().cipher.choice()
    }

    /// Returns the epoch of the key that they are sealed with: it goes up by one with every change of the master key.
    pub fn key_epoch(&self) -> u16 {
        self.inner.key_state.lock().epoch
    }

    /// Adds a key that opens the file, beside those there are; four at most. Returns its slot.
    pub fn add_key(&self, key: &KeySource, cost: KdfCost) -> Result<usize, MaintainError> {
        let _changing = self.inner.changing_keys.lock();
        let keyed = self.inner.keyed()?;
        let index = keyed.free_slot().ok_or(MaintainError::TooManyKeys)?;
        self.inner.put_key(&keyed, index, key, cost)?;
        Ok(index)
    }

    /// Takes away the key that was given: every slot that it opens. The last one stays. Whoever kept a copy of the file
    /// can open that copy as before, and, with the master key out of it, the pages that are not sealed anew: see
    /// `Store::rekey`.
    pub fn remove_key(&self, key: &KeySource) -> Result<(), MaintainError> {
        let _changing = self.inner.changing_keys.lock();
        let opened: Vec<usize> = slots_opened_by(&self.inner.keyed()?.header, key)?;
        self.inner.remove_slots(&opened)
    }

    /// Takes away the key in this slot, for when its passphrase is lost. The last one stays.
    pub fn remove_key_slot(&self, index: usize) -> Result<(), MaintainError> {
        let _changing = self.inner.changing_keys.lock();
        match self.inner.keyed()?.header.slots.get(index) {
            Some(slot) if slot.kind != SlotKind::Empty => self.inner.remove_slots(&[index]),
            _ => Err(MaintainError::WrongKey),
        }
    }

    /// Puts a new key in the place of the one that this store was opened with; other keys stay. Where that one was
    /// removed meanwhile, the new one is added. The master key stays, so no data is rewritten; what was written
    /// before can still be read by whoever kept a copy of the file and the old key: see `Store::rekey`.
    pub fn change_key(&self, key: &KeySource, cost: KdfCost) -> Result<(), MaintainError> {
        let _changing = self.inner.changing_keys.lock();
        let keyed = self.inner.keyed()?;
        let index = keyed.own_slot.or_else(|| keyed.free_slot()).ok_or(MaintainError::TooManyKeys)?;
        self.inner.put_key(&keyed, index, key, cost)?;
        if let Some(disk) = self.inner.disk.lock().as_mut() {
            disk.own_slot = Some(index);
        }
        Ok(())
    }

    /// Begins to change the master key, and the cipher if that is asked for: what is written from now on is sealed
    /// with the new one, and `rekey_step` or `rekey_all` seal what was written before. Until that has ended the file
    /// has both, each under the keys that are given here; the change survives a crash at any point, and goes on with
    /// the next step after opening. In the end nothing in the file is of use to whoever has an old key, or the old
    /// master key out of a copy.
    pub fn rekey(&self, options: &RekeyOptions) -> Result<(), MaintainError> {
        let _changing = self.inner.changing_keys.lock();
        let keyed = self.inner.keyed()?;
        let header = &keyed.header;
        if header.previous.is_some() {
            return Err(MaintainError::RekeyUnderWay);
        }
        if options.keys.len() > KEY_SLOTS {
            return Err(MaintainError::TooManyKeys);
        }
        let mut own = None;
        for (i, (key, _)) in options.keys.iter().enumerate() {
            if own.is_none() && !options.locks_out {
                own = slots_opened_by(header, key)?.first().map(|_| i);
            }
        }
        match (options.keys.is_empty(), own, options.locks_out) {
            (true, ..) => return Err(MaintainError::LastKey),
            (_, None, false) => return Err(MaintainError::WrongKey),
            _ => {}
        }
        let entropy = &*self.inner.env.entropy;
        let io = |source| MaintainError::Io { during: "drawing random bytes", source };
        let cipher = options.cipher.map_or(header.cipher, Cipher::choose);
        let newest = EpochKey::draw(header.key_epoch.wrapping_add(1), cipher, entropy).map_err(io)?;
        let master = newest.master().expect("it was drawn just now");
        let mut slots: [KeySlot; KEY_SLOTS] = Default::default();
        for (slot, (key, cost)) in slots.iter_mut().zip(&options.keys) {
            if matches!(key, KeySource::None) {
                return Err(MaintainError::NotEncrypted);
            }
            *slot = KeySlot::wrap(master, key, *cost, cipher, &header.uuid, entropy).map_err(not_wrapped)?;
        }
        let previous = PreviousKey::wrap(&keyed.newest, &newest, &header.uuid);
        let epoch = newest.epoch;
        let mut guard = self.inner.disk.lock();
        let disk = self.inner.keyed_disk(&mut guard)?;
        disk.keys.add(newest);
        self.inner.write_keys(disk, |h| {
            (h.key_epoch, h.cipher) = (epoch, cipher);
            h.slots = slots.clone();
            h.previous = Some(previous.clone());
        })?;
        // Both headers know both keys now.
        disk.keys.seal_with(epoch);
        disk.own_slot = own.or(Some(0));
        disk.rekey = Some(RekeyWalk::default());
        self.inner.count_rekey(disk);
        Ok(())
    }

    /// Goes on with the change of the master key: writes a checkpoint that looks at about this many pages, and seals
    /// those anew that are of the old key. Without a change under way it does nothing. Commits and readers go on
    /// meanwhile. A step that finds nothing done waits for somebody who seals pages of a long value with the old key.
    pub fn rekey_step(&self, budget_pages: u64) -> Result<RekeyProgress, MaintainError> {
        if let Some(now) = self.inner.rekey_progress()? {
            self.inner.checkpoint_with(Work::Rekey(budget_pages.max(1)))?;
            return Ok(self.inner.rekey_progress()?.unwrap_or(RekeyProgress { finished: true, ..now }));
        }
        Ok(RekeyProgress { done: 0, total: 0, finished: true })
    }

    /// Takes steps until the change of the master key has ended, and tells after each how far it is.
    pub fn rekey_all(&self, progress: &mut dyn FnMut(RekeyProgress)) -> Result<(), MaintainError> {
        loop {
            let now = self.rekey_step(STEP_PAGES)?;
            progress(now);
            if now.finished {
                return Ok(());
            }
            if now.done == 0 {
                let mut head = self.inner.head.lock();
                self.inner.turn.wait_for(&mut head, WAIT);
            }
        }
    }
}

impl Inner {
    /// Returns the disk of a store that may change its keys.
    fn keyed_disk<'g>(&self, guard: &'g mut MutexGuard<'_, Option<Disk>>) -> Result<&'g mut Disk, MaintainError> {
        self.head.lock().check_maintain()?;
        let disk = guard.as_mut().ok_or(MaintainError::Closed)?;
        if disk.keys.is_encrypted() { Ok(disk) } else { Err(MaintainError::NotEncrypted) }
    }

    /// Returns how far the change of the master key is, if one is under way.
    fn rekey_progress(&self) -> Result<Option<RekeyProgress>, MaintainError> {
        self.head.lock().check_maintain()?;
        Ok(self.key_state.lock().rekey)
    }

    /// Returns what is known of the keys now. As long as `changing_keys` is held, nobody else changes the slots or begins to
    /// change the master key; asking for keys and stretching passphrases takes its time, and holds up no checkpoint.
    fn keyed(&self) -> Result<Keyed, MaintainError> {
        let mut guard = self.disk.lock();
        let disk = self.keyed_disk(&mut guard)?;
        let newest = disk.keys.of(disk.header.key_epoch).expect("the header's key is known");
        Ok(Keyed { header: disk.header.clone(), newest, own_slot: disk.own_slot })
    }

    fn put_key(&self, keyed: &Keyed, index: usize, key: &KeySource, cost: KdfCost) -> Result<(), MaintainError> {
        if matches!(key, KeySource::None) {
            return Err(MaintainError::NotEncrypted);
        }
        let header = &keyed.header;
        let master = keyed.newest.master().expect("the file is encrypted");
        let slot = KeySlot::wrap(master, key, cost, header.cipher, &header.uuid, &*self.env.entropy);
        let slot = slot.map_err(not_wrapped)?;
        self.write_keys(self.keyed_disk(&mut self.disk.lock())?, |h| h.slots[index] = slot.clone())
    }

    fn remove_slots(&self, indices: &[usize]) -> Result<(), MaintainError> {
        let mut guard = self.disk.lock();
        let disk = self.keyed_disk(&mut guard)?;
        let taken = disk.header.slots.iter().filter(|slot| slot.kind != SlotKind::Empty).count();
        match indices.len() {
            0 => return Err(MaintainError::WrongKey),
            n if n >= taken => return Err(MaintainError::LastKey),
            _ => {}
        }
        self.write_keys(disk, |h| indices.iter().for_each(|&i| h.slots[i] = KeySlot::default()))?;
        disk.own_slot = disk.own_slot.filter(|own| !indices.contains(own));
        Ok(())
    }

    /// Writes changed keys into both headers, or an old key would still open the older one. spec: C-3
    fn write_keys(&self, disk: &mut Disk, change: impl Fn(&mut Superblock)) -> Result<(), MaintainError> {
        for _ in 0..2 {
            self.write_header_or_poison(disk, &change)?;
        }
        let mut state = self.key_state.lock();
        *state = KeyState { rekey: state.rekey, ..KeyState::of(&disk.header) };
        Ok(())
    }

    fn write_header_or_poison(&self, disk: &mut Disk, change: impl Fn(&mut Superblock)) -> Result<(), MaintainError> {
        disk.write_header(change).map_err(|source| {
            let mut head = self.head.lock();
            MaintainError::Poisoned { source: self.poison_with(&mut head, "writing the header", source) }
        })
    }

    /// After a checkpoint that found every page sealed with the new key: sweeps, and ends the change of the master key
    /// when nothing of the old one is left.
    pub(crate) fn sweep(&self, disk: &mut Disk, budget_pages: u64) -> Result<(), MaintainError> {
        let is_swept = disk.sweep(budget_pages).map_err(|source| {
            let mut head = self.head.lock();
            MaintainError::Poisoned { source: self.poison_with(&mut head, "overwriting free pages", source) }
        })?;
        let is_log_clean = {
            let mut head = self.head.lock();
            let writer = self.take_writer(&mut head)?;
            let is_clean = writer.is_of_one_key();
            head.writer = Some(writer);
            self.hand_over(&head);
            is_clean
        };
        if is_swept
            && is_log_clean
            && let Some(previous) = disk.header.previous.as_ref().map(|previous| previous.epoch)
        {
            disk.retire_key(previous);
            self.write_keys(disk, |h| h.previous = None)?;
            disk.rekey = None;
            self.reclaim(disk);
        }
        Ok(())
    }

    pub(crate) fn count_rekey(&self, disk: &mut Disk) {
        let counts = disk.space.lock().counts();
        self.key_state.lock().count(disk, counts);
    }
}

/// The keys at one moment.
struct Keyed {
    header: Superblock,
    newest: Arc<EpochKey>,
    own_slot: Option<usize>,
}

impl Keyed {
    fn free_slot(&self) -> Option<usize> {
        self.header.slots.iter().position(|slot| slot.kind == SlotKind::Empty)
    }
}

/// Returns the slots that a key opens.
fn slots_opened_by(header: &Superblock, key: &KeySource) -> Result<Vec<usize>, MaintainError> {
    let mut opened = Vec::new();
    for (i, slot) in header.slots.iter().enumerate().filter(|(_, slot)| slot.fits(key)) {
        match slot.unwrap(key, header.cipher, &header.uuid) {
            Ok(_) => opened.push(i),
            // Nobody here has opened a slot that asks for too much.
            Err(UnwrapError::WrongKey | UnwrapError::Costs { .. }) => {}
            Err(UnwrapError::Provider(source)) => return Err(MaintainError::KeyProvider { source }),
        }
    }
    Ok(opened)
}

fn not_wrapped(error: WrapError) -> MaintainError {
    match error {
        WrapError::Io(source) => MaintainError::Io { during: "drawing random bytes", source },
        WrapError::Provider(source) => MaintainError::KeyProvider { source },
    }
}
