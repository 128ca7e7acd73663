//! Messages, however they are cut.

use super::*;
use proptest::prelude::*;

#[test]
fn what_a_message_says_of_itself_is_known_before_it_has_come() {
    let mut decoder = MessageDecoder::default().inflating(|bytes, _| Ok(Bytes::copy_from_slice(bytes)));
    let body = [&[1, 0, 0, 0, 100], &[7; 100][..], &[0, 0, 0, 0, 9], &[0, 0, 0, 0]].concat();
    let begun = |bytes, packed, whole| Ok(Some(Begun { bytes, packed, whole }));
    assert_eq!(decoder.poll_begun(), Ok(None));
    decoder.push(Bytes::copy_from_slice(&body[..4]));
    assert_eq!(decoder.poll_begun(), Ok(None), "a piece of a prefix");
    decoder.push(Bytes::copy_from_slice(&body[4..60]));
    assert_eq!((decoder.poll_begun(), decoder.poll_message()), (begun(100, true, false), Ok(None)));
    assert_eq!(decoder.poll_begun(), begun(100, true, false), "asked again, and partly put together");
    decoder.push(Bytes::copy_from_slice(&body[60..]));
    assert_eq!(decoder.poll_begun(), begun(100, true, true));
    assert_eq!(decoder.poll_message().unwrap().map(|message| message.len()), Some(100));
    assert_eq!((decoder.poll_begun(), decoder.poll_message()), (begun(9, false, false), Ok(None)));
    decoder.push(Bytes::from_static(&[2; 6]));
    assert_eq!(decoder.poll_begun(), begun(9, false, true));
    assert_eq!(decoder.poll_message().unwrap().map(|message| message.len()), Some(9));
    decoder.push(Bytes::from_static(&[9; 5]));
    assert!(decoder.poll_begun().is_err() && decoder.poll_message().is_err(), "{decoder:?}");
}

fn body_of(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in messages {
        let mut buf = encode_message(Bytes::copy_from_slice(message)).unwrap();
        while buf.has_remaining() {
            let take = buf.chunk().len();
            body.extend_from_slice(buf.chunk());
            buf.advance(take);
        }
    }
    body
}

fn decode(chunks: impl IntoIterator<Item = Bytes>, max: usize) -> Result<Vec<Vec<u8>>, Status> {
    let mut decoder = MessageDecoder::new(max);
    let mut out = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(message) = decoder.poll_message()? {
            out.push(message.to_vec());
        }
    }
    decoder.finish()?;
    Ok(out)
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_messages(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..12),
        cuts in prop::collection::vec(1usize..70, 1..40),
    ) {
        let body = Bytes::from(body_of(&messages));
        let mut chunks = Vec::new();
        let mut at = 0;
        let mut turn = 0;
        while at < body.len() {
            let end = (at + cuts[turn % cuts.len()]).min(body.len());
            chunks.push(body.slice(at..end));
            at = end;
            turn += 1;
        }
        prop_assert_eq!(decode(chunks.clone(), 1000).unwrap(), messages.clone());
        // Pushed all at once as well, before the first message is asked for.
        let mut decoder = MessageDecoder::new(1000);
        for chunk in chunks {
            decoder.push(chunk);
        }
        let mut out = Vec::new();
        while let Some(message) = decoder.poll_message().unwrap() {
            out.push(message.to_vec());
        }
        prop_assert_eq!(out, messages);
    }

    #[test]
    fn rubbish_never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let _ = decode(chunks.into_iter().map(Bytes::from), 64);
    }

    #[test]
    fn packing_changes_nothing(
        sizes in prop::collection::vec(prop_oneof![0usize..300, 15_000usize..17_000, 40_000usize..50_000], 0..12),
        ready in prop::collection::vec(1usize..6, 1..5),
    ) {
        let messages: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, size)| vec![u8::try_from(i).unwrap(); *size]).collect();
        let mut queue: VecDeque<Bytes> = messages.iter().cloned().map(Bytes::from).collect();
        let mut packer = Packer::new();
        let mut pieces = Vec::new();
        let mut turn = 0;
        while !queue.is_empty() || !packer.is_empty() {
            for _ in 0..ready[turn % ready.len()] {
                if !packer.wants_more() {
                    break;
                }
                let Some(message) = queue.pop_front() else { break };
                packer.push(message).unwrap();
            }
            turn += 1;
            let mut piece = packer.take().expect("something was pushed");
            pieces.push(piece.copy_to_bytes(piece.remaining()));
        }
        prop_assert!(packer.take().is_none());
        prop_assert_eq!(decode(pieces, 100_000).unwrap(), messages);
    }
}

#[test]
fn small_messages_share_a_piece_and_large_ones_do_not() {
    let mut packer = Packer::new();
    for _ in 0..100 {
        assert!(packer.wants_more());
        packer.push(Bytes::from_static(&[7; 20])).unwrap();
    }
    let piece = packer.take().unwrap();
    assert_eq!((piece.remaining(), piece.message_bytes()), (100 * 25, 100 * 20));
    assert!(packer.is_empty());
    let large = Bytes::from(vec![1; PACK_BYTES_MAX]);
    packer.push(large.clone()).unwrap();
    assert!(!packer.wants_more());
    let piece = packer.take().unwrap();
    assert_eq!(piece.message_bytes(), PACK_BYTES_MAX);
    assert_eq!(piece.body.as_ptr(), large.as_ptr(), "a large message is not copied");
}

// spec: G-3
#[test]
fn each_message_of_a_piece_keeps_its_flag() {
    let mut packer = Packer::new();
    for (packed, text) in [(true, "ab"), (false, "c"), (true, "d")] {
        let message = Bytes::from_static(text.as_bytes());
        if packed { packer.push_packed(message).unwrap() } else { packer.push(message).unwrap() }
    }
    packer.push_packed(Bytes::from(vec![7; PACK_BYTES_MAX])).unwrap();
    let mut piece = packer.take().unwrap();
    assert_eq!(&piece.copy_to_bytes(piece.remaining())[..], b"\x01\0\0\0\x02ab\0\0\0\0\x01c\x01\0\0\0\x01d");
    assert_eq!(packer.take().unwrap().chunk(), [1, 0, 0, 0x40, 0]);
}

#[test]
fn a_message_in_one_chunk_is_not_copied() {
    let chunk = Bytes::from(body_of(&[b"abc".to_vec(), b"defg".to_vec()]));
    let mut decoder = MessageDecoder::default();
    decoder.push(chunk.clone());
    let first = decoder.poll_message().unwrap().unwrap();
    let second = decoder.poll_message().unwrap().unwrap();
    assert_eq!(first.as_ptr(), chunk[5..].as_ptr());
    assert_eq!(second.as_ptr(), chunk[13..].as_ptr());
    assert_eq!((&first[..], &second[..]), (&b"abc"[..], &b"defg"[..]));
}

#[test]
fn prefix_and_message_leave_in_one_vectored_write() {
    let mut buf = encode_message(Bytes::from_static(b"xyz")).unwrap();
    let mut slices = [IoSlice::new(&[]); 4];
    assert_eq!(buf.chunks_vectored(&mut slices), 2);
    assert_eq!((&*slices[0], &*slices[1]), (&[0, 0, 0, 0, 3][..], &b"xyz"[..]));
    buf.advance(6);
    assert_eq!(buf.chunk(), b"yz");
    assert_eq!(buf.remaining(), 2);
}

#[test]
fn limits_at_the_edge() {
    let at = |length: usize| decode([Bytes::from(body_of(&[vec![0; length]]))], 100);
    assert_eq!(at(100).unwrap().len(), 1);
    assert_eq!(at(101).unwrap_err().code, Code::ResourceExhausted);
    assert!(encode_message(Bytes::from(vec![0; MESSAGE_BYTES_MAX])).is_ok());
    let over = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(encode_message(over.clone()).unwrap_err().code, Code::ResourceExhausted);
    assert_eq!(Packer::new().push(over).unwrap_err().code, Code::ResourceExhausted);
}

#[test]
fn hostile_prefixes() {
    let check = |bytes: &'static [u8], code: Code| {
        assert_eq!(decode([Bytes::from_static(bytes)], 4096).unwrap_err().code, code, "{bytes:?}");
    };
    check(&[1, 0, 0, 0, 0], Code::Internal);
    check(&[2, 0, 0, 0, 0], Code::Internal);
    check(&[0x80, 0, 0, 0, 0], Code::Internal);
    check(&[0, 0xff, 0xff, 0xff, 0xff], Code::ResourceExhausted);
    check(&[0, 0, 0, 0x10, 1], Code::ResourceExhausted);
    check(&[0, 0, 0, 0, 9, 1, 2], Code::Internal);
    check(&[0, 0], Code::Internal);
}

// spec: G-3
#[test]
fn packed_messages_are_inflated_where_an_encoding_was_agreed() {
    // Doubles every byte; refuses `x`.
    fn doubled(packed: &[u8], max: usize) -> Result<Bytes, Status> {
        if packed.contains(&b'x') {
            return Err(Status::new(Code::Internal, "misshapen"));
        }
        if packed.len() * 2 > max {
            return Err(Status::new(Code::ResourceExhausted, "too long"));
        }
        Ok(packed.iter().flat_map(|byte| [*byte, *byte]).collect())
    }
    let body = |parts: &[(u8, &[u8])]| {
        let mut body = Vec::new();
        for (flag, message) in parts {
            body.extend([*flag, 0, 0, 0, u8::try_from(message.len()).unwrap()]);
            body.extend_from_slice(message);
        }
        Bytes::from(body)
    };
    let read = |body: Bytes, cut: usize| {
        let mut decoder = MessageDecoder::new(8).inflating(doubled);
        decoder.push(body.slice(..cut));
        decoder.push(body.slice(cut..));
        let mut messages = Vec::new();
        while let Some(message) = decoder.poll_message()? {
            messages.push(message);
        }
        decoder.finish().map(|()| messages)
    };
    let mixed = body(&[(1, b"ab"), (0, b"cd"), (1, b""), (1, b"efgh")]);
    for cut in 0..=mixed.len() {
        assert_eq!(read(mixed.clone(), cut).unwrap(), [&b"aabb"[..], b"cd", b"", b"eeffgghh"]);
    }
    assert_eq!(read(body(&[(1, b"ax")]), 0).unwrap_err().code, Code::Internal);
    assert_eq!(read(body(&[(1, b"abcde")]), 0).unwrap_err().code, Code::ResourceExhausted, "inflated");
    assert_eq!(read(body(&[(1, b"abcdefghi")]), 0).unwrap_err().code, Code::ResourceExhausted, "as sent");
    assert_eq!(read(body(&[(2, b"a")]), 0).unwrap_err().code, Code::Internal);
}

#[test]
fn a_declared_length_reserves_nothing_and_an_error_is_final() {
    let mut decoder = MessageDecoder::default();
    decoder.push(Bytes::from_static(&[0, 0, 0x40, 0, 0, 9]));
    assert_eq!(decoder.poll_message(), Ok(None));
    let State::Body { assembly, .. } = &decoder.state else { panic!("in a body") };
    assert!(assembly.capacity() <= 2 * ASSEMBLY_START_BYTES, "{}", assembly.capacity());

    let mut decoder = MessageDecoder::default();
    decoder.push(Bytes::from_static(&[9, 0, 0, 0, 0]));
    let first = decoder.poll_message().unwrap_err();
    decoder.push(Bytes::from_static(&[0, 0, 0, 0, 0]));
    assert_eq!(decoder.poll_message(), Err(first.clone()));
    assert_eq!(decoder.finish(), Err(first));
}

#[test]
fn what_has_come_of_a_message_is_kept_in_one_piece() {
    let mut decoder = MessageDecoder::default();
    decoder.push(Bytes::from_static(&[0, 0, 0, 0, 200]));
    for n in 0..200 {
        assert_eq!(decoder.poll_begun(), Ok(Some(Begun { bytes: 200, packed: false, whole: false })), "{n}");
        assert!(decoder.chunks.is_empty(), "{n}");
        decoder.push(Bytes::from(vec![n]));
    }
    assert_eq!(decoder.poll_begun(), Ok(Some(Begun { bytes: 200, packed: false, whole: true })));
    assert_eq!(decoder.poll_message(), Ok(Some((0..200).collect())));
}
