//! `enable_sync`: one connection to a relay, on a thread of its own with a small runtime of its own, so that callers need
//! none.

mod driver;
mod status;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::transport::{Target, Trust};
use crate::{Database, Error, ErrorKind};

use driver::Command;
use status::Shared;
pub use status::{SyncState, SyncStatus};

/// Where to sync to, and as whom.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let db = blazedb::Database::open("todo.blaze", blazedb::Options::unencrypted())?;
/// let token = std::fs::read_to_string("home.token")?;
/// let relay = blazedb::Relay::new("https://relay.example:7420").space("home").token(token);
/// let sync = db.enable_sync(relay)?;
/// sync.wait_idle(std::time::Duration::from_secs(30))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Relay {
    url: String,
    space: String,
    token: String,
    trust: Trust,
    fault: Option<String>,
}

impl Relay {
    /// Names a relay by its address, `https://host:port`. Its certificate is checked against the system's authorities
    /// unless [`Relay::fingerprint`] or [`Relay::ca_pem`] say otherwise.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), space: String::new(), token: String::new(), trust: Trust::System, fault: None }
    }

    /// Sets the name of the space; it has to be the one that the token was made for.
    #[must_use]
    pub fn space(mut self, name: impl Into<String>) -> Self {
        self.space = name.into();
        self
    }

    /// Sets the bearer token, as `blazedb token` prints it.
    #[must_use]
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.token = token.as_ref().trim().to_owned();
        self
    }

    /// Trusts exactly the certificate with this fingerprint (64 hexadecimal digits, as `blazedb serve` prints it).
    #[must_use]
    pub fn fingerprint(mut self, hex: impl AsRef<str>) -> Self {
        match crate::transport::parse_fingerprint(hex.as_ref()) {
            Ok(fingerprint) => self.trust = Trust::Fingerprint(fingerprint),
            Err(e) => self.fault = Some(e.to_string()),
        }
        self
    }

    /// Trusts certificates that these authorities signed (PEM).
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.trust = Trust::CaPem(pem.into());
        self
    }

    /// Trusts certificates that the authorities in this PEM file signed.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] if the file cannot be read.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Result<Self, Error> {
        let pem = std::fs::read(path.as_ref()).map_err(|e| {
            Error::with(ErrorKind::Sync, format!("the CA file {} cannot be read", path.as_ref().display()), e)
        })?;
        Ok(self.ca_pem(pem))
    }

    fn target(self) -> Result<Target, Error> {
        let wrong = |text: String| Err(Error::new(ErrorKind::Sync, text));
        if let Some(fault) = self.fault {
            return wrong(fault);
        }
        if self.space.is_empty() {
            return wrong("no space was named; call Relay::space".into());
        }
        if self.token.is_empty() {
            return wrong("no token was given; call Relay::token with what `blazedb token` printed".into());
        }
        Target::new(&self.url, &self.trust, &self.token)
            .map_err(|e| Error::with(ErrorKind::Sync, "the relay's address is not usable", e))
    }
}

/// A running connection to a relay. Dropping it stops the connection; the outbox stays in the file.
pub struct Sync {
    shared: Arc<Shared>,
    target: Target,
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<std::thread::JoinHandle<()>>,
    database: Database,
}

impl Database {
    /// Keeps this file in step with a space on a relay, from now until the returned handle is dropped: whatever is
    /// committed here goes there, and the other way round. Survives lost connections by itself.
    ///
    /// The first sync binds the file to the space for ever.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] for a relay that is not fully named, [`ErrorKind::State`] if a sync is running already. A
    /// relay that cannot be reached is not an error here: see [`Sync::status`].
    pub fn enable_sync(&self, relay: Relay) -> Result<Sync, Error> {
        let target = relay.target()?;
        let shared = Arc::new(Shared::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        {
            let mut hook = self.inner.on_commit.write();
            if hook.is_some() {
                return Err(Error::new(ErrorKind::State, "this database syncs already; drop the other Sync first"));
            }
            let (commands, shared) = (commands.clone(), Arc::clone(&shared));
            *hook = Some(Arc::new(move || {
                if !shared.committed.swap(true, Ordering::AcqRel) {
                    // The thread has ended if nobody receives: the outbox keeps the operations.
                    let _ = commands.send(Command::Committed);
                }
            }));
        }
        let replica = self.replica();
        let (mut seed, clock) = ([0; 8], Arc::clone(&self.inner.env.clock));
        self.inner.env.entropy.public(&mut seed).map_err(crate::inner::no_entropy)?;
        let thread = {
            let (shared, target) = (Arc::clone(&shared), target.clone());
            std::thread::Builder::new()
                .name("blazedb-sync".into())
                .spawn(move || driver::run(replica, target, clock, u64::from_le_bytes(seed), inbox, &shared))
        };
        let thread = thread.map_err(|e| {
            *self.inner.on_commit.write() = None;
            Error::with(ErrorKind::Sync, "the sync thread could not be started", e)
        })?;
        Ok(Sync { shared, target, commands, thread: Some(thread), database: self.clone() })
    }
}

impl Sync {
    /// Returns how the connection is doing.
    ///
    /// # Errors
    /// Only those of the store.
    pub fn status(&self) -> Result<SyncStatus, Error> {
        let replica = self.database.replica();
        Ok(self.shared.status(&self.target, replica.cursor(), replica.outbox()?))
    }

    /// Waits until the connection is up, everything committed here is in the relay's log, and everything in that log
    /// that this replica has heard of is applied here. What others send at this very moment may still be on its way.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] when `timeout` passes first, saying what is missing, or at once when the relay refused for
    /// good.
    pub fn wait_idle(&self, timeout: Duration) -> Result<(), Error> {
        let replica = self.database.replica();
        self.shared.wait(timeout, |link| {
            let idle = link.state == SyncState::Online && replica.cursor() >= link.head && replica.outbox()?.is_empty();
            Ok(idle.then_some(()))
        })
    }

    /// Asks the relay for the digest of its own copy, at a sequence that is not below this replica's cursor. Returns
    /// that sequence, the digest, and the number of live documents.
    ///
    /// # Errors
    /// [`ErrorKind::Sync`] when `timeout` passes first or the relay refused for good.
    pub fn relay_digest(&self, timeout: Duration) -> Result<(u64, [u8; 32], u64), Error> {
        let ticket = self.shared.expect_digest();
        let min_seq = self.database.replica().cursor();
        let _ = self.commands.send(Command::Digest { min_seq });
        self.shared.wait(timeout, |link| Ok(link.digest_after(ticket)))
    }

    /// Ends the connection and waits for its thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let _ = self.commands.send(Command::Stop);
        *self.database.inner.on_commit.write() = None;
        // A panic of the thread has been printed already, and the file is intact without it.
        let _ = thread.join();
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.end();
    }
}
