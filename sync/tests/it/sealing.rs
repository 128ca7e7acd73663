//! Sealing: stamps, boundaries, sizes.

use blazedb_sync::limits::{BATCH_TARGET_BYTES, DEPS_MAX};
use blazedb_sync::{SealContext, SealError, Sealed, TransactionSize, TransactionTooLarge, seal};
use blazedb_wire::{Batch, Hlc, Op, OpId, ReplicaId, Value, limits};

use crate::make::{SPACE, create, id, replica, text, update};
use crate::random::Random;

fn context(deps: &[OpId]) -> SealContext<'_> {
    SealContext {
        space: SPACE,
        replica: replica(1),
        epoch: 3,
        deps,
        relay_now: None,
        max_seen: Hlc::ZERO,
        previous: Hlc::ZERO,
    }
}

fn stamps(provisional: &[u64], context: &SealContext<'_>) -> Sealed {
    let ops: Vec<Op> = provisional.iter().map(|hlc| update(*hlc, 0, &[("a", text("x"))], &[])).collect();
    seal(1, &ops, context).expect("small")
}

fn at(ms: u64, counter: u16) -> u64 {
    Hlc::from_parts(ms, counter).0
}

#[test]
fn stamps_from_the_future_of_a_trusted_relay_are_replaced() {
    // spec: M-23, M-20
    let check = |provisional: &[u64], context: &SealContext<'_>, wanted: &[u64]| {
        let sealed = stamps(provisional, context);
        let wanted: Vec<Hlc> = wanted.iter().map(|hlc| Hlc(*hlc)).collect();
        assert_eq!(sealed.stamps, wanted);
        assert_eq!(sealed.restamped, provisional.iter().zip(&wanted).any(|(before, after)| *before != after.0));
        let ops: Vec<Hlc> = sealed.batches.iter().flat_map(|batch| hlcs(&batch.bytes)).collect();
        assert_eq!(ops, wanted, "the bytes say the same");
    };
    let relay = SealContext { relay_now: Some(100), ..context(&[]) };
    check(&[at(100, 0), at(100, u16::MAX)], &relay, &[at(100, 0), at(100, u16::MAX)]);
    check(&[at(101, 0)], &relay, &[at(100, 0)]);
    check(&[at(99, 0), at(500, 0), at(600, 0)], &relay, &[at(99, 0), at(100, 0), at(100, 1)]);
    check(&[at(500, 0)], &SealContext { max_seen: Hlc(at(300, 9)), ..relay }, &[at(300, 10)]);
    check(&[at(500, 0)], &SealContext { previous: Hlc(at(300, 9)), ..relay }, &[at(300, 10)]);
    check(&[at(99, 0)], &SealContext { max_seen: Hlc(at(300, 9)), ..relay }, &[at(99, 0)]);
    check(&[at(99, 0)], &SealContext { previous: Hlc(at(99, 5)), ..relay }, &[at(99, 6)]);
    check(&[at(9_000, 0), at(9_000, 1)], &context(&[]), &[at(9_000, 0), at(9_000, 1)]);
}

fn hlcs(bytes: &bytes::Bytes) -> Vec<Hlc> {
    let batch = Batch::decode(bytes.clone()).expect("sealed");
    batch.ops().map(|op| op.hlc).collect()
}

#[test]
fn stamps_ascend_with_counters_whatever_the_clock_did() {
    // spec: M-20, M-23
    for seed in 0..2_000 {
        let mut random = Random::new(seed);
        let provisional: Vec<u64> = (0..20).map(|_| at(random.below(40), random.below(3) as u16)).collect();
        let relay_now = (!random.one_in(4)).then(|| random.below(40));
        let context = SealContext {
            relay_now,
            max_seen: Hlc(at(random.below(60), 0)),
            previous: Hlc(at(random.below(60), 3)),
            ..context(&[])
        };
        let sealed = stamps(&provisional, &context);
        assert!(sealed.stamps[0] > context.previous);
        assert!(sealed.stamps.is_sorted_by(|a, b| a < b), "seed {seed}");
        if let Some(now) = relay_now {
            // Nothing is above what the relay knows, but for the counting up of those before it.
            let ceiling = Hlc::from_parts(now, u16::MAX).max(context.max_seen).max(context.previous).0 + 21;
            assert!(sealed.stamps.iter().all(|stamp| stamp.0 <= ceiling), "seed {seed}");
        }
    }
}

#[test]
fn transactions_stay_whole_and_counters_gapless() {
    // spec: M-24, M-25
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..=random.below(30) {
            let many = 1 + random.below(20);
            for n in 0..many {
                let filler = "x".repeat(random.below(600) as usize);
                let op = create(1_000 + ops.len() as u64, 5, &[("n", Value::I64(n as i64)), ("t", text(&filler))]);
                ops.push(Op { more: n + 1 < many, ..op });
            }
        }
        let first = 1 + random.below(1_000);
        let sealed = seal(first, &ops, &context(&[])).expect("small transactions");
        assert_eq!(seal(first, &ops, &context(&[])).as_ref(), Ok(&sealed), "the same arguments, the same bytes");
        assert!(!sealed.restamped);
        let mut next = first;
        let mut lifted = Vec::new();
        for (n, part) in sealed.batches.iter().enumerate() {
            let batch = Batch::decode(part.bytes.clone()).expect("sealed");
            assert_eq!(
                (part.first_counter, part.last_counter + 1),
                (batch.counter_range().start, batch.counter_range().end)
            );
            assert_eq!(part.first_counter, next);
            assert_eq!((batch.head().replica, batch.head().space, batch.head().epoch), (replica(1), SPACE, 3));
            next = part.last_counter + 1;
            assert!(
                n + 1 == sealed.batches.len() || part.bytes.len() >= BATCH_TARGET_BYTES,
                "only the last may be small"
            );
            assert!(part.bytes.len() < BATCH_TARGET_BYTES + 20 * 700, "no more than one transaction above the target");
            lifted.extend(batch.ops().map(|op| op.to_op()));
        }
        assert_eq!(lifted, ops, "seed {seed}");
    }
}

#[test]
fn dependencies_are_sorted_one_for_each_replica_newest_kept() {
    let deps = [id(9, 4), id(2, 7), id(9, 5), id(3, 1)];
    let ops = [create(1, 0, &[("a", text("x"))])];
    let sealed = seal(1, &ops, &context(&deps)).expect("small");
    let batch = Batch::decode(sealed.batches[0].bytes.clone()).expect("sealed");
    assert_eq!(batch.head().deps, [id(2, 7), id(3, 1), id(9, 5)]);

    let many: Vec<OpId> = (0..DEPS_MAX as u32 + 10)
        .map(|n| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            OpId { replica: ReplicaId(bytes), counter: 1 }
        })
        .collect();
    let sealed = seal(1, &ops, &context(&many)).expect("small");
    let batch = Batch::decode(sealed.batches[0].bytes.clone()).expect("sealed");
    assert_eq!(batch.head().deps, many[10..]);
}

#[test]
fn an_open_transaction_is_not_sealed() {
    let open = Op { more: true, ..create(1, 0, &[("a", text("x"))]) };
    assert_eq!(seal(1, &[open], &context(&[])), Err(SealError::TransactionOpen));
    assert_eq!(seal(1, &[], &context(&[])), Ok(Sealed::default()));
}

#[test]
fn a_transaction_too_large_is_told_with_the_operation_that_is_too_much() {
    // spec: M-19
    let piece = |n: usize, more: bool| Op {
        more,
        ..create(n as u64 + 1, 0, &[("n", Value::I64(n as i64)), ("t", Value::Bytes(vec![7; 1_000]))])
    };
    let mut size = TransactionSize::new();
    let mut fitting = 0;
    let error = loop {
        match size.add(&piece(fitting, true)) {
            Ok(()) => fitting += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.what, error.max), ("bytes", (limits::BATCH_BYTES_MAX - 8 * 1024) as u64));
    // What was refused is not counted: a smaller one may still fit.
    assert_eq!(size.ops(), fitting);
    assert_eq!(size.clone().add(&piece(fitting, true)), Err(error));
    assert_eq!(size.add(&create(u64::MAX, 0, &[("n", Value::Null), ("t", Value::Null)])), Ok(()));
    let transaction = |n: usize| -> Vec<Op> { (0..n).map(|at| piece(at, at + 1 < n)).collect() };
    let sealed = seal(1, &transaction(fitting), &context(&[])).expect("what the bound admits can be sealed");
    assert_eq!(sealed.batches.len(), 1);
    assert!(sealed.batches[0].bytes.len() > limits::BATCH_BYTES_MAX * 9 / 10, "the bound is not far off");
    assert!(matches!(
        seal(1, &transaction(fitting + 30), &context(&[])),
        Err(SealError::TooLarge(TransactionTooLarge { what: "bytes", .. }))
    ));
}

#[test]
fn what_the_bound_admits_can_be_sealed() {
    // spec: M-19. At the worst: every dependency, far stamps, many shapes.
    let deps: Vec<OpId> = (0..=255u8).map(|n| OpId { replica: ReplicaId([n; 16]), counter: u64::MAX - 1 }).collect();
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut size = TransactionSize::new();
        let mut ops: Vec<Op> = Vec::new();
        let bulk = 1 + random.below(4_000) as usize;
        loop {
            let name = format!("field{}", random.below(400));
            let filler = Value::Bytes(vec![1; random.below(bulk as u64) as usize]);
            let far = if random.one_in(2) { u64::MAX } else { 0 };
            let op = Op { cursor: far, more: true, ..update(random.next(), 0, &[(&name, filler)], &["gone"]) };
            if size.add(&op).is_err() {
                break;
            }
            ops.push(op);
        }
        ops.last_mut().expect("some fit").more = false;
        let sealed = seal(1, &ops, &SealContext { relay_now: None, ..context(&deps) });
        assert_eq!(sealed.map(|sealed| sealed.batches.len()), Ok(1), "seed {seed}");
    }
}

#[test]
fn names_are_counted_once_for_each_list() {
    // spec: M-19
    let mut size = TransactionSize::new();
    let mut ops: Vec<Op> = Vec::new();
    loop {
        let name = format!("{:0>250}", ops.len() / 2);
        let op = Op { more: true, ..update(ops.len() as u64 + 1, 0, &[(&name, Value::Null)], &[]) };
        if size.add(&op).is_err() {
            break;
        }
        ops.push(op);
    }
    assert!(ops.len() > 1_200, "{} operations of some 180 bytes", ops.len());
    ops.last_mut().expect("some fit").more = false;
    assert_eq!(seal(1, &ops, &context(&[])).map(|sealed| sealed.batches.len()), Ok(1));
}

#[test]
fn the_largest_single_operation_fits() {
    // spec: M-19
    let big = create(1, 0, &[("b", Value::Bytes(vec![9; limits::ROW_BYTES_MAX - 100]))]);
    let mut size = TransactionSize::new();
    assert_eq!(size.add(&big), Ok(()));
    let deps: Vec<OpId> = (0..=255u8).map(|n| OpId { replica: ReplicaId([n; 16]), counter: u64::MAX - 1 }).collect();
    let ops = [big.clone(), create(2, 0, &[("a", text("x"))]), big];
    let sealed = seal(1, &ops, &context(&deps)).expect("each in a batch of its own");
    assert_eq!(sealed.batches.len(), 3);
    assert!(size.add(&ops[1]).is_err(), "with a second operation the smaller limit holds");
}
