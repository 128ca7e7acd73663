//! What the streams of one connection share with each other, with its address and with everybody: memory and turns.
//!
//! A message takes memory from its first byte until the gate has taken it. [`Held`] counts that, in rooms of which an address
//! has a part ([`Ledger`]):
//!
//! ```text
//!   the rest is to come ---> [coming]
//!   inflated in turn --------> [inflated]
//!   decoded where it came in -> [here] ----> the gate
//!   decoded in turn ----------> [in turn] -> the gate
//! ```
//!
//! Who finds no room waits, and so is not read, which HTTP/2 and TCP hand on to the client. A message takes what it needs of a
//! room at one go, as soon as that is known, and of a later room while it holds of an earlier one, never the other way round:
//! so nobody waits for one that waits for it. (A message of WebSocket in fragments takes room for each.) What a message takes
//! once it is inflated, or decoded, is not known before: where there is no room for it, it is thrown away, and made again when there is.
//! Who has waited for [`Limits::room_grace`] makes those lose that hold more and do not end; who has waited for
//! [`Limits::room_wait_max`] is refused.
//!
//! Invariants: a short message ([`Limits::free_bytes`]) waits for nobody and touches nothing that is shared, so that a full relay
//! still answers those who say little; nobody waits for room while it has its turn, or with memory that is not counted; what is
//! held goes back when it is dropped. Read [`Held`] first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blazedb_wire::grpc::{Code, Status};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Limits;
use super::ledger::{Ledger, Slip, Standing, Whose};

/// Memory is counted in steps, so that fragments of a byte each are not counted each.
const STEP_BYTES: usize = 4 * 1024;

/// A room, and by what those are told that wait for some of it, or lose theirs.
type Shared = Mutex<Ledger<Arc<Notify>>>;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Relay {
    coming: Shared,
    inflated: Shared,
    here: Shared,
    in_turn: Shared,
    decoding: Arc<Semaphore>,
}

impl Relay {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let room = |room| Mutex::new(Ledger::new(room));
        Arc::new(Self {
            coming: room(limits.coming_bytes),
            inflated: room(limits.inflated_bytes),
            here: room(limits.decoded_here_bytes),
            in_turn: room(limits.decoded_in_turn_bytes),
            decoding: Arc::new(Semaphore::new(limits.decodes_max)),
        })
    }
}

/// What the connections of one address share, beside its part of what all share.
#[derive(Debug)]
pub(super) struct Address {
    number: u64,
    decoding: Arc<Semaphore>,
}

impl Address {
    pub(super) fn new() -> Arc<Self> {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, decoding: Arc::new(Semaphore::new(1)) })
    }
}

/// One connection, as its streams see it.
#[derive(Debug)]
pub struct Peer {
    connection: u64,
    /// Kept, so that the address has the same number while anything of it is held.
    address: Arc<Address>,
    relay: Arc<Relay>,
    /// Messages that the gate has been given and has not taken.
    places: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
    free_bytes: usize,
    room_grace: Duration,
    room_wait_max: Duration,
}

/// Connections and addresses are numbered as they come, those of all relays in one process together.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Peer {
    pub(super) fn new(address: &Arc<Address>, relay: &Arc<Relay>, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connection: NUMBERS.fetch_add(1, Ordering::Relaxed),
            address: Arc::clone(address),
            relay: Arc::clone(relay),
            places: Arc::new(Semaphore::new(limits.frames_per_connection_max)),
            decoding: Arc::new(Semaphore::new(1)),
            free_bytes: limits.free_bytes,
            room_grace: limits.room_grace,
            room_wait_max: limits.room_wait_max,
        })
    }

    #[cfg(test)]
    pub(crate) fn pair(limits: &Limits) -> (Arc<Self>, Arc<Self>) {
        let (relay, address) = (Relay::new(limits), Address::new());
        (Self::new(&address, &relay, limits), Self::new(&address, &relay, limits))
    }

    /// Returns the connection's number, never used again while the process lives.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Returns the number of its address, which lasts while that has connections, or messages that are counted.
    pub fn address(&self) -> u64 {
        self.address.number
    }

    /// Waits for a place among the messages that the gate has not taken; nothing only if the relay is over.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Waits for the connection's turn in work that takes its time: first among the streams of the connection, then among
    /// the connections of its address, so that of an address only one waits among all.
    pub async fn turn(&self) -> Turn {
        let never = "none of them is ever closed";
        Turn {
            _of_connection: Arc::clone(&self.decoding).acquire_owned().await.expect(never),
            _of_address: Arc::clone(&self.address.decoding).acquire_owned().await.expect(never),
            _of_all: Arc::clone(&self.relay.decoding).acquire_owned().await.expect(never),
        }
    }

    fn room(&self, which: Which) -> &Shared {
        match which {
            Which::Coming => &self.relay.coming,
            Which::Inflated => &self.relay.inflated,
            Which::Here => &self.relay.here,
            Which::InTurn => &self.relay.in_turn,
        }
    }
}

/// The right to work while others wait.
#[derive(Debug)]
pub struct Turn {
    _of_connection: OwnedSemaphorePermit,
    _of_address: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Where a message is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// Where it came in: at once, and to little more than it is.
    Here,
    /// In turn: it may take its time, or become much more than it is.
    InTurn,
}

/// Memory that a message takes, counted.
#[derive(Debug)]
pub struct Held {
    peer: Arc<Peer>,
    coming: Option<Part>,
    inflated: Option<Part>,
    decoded: Option<Part>,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(peer: &Arc<Peer>) -> Self {
        Self { peer: Arc::clone(peer), coming: None, inflated: None, decoded: None }
    }

    /// Returns whose it is.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Waits for room for a message that comes in. An error ends its stream, and so does [`Held::lost`].
    pub async fn expect(&mut self, bytes: usize) -> Result<(), Status> {
        let bytes = counted(&self.peer, bytes);
        if bytes == 0 {
            return Ok(());
        }
        self.coming.get_or_insert_with(|| Part::new(&self.peer, Which::Coming)).wait(bytes).await
    }

    /// Waits until this message has to go, as others need its memory; for ever where its rest has come.
    pub async fn lost(&self) -> Status {
        match &self.coming {
            Some(part) => part.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Says that all of it has come: it is not lost any more, if it has not been.
    pub fn whole(&self) -> Result<(), Status> {
        match &self.coming {
            Some(part) if !part.room().lock().finish(part.slip) => Err(lost()),
            _ => Ok(()),
        }
    }

    /// Says that it was inflated, and to how much, which is what it takes from now on. False if there is no room for that:
    /// then it is to be thrown away, and made again after [`Held::room_inflated`].
    pub fn inflated(&mut self, bytes: usize) -> bool {
        let bytes = counted(&self.peer, bytes);
        let has = bytes == 0 || self.part_inflated().take(bytes);
        if has {
            self.coming = None;
        }
        has
    }

    /// Waits for room for what it was inflated to.
    pub async fn room_inflated(&mut self, bytes: usize) -> Result<(), Status> {
        let bytes = counted(&self.peer, bytes);
        self.part_inflated().wait(bytes).await
    }

    fn part_inflated(&mut self) -> &mut Part {
        self.inflated.get_or_insert_with(|| Part::new(&self.peer, Which::Inflated))
    }

    /// Says that it was decoded, and what it takes from now on. False if there is no room for that: then it is to be
    /// thrown away, and made again after [`Held::room`].
    pub fn decoded(&mut self, decoding: Decoding, bytes: usize) -> bool {
        let bytes = counted(&self.peer, bytes);
        let has = bytes == 0 || self.part(decoding).take(bytes);
        if has {
            (self.coming, self.inflated) = (None, None);
        }
        has
    }

    /// Waits for room for what it was decoded to.
    pub async fn room(&mut self, decoding: Decoding, bytes: usize) -> Result<(), Status> {
        let bytes = counted(&self.peer, bytes);
        self.part(decoding).wait(bytes).await
    }

    fn part(&mut self, decoding: Decoding) -> &mut Part {
        let which = match decoding {
            Decoding::Here => Which::Here,
            Decoding::InTurn => Which::InTurn,
        };
        self.decoded.get_or_insert_with(|| Part::new(&self.peer, which))
    }
}

/// Returns what a message counts that takes so much.
fn counted(peer: &Peer, bytes: usize) -> usize {
    bytes.saturating_sub(peer.free_bytes).next_multiple_of(STEP_BYTES)
}

#[derive(Clone, Copy, Debug)]
enum Which {
    Coming,
    Inflated,
    Here,
    InTurn,
}

/// What a message holds of one room.
#[derive(Debug)]
struct Part {
    peer: Arc<Peer>,
    which: Which,
    slip: Slip,
    /// What it was given, as far as it knows.
    bytes: usize,
    told: Arc<Notify>,
}

impl Part {
    fn new(peer: &Arc<Peer>, which: Which) -> Self {
        let told = Arc::new(Notify::new());
        let whose = Whose { address: peer.address(), connection: peer.connection };
        let unfinished = matches!(which, Which::Coming);
        let slip = peer.room(which).lock().enter(whose, unfinished, Arc::clone(&told));
        Self { peer: Arc::clone(peer), which, slip, bytes: 0, told }
    }

    /// Holds at least so much if there is room now, and else what it held.
    fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            if self.ask(bytes) != Some(Standing::Holds) {
                self.lessen(self.bytes);
                return false;
            }
            self.bytes = bytes;
        }
        true
    }

    /// Waits until at least so much is held.
    async fn wait(&mut self, bytes: usize) -> Result<(), Status> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let mut standing = self.ask(bytes).ok_or_else(full)?;
        let begun = Instant::now();
        let refused = begun + self.peer.room_wait_max;
        let mut presses = begun + self.peer.room_grace;
        while standing == Standing::Waits {
            let late = tokio::time::timeout_at(presses.min(refused), self.told.notified()).await.is_err();
            let now = Instant::now();
            if late && now >= refused {
                self.lessen(self.bytes);
                return Err(full());
            }
            if late {
                presses = now + self.peer.room_grace;
                self.change(|ledger, woken| ledger.press(self.slip, woken));
            }
            standing = self.room().lock().standing(self.slip);
        }
        if standing == Standing::Lost {
            return Err(lost());
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Asks for so much, if that can ever be.
    fn ask(&self, bytes: usize) -> Option<Standing> {
        self.change(|ledger, woken| ledger.fits(bytes).then(|| ledger.ask(self.slip, bytes, woken)))
    }

    async fn lost(&self) -> Status {
        loop {
            // A word that came before is heard, too.
            self.told.notified().await;
            if self.room().lock().standing(self.slip) == Standing::Lost {
                return lost();
            }
        }
    }

    /// Holds no more than this, and waits for nothing.
    fn lessen(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
        self.change(|ledger, woken| ledger.lessen(self.slip, self.bytes, woken));
    }

    fn room(&self) -> &Shared {
        self.peer.room(self.which)
    }

    /// Changes the ledger, and tells whom that concerns.
    fn change<R>(&self, change: impl FnOnce(&mut Ledger<Arc<Notify>>, &mut Vec<Arc<Notify>>) -> R) -> R {
        let mut woken = Vec::new();
        let changed = change(&mut self.room().lock(), &mut woken);
        for told in woken {
            told.notify_one();
        }
        changed
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.change(|ledger, woken| ledger.leave(self.slip, woken));
    }
}

fn full() -> Status {
    let text = "the relay's memory for messages is full: come back in a while, with shorter messages or fewer streams";
    Status::new(Code::ResourceExhausted, text)
}

fn lost() -> Status {
    let text = "others need the memory that this unfinished message takes: come back in a while and send it at one go, or \
                shorter messages on fewer streams";
    Status::new(Code::ResourceExhausted, text)
}

#[cfg(test)]
mod tests;
