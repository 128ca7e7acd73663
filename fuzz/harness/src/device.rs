//! A device of a simulated world: the real database on a disk that crashes, and the real session.

use std::collections::{BTreeMap, BTreeSet};

use blazedb::{Database, Document, DocumentId, Options, Patch, Replica, Value};
use blazedb_sync::{DisconnectReason, Event, Session, SessionConfig, SessionState};
use bytes::Bytes;

use crate::disk::{Disk, MEMORY};
use crate::relay::wall_ms;
use crate::rng::Rng;

const KEY: [u8; 32] = [5; 32];
const COLLECTIONS: [&str; 2] = ["notes", "tasks"];
const FIELDS: [&str; 3] = ["a", "b", "c"];
const SHARED_KEYS: i64 = 4;

/// A device.
pub(crate) struct Device {
    pub(crate) name: usize,
    pub(crate) disk: Disk,
    up: Option<Up>,
    /// What a durable commit wrote: each value is written once in a whole world.
    pub(crate) acknowledged: BTreeSet<i64>,
    /// The wall clock's error in milliseconds.
    skew_ms: i64,
    /// Whether the file belongs to a space.
    pub(crate) bound: bool,
}

struct Up {
    db: Database,
    replica: Replica,
    session: Session,
    /// The relay's wall clock at the welcome, and ours then.
    relay_clock: Option<(u64, u64)>,
}

/// What a device wants of the world.
pub(crate) enum Want {
    Connect,
    Disconnect,
    /// The relay refused for good, or the file is not usable: a broken promise.
    Fault(String),
}

fn text(e: &blazedb::Error) -> String {
    format!("{e:?}")
}

impl Device {
    pub(crate) fn new(name: usize, disk: Disk, skew_ms: i64) -> Self {
        Self { name, disk, up: None, acknowledged: BTreeSet::new(), skew_ms, bound: false }
    }

    /// Makes a device that begins with a copy of this one's file.
    pub(crate) fn copy(&self, name: usize, seed: u64) -> Self {
        Self {
            name,
            disk: self.disk.copy(seed),
            up: None,
            acknowledged: BTreeSet::new(),
            skew_ms: self.skew_ms,
            bound: self.bound,
        }
    }

    pub(crate) fn database(&self) -> Option<&Database> {
        self.up.as_ref().map(|up| &up.db)
    }

    pub(crate) fn start(&mut self, now: u64, rng: &mut Rng) -> Result<(), String> {
        self.set_clock(now);
        let db = Database::open_in(self.disk.env(), Options::raw_key(KEY).memory(MEMORY))
            .map_err(|e| format!("device {} does not open: {e:?}", self.name))?;
        let mut session = Session::new(SessionConfig::default(), rng.draw());
        session.start(now);
        self.up = Some(Up { replica: db.replica(), db, session, relay_clock: None });
        Ok(())
    }

    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        // The process dies first: nothing of it may write on the way out.
        self.disk.cut();
        self.up = None;
        self.disk.crash(rng);
    }

    pub(crate) fn close(&mut self) -> Result<(), String> {
        match self.up.take() {
            Some(up) => {
                drop((up.replica, up.session));
                up.db.close().map_err(|e| text(&e))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn set_clock(&self, now: u64) {
        self.disk.set_wall_ms(wall_ms(now).saturating_add_signed(self.skew_ms));
    }

    /// Writes something; `value` is new to the world.
    pub(crate) fn write(&mut self, rng: &mut Rng, value: &mut i64) -> Result<(), String> {
        let Some(up) = &self.up else { return Ok(()) };
        let collection = *rng.pick(&COLLECTIONS);
        let documents = up.db.collection::<Document>(collection).map_err(|e| text(&e))?;
        let ids: Result<Vec<DocumentId>, _> = documents.rows().map(|item| item.map(|(id, _)| id)).collect();
        let ids = ids.map_err(|e| text(&e))?;
        let mut fresh = || {
            *value += 1;
            *value
        };
        let mut written = Vec::new();
        let mut fields = |rng: &mut Rng, written: &mut Vec<i64>| {
            let mut document = Document::new();
            for field in FIELDS {
                if rng.chance(60) {
                    let value = fresh();
                    written.push(value);
                    document.insert(field, Value::I64(value));
                }
            }
            document
        };
        let result = match rng.below(10) {
            0 | 1 => documents.insert(&fields(rng, &mut written)).map(drop),
            2 => {
                let key = rng.below(SHARED_KEYS as usize) as i64;
                documents.put_with_key(key, &fields(rng, &mut written)).map(drop)
            }
            3 if !ids.is_empty() => documents.delete(*rng.pick(&ids)).map(drop),
            4 => {
                let key = rng.below(SHARED_KEYS as usize) as i64;
                match documents.get_by_key(key) {
                    Ok(Some((id, _))) => documents.delete(id).map(drop),
                    Ok(None) => Ok(()),
                    Err(e) => Err(e),
                }
            }
            5 if !ids.is_empty() => {
                let id = *rng.pick(&ids);
                let document = fields(rng, &mut written);
                let other = fields(rng, &mut written);
                up.db.transaction(|tx| {
                    let documents = tx.collection::<Document>(collection)?;
                    documents.insert(&other)?;
                    let mut patch = Patch::new();
                    for (name, value) in document.iter() {
                        patch = patch.set(name, value);
                    }
                    documents.update(id, patch).map(drop)
                })
            }
            _ if !ids.is_empty() => {
                let id = *rng.pick(&ids);
                let value = fresh();
                written.push(value);
                let mut patch = Patch::new().set(*rng.pick(&FIELDS), value);
                if rng.chance(10) {
                    patch = patch.unset("gone");
                }
                documents.update(id, patch).map(drop)
            }
            _ => Ok(()),
        };
        match result {
            Ok(()) if self.bound => {
                self.acknowledged.extend(written);
                Ok(())
            }
            // Before its first sync a file keeps documents and no operations: what was overwritten is gone for good.
            Ok(()) => {
                self.acknowledged = self.values()?;
                Ok(())
            }
            Err(e) => Err(format!("device {} could not write: {}", self.name, text(&e))),
        }
    }

    pub(crate) fn connected(&mut self, now: u64) -> Result<(), String> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let hello = up.replica.hello().map_err(|e| text(&e))?;
        up.session.connected(now, hello);
        Ok(())
    }

    pub(crate) fn disconnected(&mut self, now: u64) {
        if let Some(up) = &mut self.up {
            up.session.disconnected(now, DisconnectReason::Transport);
        }
    }

    pub(crate) fn receive(&mut self, now: u64, bytes: Bytes) {
        if let Some(up) = &mut self.up {
            up.session.handle_bytes(now, bytes);
        }
    }

    /// Seals what was committed, as the driver does after each commit while online.
    pub(crate) fn seal(&mut self, now: u64) -> Result<(), String> {
        let Some(up) = &mut self.up else { return Ok(()) };
        if up.session.state() == SessionState::Live && up.replica.seal(up.relay_now(now)).map_err(|e| text(&e))? > 0 {
            up.session.local_sealed(now);
        }
        Ok(())
    }

    pub(crate) fn time_passes(&mut self, now: u64) {
        self.set_clock(now);
        if let Some(up) = &mut self.up
            && up.session.poll_timeout().is_some_and(|at| at <= now)
        {
            up.session.handle_timeout(now);
        }
    }

    /// Lets the session act; returns frames to send and what else it wants.
    pub(crate) fn poll(&mut self, now: u64) -> (Vec<Bytes>, Vec<Want>) {
        let mut wants = Vec::new();
        let mut frames = Vec::new();
        let Some(up) = &mut self.up else { return (frames, wants) };
        while let Some(event) = up.session.poll_event() {
            let done = match event {
                Event::ConnectNow => {
                    wants.push(Want::Connect);
                    Ok(())
                }
                Event::Disconnect { .. } => {
                    wants.push(Want::Disconnect);
                    Ok(())
                }
                Event::Welcome(welcome) => {
                    self.bound = true;
                    up.welcome(now, &welcome)
                }
                Event::Entry { envelope, batch } => up.replica.apply_entry(&envelope, &batch).map(drop),
                Event::Ack(envelope) => up.replica.apply_ack(&envelope).map(drop),
                Event::Rejected(error) => {
                    wants.push(Want::Fault(format!("device {} was refused: {error:?}", self.name)));
                    Ok(())
                }
                Event::Unsupported(_) | Event::Digest { .. } | Event::StateChanged(_) => Ok(()),
            };
            if let Err(e) = done {
                wants.push(Want::Fault(format!("device {}: {}", self.name, text(&e))));
            }
        }
        loop {
            match up.session.poll_transmit(now, &up.replica) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, wants),
                Err(e) => {
                    wants.push(Want::Fault(format!("device {}: {}", self.name, text(&e))));
                    return (frames, wants);
                }
            }
        }
    }

    /// Returns whether everything written here is in the relay's log and applied.
    pub(crate) fn is_idle(&self) -> Result<bool, String> {
        let Some(up) = &self.up else { return Ok(false) };
        Ok(up.session.state() == SessionState::Live && up.replica.outbox().map_err(|e| text(&e))?.is_empty())
    }

    pub(crate) fn cursor(&self) -> Option<u64> {
        self.up.as_ref().map(|up| up.replica.cursor())
    }

    /// Returns every value that is shown.
    fn values(&self) -> Result<BTreeSet<i64>, String> {
        let documents = self.documents()?;
        let values = documents.values().flat_map(Document::iter).filter_map(|(_, value)| match value {
            Value::I64(value) => Some(*value),
            _ => None,
        });
        Ok(values.collect())
    }

    /// Returns every document, for comparing.
    pub(crate) fn documents(&self) -> Result<BTreeMap<(String, DocumentId), Document>, String> {
        let Some(up) = &self.up else { return Err("the device is off".into()) };
        let mut all = BTreeMap::new();
        for name in up.db.collections().map_err(|e| text(&e))? {
            let collection = up.db.collection::<Document>(&name).map_err(|e| text(&e))?;
            for item in collection.scan() {
                let (id, document) = item.map_err(|e| text(&e))?;
                all.insert((name.clone(), id), document);
            }
        }
        Ok(all)
    }
}

impl Up {
    fn relay_now(&self, now: u64) -> Option<u64> {
        self.relay_clock.map(|(relay, at)| relay + (now - at))
    }

    fn welcome(&mut self, now: u64, welcome: &blazedb_wire::Welcome) -> Result<(), blazedb::Error> {
        self.relay_clock = welcome.clock_trusted.then_some((welcome.relay_ms, now));
        self.replica.welcome(welcome)?;
        self.replica.seal(self.relay_now(now))?;
        self.session.resume(now);
        Ok(())
    }
}
