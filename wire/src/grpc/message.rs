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
/// [`MessageDecoder::poll_message`] gives messages until it gives none, [`MessageDecoder::poll_begun`] says what comes next. Memory: the chunks not yet read, and for a
/// message that spans chunks at most twice the bytes received of it, never the length it declares. A compressed message
/// adds what it inflates to, at most the limit.
#[derive(Debug)]
pub struct MessageDecoder {
    chunks: VecDeque<Bytes>,
    state: State,
    message_bytes_max: usize,
    inflate: Option<Inflate>,
}

/// A message that has been begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its length as it travels.
    pub bytes: usize,
    /// It is compressed: inflating it costs time, and up to the limit in memory.
    pub packed: bool,
    /// All of it has come.
    pub whole: bool,
}

/// A whole message as it travelled.
#[derive(Clone, Debug)]
pub struct Travelled {
    bytes: Bytes,
    /// How it is inflated, and to how much at most, if it is compressed.
    inflate: Option<(Inflate, usize)>,
}

impl Travelled {
    /// Returns the message; a compressed one is inflated each time.
    pub fn message(&self) -> Result<Bytes, Status> {
        match self.inflate {
            Some((inflate, most)) => inflate(&self.bytes, most),
            None => Ok(self.bytes.clone()),
        }
    }
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
        let Some(travelled) = self.poll_travelled()? else {
            return Ok(None);
        };
        let message = travelled.message();
        if let Err(status) = &message {
            self.state = State::Failed(status.clone());
        }
        message.map(Some)
    }

    /// As [`MessageDecoder::poll_message`], for a receiver that inflates messages elsewhere, or more than once.
    pub fn poll_travelled(&mut self) -> Result<Option<Travelled>, Status> {
        if self.poll_begun()?.is_none() {
            return Ok(None);
        }
        let State::Body { length, packed, assembly } = &mut self.state else { unreachable!("it has begun") };
        let Some(bytes) = assemble(&mut self.chunks, *length, assembly) else {
            return Ok(None);
        };
        let inflate = self.inflate.filter(|_| *packed).map(|inflate| (inflate, self.message_bytes_max));
        self.state = State::START;
        Ok(Some(Travelled { bytes, inflate }))
    }

    /// Returns what the next message says of itself, as soon as that has come: before a receiver makes room for the rest, and
    /// before [`MessageDecoder::poll_message`] inflates it.
    pub fn poll_begun(&mut self) -> Result<Option<Begun>, Status> {
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
                    let come = assembly.len() + self.chunks.iter().map(Bytes::len).sum::<usize>();
                    let whole = come >= *length;
                    if !whole {
                        // Kept in one piece: a thousand chunks of a byte would each be gone over for each that comes.
                        assemble(&mut self.chunks, *length, assembly);
                    }
                    return Ok(Some(Begun { bytes: *length, packed: *packed, whole }));
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
mod tests;
