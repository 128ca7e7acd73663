//! Length-prefixed messages: one flag byte, a big-endian length, the message (spec: G-3, G-4).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::{Code, Status};

/// Bytes before each message: flag (1) and length (4, big-endian).
pub const PREFIX_BYTES: usize = 5;

/// Largest message: one frame, 4 MiB of body and its 16-byte header.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024 + 16;

/// Ready messages are packed into one DATA frame up to this size: HTTP/2's default frame limit is 16 KiB, and a frame
/// of its own for each small message costs a write and a TLS record, and counts against the receiver's patience.
pub const PACK_BYTES_MAX: usize = 16 * 1024;

/// A message whose pieces arrive apart starts with a buffer of at most this size and grows with what has come.
const ASSEMBLY_START_BYTES: usize = 16 * 1024;

/// Cuts whole messages out of the chunks of a body.
///
/// Whatever way a body is cut into chunks, the same messages come out. [`MessageDecoder::push`] takes a chunk,
/// [`MessageDecoder::poll_message`] gives messages until it gives none. Memory: the chunks not yet read, and for a
/// message that spans chunks at most twice the bytes received of it, never the length it declares. A compressed message
/// adds what it inflates to, at most the limit.
#[derive(Debug)]
pub struct MessageDecoder {
    chunks: VecDeque<Bytes>,
    state: State,
    message_bytes_max: usize,
    inflate: Option<Inflate>,
}

/// Inflates a message to at most so many bytes, or says why not.
pub type Inflate = fn(&[u8], usize) -> Result<Bytes, Status>;

/// ```text
/// Prefix --5 bytes--> Body --length bytes--> Prefix
///    \__ bad flag, too long __/ --> Failed (for good)
/// ```
#[derive(Debug)]
enum State {
    Prefix { have: usize, bytes: [u8; PREFIX_BYTES] },
    Body { length: usize, packed: bool, assembly: BytesMut },
    Failed(Status),
}

impl State {
    const START: Self = Self::Prefix { have: 0, bytes: [0; PREFIX_BYTES] };
}

impl Default for MessageDecoder {
    fn default() -> Self {
        Self::new(MESSAGE_BYTES_MAX)
    }
}

impl MessageDecoder {
    /// Returns a decoder that refuses messages of more than `message_bytes_max` bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { chunks: VecDeque::new(), state: State::START, message_bytes_max, inflate: None }
    }

    /// Also takes messages that are compressed (flag 1), as the call's `grpc-encoding` says. The limit holds before and
    /// after they are inflated.
    #[must_use]
    pub fn inflating(mut self, inflate: Inflate) -> Self {
        self.inflate = Some(inflate);
        self
    }

    /// Takes the next chunk of the body.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// Returns the next whole message, or nothing until another chunk has come. An error is final.
    pub fn poll_message(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            match &mut self.state {
                State::Failed(status) => return Err(status.clone()),
                State::Prefix { have, bytes } => {
                    let Some(chunk) = front(&mut self.chunks) else {
                        return Ok(None);
                    };
                    let take = chunk.len().min(PREFIX_BYTES - *have);
                    bytes[*have..*have + take].copy_from_slice(&chunk[..take]);
                    chunk.advance(take);
                    *have += take;
                    if *have == PREFIX_BYTES {
                        let prefix = *bytes;
                        self.state = match parse_prefix(prefix, self.message_bytes_max, self.inflate.is_some()) {
                            Ok((length, packed)) => State::Body { length, packed, assembly: BytesMut::new() },
                            Err(status) => State::Failed(status),
                        };
                    }
                }
                State::Body { length, packed, assembly } => {
                    let Some(message) = assemble(&mut self.chunks, *length, assembly) else {
                        return Ok(None);
                    };
                    let inflate = self.inflate.filter(|_| *packed);
                    self.state = State::START;
                    let Some(inflate) = inflate else {
                        return Ok(Some(message));
                    };
                    match inflate(&message, self.message_bytes_max) {
                        Ok(inflated) => return Ok(Some(inflated)),
                        Err(status) => self.state = State::Failed(status),
                    }
                }
            }
        }
    }

    /// Says whether the body may end here: no message has been begun.
    pub fn finish(&self) -> Result<(), Status> {
        match &self.state {
            State::Failed(status) => Err(status.clone()),
            State::Prefix { have: 0, .. } if self.chunks.iter().all(Bytes::is_empty) => Ok(()),
            State::Prefix { .. } | State::Body { .. } => {
                Err(Status::new(Code::Internal, "the stream ended inside a message"))
            }
        }
    }
}

/// Returns the message once all of it has come; what has come of it is kept in `assembly`.
fn assemble(chunks: &mut VecDeque<Bytes>, length: usize, assembly: &mut BytesMut) -> Option<Bytes> {
    if length == 0 {
        return Some(Bytes::new());
    }
    loop {
        let chunk = front(chunks)?;
        if assembly.is_empty() && chunk.len() >= length {
            return Some(chunk.split_to(length));
        }
        let missing = length - assembly.len();
        let take = chunk.len().min(missing);
        if assembly.is_empty() {
            assembly.reserve(length.min(ASSEMBLY_START_BYTES).max(take));
        }
        assembly.extend_from_slice(&chunk[..take]);
        chunk.advance(take);
        if take == missing {
            return Some(std::mem::take(assembly).freeze());
        }
    }
}

/// Returns the first chunk that has bytes left.
fn front(chunks: &mut VecDeque<Bytes>) -> Option<&mut Bytes> {
    while chunks.front().is_some_and(Bytes::is_empty) {
        chunks.pop_front();
    }
    chunks.front_mut()
}

fn parse_prefix(
    prefix: [u8; PREFIX_BYTES],
    message_bytes_max: usize,
    may_be_packed: bool,
) -> Result<(usize, bool), Status> {
    let [flag, a, b, c, d] = prefix;
    if flag == 1 && !may_be_packed {
        return Err(Status::new(Code::Internal, "a compressed message without grpc-encoding; send flag 0"));
    }
    if flag > 1 {
        return Err(Status::new(Code::Internal, format!("message flag {flag} is not defined")));
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(length) if length <= message_bytes_max => Ok((length, flag == 1)),
        _ => Err(Status::new(
            Code::ResourceExhausted,
            format!("a message of {length} bytes; the limit is {message_bytes_max}"),
        )),
    }
}

/// Returns the message behind its prefix; the message itself is not copied.
pub fn encode_message(message: Bytes) -> Result<MessageBuf, Status> {
    encode(message, 0)
}

/// Returns a message that was compressed, behind its prefix.
pub fn encode_packed(message: Bytes) -> Result<MessageBuf, Status> {
    encode(message, 1)
}

fn encode(message: Bytes, flag: u8) -> Result<MessageBuf, Status> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Status::new(
            Code::ResourceExhausted,
            format!("a message of {} bytes; the limit is {MESSAGE_BYTES_MAX}", message.len()),
        ));
    }
    let prefix = prefix_of(message.len(), flag);
    Ok(MessageBuf { prefix, prefix_sent: 0, message_bytes: message.len(), body: message })
}

fn prefix_of(length: usize, flag: u8) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(length).expect("checked against MESSAGE_BYTES_MAX, which fits 32 bits");
    let [a, b, c, d] = length.to_be_bytes();
    [flag, a, b, c, d]
}

/// What goes into one DATA frame (or a run of them): a prefix and its message, or several small messages packed.
///
/// It is a [`Buf`], so that prefix and message leave in one vectored write without being joined in memory. From
/// [`Bytes`] it is just these bytes, for an answer that is not gRPC.
#[derive(Clone, Debug)]
pub struct MessageBuf {
    prefix: [u8; PREFIX_BYTES],
    prefix_sent: usize,
    message_bytes: usize,
    body: Bytes,
}

impl MessageBuf {
    /// Returns how many bytes of messages are in it, prefixes not counted, sent or not.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }
}

impl From<Bytes> for MessageBuf {
    fn from(body: Bytes) -> Self {
        Self { prefix: [0; PREFIX_BYTES], prefix_sent: PREFIX_BYTES, message_bytes: body.len(), body }
    }
}

impl Buf for MessageBuf {
    fn remaining(&self) -> usize {
        PREFIX_BYTES - self.prefix_sent + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix_sent < PREFIX_BYTES { &self.prefix[self.prefix_sent..] } else { &self.body }
    }

    fn advance(&mut self, count: usize) {
        let of_prefix = count.min(PREFIX_BYTES - self.prefix_sent);
        self.prefix_sent += of_prefix;
        self.body.advance(count - of_prefix);
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for part in [&self.prefix[self.prefix_sent..], &self.body[..]] {
            if !part.is_empty() && count < out.len() {
                out[count] = IoSlice::new(part);
                count += 1;
            }
        }
        count
    }
}

/// Turns a queue of messages into DATA-sized pieces: a large message alone and uncopied, small ones packed together.
///
/// Give it a message with [`Packer::push`] as long as [`Packer::wants_more`], take a piece with [`Packer::take`].
#[derive(Debug, Default)]
pub struct Packer {
    first: Option<Queued>,
    /// Whole prefixed messages, where more than one small message was ready.
    packed: BytesMut,
    packed_message_bytes: usize,
    /// A message that did not fit any more.
    next: Option<Queued>,
}

/// A message, and the flag of its prefix.
#[derive(Debug)]
struct Queued {
    flag: u8,
    message: Bytes,
}

impl Packer {
    /// Returns an empty packer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether another ready message could still join the piece that is being made.
    pub fn wants_more(&self) -> bool {
        if self.next.is_some() {
            return false;
        }
        let have = match &self.first {
            Some(first) => PREFIX_BYTES + first.message.len(),
            None => self.packed.len(),
        };
        have + PREFIX_BYTES < PACK_BYTES_MAX
    }

    /// Says whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.packed.is_empty() && self.next.is_none()
    }

    /// Adds a message. Refused if it is over the message limit.
    ///
    /// # Panics
    /// If the packer did not want more.
    pub fn push(&mut self, message: Bytes) -> Result<(), Status> {
        self.push_queued(Queued { flag: 0, message })
    }

    /// Adds a message that was compressed. As [`Packer::push`].
    ///
    /// # Panics
    /// If the packer did not want more.
    pub fn push_packed(&mut self, message: Bytes) -> Result<(), Status> {
        self.push_queued(Queued { flag: 1, message })
    }

    fn push_queued(&mut self, queued: Queued) -> Result<(), Status> {
        assert!(self.wants_more(), "ask wants_more before push");
        let length = queued.message.len();
        if length > MESSAGE_BYTES_MAX {
            return encode_message(queued.message).map(drop);
        }
        let joined = match &self.first {
            Some(first) => 2 * PREFIX_BYTES + first.message.len() + length,
            None => self.packed.len() + PREFIX_BYTES + length,
        };
        if self.first.is_none() && self.packed.is_empty() {
            self.first = Some(queued);
        } else if joined > PACK_BYTES_MAX {
            self.next = Some(queued);
        } else {
            if let Some(first) = self.first.take() {
                self.packed.reserve(joined);
                self.append(&first);
            }
            self.append(&queued);
        }
        Ok(())
    }

    fn append(&mut self, queued: &Queued) {
        self.packed.extend_from_slice(&prefix_of(queued.message.len(), queued.flag));
        self.packed.extend_from_slice(&queued.message);
        self.packed_message_bytes += queued.message.len();
    }

    /// Takes the next piece.
    pub fn take(&mut self) -> Option<MessageBuf> {
        if let Some(first) = self.first.take() {
            self.first = self.next.take();
            return Some(encode(first.message, first.flag).expect("a message over the limit was refused by push"));
        }
        if self.packed.is_empty() {
            return None;
        }
        self.first = self.next.take();
        // The prefixes are in the packed bytes already.
        let mut piece = MessageBuf::from(self.packed.split().freeze());
        piece.message_bytes = std::mem::take(&mut self.packed_message_bytes);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
}
