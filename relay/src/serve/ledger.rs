//! Who holds how much of a room that all share, who waits for some of it, and who loses it to them. Pure.
//!
//! ```text
//!   enter --ask--> holds                       --lessen, leave--> (given back)
//!             \--> waits --room--> holds
//!                    \--press: somebody else, who holds more, is lost, and leaves as soon as it hears of it
//! ```
//!
//! Of those that wait and for whom there is room that one is served first whose address would then hold least, and in it
//! whose connection would; in a connection what came first. Where nobody gives anything back, because what fills the room
//! are the beginnings of messages whose rest does not come, somebody loses ([`Ledger::press`]): of the address that holds most
//! in unfinished messages, and in it of the connection that holds most, the oldest. That address, or connection, holds more by
//! a quarter than the one that waits would then hold, so that who holds little loses nothing to who holds much.
//!
//! Nobody waits for one that waits before it for more than there is: it might wait for ever. So who wants much gets it later
//! than who wants little. What losers give back is kept for the one that they lost it to, until that has all of it.
//!
//! Invariants: never more is held than there is room, in all and of an address; what was lost counts until it has left; none that
//! is the first of its connection waits for what is there and kept for nobody else. Read [`Ledger::ask`] and [`Ledger::press`] first.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::limits::Room;

/// Whose a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    pub(super) address: u64,
    pub(super) connection: u64,
}

/// Names a message. The older one has the smaller number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slip(u64);

/// How a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It holds what it asked for.
    Holds,
    Waits,
    /// It has to leave: others need what it holds.
    Lost,
}

/// The room and all that is in it. `T` is what a message is told by.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    most: Room,
    all: Share,
    addresses: BTreeMap<u64, Address>,
    messages: HashMap<Slip, Message<T>>,
    next: u64,
    /// By address, the least that one of [`Address::heads`] needs: of thousands that wait, whom there is room for is found
    /// without asking those for whom there is none.
    needs: BTreeSet<(usize, u64)>,
    /// What connections have pressed for, and how many for so much.
    pressed: Amounts,
}

/// How many there are of each amount.
#[derive(Debug, Default, PartialEq, Eq)]
struct Amounts(BTreeMap<usize, usize>);

impl Amounts {
    fn add(&mut self, amount: usize) {
        if amount > 0 {
            *self.0.entry(amount).or_default() += 1;
        }
    }

    fn remove(&mut self, amount: usize) {
        if let Some(count) = self.0.get_mut(&amount) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&amount);
            }
        }
    }

    /// Returns the sum of those that are no more than this.
    fn up_to(&self, most: usize) -> usize {
        self.0.range(..=most).map(|(amount, count)| amount * count).sum()
    }
}

/// What the messages of a connection, of an address or of all hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    held: usize,
    /// What others have given back for those that still wait for the rest.
    kept: usize,
    /// ... of it in messages whose rest has not come.
    unfinished: usize,
    /// ... and in those that are lost and have not left.
    leaving: usize,
}

impl Share {
    /// What stays once those have left that are lost.
    fn staying(&self) -> usize {
        self.held - self.leaving
    }
}

#[derive(Debug, Default)]
struct Address {
    share: Share,
    connections: BTreeMap<u64, Connection>,
    /// The first that waits of each connection, by what it needs yet.
    heads: BTreeSet<(usize, Slip)>,
    pressed: Amounts,
}

#[derive(Debug, Default)]
struct Connection {
    share: Share,
    messages: usize,
    waiting: BTreeSet<Slip>,
    /// The first of them, as it is among the heads of the address.
    head: Option<(usize, Slip)>,
    /// What the first of them waits for, if it has pressed.
    pressed: usize,
    /// Those that hold something.
    unfinished: BTreeSet<Slip>,
}

#[derive(Debug)]
struct Message<T> {
    whose: Whose,
    held: usize,
    /// What it has asked for: more than it holds while it waits.
    asked: usize,
    /// What was given back for it while it waits. Nobody else takes that, or those who want little would take what comes back
    /// piece by piece, and it would never be enough.
    kept: usize,
    unfinished: bool,
    lost: Option<Lost>,
    told: T,
}

/// For whom a message was lost.
#[derive(Clone, Copy, Debug)]
struct Lost(Slip);

impl<T: Clone> Ledger<T> {
    pub(super) fn new(most: Room) -> Self {
        Self {
            most,
            all: Share::default(),
            addresses: BTreeMap::new(),
            messages: HashMap::new(),
            next: 1,
            needs: BTreeSet::new(),
            pressed: Amounts::default(),
        }
    }

    /// Lets a message in, which holds nothing yet. Unfinished is one whose rest may never come.
    pub(super) fn enter(&mut self, whose: Whose, unfinished: bool, told: T) -> Slip {
        let slip = Slip(self.next);
        self.next += 1;
        let message = Message { whose, held: 0, asked: 0, kept: 0, unfinished, lost: None, told };
        self.messages.insert(slip, message);
        let address = self.addresses.entry(whose.address).or_default();
        let connection = address.connections.entry(whose.connection).or_default();
        connection.messages += 1;
        slip
    }

    /// Says whether so much can ever be held.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.most.address && bytes <= self.most.relay
    }

    /// Asks to hold so much, which has to fit. It may wait from now on, and no longer for what it waited for before, by which
    /// others of its connection may have room, and are woken.
    pub(super) fn ask(&mut self, slip: Slip, bytes: usize, woken: &mut Vec<T>) -> Standing {
        debug_assert!(self.fits(bytes));
        let waited = self.wait_no_longer(slip) > 0;
        let message = self.message(slip);
        message.asked = message.held;
        if message.lost.is_none() && bytes > message.held {
            message.asked = bytes;
            let whose = message.whose;
            let connection = self.connection(whose);
            connection.waiting.insert(slip);
            if connection.waiting.first() == Some(&slip) {
                self.set_pressed(whose, 0);
                if self.has_room(slip) {
                    self.grant(slip);
                } else {
                    self.set_head(whose);
                }
            }
        }
        if waited {
            self.settle(woken);
        }
        self.standing(slip)
    }

    /// Returns how a message stands.
    pub(super) fn standing(&self, slip: Slip) -> Standing {
        match self.messages.get(&slip) {
            Some(message) if message.lost.is_some() => Standing::Lost,
            Some(message) if message.asked > message.held => Standing::Waits,
            _ => Standing::Holds,
        }
    }

    /// Gives back what a message holds beyond this; it waits for nothing then. Others may have room by it, and are woken.
    pub(super) fn lessen(&mut self, slip: Slip, bytes: usize, woken: &mut Vec<T>) {
        self.wait_no_longer(slip);
        let message = self.message(slip);
        let less = message.held.saturating_sub(bytes);
        message.held -= less;
        message.asked = message.held;
        let (whose, unfinished, lost) = (message.whose, message.unfinished, message.lost);
        self.change(whose, |share| {
            share.held -= less;
            share.unfinished -= if unfinished { less } else { 0 };
            share.leaving -= if lost.is_some() { less } else { 0 };
        });
        // Whom it was lost for comes before all others.
        if let Some(Lost(heir)) = lost
            && self.standing(heir) == Standing::Waits
        {
            self.keep(heir, less);
            if self.has_room(heir) {
                self.grant(heir);
                woken.push(self.message(heir).told.clone());
            }
        }
        self.settle(woken);
    }

    /// Says that a message has come whole: it is lost no more. False if it was lost before.
    pub(super) fn finish(&mut self, slip: Slip) -> bool {
        let message = self.message(slip);
        if message.unfinished {
            message.unfinished = false;
            let (whose, held) = (message.whose, message.held);
            self.change(whose, |share| share.unfinished -= held);
            self.connection(whose).unfinished.remove(&slip);
        }
        self.message(slip).lost.is_none()
    }

    /// Lets a message out, with all that it holds.
    pub(super) fn leave(&mut self, slip: Slip, woken: &mut Vec<T>) {
        self.finish(slip);
        self.lessen(slip, 0, woken);
        let whose = self.message(slip).whose;
        self.messages.remove(&slip);
        let address = self.addresses.get_mut(&whose.address).expect("a message of it was here");
        let connection = address.connections.get_mut(&whose.connection).expect("likewise");
        connection.messages -= 1;
        if connection.messages == 0 {
            address.connections.remove(&whose.connection);
        }
        if address.connections.is_empty() {
            self.addresses.remove(&whose.address);
        }
    }

    /// Says that a message has waited for long enough, which counts if it is the first of its connection: unfinished ones
    /// of those who hold more are lost, until there is room for it and for all that have pressed and want no more than it.
    pub(super) fn press(&mut self, slip: Slip, woken: &mut Vec<T>) {
        let message = self.message(slip);
        let (whose, more) = (message.whose, message.more());
        let connection = self.connection(whose);
        if connection.waiting.first() != Some(&slip) {
            return;
        }
        self.set_pressed(whose, more);
        while let Some(loser) = self.loser(whose, more) {
            woken.push(self.lose(loser, slip));
        }
        // One that waited may be lost, and another of its connection may have room.
        self.settle(woken);
    }

    /// Returns who loses next to a connection that has pressed for more.
    fn loser(&self, whose: Whose, more: usize) -> Option<Slip> {
        let address = &self.addresses[&whose.address];
        let of_address = address.share.staying() + address.pressed.up_to(more);
        if of_address <= self.most.address {
            if self.all.staying() + self.pressed.up_to(more) <= self.most.relay {
                return None;
            }
            let others = self.addresses.iter().filter(|(number, _)| **number != whose.address);
            if let Some((_, most)) = others.max_by_key(|(_, other)| other.share.unfinished)
                && is_much_more(most.share.unfinished, of_address)
            {
                return most.connections.values().max_by_key(|other| other.share.unfinished)?.oldest();
            }
        }
        let others = address.connections.iter().filter(|(number, _)| **number != whose.connection);
        let (_, most) = others.max_by_key(|(_, other)| other.share.unfinished)?;
        let of_connection = address.connections[&whose.connection].share.staying() + more;
        if is_much_more(most.share.unfinished, of_connection) { most.oldest() } else { None }
    }

    fn lose(&mut self, slip: Slip, heir: Slip) -> T {
        self.wait_no_longer(slip);
        self.finish(slip);
        let message = self.message(slip);
        message.lost = Some(Lost(heir));
        message.asked = message.held;
        let (whose, held, told) = (message.whose, message.held, message.told.clone());
        self.change(whose, |share| share.leaving += held);
        told
    }

    /// Gives room to those that wait, while there is some for one of them.
    fn settle(&mut self, woken: &mut Vec<T>) {
        while let Some(slip) = self.first() {
            self.grant(slip);
            woken.push(self.message(slip).told.clone());
        }
    }

    /// Returns who is served first, of those for whom there is room.
    fn first(&self) -> Option<Slip> {
        // More may be kept than an address has room for: then there is none, also for whom nothing is missing but that.
        let room = |most: usize, share: &Share| most.checked_sub(share.held + share.kept);
        let of_relay = room(self.most.relay, &self.all)?;
        let some = self.needs.iter().take_while(|&&(least, _)| least <= of_relay);
        let firsts = some.filter_map(|&(least, number)| {
            let address = &self.addresses[&number];
            room(self.most.address, &address.share).filter(|&room| least <= room)?;
            let heads = address.heads.iter().take_while(|&&(need, _)| need == least);
            let (held, slip) = heads.map(|&(_, slip)| (self.of_connection(slip).share.held, slip)).min()?;
            Some((address.share.held + least, held, slip))
        });
        firsts.min().map(|(.., slip)| slip)
    }

    fn has_room(&self, slip: Slip) -> bool {
        let message = &self.messages[&slip];
        let with_it = |share: &Share| share.held + share.kept + message.needs();
        let of_address = &self.addresses[&message.whose.address].share;
        with_it(of_address) <= self.most.address && with_it(&self.all) <= self.most.relay
    }

    /// Keeps what was given back for one that waits, as far as it wants it.
    fn keep(&mut self, heir: Slip, bytes: usize) {
        let message = self.message(heir);
        let more = bytes.min(message.needs());
        message.kept += more;
        let whose = message.whose;
        self.change(whose, |share| share.kept += more);
        self.set_head(whose);
    }

    fn grant(&mut self, slip: Slip) {
        let more = self.wait_no_longer(slip);
        let message = self.message(slip);
        message.held += more;
        let (whose, unfinished) = (message.whose, message.unfinished);
        self.change(whose, |share| {
            share.held += more;
            share.unfinished += if unfinished { more } else { 0 };
        });
        if unfinished {
            self.connection(whose).unfinished.insert(slip);
        }
    }

    /// Takes a message out of those that wait; returns for how much it did.
    fn wait_no_longer(&mut self, slip: Slip) -> usize {
        let message = self.message(slip);
        let kept = std::mem::take(&mut message.kept);
        let (whose, more) = (message.whose, message.more());
        if more > 0 {
            self.change(whose, |share| share.kept -= kept);
            if self.connection(whose).waiting.first() == Some(&slip) {
                self.set_pressed(whose, 0);
            }
            self.connection(whose).waiting.remove(&slip);
            self.set_head(whose);
        }
        more
    }

    /// Notes what a connection has pressed for.
    fn set_pressed(&mut self, whose: Whose, bytes: usize) {
        let before = std::mem::replace(&mut self.connection(whose).pressed, bytes);
        let of_address = &mut self.addresses.get_mut(&whose.address).expect("a message of it is here").pressed;
        for pressed in [of_address, &mut self.pressed] {
            pressed.remove(before);
            pressed.add(bytes);
        }
    }

    /// Notes who is the first that waits of a connection, and what it needs.
    fn set_head(&mut self, whose: Whose) {
        let address = self.addresses.get_mut(&whose.address).expect("a message of it is here");
        let connection = address.connections.get_mut(&whose.connection).expect("likewise");
        let head = connection.waiting.first().map(|&slip| (self.messages[&slip].needs(), slip));
        let before = std::mem::replace(&mut connection.head, head);
        if before != head {
            let least = |heads: &BTreeSet<(usize, Slip)>| heads.first().map(|&(need, _)| (need, whose.address));
            let least_before = least(&address.heads);
            if let Some(before) = before {
                address.heads.remove(&before);
            }
            address.heads.extend(head);
            let least = least(&address.heads);
            if least_before != least {
                if let Some(before) = least_before {
                    self.needs.remove(&before);
                }
                self.needs.extend(least);
            }
        }
    }

    fn change(&mut self, whose: Whose, change: impl Fn(&mut Share)) {
        change(&mut self.all);
        let address = self.addresses.get_mut(&whose.address).expect("a message of it is here");
        change(&mut address.share);
        change(&mut address.connections.get_mut(&whose.connection).expect("likewise").share);
    }

    fn message(&mut self, slip: Slip) -> &mut Message<T> {
        self.messages.get_mut(&slip).expect("who has a slip is here")
    }

    fn connection(&mut self, whose: Whose) -> &mut Connection {
        let address = self.addresses.get_mut(&whose.address).expect("a message of it is here");
        address.connections.get_mut(&whose.connection).expect("likewise")
    }

    fn of_connection(&self, slip: Slip) -> &Connection {
        let Whose { address, connection } = self.messages[&slip].whose;
        &self.addresses[&address].connections[&connection]
    }

    /// Returns what is held in all.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.all.held
    }
}

/// Whether so much is worth a loss: a quarter more. Else many who send about as much at one time, over slow lines, would
/// take from each other what they have nearly sent.
fn is_much_more(held: usize, than: usize) -> bool {
    held > than + than / 4
}

impl<T> Message<T> {
    /// Returns what it waits for.
    fn more(&self) -> usize {
        self.asked - self.held
    }

    /// Returns what it needs yet, beside what is kept for it.
    fn needs(&self) -> usize {
        self.more() - self.kept
    }
}

impl Connection {
    /// Returns what began first of what holds something and has not ended.
    fn oldest(&self) -> Option<Slip> {
        self.unfinished.first().copied()
    }
}

#[cfg(test)]
mod tests;
