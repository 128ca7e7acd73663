//! What the streams of one connection share with each other, with its address and with everybody: memory and turns.
//!
//! A message takes memory from its first byte until the gate has taken it: partly received, inflated, waiting. [`Held`] counts
//! that, against the connection, its address and the whole relay. Who finds no room waits, and so is not read, which HTTP/2
//! and TCP hand on to the client; who has waited for [`Limits::room_wait_max`] is refused, because what fills the room may be
//! the beginnings of messages whose rest never comes.
//!
//! Invariants: a short message ([`Limits::free_bytes`]) waits for nobody, so that a full relay still answers those who say
//! little; whoever waits holds no more than it held before; what is held goes back when it is dropped. Read [`Held::set`] first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blazedb_wire::grpc::{Code, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;

/// Memory is counted in steps, so that a message that comes in a hundred pieces is not counted a hundred times.
const STEP_BYTES: usize = 64 * 1024;

/// Room for messages: a connection's, an address' or the relay's. One permit is one byte.
#[derive(Debug)]
pub(super) struct Room(Semaphore);

impl Room {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(Semaphore::new(bytes)))
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Relay {
    room: Arc<Room>,
    decoding: Arc<Semaphore>,
}

impl Relay {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let decoding = Arc::new(Semaphore::new(limits.decodes_max));
        Arc::new(Self { room: Room::new(limits.held_bytes_max), decoding })
    }
}

/// What the connections of one address share.
#[derive(Debug)]
pub(super) struct Address {
    number: u64,
    room: Arc<Room>,
    decoding: Arc<Semaphore>,
}

impl Address {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            room: Room::new(limits.held_bytes_per_address_max),
            decoding: Arc::new(Semaphore::new(1)),
        })
    }
}

/// One connection, as its streams see it.
#[derive(Debug)]
pub struct Peer {
    connection: u64,
    address: u64,
    rooms: [Arc<Room>; 3],
    /// Messages that the gate has been given and has not taken.
    places: Arc<Semaphore>,
    /// The connection's, its address' and the relay's.
    decoding: [Arc<Semaphore>; 3],
    free_bytes: usize,
    room_wait_max: Duration,
}

/// Connections and addresses are numbered as they come, those of all relays in one process together.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Peer {
    pub(super) fn new(address: &Arc<Address>, relay: &Relay, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connection: NUMBERS.fetch_add(1, Ordering::Relaxed),
            address: address.number,
            rooms: [
                Room::new(limits.held_bytes_per_connection_max),
                Arc::clone(&address.room),
                Arc::clone(&relay.room),
            ],
            places: Arc::new(Semaphore::new(limits.frames_per_connection_max)),
            decoding: [Arc::new(Semaphore::new(1)), Arc::clone(&address.decoding), Arc::clone(&relay.decoding)],
            free_bytes: limits.free_bytes,
            room_wait_max: limits.room_wait_max,
        })
    }

    #[cfg(test)]
    pub(crate) fn pair(limits: &Limits) -> (Arc<Self>, Arc<Self>) {
        let (relay, address) = (Relay::new(limits), Address::new(limits));
        (Self::new(&address, &relay, limits), Self::new(&address, &relay, limits))
    }

    /// Returns the connection's number, never used again while the process lives.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Returns the number of its address, which lasts while that has connections.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Waits for a place among the messages that the gate has not taken; nothing only if the relay is over.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Waits for the connection's turn in work that takes its time: first among the streams of the connection, then among
    /// the connections of its address, so that of an address only one waits among all.
    pub async fn turn(&self) -> Turn {
        let never = "none of them is ever closed";
        let [connection, address, relay] = &self.decoding;
        Turn {
            _of_connection: Arc::clone(connection).acquire_owned().await.expect(never),
            _of_address: Arc::clone(address).acquire_owned().await.expect(never),
            of_all: Some(Arc::clone(relay).acquire_owned().await.expect(never)),
        }
    }
}

/// The right to work while others wait.
#[derive(Debug)]
pub struct Turn {
    _of_connection: OwnedSemaphorePermit,
    _of_address: OwnedSemaphorePermit,
    of_all: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Lets others have their turn, but for those of the same address: they wait until this is dropped.
    pub fn make_way(&mut self) {
        self.of_all = None;
    }
}

/// Memory that a message takes, counted.
#[derive(Debug)]
pub struct Held {
    peer: Arc<Peer>,
    counted: usize,
}

impl Held {
    /// Holds nothing yet.
    pub fn new(peer: &Arc<Peer>) -> Self {
        Self { peer: Arc::clone(peer), counted: 0 }
    }

    /// Returns whose it is.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Says how much is held from now on. Less is said at once; more waits for room, and is refused after a while.
    pub async fn set(&mut self, bytes: usize) -> Result<(), Status> {
        let wanted = bytes.saturating_sub(self.peer.free_bytes).next_multiple_of(STEP_BYTES);
        if wanted <= self.counted {
            self.give_back(self.counted - wanted);
            return Ok(());
        }
        let more = u32::try_from(wanted - self.counted).map_err(|_| full())?;
        let taken = tokio::time::timeout(self.peer.room_wait_max, take(&self.peer.rooms, more)).await;
        // Forgotten where it was taken and counted here: nothing is in between that could be given up.
        taken.map_err(|_| full())?;
        self.counted = wanted;
        Ok(())
    }

    fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.counted -= bytes;
            for room in &self.peer.rooms {
                room.0.add_permits(bytes);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.counted);
    }
}

/// Takes room in all three, the narrowest first, or none if it is given up on the way.
async fn take(rooms: &[Arc<Room>; 3], bytes: u32) {
    let never = "no room is ever closed";
    let [connection, address, relay] = rooms;
    let connection = connection.0.acquire_many(bytes).await.expect(never);
    let address = address.0.acquire_many(bytes).await.expect(never);
    let relay = relay.0.acquire_many(bytes).await.expect(never);
    for taken in [connection, address, relay] {
        taken.forget();
    }
}

fn full() -> Status {
    let text = "the relay's memory for messages is full: come back in a while, with shorter messages or fewer streams";
    Status::new(Code::ResourceExhausted, text)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::Instant;

    use super::*;

    const MIB: usize = 1 << 20;

    fn limits() -> Limits {
        Limits {
            held_bytes_per_connection_max: 4 * MIB,
            held_bytes_per_address_max: 6 * MIB,
            held_bytes_max: 8 * MIB,
            ..Limits::default()
        }
    }

    // spec: L-23
    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_and_is_refused_when_none_comes() {
        let limits = limits();
        let relay = Relay::new(&limits);
        let (home, away) = (Address::new(&limits), Address::new(&limits));
        let peers = [&home, &home, &away].map(|address| Peer::new(address, &relay, &limits));
        let mut held: Vec<Held> = peers.iter().flat_map(|peer| [Held::new(peer), Held::new(peer)]).collect();
        let free = limits.free_bytes;
        let refused = |result: Result<(), Status>| {
            let status = result.unwrap_err();
            assert_eq!(status.code, Code::ResourceExhausted);
            assert!(status.message.contains("come back"), "{status}");
        };
        held[0].set(4 * MIB + free).await.unwrap();
        let begun = Instant::now();
        refused(held[1].set(free + 1).await);
        assert_eq!(begun.elapsed(), limits.room_wait_max, "its connection's is full");
        held[1].set(free).await.unwrap();
        held[2].set(2 * MIB + free).await.unwrap();
        refused(held[3].set(free + 1).await);
        held[4].set(2 * MIB + free).await.unwrap();
        refused(held[5].set(free + 1).await);
        for held in &mut held {
            // Whatever else is held.
            if held.counted == 0 {
                held.set(free).await.unwrap();
            }
        }
        // Whoever waits gets what is given back meanwhile.
        {
            let (full, waits) = held.split_at_mut(1);
            let mut waiting = pin!(waits[0].set(MIB));
            assert!(tokio::time::timeout(Duration::from_secs(1), waiting.as_mut()).await.is_err());
            full[0].set(3 * MIB).await.unwrap();
            waiting.await.unwrap();
        }
        drop(held);
        let mut all = Held::new(&peers[0]);
        all.set(4 * MIB + free).await.unwrap();
        assert!(peers.iter().all(|peer| peer.rooms[0].0.available_permits() % MIB == 0), "nothing is lost or made up");
        assert_eq!(relay.room.0.available_permits(), 4 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_address_one_waits_among_all() {
        let limits = limits();
        let relay = Relay::new(&limits);
        let (home, away) = (Address::new(&limits), Address::new(&limits));
        let peers: Vec<_> = [&home, &home, &away].iter().map(|address| Peer::new(address, &relay, &limits)).collect();
        let soon = Duration::from_secs(1);
        let mut first = peers[0].turn().await;
        // The second of the address was there before the other, and has its turn after it.
        let mut second = Box::pin(peers[1].turn());
        assert!(tokio::time::timeout(soon, second.as_mut()).await.is_err());
        assert!(tokio::time::timeout(soon, peers[2].turn()).await.is_err(), "one at a time");
        first.make_way();
        let other = tokio::time::timeout(soon, peers[2].turn()).await.unwrap();
        assert!(tokio::time::timeout(soon, second.as_mut()).await.is_err(), "what the first decoded waits for room");
        drop((first, other));
        tokio::time::timeout(soon, second).await.unwrap();
    }
}
