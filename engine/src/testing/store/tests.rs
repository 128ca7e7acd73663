//! Forged stores that hang together but for one lie.

use super::*;
use crate::btree::fuzz_inline_values;
use crate::error::CorruptionKind;

/// A store of several trees, laid out after a change of its pages' bodies.
fn forged(change: impl Fn(PageKind, &mut [u8])) -> Env {
    let mut input = Vec::new();
    let valid = seed_store(5);
    let mut rest = &valid[..];
    let mut pieces = 0;
    while let [kind, low, high, more @ ..] = rest {
        let (piece, more) = more.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        rest = more;
        let mut piece = piece.to_vec();
        if pieces >= 2 {
            piece.resize(4096 - PAGE_HEADER_BYTES, 0);
            change(KINDS[usize::from(*kind) % KINDS.len()], &mut piece);
        }
        pieces += 1;
        input.push(*kind);
        input.extend_from_slice(&(piece.len() as u16).to_le_bytes());
        input.extend_from_slice(&piece);
    }
    let env = Env::memory(3);
    let file = env.storage.open(&env.name, OpenMode::Create).expect("memory does not fail");
    file.write_at(0, &Parts::of(&input).expect("it was laid out before").into_file()).expect("memory does not fail");
    env
}

/// Where the leaf of roots has them: 25 bytes each (spec: E-38).
fn roots_of(kind: PageKind, body: &[u8]) -> Vec<usize> {
    let values = if kind == PageKind::Leaf { fuzz_inline_values(body) } else { Vec::new() };
    let are_roots = values.len() >= 3 && values.iter().all(|(_, value)| value.len() == 25 && value[0] <= 1);
    if are_roots { values.into_iter().map(|(at, _)| at).collect() } else { Vec::new() }
}

#[test]
fn a_tree_that_has_another_number_of_entries_than_it_says_is_damage() {
    let sound = Store::open(forged(|_, _| {}), options()).expect("nothing is changed");
    sound.verify(&mut |_| {}).expect("nothing is changed");
    for number in [0, u64::MAX] {
        let env = forged(|kind, body| {
            for at in roots_of(kind, body) {
                body[at + 17..at + 25].copy_from_slice(&u64::to_le_bytes(number));
            }
        });
        let store = Store::open(env, options()).expect("nobody counts at opening");
        let _ = store.stats();
        let mut tx = store.write();
        let tree = tx.tree("notes").expect("it is there");
        match number {
            0 => tx.delete(tree, b"key 0 0").expect("a good key"),
            _ => tx.put(tree, b"another", b"1").expect("a good row"),
        }
        tx.commit().expect("it goes into the table");
        assert!(matches!(store.read().len(tree), Err(ReadError::Corruption(_))), "{number}");
    }
}

#[test]
fn a_root_that_is_not_in_use_is_found_at_opening() {
    let roots = std::cell::RefCell::new(Vec::new());
    forged(|kind, body| {
        roots.borrow_mut().extend(roots_of(kind, body).iter().map(|at| u64_at(body, at + 1) as usize));
    });
    let roots = roots.into_inner();
    assert!(roots.len() >= 3, "the leaf of roots was found");
    for root in roots {
        let env = forged(|kind, body| {
            if kind == PageKind::Space {
                let bits = &mut body[16..];
                assert!(bits[root / 8] & 1 << (root % 8) != 0, "it is in use");
                bits[root / 8] &= !(1 << (root % 8));
                let count = u32_at(body, 8) - 1;
                body[8..12].copy_from_slice(&count.to_le_bytes());
            }
        });
        match Store::open(env, options()) {
            Err(OpenError::Corruption(damage)) => {
                assert!(
                    matches!(&damage.what, CorruptionKind::Node { rule, .. } if rule.contains("not in use")),
                    "{damage}"
                );
            }
            other => panic!("{:?}", other.map(drop)),
        }
    }
}
