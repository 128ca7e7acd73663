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
//! in unfinished messages, and in it of the connection that holds most, the oldest. That address, or connection, holds more
//! than the one that waits would then hold, so that who holds little loses nothing to who holds much.
//!
//! Nobody waits for one that waits before it for more than there is: it might wait for ever. So who wants much gets it later
//! than who wants little, or, if all want little all the time, not at all.
//!
//! Invariants: never more is held than there is room, in all and of an address; what was lost counts until it has left; none that
//! is the first of its connection waits for what is there. Read [`Ledger::ask`] and [`Ledger::press`] first.

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
    waiting: usize,
    addresses: BTreeMap<u64, Address>,
    messages: HashMap<Slip, Message<T>>,
    next: u64,
}

/// What the messages of a connection, of an address or of all hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    held: usize,
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
}

#[derive(Debug, Default)]
struct Connection {
    share: Share,
    messages: usize,
    waiting: BTreeSet<Slip>,
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
    unfinished: bool,
    lost: Option<Lost>,
    told: T,
}

/// For whom a message was lost.
#[derive(Clone, Copy, Debug)]
struct Lost(Slip);

impl<T: Clone> Ledger<T> {
    pub(super) fn new(most: Room) -> Self {
        Self { most, all: Share::default(), waiting: 0, addresses: BTreeMap::new(), messages: HashMap::new(), next: 1 }
    }

    /// Lets a message in, which holds nothing yet. Unfinished is one whose rest may never come.
    pub(super) fn enter(&mut self, whose: Whose, unfinished: bool, told: T) -> Slip {
        let slip = Slip(self.next);
        self.next += 1;
        let message = Message { whose, held: 0, asked: 0, unfinished, lost: None, told };
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
            self.waiting += 1;
            let connection = self.connection(whose);
            connection.waiting.insert(slip);
            if connection.waiting.first() == Some(&slip) {
                connection.pressed = 0;
                if self.has_room(slip) {
                    self.grant(slip);
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
            && self.has_room(heir)
        {
            self.grant(heir);
            woken.push(self.message(heir).told.clone());
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
        connection.pressed = more;
        while let Some(loser) = self.loser(whose, more) {
            woken.push(self.lose(loser, slip));
        }
        // One that waited may be lost, and another of its connection may have room.
        self.settle(woken);
    }

    /// Returns who loses next to a connection that has pressed for more.
    fn loser(&self, whose: Whose, more: usize) -> Option<Slip> {
        let pressed = |address: &Address| -> usize {
            address.connections.values().map(|other| other.pressed).filter(|pressed| *pressed <= more).sum()
        };
        let address = &self.addresses[&whose.address];
        let of_address = address.share.staying() + pressed(address);
        if of_address <= self.most.address {
            if self.all.staying() + self.addresses.values().map(pressed).sum::<usize>() <= self.most.relay {
                return None;
            }
            let others = self.addresses.iter().filter(|(number, _)| **number != whose.address);
            if let Some((_, most)) = others.max_by_key(|(_, other)| other.share.unfinished)
                && most.share.unfinished > of_address
            {
                return most.connections.values().max_by_key(|other| other.share.unfinished)?.oldest();
            }
        }
        let others = address.connections.iter().filter(|(number, _)| **number != whose.connection);
        let (_, most) = others.max_by_key(|(_, other)| other.share.unfinished)?;
        let of_connection = address.connections[&whose.connection].share.staying() + more;
        if most.share.unfinished > of_connection { most.oldest() } else { None }
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
        while self.waiting > 0
            && let Some(slip) = self.first()
        {
            self.grant(slip);
            woken.push(self.message(slip).told.clone());
        }
    }

    /// Returns who is served first, of those for whom there is room.
    fn first(&self) -> Option<Slip> {
        let waiting = self.addresses.values().flat_map(|address| {
            address.connections.values().filter_map(|connection| {
                let slip = *connection.waiting.first()?;
                let more = self.messages[&slip].more();
                self.has_room(slip).then_some((address.share.held + more, connection.share.held + more, slip))
            })
        });
        waiting.min().map(|(_, _, slip)| slip)
    }

    fn has_room(&self, slip: Slip) -> bool {
        let message = &self.messages[&slip];
        let of_address = self.addresses[&message.whose.address].share.held;
        of_address + message.more() <= self.most.address && self.all.held + message.more() <= self.most.relay
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
        let (whose, more) = (message.whose, message.more());
        if more > 0 {
            let connection = self.connection(whose);
            if connection.waiting.first() == Some(&slip) {
                connection.pressed = 0;
            }
            connection.waiting.remove(&slip);
            self.waiting -= 1;
        }
        more
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

    /// Returns what is held in all.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.all.held
    }
}

impl<T> Message<T> {
    /// Returns what it waits for.
    fn more(&self) -> usize {
        self.asked - self.held
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
