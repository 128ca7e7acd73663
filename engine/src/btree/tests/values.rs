//! Values in pages of their own, at the lengths where a page or a level more begins.

use super::super::value::ValueWriter;
use super::super::{ValueRef, read_value, release_value, value_pages};
use super::Rng;
use super::store::VecPages;
use crate::pager::PageRead;

fn write(pages: &mut VecPages, bytes: &[u8], part: usize) -> ValueRef {
    let mut writer = ValueWriter::new(pages);
    bytes.chunks(part).for_each(|part| writer.push(part).expect("room"));
    writer.finish().expect("room").0
}

#[test]
fn lengths_at_the_edges_of_pages_and_levels() {
    let mut rng = Rng(5);
    let mut pages = VecPages::new(4096);
    let body = pages.body_bytes();
    let fanout = (body - 8) / 14;
    let level = body * fanout;
    for (len, height) in [
        (1, 1),
        (body - 1, 1),
        (body, 1),
        (body + 1, 2),
        (level, 2),
        (level + 1, 3),
        (level + body + 1, 3),
        (2 * level, 3),
        (2 * level + 1, 3),
    ] {
        let bytes = rng.bytes(len);
        let at = write(&mut pages, &bytes, [len, 1_000, body][rng.below(3) as usize]);
        assert_eq!((at.len, at.height), (len as u64, height));
        for _ in 0..50 {
            let from = rng.below(len as u64 + 1) as usize;
            let most = [len - from, 10_000, 1][rng.below(3) as usize].min(len - from);
            let mut out = vec![0; most];
            read_value(&pages, &at, from as u64, &mut out).expect("in order");
            assert!(out == bytes[from..from + most]);
        }
        let mut reached = Vec::new();
        value_pages(&pages, &at, &mut |no| reached.push(no)).expect("in order");
        reached.sort_unstable();
        assert_eq!(reached, pages.live());
        release_value(&mut pages, &at).expect("in order");
        assert_eq!(pages.live(), []);
    }
}

#[test]
fn a_length_that_the_pages_do_not_have_is_an_error() {
    let mut pages = VecPages::new(4096);
    let body = pages.body_bytes() as u64;
    let at = write(&mut pages, &vec![1; 10 * body as usize], 777);
    pages.strict = false;
    for len in [0, 1, body, 9 * body, 10 * body + 1, 288 * body + 1, 1 << 30, (1 << 30) + 1] {
        assert!(value_pages(&pages, &ValueRef { len, ..at }, &mut |_| {}).is_err(), "{len}");
    }
    assert!(value_pages(&pages, &ValueRef { height: 3, ..at }, &mut |_| {}).is_err());
    assert!(value_pages(&pages, &ValueRef { height: 255, ..at }, &mut |_| {}).is_err());
}
