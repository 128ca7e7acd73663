//! One device of the demo: a database file of its own and, when it is online, a connection to the relay.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blazedb::{Database, DocumentId, Options, Relay, Sync, SyncStatus};

use super::relay::RelayProcess;
use crate::cli::failure::Failure;
use crate::cli::open;
use crate::cli::signals::StopFlag;

/// The space that the demo's devices share.
pub(crate) const SPACE: &str = "demo";

/// How long the devices may take to agree before the demo fails.
pub(crate) const AGREE_WITHIN: Duration = Duration::from_secs(60);

/// How long an answer to one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Traffic counted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) conflicts_merged: u64,
}

/// A device.
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) db: Database,
    sync: Option<Sync>,
    /// What earlier connections counted.
    earlier: Traffic,
}

impl Device {
    /// Creates the device's file, encrypted with a random key that is never written down.
    pub(crate) fn create(folder: &Path, name: &'static str) -> Result<Self, Failure> {
        let path = folder.join(format!("device-{}.blaze", name.to_lowercase()));
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|e| Failure::new(format!("the system gives no random bytes: {e}"), "restart the machine"))?;
        let db = Database::open(&path, Options::raw_key(key).create(true)).map_err(|e| {
            Failure::because(format!("cannot create {}", path.display()), &e, "check the temporary folder")
        })?;
        Ok(Self { name, path, db, sync: None, earlier: Traffic::default() })
    }

    /// Connects to the relay.
    pub(crate) fn go_online(&mut self, relay: &RelayProcess, token: &str) -> Result<(), Failure> {
        let relay = Relay::new(relay.url()).space(SPACE).token(token).fingerprint(relay.fingerprint());
        self.sync =
            Some(self.db.enable_sync(relay).map_err(|e| defect(&format!("{} cannot go online", self.name), &e))?);
        Ok(())
    }

    /// Cuts the device off; it can be used as before.
    pub(crate) fn go_offline(&mut self) -> Result<(), Failure> {
        self.earlier = self.traffic()?;
        if let Some(sync) = self.sync.take() {
            sync.stop();
        }
        Ok(())
    }

    /// Returns how the connection is doing.
    pub(crate) fn status(&self) -> Result<SyncStatus, Failure> {
        self.sync()?.status().map_err(|e| defect(&format!("cannot read the outbox of {}", self.name), &e))
    }

    /// Returns the connection.
    pub(crate) fn sync(&self) -> Result<&Sync, Failure> {
        self.sync.as_ref().ok_or_else(|| Failure::new(format!("{} is offline", self.name), REPORT))
    }

    /// Returns what was counted over all connections.
    pub(crate) fn traffic(&self) -> Result<Traffic, Failure> {
        if self.sync.is_none() {
            return Ok(self.earlier);
        }
        let now = self.status()?;
        Ok(Traffic {
            sent: self.earlier.sent + now.bytes_sent,
            received: self.earlier.received + now.bytes_received,
            conflicts_merged: self.earlier.conflicts_merged + now.conflicts_merged,
        })
    }

    /// Returns the bytes of the device's file.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        open::bytes_on_disk(&self.path)
    }

    /// Goes offline and closes the file; returns its size then.
    pub(crate) fn close(mut self) -> Result<u64, Failure> {
        self.go_offline()?;
        self.db.close().map_err(|e| defect(&format!("cannot close the file of {}", self.name), &e))?;
        Ok(open::bytes_on_disk(&self.path))
    }

    /// Returns the ids of a collection, ascending.
    pub(crate) fn ids(&self, collection: &str) -> Result<Vec<DocumentId>, Failure> {
        let read = || {
            let records = self.db.collection::<blazedb::Document>(collection)?;
            let mut ids = Vec::new();
            for record in records.rows() {
                ids.push(record?.0);
            }
            Ok(ids)
        };
        read().map_err(|e| defect("cannot read the records", &e))
    }
}

const REPORT: &str = "this is a defect; please report it together with the output of `blazedb demo --keep`";

/// A failure that the demo must never see.
pub(crate) fn defect(what: &str, error: &blazedb::Error) -> Failure {
    Failure::because(what, error, REPORT)
}

/// A check of the demo that did not hold.
pub(crate) fn broken_promise(what: impl Into<String>) -> Failure {
    Failure::new(what, REPORT)
}

/// What two devices and the relay agree on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreement {
    pub(crate) digest: [u8; 32],
    pub(crate) documents: u64,
    pub(crate) head: u64,
}

/// Waits until A, B and the relay hold the same data.
pub(crate) fn agree(a: &Device, b: &Device, stop: &StopFlag) -> Result<Agreement, Failure> {
    let begun = Instant::now();
    loop {
        stop.check()?;
        if let Some((digest, documents, head)) = try_agree(a, b)? {
            return Ok(Agreement { digest, documents, head });
        }
        if begun.elapsed() > AGREE_WITHIN {
            return Err(broken_promise(disagreement(a, b)?));
        }
    }
}

/// Compares once; waits a moment for idleness first.
fn try_agree(a: &Device, b: &Device) -> Result<Option<([u8; 32], u64, u64)>, Failure> {
    let (sync_a, sync_b) = (a.sync()?, b.sync()?);
    let moment = Duration::from_millis(20);
    if sync_a.wait_idle(moment).is_err() || sync_b.wait_idle(moment).is_err() {
        return Ok(None);
    }
    // B counts as idle before it has heard of what A has just sent; equal positions rule that out.
    let head = a.status()?.cursor;
    if b.status()?.cursor != head {
        std::thread::sleep(Duration::from_millis(2));
        return Ok(None);
    }
    let digest = a.db.digest().map_err(|e| defect("cannot compute the digest of A", &e))?;
    if b.db.digest().map_err(|e| defect("cannot compute the digest of B", &e))? != digest {
        return Ok(None);
    }
    match sync_a.relay_digest(ANSWER_WITHIN) {
        Ok((seq, relay_digest, documents)) if seq == head && relay_digest == digest => {
            Ok(Some((digest, documents, head)))
        }
        // The relay answers for another position or is away: ask again until time is up.
        _ => Ok(None),
    }
}

/// Says what differs when time is up.
fn disagreement(a: &Device, b: &Device) -> Result<String, Failure> {
    let mut text = format!("A, B and the relay do not agree after {} s", AGREE_WITHIN.as_secs());
    for device in [a, b] {
        let status = device.status()?;
        let digest = device.db.digest().map_err(|e| defect("cannot compute a digest", &e))?;
        text.push_str(&format!(
            "\n  {}: digest {}, at {} of {}, {} unsent, {} unconfirmed, last error {:?}",
            device.name,
            &crate::cli::ui::hex(&digest)[..16],
            status.cursor,
            status.head,
            status.unsent_ops,
            status.unacked_ops,
            status.last_error,
        ));
    }
    match a.sync()?.relay_digest(ANSWER_WITHIN) {
        Ok((seq, digest, documents)) => text.push_str(&format!(
            "\n  relay: digest {}, at {seq}, {documents} documents",
            &crate::cli::ui::hex(&digest)[..16]
        )),
        Err(e) => text.push_str(&format!("\n  relay: {e}")),
    }
    Ok(text)
}
