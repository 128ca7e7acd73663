//! Who may be connected at one time, and who gives way (spec: G-11, G-24).
//!
//! Whoever has shown a token is left alone. A stranger is let in as long as there is room, and is the first to go when there
//! is none: of the address that has most of them, where they are at least two more than connections of the address that
//! comes; else of the network that has most of them, likewise; else whoever has had the time of a handshake to say who it is,
//! and has not. So one who fills the relay out of a few addresses, or a few networks, keeps nobody out who has fewer, and those
//! who come back all at once, one from each address, do not push each other out. Of one address the oldest stranger gives way.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::{Limits, Peer, peer};

/// Open connections by address.
pub(super) struct Crowd {
    open: Mutex<Open>,
    limits: Limits,
    /// What all of them share.
    relay: Arc<peer::Relay>,
}

#[derive(Default)]
struct Open {
    count: usize,
    addresses: HashMap<IpAddr, Address>,
    /// How many there are of each network.
    networks: HashMap<IpAddr, usize>,
    /// When nobody was found who gives way, and how many connections there were of the address that came, and of its network:
    /// looking at all of them costs half a millisecond, and who has as many has no better luck a moment later.
    refused: Option<(Instant, usize, usize)>,
}

/// How long that is believed.
const REFUSED_FOR: Duration = Duration::from_millis(10);

/// What is open of one address, or held.
struct Address {
    /// By number, and so by age.
    connections: BTreeMap<u64, Place>,
    /// How many more of them may be in the handshake.
    handshakes: Arc<Semaphore>,
    shared: Arc<peer::Address>,
}

/// What is open of the addresses of one network.
#[derive(Default)]
struct Network {
    strangers: usize,
    /// Since when the oldest stranger is there, and its address.
    oldest: Option<(Instant, IpAddr)>,
}

/// One open connection.
struct Place {
    since: Instant,
    standing: Arc<Standing>,
}

/// What becomes of a connection that others would like to have the place of.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Set once a token was good.
    pub(super) known: Arc<AtomicBool>,
    gives_way: Notify,
}

impl Standing {
    /// Returns when the connection is to end, for another that has its place.
    pub(super) async fn given_up(&self) {
        self.gives_way.notified().await;
    }
}

/// The place of one open connection, until dropped.
pub(super) struct Admission {
    crowd: Arc<Crowd>,
    address: IpAddr,
    /// Those of its address.
    pub(super) handshakes: Arc<Semaphore>,
    /// The connection, as its streams see it.
    pub(super) peer: Arc<Peer>,
    pub(super) standing: Arc<Standing>,
}

impl Crowd {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), limits: limits.clone(), relay: peer::Relay::new(limits) })
    }

    /// Finds a place for a connection from there, if need be a stranger's.
    pub(super) fn admit(crowd: &Arc<Self>, address: IpAddr) -> Option<Admission> {
        let address = group(address);
        let (limits, now) = (&crowd.limits, Instant::now());
        let mut open = crowd.open.lock();
        open.make_room(limits, address, now)?;
        open.count += 1;
        *open.networks.entry(network(address)).or_default() += 1;
        if !open.addresses.contains_key(&address) {
            open.addresses.retain(|_, known| !known.connections.is_empty() || Arc::strong_count(&known.shared) > 1);
        }
        let known = open.addresses.entry(address).or_insert_with(|| Address {
            connections: BTreeMap::new(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_per_address_max)),
            shared: peer::Address::new(),
        });
        let peer = Peer::new(&known.shared, &crowd.relay, limits);
        let standing = Arc::<Standing>::default();
        known.connections.insert(peer.connection(), Place { since: now, standing: Arc::clone(&standing) });
        let handshakes = Arc::clone(&known.handshakes);
        Some(Admission { crowd: Arc::clone(crowd), address, handshakes, peer, standing })
    }
}

impl Open {
    /// Has a stranger give way where there is no room for one more from there; nothing if none has to.
    fn make_room(&mut self, limits: &Limits, address: IpAddr, now: Instant) -> Option<()> {
        let own = self.addresses.get(&address).map_or(0, |known| known.connections.len());
        if own >= limits.connections_per_address_max {
            // At once: one that says nothing and comes back as soon as it is closed would have every place that is given up.
            return self.end_oldest(address);
        }
        if self.count < limits.connections_max {
            return Some(());
        }
        let of_network = self.networks.get(&network(address)).copied().unwrap_or_default();
        if let Some((at, own_then, of_network_then)) = self.refused
            && now < at + REFUSED_FOR
            && own >= own_then
            && of_network >= of_network_then
        {
            return None;
        }
        let from = self.crowded(own, of_network, limits.handshake_max, now);
        self.refused = from.is_none().then_some((now, own, of_network));
        self.end_oldest(from?)
    }

    /// Returns whose oldest stranger gives way to one of an address, and of a network, with so many.
    fn crowded(&self, own: usize, of_network: usize, patience: Duration, now: Instant) -> Option<IpAddr> {
        let strangers = self.addresses.iter().map(|(&address, known)| (known.strangers().count(), address));
        let (most, from) = strangers.max_by_key(|&(strangers, _)| strangers)?;
        if most > own + 1 {
            return Some(from);
        }
        let mut networks: HashMap<IpAddr, Network> = HashMap::new();
        for (&address, known) in &self.addresses {
            let of_it = networks.entry(network(address)).or_default();
            of_it.strangers += known.strangers().count();
            let oldest = known.strangers().next().map(|(_, place)| (place.since, address));
            of_it.oldest = of_it.oldest.into_iter().chain(oldest).min();
        }
        let most = networks.values().max_by_key(|other| other.strangers)?;
        if most.strangers > of_network + 1 {
            return most.oldest.map(|(_, address)| address);
        }
        let oldest = networks.values().filter_map(|other| other.oldest).min();
        oldest.filter(|&(since, _)| since + patience <= now).map(|(_, address)| address)
    }

    /// Takes the place of the oldest stranger from there.
    fn end_oldest(&mut self, address: IpAddr) -> Option<()> {
        let known = self.addresses.get_mut(&address)?;
        let (&oldest, _) = known.strangers().next()?;
        let place = known.connections.remove(&oldest)?;
        place.standing.gives_way.notify_one();
        self.is_gone(address);
        Some(())
    }

    /// Counts one connection less.
    fn is_gone(&mut self, address: IpAddr) {
        self.count -= 1;
        let network = network(address);
        let left = self.networks.get_mut(&network).expect("it was counted as it came");
        *left -= 1;
        if *left == 0 {
            self.networks.remove(&network);
        }
    }
}

impl Address {
    /// Those who have shown no token, the oldest first.
    fn strangers(&self) -> impl Iterator<Item = (&u64, &Place)> {
        self.connections.iter().filter(|(_, place)| !place.standing.known.load(Ordering::Acquire))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.crowd.open.lock();
        let Some(known) = open.addresses.get_mut(&self.address) else { return };
        // Another may have it already.
        let had_place = known.connections.remove(&self.peer.connection()).is_some();
        // What is held of it beyond its connections counts until it is gone: whoever comes back meanwhile is the same.
        let held = Arc::strong_count(&self.peer) > 1 || Arc::strong_count(&known.shared) > 2;
        if known.connections.is_empty() && !held {
            open.addresses.remove(&self.address);
        }
        if had_place {
            open.is_gone(self.address);
        }
    }
}

/// Returns what counts as one address: one subscriber of IPv6 has a whole /64.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Returns what one provider, or one customer of a large one, hands out addresses of: a /24, of IPv6 a /48.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Held;

    fn crowd(connections_max: usize, connections_per_address_max: usize) -> Arc<Crowd> {
        Crowd::new(&Limits { connections_max, connections_per_address_max, ..Limits::default() })
    }

    fn admit(crowd: &Arc<Crowd>, from: &str) -> Option<Admission> {
        Crowd::admit(crowd, from.parse().expect("an address"))
    }

    fn is_known(admission: &Admission) {
        admission.standing.known.store(true, Ordering::Release);
    }

    async fn gave_way(admission: &Admission) -> bool {
        tokio::time::timeout(Duration::from_millis(1), admission.standing.given_up()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_counted_at_the_edge() {
        let crowd = crowd(3, 2);
        let first = admit(&crowd, "10.0.0.1").expect("room");
        // The same address, written as IPv6 maps it.
        let second = admit(&crowd, "::ffff:10.0.0.1").expect("room");
        [&first, &second].into_iter().for_each(is_known);
        assert!(admit(&crowd, "10.0.0.1").is_none());
        let third = admit(&crowd, "2001:db8::1").expect("room");
        assert!(admit(&crowd, "10.0.0.2").is_none(), "three in all");
        drop(first);
        let fourth = admit(&crowd, "2001:db8::ffff:1").expect("room");
        drop(second);
        [&third, &fourth].into_iter().for_each(is_known);
        assert!(admit(&crowd, "2001:db8::2").is_none(), "one /64 is one address");
        drop(third);
        // What is held of an address outlives its last connection, and so does its number.
        let held = Held::new(&fourth.peer);
        let number = fourth.peer.address();
        drop(fourth);
        let fifth = admit(&crowd, "2001:db8::2").expect("room");
        assert_eq!(fifth.peer.address(), number);
        drop(fifth);
        drop(held);
        let other = admit(&crowd, "10.0.0.3").expect("room");
        assert_eq!(crowd.open.lock().addresses.len(), 1, "it is forgotten as another comes");
        let last = admit(&crowd, "2001:db8::2").expect("room");
        assert_ne!(last.peer.address(), number);
        drop((other, last));
        assert_eq!(crowd.open.lock().count, 0);
        let open = crowd.open.lock();
        assert!(open.addresses.is_empty() && open.networks.is_empty(), "nothing is remembered");
    }

    // spec: G-24
    #[tokio::test(start_paused = true)]
    async fn strangers_of_whoever_has_most_give_way_to_those_who_have_fewer() {
        let crowd = crowd(8, 6);
        let members: Vec<_> = (0..3).map(|_| admit(&crowd, "10.0.0.1").expect("room")).collect();
        members.iter().for_each(is_known);
        let strangers: Vec<_> = (0..5).map(|_| admit(&crowd, "10.0.0.2").expect("room")).collect();
        let mut neighbours = Vec::new();
        for (n, stranger) in strangers.iter().enumerate() {
            let room = admit(&crowd, "10.0.0.3");
            // Four of one address and one of the other, three and two; then nobody has two more than the other would have.
            assert_eq!((room.is_some(), gave_way(stranger).await), (n < 2, n < 2), "{n}");
            neighbours.extend(room);
        }
        let last = admit(&crowd, "10.0.0.4").expect("three is more than one");
        assert!(gave_way(&strangers[2]).await && !gave_way(&strangers[3]).await, "the oldest that is left");
        assert!(admit(&crowd, "10.0.0.5").expect("two is more than one").peer.connection() > 0);
        assert!(crowd.open.lock().count == 7, "it is gone again");
        for known in &members {
            assert!(!gave_way(known).await, "whoever is known stays");
        }
        // Whoever gave way gives nothing back a second time.
        drop((strangers, neighbours, last));
        assert_eq!(crowd.open.lock().count, 3);
        drop(members);
        assert!(crowd.open.lock().addresses.is_empty());
    }

    // spec: G-24
    #[tokio::test(start_paused = true)]
    async fn those_who_come_one_from_each_address_do_not_push_each_other_out() {
        let crowd = crowd(4, 2);
        let all: Vec<_> = (1..=4).map(|n| admit(&crowd, &format!("10.0.0.{n}")).expect("room")).collect();
        assert!(admit(&crowd, "10.0.0.5").is_none());
        for each in &all {
            assert!(!gave_way(each).await);
        }
    }

    // spec: G-24
    #[tokio::test(start_paused = true)]
    async fn strangers_of_a_network_give_way_to_those_of_others_and_of_all_whoever_had_time() {
        let crowd = crowd(6, 2);
        let member = admit(&crowd, "2001:db8:0:9::1").expect("room");
        is_known(&member);
        // One from each /64, of one /48.
        let silent: Vec<_> = (0..5).map(|n| admit(&crowd, &format!("2001:db8:0:{n}::1")).expect("room")).collect();
        assert!(admit(&crowd, "2001:db8:0:ffff::1").is_none(), "it is of the same network");
        let others = ["2001:db8:1::1", "2001:db8:1:1::1"]
            .map(|from| admit(&crowd, from).expect("five, and four, are more than two"));
        let mut ended = Vec::new();
        for stranger in &silent {
            ended.push(gave_way(stranger).await);
        }
        assert_eq!(ended, [true, true, false, false, false], "the oldest");
        assert!(!gave_way(&member).await);
        // Three strangers of one network, and two of another.
        let one = admit(&crowd, "10.0.0.1").expect("three is more than one");
        assert!(gave_way(&silent[2]).await);
        assert!(admit(&crowd, "10.0.0.2").is_none(), "two are no more than two");
        tokio::time::advance(crowd.limits.handshake_max).await;
        is_known(&silent[3]);
        let two = admit(&crowd, "10.0.0.2").expect("they had their time");
        assert!(gave_way(&silent[4]).await && !gave_way(&silent[3]).await, "the oldest of all");
        assert!(!gave_way(&one).await && !gave_way(&two).await);
        for other in &others {
            assert!(!gave_way(other).await);
        }
    }

    // spec: G-24
    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_gives_way_to_its_own_address() {
        let crowd = crowd(8, 3);
        let three: Vec<_> = (0..3).map(|_| admit(&crowd, "10.0.0.1").expect("room")).collect();
        is_known(&three[0]);
        let fourth = admit(&crowd, "10.0.0.1").expect("a stranger's place");
        assert!(gave_way(&three[1]).await && !gave_way(&three[0]).await && !gave_way(&three[2]).await);
        is_known(&three[2]);
        is_known(&fourth);
        assert!(admit(&crowd, "10.0.0.1").is_none(), "all have said who they are");
    }
}
