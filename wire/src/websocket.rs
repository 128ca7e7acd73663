//! WebSocket, the part that is only bytes: where HTTP/2 does not get through, the same frames travel as binary messages
//! (spec: G-17 to G-19).
//!
//! Must never: open a socket, make the mask of a client (it is an argument), trust a declared length. A message grows with
//! what has come of it, in one fragment or in many; RFC 6455 is kept to the letter, and whoever breaks it is closed with
//! the code that the RFC has for it.
//!
//! Read [`Decoder`] first, then [`encode`].

use bytes::{Buf as _, Bytes, BytesMut};

/// The largest payload of a control frame.
pub const CONTROL_BYTES_MAX: usize = 125;

/// Bytes of the longest header: two, the length in eight, the mask in four.
const HEADER_BYTES_MAX: usize = 14;

/// Codes by which a connection is closed.
pub mod close {
    /// All has been said.
    pub const NORMAL: u16 = 1000;
    /// A rule of the protocol was broken.
    pub const PROTOCOL: u16 = 1002;
    /// A message of a kind that is not taken (text).
    pub const UNSUPPORTED: u16 = 1003;
    /// A message over the limit.
    pub const TOO_BIG: u16 = 1009;
    /// The call ended with the gRPC status of this number, added.
    pub const STATUS_BASE: u16 = 4000;
}

/// What a frame is, as its first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// Goes on with a message.
    Continuation = 0,
    /// Begins a message of text.
    Text = 1,
    /// Begins a message of bytes.
    Binary = 2,
    /// The last frame of a side.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl OpCode {
    fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];
        all.into_iter().find(|op| *op as u8 == number)
    }

    fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// What came, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A binary message.
    Message(Bytes),
    /// A ping with its payload, to be sent back.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The other side's last frame.
    Close {
        /// Why, if it says so.
        code: Option<u16>,
        /// The same for people; empty where there is nothing to say.
        reason: String,
    },
}

/// Who sends what a decoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client masks every frame.
    Client,
    /// A server masks none.
    Server,
}

/// Cuts messages out of the bytes of a connection.
///
/// Memory: the bytes pushed and not yet read, and at most twice the bytes received of the message that is being put
/// together. An error is a code to close with, and final.
#[derive(Debug)]
pub struct Decoder {
    from: Side,
    message_bytes_max: usize,
    input: BytesMut,
    /// The fragments so far of a message that goes on.
    message: Option<BytesMut>,
    /// The frame whose payload is being read.
    frame: Option<Header>,
    /// Its payload so far.
    payload: BytesMut,
    failed: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    last: bool,
    op: OpCode,
    left: usize,
    mask: [u8; 4],
}

impl Decoder {
    /// Returns a decoder that refuses messages of more than `message_bytes_max` bytes.
    pub fn new(from: Side, message_bytes_max: usize) -> Self {
        Self {
            from,
            message_bytes_max,
            input: BytesMut::new(),
            message: None,
            frame: None,
            payload: BytesMut::new(),
            failed: None,
        }
    }

    /// Returns the buffer to read into.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Returns the length of the message that has been begun, as far as it is known: to the end of its last fragment.
    pub fn begun_bytes(&self) -> usize {
        let fragment = self.frame.filter(|header| !header.op.is_control());
        let fragment = fragment.map_or(0, |header| self.payload.len() + header.left);
        self.message.as_ref().map_or(0, BytesMut::len) + fragment
    }

    /// Returns what has come whole next, or nothing until there is more. An error is the code to close with.
    pub fn poll_event(&mut self) -> Result<Option<Event>, u16> {
        if let Some(code) = self.failed {
            return Err(code);
        }
        let polled = self.read_event();
        if let Err(code) = polled {
            self.failed = Some(code);
        }
        polled
    }

    fn read_event(&mut self) -> Result<Option<Event>, u16> {
        loop {
            let header = match self.frame {
                Some(header) => header,
                None => match self.read_header()? {
                    Some(header) => header,
                    None => return Ok(None),
                },
            };
            let take = header.left.min(self.input.len());
            let done = self.payload.len();
            self.payload.extend_from_slice(&self.input[..take]);
            self.input.advance(take);
            for (at, byte) in self.payload.iter_mut().enumerate().skip(done) {
                *byte ^= header.mask[at % 4];
            }
            if take < header.left {
                self.frame = Some(Header { left: header.left - take, ..header });
                return Ok(None);
            }
            self.frame = None;
            let payload = std::mem::take(&mut self.payload);
            if let Some(event) = self.finish(header, payload)? {
                return Ok(Some(event));
            }
        }
    }

    /// Takes the header off the input, once it is whole.
    fn read_header(&mut self) -> Result<Option<Header>, u16> {
        let &[first, second, ..] = &self.input[..] else { return Ok(None) };
        let masked = second & 0x80 != 0;
        let op = OpCode::from_number(first & 0x0f).ok_or(close::PROTOCOL)?;
        let last = first & 0x80 != 0;
        // Reserved bits belong to extensions, and none was agreed.
        if first & 0x70 != 0 || masked != (self.from == Side::Client) {
            return Err(close::PROTOCOL);
        }
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, None),
            127 => (8, None),
            short => (0, Some(u64::from(short))),
        };
        if op.is_control() && (!last || short.is_none()) {
            return Err(close::PROTOCOL);
        }
        let header_bytes = 2 + length_bytes + if masked { 4 } else { 0 };
        debug_assert!(header_bytes <= HEADER_BYTES_MAX);
        let Some(rest) = self.input.get(2..header_bytes) else { return Ok(None) };
        let (length, mask) = rest.split_at(length_bytes);
        let given = short.unwrap_or_else(|| length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        // The shortest form only, and 63 bits.
        let least = [0, 0, 126, 0, 0, 0, 0, 0, 1 << 16][length_bytes];
        if given < least || given >> 63 != 0 {
            return Err(close::PROTOCOL);
        }
        match op {
            OpCode::Text => return Err(close::UNSUPPORTED),
            OpCode::Binary if self.message.is_some() => return Err(close::PROTOCOL),
            OpCode::Continuation if self.message.is_none() => return Err(close::PROTOCOL),
            _ => {}
        }
        let before = self.message.as_ref().filter(|_| !op.is_control()).map_or(0, BytesMut::len);
        let room = self.message_bytes_max.saturating_sub(before);
        let left = usize::try_from(given).ok().filter(|left| op.is_control() || *left <= room);
        let left = left.ok_or(close::TOO_BIG)?;
        let mask = mask.try_into().unwrap_or_default();
        self.input.advance(header_bytes);
        let header = Header { last, op, left, mask };
        self.frame = Some(header);
        Ok(Some(header))
    }

    fn finish(&mut self, header: Header, payload: BytesMut) -> Result<Option<Event>, u16> {
        Ok(match header.op {
            OpCode::Ping => Some(Event::Ping(payload.freeze())),
            OpCode::Pong => Some(Event::Pong),
            OpCode::Close => Some(match &payload[..] {
                [] => Event::Close { code: None, reason: String::new() },
                [_] => return Err(close::PROTOCOL),
                [high, low, reason @ ..] => {
                    let code = u16::from_be_bytes([*high, *low]);
                    let sendable = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                    let reason = std::str::from_utf8(reason).ok().filter(|_| sendable).ok_or(close::PROTOCOL)?;
                    Event::Close { code: Some(code), reason: reason.to_owned() }
                }
            }),
            OpCode::Continuation | OpCode::Binary | OpCode::Text => {
                let whole = match self.message.take() {
                    None => payload,
                    Some(mut message) => {
                        message.extend_from_slice(&payload);
                        message
                    }
                };
                if header.last {
                    Some(Event::Message(whole.freeze()))
                } else {
                    self.message = Some(whole);
                    None
                }
            }
        })
    }
}

/// Appends a frame that is whole. A client gives a fresh mask for each, a server none.
pub fn encode(op: OpCode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut BytesMut) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let length = payload.len();
    let mut header = [0x80 | op as u8, mask_bit, 0, 0, 0, 0, 0, 0, 0, 0];
    let header_bytes = match length {
        0..=125 => {
            header[1] |= u8::try_from(length).expect("at most 125");
            2
        }
        126..=0xffff => {
            header[1] |= 126;
            header[2..4].copy_from_slice(&u16::try_from(length).expect("16 bits").to_be_bytes());
            4
        }
        _ => {
            header[1] |= 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    };
    out.extend_from_slice(&header[..header_bytes]);
    match mask {
        None => out.extend_from_slice(payload),
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
}

/// Appends a Close with a code and as much of a reason as fits.
pub fn encode_close(code: u16, reason: &str, mask: Option<[u8; 4]>, out: &mut BytesMut) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    encode(OpCode::Close, &payload, mask, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn decode(from: Side, chunks: &[&[u8]]) -> Result<Vec<Event>, u16> {
        let mut decoder = Decoder::new(from, 70_000);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.input().extend_from_slice(chunk);
            while let Some(event) = decoder.poll_event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    // spec: G-17. The examples of RFC 6455, section 5.7, with bytes in the place of text.
    #[test]
    fn the_examples_of_the_rfc() {
        let hello = Event::Message(Bytes::from_static(b"Hello"));
        let unmasked = b"\x82\x05Hello";
        assert_eq!(decode(Side::Server, &[unmasked]), Ok(vec![hello.clone()]));
        let masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(decode(Side::Client, &[masked]), Ok(vec![hello.clone()]));
        // In two fragments, a ping in between.
        let parts = b"\x02\x03Hel\x89\x05Hello\x80\x02lo";
        let ping = Event::Ping(Bytes::from_static(b"Hello"));
        assert_eq!(decode(Side::Server, &[parts]), Ok(vec![ping, hello]));
        let mut long = b"\x82\x7e\x01\x00".to_vec();
        long.extend([7; 256]);
        assert_eq!(decode(Side::Server, &[&long]), Ok(vec![Event::Message(Bytes::from(vec![7; 256]))]));
    }

    // spec: G-17
    #[test]
    fn what_breaks_the_rules_is_closed_with_the_right_code() {
        let check = |bytes: &[u8], code| assert_eq!(decode(Side::Client, &[bytes]), Err(code), "{bytes:x?}");
        check(b"\x82\x05Hello", close::PROTOCOL); // not masked
        check(b"\xc2\x80\0\0\0\0", close::PROTOCOL); // a reserved bit
        check(b"\x83\x80\0\0\0\0", close::PROTOCOL); // an unknown kind
        check(b"\x09\x80\0\0\0\0", close::PROTOCOL); // a ping in fragments
        check(b"\x89\xfe\0\x7e\0\0\0\0", close::PROTOCOL); // a long ping
        check(b"\x82\xfe\0\x7d\0\0\0\0", close::PROTOCOL); // a length in too many bytes
        check(b"\x82\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", close::PROTOCOL); // likewise
        check(b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", close::PROTOCOL); // 64 bits
        check(b"\x80\x80\0\0\0\0", close::PROTOCOL); // goes on with nothing
        check(b"\x02\x80\0\0\0\0\x82\x80\0\0\0\0", close::PROTOCOL); // begins within another
        check(b"\x88\x81\0\0\0\0\x03", close::PROTOCOL); // half a code
        check(b"\x88\x82\0\0\0\0\x03\xed", close::PROTOCOL); // 1005 is never sent
        check(b"\x88\x83\0\0\0\0\x03\xe8\xff", close::PROTOCOL); // a reason that is no UTF-8
        check(b"\x81\x80\0\0\0\0", close::UNSUPPORTED);
        check(b"\x82\xff\0\0\0\0\0\x01\x11\x71\0\0\0\0", close::TOO_BIG); // 70,001
        check(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", close::TOO_BIG);
    }

    #[test]
    fn fragments_are_counted_together_and_an_error_is_final() {
        let mut bytes = BytesMut::new();
        encode(OpCode::Binary, &[1; 40_000], Some(MASK), &mut bytes);
        bytes[0] = 0x02;
        let first = bytes.len();
        encode(OpCode::Continuation, &[1; 30_001], Some(MASK), &mut bytes);
        let mut decoder = Decoder::new(Side::Client, 70_000);
        decoder.input().extend_from_slice(&bytes[..first]);
        assert_eq!(decoder.poll_event(), Ok(None));
        decoder.input().extend_from_slice(&bytes[first..]);
        assert_eq!(decoder.poll_event(), Err(close::TOO_BIG));
        encode(OpCode::Ping, b"", Some(MASK), decoder.input());
        assert_eq!(decoder.poll_event(), Err(close::TOO_BIG));
    }

    #[test]
    fn a_length_is_known_before_it_has_come() {
        let mut bytes = BytesMut::new();
        encode(OpCode::Binary, &[1; 40_000], Some(MASK), &mut bytes);
        bytes[0] = 0x02;
        let first = bytes.len();
        encode(OpCode::Ping, &[1; 100], Some(MASK), &mut bytes);
        let second = bytes.len();
        encode(OpCode::Continuation, &[1; 20_000], Some(MASK), &mut bytes);
        let mut decoder = Decoder::new(Side::Client, 70_000);
        let mut given = 0;
        // In the middle of the first fragment, of the ping behind it, of the second.
        for (upto, begun) in
            [(0, 0), (10, 40_000), (first + 20, 40_000), (second + 20, 60_000), (bytes.len() - 1, 60_000)]
        {
            decoder.input().extend_from_slice(&bytes[given..upto]);
            given = upto;
            while decoder.poll_event().unwrap().is_some() {}
            assert_eq!(decoder.begun_bytes(), begun, "{upto}");
        }
        decoder.input().extend_from_slice(&bytes[given..]);
        assert!(matches!(decoder.poll_event(), Ok(Some(Event::Message(message))) if message.len() == 60_000));
        assert_eq!(decoder.begun_bytes(), 0);
    }

    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut decoder = Decoder::new(Side::Client, 4 << 20);
        decoder.input().extend_from_slice(b"\x82\xff\0\0\0\0\0\x40\0\0\0\0\0\0abc");
        assert_eq!(decoder.poll_event(), Ok(None));
        assert!(decoder.payload.capacity() < 1024, "{}", decoder.payload.capacity());
    }

    #[test]
    fn a_close_says_what_fits() {
        let mut out = BytesMut::new();
        encode_close(close::STATUS_BASE + 16, &"\u{e4}".repeat(100), None, &mut out);
        assert_eq!(out.len(), 2 + 2 + 122, "no half character");
        let said = Event::Close { code: Some(4016), reason: "\u{e4}".repeat(61) };
        assert_eq!(decode(Side::Server, &[&out]), Ok(vec![said]));
        let silent = Event::Close { code: None, reason: String::new() };
        assert_eq!(decode(Side::Server, &[b"\x88\0"]), Ok(vec![silent]));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_arrives_however_it_is_cut(
            messages in prop::collection::vec(prop_oneof![0usize..200, 65_000usize..66_000], 0..6),
            cuts in prop::collection::vec(1usize..5_000, 1..20),
            mask in any::<Option<[u8; 4]>>(),
        ) {
            let mut bytes = BytesMut::new();
            let messages: Vec<Vec<u8>> = messages.iter().map(|&length| (0..length).map(|n| n as u8).collect()).collect();
            for message in &messages {
                encode(OpCode::Binary, message, mask, &mut bytes);
            }
            let mut chunks = Vec::new();
            let mut left = &bytes[..];
            for turn in 0.. {
                if left.is_empty() {
                    break;
                }
                let (chunk, rest) = left.split_at(cuts[turn % cuts.len()].min(left.len()));
                chunks.push(chunk);
                left = rest;
            }
            let from = if mask.is_some() { Side::Client } else { Side::Server };
            let want = messages.into_iter().map(|message| Event::Message(Bytes::from(message))).collect();
            prop_assert_eq!(decode(from, &chunks), Ok(want));
        }

        #[test]
        fn rubbish_never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let _ = (decode(Side::Client, &chunks), decode(Side::Server, &chunks));
        }
    }
}
