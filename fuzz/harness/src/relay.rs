//! The relay of a simulated world: the real hub and the real log, on a disk that crashes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use blazedb::{Database, Options};
use blazedb_engine::Env;
use blazedb_relay::hub::{
    Access, ConnId, Effect, Hub, HubLimits, Input, Now, Origin, Received, SpaceDigest, Unavailable,
};
use blazedb_relay::log::{Append, RelayLog, StoreLog, StoreLogOptions};
use blazedb_wire::{Frame, SpaceId};
use bytes::Bytes;

use crate::bugs::Bug;
use crate::disk::{Disk, MEMORY};
use crate::rng::Rng;

/// Name of the one space.
pub(crate) const SPACE: &str = "space";
const KEY: [u8; 32] = [9; 32];

/// What the relay wants done outside of it.
pub(crate) enum Out {
    Send { conn: ConnId, bytes: Bytes },
    Close { conn: ConnId, error: Option<Bytes> },
}

pub(crate) struct Relay {
    pub(crate) disk: Disk,
    up: Option<Up>,
    bug: Option<Bug>,
}

struct Up {
    hub: Hub,
    log: StoreLog,
    /// Appends that wait for the next group.
    group: Vec<Append>,
    /// Planted bug: answers that left before their append was made.
    late: Vec<Append>,
    copies: BTreeMap<SpaceId, Database>,
    waiting: VecDeque<Effect>,
    /// Connections whose turn has come and whose space has no room.
    held: Vec<Effect>,
}

impl Relay {
    pub(crate) fn new(disk: Disk, bug: Option<Bug>) -> Self {
        Self { disk, up: None, bug }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// Opens the log; an error is a failed promise of the store.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let log = StoreLog::open_in(self.disk.env(), KEY, StoreLogOptions { memory: MEMORY })
            .map_err(|e| format!("the relay's log does not open after a crash: {e:?}"))?;
        self.up = Some(Up {
            hub: Hub::new(HubLimits::default()),
            log,
            group: Vec::new(),
            late: Vec::new(),
            copies: BTreeMap::new(),
            waiting: VecDeque::new(),
            held: Vec::new(),
        });
        Ok(())
    }

    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        self.up = None;
        self.disk.crash(rng);
    }

    pub(crate) fn connect(&mut self, now: u64, conn: ConnId, out: &mut Vec<Out>) {
        let access = Access { space: SPACE.into(), subject: "sim".into() };
        let origin = Origin { address: 1, connection: conn.0 };
        self.input(now, Input::Connected { conn, access, origin }, out);
    }

    pub(crate) fn frame(&mut self, now: u64, conn: ConnId, bytes: Bytes, out: &mut Vec<Out>) {
        self.input(now, Input::Frame { conn, frame: Received::decode(bytes) }, out);
    }

    pub(crate) fn sent(&mut self, now: u64, conn: ConnId, bytes: usize, out: &mut Vec<Out>) {
        self.input(now, Input::Sent { conn, bytes }, out);
    }

    pub(crate) fn disconnected(&mut self, now: u64, conn: ConnId, out: &mut Vec<Out>) {
        self.input(now, Input::Disconnected { conn }, out);
    }

    pub(crate) fn tick(&mut self, now: u64, out: &mut Vec<Out>) {
        self.input(now, Input::Tick, out);
    }

    fn input(&mut self, now: u64, input: Input, out: &mut Vec<Out>) {
        let Some(up) = &mut self.up else { return };
        let mut effects = Vec::new();
        up.hub.handle(clock(now), input, &mut effects);
        up.waiting.extend(effects);
        up.waiting.extend(up.held.drain(..));
        self.run(now, out);
    }

    /// Does what the hub asked for; appends gather until the world syncs them.
    fn run(&mut self, now: u64, out: &mut Vec<Out>) {
        let Some(up) = &mut self.up else { return };
        while let Some(effect) = up.waiting.pop_front() {
            let answer = match effect {
                Effect::OpenSpace { name } => {
                    let result = up.log.open_space(&name).map_err(|_| Unavailable);
                    Input::SpaceOpened { name, result }
                }
                Effect::Append(append) => {
                    up.group.push(append);
                    continue;
                }
                Effect::ReadLog { conn, space, after_seq, bytes_max, packing } => {
                    let read = up.log.read(space, after_seq, bytes_max);
                    let result = read.map(|entries| packing.pack(entries)).map_err(|_| Unavailable);
                    Input::LogRead { conn, result }
                }
                Effect::FindDigests { conn, space, replica, first, last } => {
                    let result = up.log.digests(space, replica, first, last, usize::MAX).map_err(|_| Unavailable);
                    Input::DigestsFound { conn, replica, first, result }
                }
                Effect::Send { conn, bytes } => {
                    out.push(Out::Send { conn, bytes });
                    continue;
                }
                Effect::Close { conn, error } => {
                    let error = error.map(|error| Frame::Error(error).to_bytes());
                    out.push(Out::Close { conn, error });
                    continue;
                }
                Effect::GoOn { conn } if !up.hub.may_go_on(conn) => {
                    up.held.push(effect);
                    continue;
                }
                Effect::GoOn { conn } => Input::GoOn { conn },
                Effect::Materialize { .. } => continue,
                Effect::DigestWanted { conn, space, epoch, .. } => {
                    let digest = up.digest(space, epoch).ok();
                    Input::DigestReady { conn, digest }
                }
            };
            let mut effects = Vec::new();
            up.hub.handle(clock(now), answer, &mut effects);
            up.waiting.extend(effects);
        }
    }

    pub(crate) fn has_group(&self) -> bool {
        self.up.as_ref().is_some_and(|up| !up.group.is_empty() || !up.late.is_empty())
    }

    /// Appends what has gathered, under one sync, and answers.
    pub(crate) fn sync_group(&mut self, now: u64, out: &mut Vec<Out>) {
        let Some(up) = &mut self.up else { return };
        if self.bug == Some(Bug::AckBeforeSync) {
            // The answer leaves now; the append is made at the next call, if the relay lives that long.
            let late = std::mem::take(&mut up.late);
            up.log.append(&late);
            up.late = std::mem::take(&mut up.group);
            let answers: Vec<_> = up.late.iter().map(|append| (append.space, append.id)).collect();
            for (space, append) in answers {
                self.input(now, Input::Appended { space, append, result: Ok(()) }, out);
            }
            return;
        }
        let mut group = std::mem::take(&mut up.group);
        if self.bug == Some(Bug::SequenceOutside) && group.len() > 1 {
            // Each was given its number, and now they come in another order; the log believes them in order.
            group.reverse();
            let mut head = group.iter().map(|append| append.expected_head).min().unwrap_or_default();
            for append in &mut group {
                append.expected_head = head;
                for entry in &mut append.entries {
                    let count = entry.last_seq - entry.first_seq + 1;
                    entry.first_seq = head + 1;
                    head += count;
                    entry.last_seq = head;
                }
            }
        }
        let results = up.log.append(&group);
        for (append, result) in group.into_iter().zip(results) {
            self.input(now, Input::Appended { space: append.space, append: append.id, result }, out);
        }
    }

    /// Returns the number of the newest operation in the log.
    pub(crate) fn head(&self) -> Result<u64, String> {
        let up = self.up.as_ref().ok_or("the relay is down")?;
        up.log.open_space(SPACE).map(|info| info.head).map_err(|e| format!("{e:?}"))
    }

    /// Reads the whole log: the frames in order.
    pub(crate) fn read_all(&self) -> Result<Vec<Frame>, String> {
        let up = self.up.as_ref().ok_or("the relay is down")?;
        let info = up.log.open_space(SPACE).map_err(|e| format!("{e:?}"))?;
        let mut frames = Vec::new();
        let mut after = 0;
        loop {
            let entries = up.log.read(info.id, after, 1 << 20).map_err(|e| format!("{e:?}"))?;
            if entries.is_empty() {
                return Ok(frames);
            }
            for entry in entries {
                if entry.first_seq != after + 1 {
                    return Err(format!("the log has a gap: {} after {after}", entry.first_seq));
                }
                after = entry.last_seq;
                frames.push(Frame::decode(entry.frame).map_err(|e| format!("an entry does not decode: {e}"))?);
            }
        }
    }

    pub(crate) fn digest(&mut self) -> Result<SpaceDigest, String> {
        let up = self.up.as_mut().ok_or("the relay is down")?;
        let info = up.log.open_space(SPACE).map_err(|e| format!("{e:?}"))?;
        up.digest(info.id, info.epoch)
    }
}

impl Up {
    /// Brings the materialised copy up to the head and returns its digest.
    fn digest(&mut self, space: SpaceId, epoch: u32) -> Result<SpaceDigest, String> {
        let text = |e: blazedb::Error| format!("the relay's copy: {e:?}");
        let copy = match self.copies.entry(space) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let copy = Database::open_in(Env::memory(77), Options::unencrypted()).map_err(text)?;
                copy.follow(space, epoch).map_err(text)?;
                entry.insert(copy)
            }
        };
        let replica = copy.replica();
        loop {
            let entries = self.log.read(space, replica.cursor(), 1 << 20).map_err(|e| format!("{e:?}"))?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                match Frame::decode(entry.frame) {
                    Ok(Frame::Entry { envelope, batch }) => {
                        replica.apply_entry(&envelope, &batch).map_err(text)?;
                    }
                    other => return Err(format!("an entry of the log is no entry: {other:?}")),
                }
            }
        }
        let (seq, digest, documents) = copy.digest_at_cursor().map_err(text)?;
        Ok(SpaceDigest { seq, digest, documents })
    }
}

/// Wall time of a world whose monotonic clock shows `now`.
pub(crate) fn wall_ms(now: u64) -> u64 {
    1_760_000_000_000 + now
}

fn clock(now: u64) -> Now {
    Now { mono_ms: now, wall_ms: wall_ms(now), clock_trusted: true }
}
