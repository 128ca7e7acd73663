//! A ledger against one that is added up anew after every step, and who loses to whom.

use proptest::prelude::*;

use super::*;

const MOST: Room = Room { address: 60, relay: 100 };

fn whose(address: u64, connection: u64) -> Whose {
    Whose { address, connection }
}

/// A ledger whose messages are told by their names.
struct Told {
    ledger: Ledger<&'static str>,
    woken: Vec<&'static str>,
}

impl Told {
    fn new() -> Self {
        Self { ledger: Ledger::new(MOST), woken: Vec::new() }
    }

    /// The beginning of a message.
    fn begin(&mut self, address: u64, connection: u64, bytes: usize, name: &'static str) -> Slip {
        let slip = self.ledger.enter(whose(address, connection), true, name);
        self.ledger.ask(slip, bytes, &mut self.woken);
        slip
    }

    fn press(&mut self, slip: Slip) -> Vec<&'static str> {
        self.ledger.press(slip, &mut self.woken);
        std::mem::take(&mut self.woken)
    }

    fn leave(&mut self, slip: Slip) -> Vec<&'static str> {
        self.ledger.leave(slip, &mut self.woken);
        std::mem::take(&mut self.woken)
    }

    fn stands(&self, slip: Slip) -> Standing {
        self.ledger.standing(slip)
    }
}

// spec: L-23
#[test]
fn who_holds_least_is_served_first() {
    let mut room = Told::new();
    let first = room.begin(1, 1, 60, "first");
    let second = room.begin(2, 2, 40, "second");
    let waits: Vec<_> = [(2, 2, "behind"), (2, 3, "its neighbour"), (3, 4, "small")]
        .map(|(address, connection, name)| room.begin(address, connection, 20, name))
        .into();
    assert!(waits.iter().all(|slip| room.stands(*slip) == Standing::Waits));
    // Of the address that holds nothing, though it came last; then of the connection that holds nothing.
    room.ledger.lessen(first, 0, &mut room.woken);
    assert_eq!(room.woken, ["small", "its neighbour"]);
    assert_eq!(room.stands(waits[0]), Standing::Waits, "its address is full");
    room.woken.clear();
    assert_eq!(room.leave(second), ["behind"]);
    waits.into_iter().for_each(|slip| assert!(room.leave(slip).is_empty()));
    room.leave(first);
    assert!(room.ledger.addresses.is_empty() && room.ledger.messages.is_empty(), "nothing is remembered");
}

// spec: L-23
#[test]
fn what_does_not_end_is_lost_to_who_holds_less() {
    let mut room = Told::new();
    let hoards = [room.begin(1, 1, 30, "oldest"), room.begin(1, 2, 20, "smaller"), room.begin(1, 1, 10, "younger")];
    let whole = room.begin(2, 3, 40, "whole");
    assert!(room.ledger.finish(whole));
    let waits = room.begin(3, 4, 20, "small");
    assert_eq!(room.stands(waits), Standing::Waits);
    // Of the address that holds most in what is unfinished, of the connection that does, the oldest.
    assert_eq!(room.press(waits), ["oldest"]);
    assert_eq!((room.stands(hoards[0]), room.stands(waits)), (Standing::Lost, Standing::Waits), "it holds it still");
    assert_eq!(room.press(waits), [""; 0], "and no second for the same");
    assert_eq!(room.ledger.ask(hoards[0], 31, &mut Vec::new()), Standing::Lost);
    assert!(!room.ledger.finish(hoards[0]), "its rest comes too late");
    assert_eq!(room.leave(hoards[0]), ["small"]);
    assert_eq!(room.stands(waits), Standing::Holds);
}

// spec: L-23
#[test]
fn who_holds_less_than_the_one_that_waits_loses_nothing() {
    let mut room = Told::new();
    let of_one = room.begin(1, 1, 40, "of one");
    let of_other = room.begin(2, 2, 40, "of another");
    let of_third = room.begin(3, 3, 20, "of a third");
    // It would hold as much as they do.
    let waits = room.begin(4, 4, 40, "waits");
    assert_eq!(room.press(waits), [""; 0]);
    room.leave(waits);
    // Two that press together would, too.
    let both = [room.begin(4, 4, 25, "one"), room.begin(4, 5, 25, "two")];
    assert_eq!(room.press(both[0]).len(), 1);
    assert_eq!(room.press(both[1]), [""; 0]);
    assert_eq!(room.stands(of_third), Standing::Holds);
    for slip in [of_one, of_other, of_third] {
        room.leave(slip);
    }
    assert!(both.iter().all(|slip| room.stands(*slip) == Standing::Holds));
}

// spec: L-23
#[test]
fn in_a_full_address_its_largest_connection_loses_and_no_other_address() {
    let mut room = Told::new();
    room.begin(2, 9, 40, "elsewhere");
    let hoards = [room.begin(1, 1, 40, "large"), room.begin(1, 2, 20, "as large as that")];
    let own = room.begin(1, 1, 20, "its own");
    assert_eq!(room.press(own), [""; 0], "nothing of its neighbour, who holds less");
    let waits = room.begin(1, 3, 20, "neighbour");
    assert_eq!(room.press(waits), ["large"]);
    assert_eq!(room.leave(hoards[0]), ["neighbour", "its own"]);
    let late = room.begin(1, 4, 20, "late");
    assert_eq!(room.press(late), [""; 0], "all hold as much");
    assert_eq!(room.stands(late), Standing::Waits);
}

// spec: L-23
#[test]
fn who_wants_little_is_not_taken_together_with_who_wants_much() {
    let mut room = Told::new();
    let hoards = [room.begin(1, 1, 40, "one"), room.begin(2, 2, 40, "another"), room.begin(3, 3, 20, "little")];
    let large = room.begin(4, 4, 50, "large");
    assert_eq!(room.press(large), [""; 0], "it would hold more than anybody");
    // A neighbour of it: one is lost to that, and none beside for the large one.
    let small = room.begin(4, 5, 10, "small");
    assert_eq!(room.press(small), ["another"]);
    assert_eq!(room.leave(hoards[1]), ["small"]);
    assert_eq!(room.stands(large), Standing::Waits);
}

#[test]
fn what_never_fits_is_known_at_once() {
    let room = Told::new();
    assert!(room.ledger.fits(60) && !room.ledger.fits(61));
}

#[derive(Clone, Debug)]
enum Step {
    Enter { address: u64, connection: u64, unfinished: bool },
    Ask { which: usize, bytes: usize },
    Lessen { which: usize, bytes: usize },
    Finish { which: usize },
    Press { which: usize },
    Leave { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..16_usize;
    prop_oneof![
        3 => (0..4_u64, 0..3_u64, any::<bool>())
            .prop_map(|(address, connection, unfinished)| Step::Enter { address, connection, unfinished }),
        6 => (which.clone(), 1..=60_usize).prop_map(|(which, bytes)| Step::Ask { which, bytes }),
        2 => (which.clone(), 0..40_usize).prop_map(|(which, bytes)| Step::Lessen { which, bytes }),
        1 => which.clone().prop_map(|which| Step::Finish { which }),
        3 => which.clone().prop_map(|which| Step::Press { which }),
        2 => which.prop_map(|which| Step::Leave { which }),
    ]
}

/// Adds up what is held, from the messages alone.
fn added_up<T>(ledger: &Ledger<T>, of: impl Fn(Whose) -> bool) -> Share {
    let mut sum = Share::default();
    for message in ledger.messages.values().filter(|message| of(message.whose)) {
        sum.held += message.held;
        sum.unfinished += if message.unfinished { message.held } else { 0 };
        sum.leaving += if message.lost.is_some() { message.held } else { 0 };
    }
    sum
}

fn holds_together<T: Clone>(ledger: &Ledger<T>) -> Result<(), TestCaseError> {
    prop_assert!(ledger.all.held <= MOST.relay);
    prop_assert_eq!(ledger.all, added_up(ledger, |_| true));
    for (&address, shares) in &ledger.addresses {
        prop_assert!(shares.share.held <= MOST.address);
        prop_assert_eq!(shares.share, added_up(ledger, |whose| whose.address == address));
        for (&connection, own) in &shares.connections {
            prop_assert_eq!(own.share, added_up(ledger, |whose| whose == Whose { address, connection }));
            let waits = own.waiting.first().map_or(0, |slip| ledger.messages[slip].more());
            prop_assert!(own.pressed == 0 || own.pressed == waits);
        }
    }
    prop_assert_eq!(ledger.waiting, ledger.messages.values().filter(|message| message.more() > 0).count());
    prop_assert_eq!(ledger.first(), None, "nobody waits for what is there");
    Ok(())
}

proptest! {
    // spec: L-23
    #[test]
    fn nothing_is_lost_or_made_up(steps in prop::collection::vec(step(), 0..120)) {
        let mut ledger = Ledger::new(MOST);
        let mut slips: Vec<Slip> = Vec::new();
        let mut woken = Vec::new();
        for step in steps {
            let at = |which: usize| slips.get(which % slips.len().max(1)).copied();
            match step {
                Step::Enter { address, connection, unfinished } => {
                    slips.push(ledger.enter(Whose { address, connection }, unfinished, ()));
                }
                Step::Ask { which, bytes } => {
                    if let Some(slip) = at(which) { ledger.ask(slip, bytes, &mut woken); }
                }
                Step::Lessen { which, bytes } => {
                    if let Some(slip) = at(which) { ledger.lessen(slip, bytes, &mut woken); }
                }
                Step::Finish { which } => {
                    if let Some(slip) = at(which) { ledger.finish(slip); }
                }
                Step::Press { which } => {
                    if let Some(slip) = at(which) { ledger.press(slip, &mut woken); }
                }
                Step::Leave { which } => {
                    if let Some(slip) = at(which) {
                        ledger.leave(slip, &mut woken);
                        slips.retain(|other| *other != slip);
                    }
                }
            }
            holds_together(&ledger)?;
        }
        for slip in slips {
            ledger.leave(slip, &mut woken);
        }
        prop_assert!(ledger.messages.is_empty() && ledger.addresses.is_empty());
        prop_assert_eq!((ledger.all, ledger.waiting), (Share::default(), 0));
    }

    // Three addresses with four connections each begin what they like, and end nothing. spec: L-23
    #[test]
    fn who_holds_little_gets_room_while_others_hoard(
        hoards in prop::collection::vec((1..=3_u64, 0..4_u64, 1..=60_usize), 0..40),
        bytes in 1..=6_usize,
        neighbour in any::<bool>(),
    ) {
        let mut ledger = Ledger::new(MOST);
        let mut woken = Vec::new();
        let mut open = Vec::new();
        for (address, connection, bytes) in hoards {
            let slip = ledger.enter(Whose { address, connection }, true, ());
            ledger.ask(slip, bytes, &mut woken);
            open.push(slip);
        }
        // From an address of its own, or beside four connections of a hoarder's.
        let (whose, bytes) = if neighbour {
            (Whose { address: 1, connection: 9 }, bytes.min(2))
        } else {
            (Whose { address: 9, connection: 9 }, bytes)
        };
        let small = ledger.enter(whose, true, ());
        // Each of them presses as well, whenever it can.
        for _ in 0..=open.len() {
            ledger.ask(small, bytes, &mut woken);
            ledger.press(small, &mut woken);
            prop_assert_ne!(ledger.standing(small), Standing::Lost);
            for slip in &open {
                if ledger.standing(*slip) == Standing::Waits { ledger.press(*slip, &mut woken); }
                prop_assert_ne!(ledger.standing(small), Standing::Lost, "to one that holds more");
            }
            for slip in open.extract_if(.., |slip| ledger.standing(*slip) == Standing::Lost).collect::<Vec<_>>() {
                ledger.leave(slip, &mut woken);
            }
        }
        prop_assert_eq!(ledger.standing(small), Standing::Holds);
    }
}
