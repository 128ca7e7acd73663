//! Whose turn it is: work of many connections, done so that nobody waits for much of one other's.
//!
//! Addresses take turns, in each of them its connections do, and the work of one connection is done in the order in which it
//! came. A turn is so many bytes of work ([`TURN_BYTES`]), the piece with the last of them whole: who says little says it at
//! once, who says much lets others speak in between. Pure.
//!
//! Addresses come first, because a stranger has as many connections as an address may have (64), and as many streams in
//! each as it likes; members do not, because all devices of a member may have one token, and so would its thief.

use std::collections::{HashMap, VecDeque};

use crate::hub::Origin;
use crate::limits::TURN_BYTES;

/// Work that waits for its turn.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    addresses: Ring<Ring<VecDeque<Piece<T>>>>,
}

#[derive(Debug)]
struct Piece<T> {
    bytes: usize,
    work: T,
}

impl<T> Turns<T> {
    pub(crate) fn new() -> Self {
        Self { addresses: Ring::default() }
    }

    /// Adds work that costs so much, behind what waits from there.
    pub(crate) fn push(&mut self, from: Origin, bytes: usize, work: T) {
        self.queue(from).push_back(Piece { bytes, work });
    }

    /// Adds work that goes on with what was done last from there, and so before what waits.
    pub(crate) fn push_front(&mut self, from: Origin, bytes: usize, work: T) {
        self.queue(from).push_front(Piece { bytes, work });
    }

    fn queue(&mut self, from: Origin) -> &mut VecDeque<Piece<T>> {
        self.addresses.entry(from.address).entry(from.connection)
    }

    /// Says whether there is work that may be done now.
    pub(crate) fn any(&self, may: impl Fn(Origin, &T) -> bool) -> bool {
        self.addresses.of.iter().any(|(&address, (_, connections))| {
            connections.of.iter().any(|(&connection, (_, queue))| {
                queue.front().is_some_and(|piece| may(Origin { address, connection }, &piece.work))
            })
        })
    }

    /// Returns the next piece of work that may be done now, and its cost. Whose first piece may not waits with all of its own.
    pub(crate) fn next(&mut self, may: impl Fn(Origin, &T) -> bool) -> Option<(usize, T)> {
        let piece = self.addresses.take(&|address, connections: &mut Ring<VecDeque<Piece<T>>>| {
            let of_connection = |connection, queue: &mut VecDeque<Piece<T>>| {
                let piece = queue.pop_front_if(|piece| may(Origin { address, connection }, &piece.work))?;
                Some((piece, queue.is_empty()))
            };
            let piece = connections.take(&of_connection)?;
            Some((piece, connections.order.is_empty()))
        })?;
        Some((piece.bytes, piece.work))
    }
}

/// Things that take turns, each with what it has had of the present one.
#[derive(Debug)]
struct Ring<V> {
    order: VecDeque<u64>,
    of: HashMap<u64, (usize, V)>,
}

impl<V> Default for Ring<V> {
    fn default() -> Self {
        Self { order: VecDeque::new(), of: HashMap::new() }
    }
}

impl<V: Default> Ring<V> {
    fn entry(&mut self, key: u64) -> &mut V {
        let Self { order, of } = self;
        let (_, value) = of.entry(key).or_insert_with(|| {
            order.push_back(key);
            Default::default()
        });
        value
    }

    /// Takes a piece from the first that gives one, and moves that to the end if its turn is over. `take` says, too, whether
    /// nothing is left there.
    fn take<T>(&mut self, take: &impl Fn(u64, &mut V) -> Option<(Piece<T>, bool)>) -> Option<Piece<T>> {
        for at in 0..self.order.len() {
            let key = self.order[at];
            let (spent, value) = self.of.get_mut(&key).expect("whoever is in the order is there");
            let Some((piece, empty)) = take(key, value) else { continue };
            *spent += piece.bytes;
            if empty {
                self.order.remove(at);
                self.of.remove(&key);
            } else if *spent >= TURN_BYTES {
                *spent = 0;
                self.order.remove(at);
                self.order.push_back(key);
            }
            return Some(piece);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Origin = Origin { address: 1, connection: 1 };
    const SAME_ADDRESS: Origin = Origin { address: 1, connection: 2 };
    const OTHER: Origin = Origin { address: 2, connection: 3 };

    fn rest(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.next(|_, _| true)).map(|(_, work)| work).collect()
    }

    #[test]
    fn who_says_much_lets_others_speak_in_between() {
        let mut turns = Turns::new();
        for _ in 0..3 {
            turns.push(ONE, TURN_BYTES, "much");
        }
        turns.push(SAME_ADDRESS, TURN_BYTES, "as much");
        turns.push(OTHER, 10, "little");
        turns.push(OTHER, 10, "more");
        turns.push_front(ONE, TURN_BYTES, "first");
        assert_eq!(rest(&mut turns), ["first", "little", "more", "as much", "much", "much", "much"]);
        assert!(turns.addresses.of.is_empty() && turns.addresses.order.is_empty(), "nothing is remembered");
    }

    #[test]
    fn a_turn_is_so_many_bytes_however_many_pieces() {
        let mut turns = Turns::new();
        for _ in 0..4 {
            turns.push(ONE, TURN_BYTES / 2, "a");
            turns.push(OTHER, TURN_BYTES / 4, "b");
        }
        assert_eq!(rest(&mut turns).concat(), "aabbbbaa");
    }

    #[test]
    fn who_may_not_now_is_passed_over_and_keeps_its_place() {
        let mut turns = Turns::new();
        turns.push(ONE, 1, "a");
        turns.push(OTHER, 1, "b");
        assert_eq!(turns.next(|from, _| from != ONE), Some((1, "b")));
        assert_eq!(turns.next(|from, _| from != ONE), None);
        assert!(turns.any(|_, _| true) && !turns.any(|from, _| from != ONE));
        turns.push_front(ONE, 1, "goes on");
        assert!(turns.any(|_, work| *work == "goes on"));
        assert_eq!(turns.next(|_, work| *work == "goes on"), Some((1, "goes on")));
        assert_eq!(turns.next(|_, work| *work == "goes on"), None);
        turns.push(OTHER, 1, "b");
        assert_eq!(rest(&mut turns), ["a", "b"]);
    }
}
