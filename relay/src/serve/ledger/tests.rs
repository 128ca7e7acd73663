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
    // It would hold as much as they do, or hardly less.
    for bytes in [40, 32] {
        let waits = room.begin(4, 4, bytes, "waits");
        assert_eq!(room.press(waits), [""; 0]);
        room.leave(waits);
    }
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
fn a_quarter_more_is_worth_a_loss() {
    let mut room = Told::new();
    for (address, bytes) in [(1, 40), (2, 40), (3, 20)] {
        room.begin(address, address, bytes, "hoard");
    }
    let waits = room.begin(4, 4, 31, "waits");
    assert_eq!(room.press(waits), ["hoard"]);
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
fn what_comes_back_piece_by_piece_is_kept_for_whom_it_was_lost_to() {
    let mut room = Told::new();
    let hoards: Vec<_> = (0..10).map(|n| room.begin(1 + n % 2, n, 10, "hoard")).collect();
    let reserve: Vec<_> = (10..14).map(|n| room.begin(1 + n % 2, n, 10, "reserve")).collect();
    let waits = room.begin(3, 20, 30, "waits");
    assert_eq!(room.press(waits).len(), 3);
    let lost: Vec<_> = hoards.into_iter().filter(|slip| room.stands(*slip) == Standing::Lost).collect();
    assert_eq!(room.leave(lost[0]), [""; 0], "not for those that want no more than that");
    assert_eq!(room.leave(lost[1]), [""; 0]);
    assert_eq!(room.leave(lost[2]), ["waits"]);
    // Whoever gives up lets others have what was kept.
    let other = room.begin(4, 21, 20, "other");
    let lost = room.press(other).len();
    assert_eq!(lost, 2);
    room.leave(waits);
    assert_eq!(room.stands(other), Standing::Holds, "the first of them, and 10 beside it");
    assert!(reserve.iter().any(|slip| room.stands(*slip) == Standing::Holds));
}

// spec: L-23
#[test]
fn what_is_kept_for_one_does_not_make_its_address_larger() {
    let mut ledger = Ledger::new(Room { address: 40, relay: 100 });
    let mut woken = Vec::new();
    let mut begin = |ledger: &mut Ledger<()>, address, connection, bytes| {
        let slip = ledger.enter(whose(address, connection), true, ());
        ledger.ask(slip, bytes, &mut woken);
        slip
    };
    let hoard = begin(&mut ledger, 2, 20, 40);
    begin(&mut ledger, 3, 30, 35);
    begin(&mut ledger, 1, 10, 10);
    let other = begin(&mut ledger, 4, 40, 15);
    let heir = begin(&mut ledger, 1, 11, 20);
    let neighbour = begin(&mut ledger, 1, 12, 15);
    ledger.press(heir, &mut Vec::new());
    assert_eq!(ledger.standing(hoard), Standing::Lost);
    ledger.leave(other, &mut Vec::new());
    assert_eq!(ledger.standing(neighbour), Standing::Holds);
    ledger.leave(hoard, &mut Vec::new());
    assert_eq!(ledger.standing(heir), Standing::Waits, "all it wants is kept, and its address is full");
    ledger.leave(neighbour, &mut Vec::new());
    assert_eq!(ledger.standing(heir), Standing::Holds);
}

// spec: L-23
#[test]
fn what_was_kept_goes_to_others_when_it_is_not_waited_for() {
    let mut room = Told::new();
    let hoards: Vec<_> = (0..10).map(|n| room.begin(1 + n % 2, n, 10, "hoard")).collect();
    let reserve = room.begin(1, 10, 10, "reserve");
    let waits = room.begin(3, 20, 20, "waits");
    assert_eq!(room.press(waits).len(), 2);
    let lost = hoards.into_iter().find(|slip| room.stands(*slip) == Standing::Lost).expect("one of two");
    assert_eq!(room.leave(lost), [""; 0]);
    assert_eq!((room.stands(reserve), room.leave(waits)), (Standing::Waits, vec!["reserve"]));
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

// Each that gives up waiting is asked for nobody's sake. spec: L-23
#[test]
fn tens_of_thousands_that_wait_cost_no_more_each_than_a_few() {
    let mut ledger = Ledger::new(Room { address: 40 << 20, relay: 160 << 20 });
    let mut woken = Vec::new();
    let begun = std::time::Instant::now();
    let mut waits = Vec::new();
    for n in 0..60_000_u64 {
        // 2,000 connections of 30 addresses, of which the first few have all there is.
        let slip = ledger.enter(whose(n % 2_000 % 30, n % 2_000), true, ());
        ledger.ask(slip, 4 << 20, &mut woken);
        waits.push(slip);
    }
    for slip in &waits[..2_000] {
        ledger.press(*slip, &mut woken);
    }
    for slip in waits.into_iter().rev() {
        ledger.leave(slip, &mut woken);
    }
    assert!(ledger.addresses.is_empty());
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
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
        sum.kept += message.kept;
        sum.unfinished += if message.unfinished { message.held } else { 0 };
        sum.leaving += if message.lost.is_some() { message.held } else { 0 };
    }
    sum
}

fn holds_together<T: Clone>(ledger: &Ledger<T>) -> Result<(), TestCaseError> {
    prop_assert!(ledger.all.held + ledger.all.kept <= MOST.relay);
    prop_assert!(ledger.messages.values().all(|message| message.kept <= message.more()));
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
    let waiting =
        ledger.addresses.values().flat_map(|address| address.connections.values()).flat_map(|own| &own.waiting);
    let mut waiting: Vec<_> = waiting.copied().collect();
    waiting.sort_unstable();
    let mut wants: Vec<_> =
        ledger.messages.iter().filter(|(_, message)| message.more() > 0).map(|(slip, _)| *slip).collect();
    wants.sort_unstable();
    prop_assert_eq!(waiting, wants);
    let (mut needs, mut pressed) = (BTreeSet::new(), Amounts::default());
    for (&address, shares) in &ledger.addresses {
        let (mut heads, mut of_address) = (BTreeSet::new(), Amounts::default());
        for own in shares.connections.values() {
            if let Some(slip) = own.waiting.first() {
                prop_assert!(!ledger.has_room(*slip), "nobody waits for what is there");
                heads.insert((ledger.messages[slip].needs(), *slip));
            }
            of_address.add(own.pressed);
            pressed.add(own.pressed);
        }
        needs.extend(heads.first().map(|&(need, _)| (need, address)));
        prop_assert_eq!((&shares.heads, &shares.pressed), (&heads, &of_address));
    }
    prop_assert_eq!((&ledger.needs, &ledger.pressed), (&needs, &pressed));
    prop_assert_eq!(ledger.first(), None);
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
        prop_assert_eq!(ledger.all, Share::default());
        prop_assert!(ledger.needs.is_empty() && ledger.pressed.0.is_empty());
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
