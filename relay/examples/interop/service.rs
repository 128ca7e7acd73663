//! `grpc.testing.TestService` on the relay's own server code: the methods that gRPC's interoperability tests call.
//!
//! Its few protobuf messages are read and written by hand; what they do not need of it is passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use blazedb_relay::serve::{
    Access, Answer, Caller, ConnId, Exchange, Gate, GateConnection, Message, Method, Peer, Refusal, Requests, Step,
};
use blazedb_relay::token::Grant;
use blazedb_wire::grpc::{Code, Metadata, MetadataError, Status};
use bytes::Bytes;

/// Largest payload that a request may ask for.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Sent back before the messages.
const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Sent back after the messages.
const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Serves the methods, to everybody, and no session.
#[derive(Clone)]
pub(crate) struct Interop;

impl Gate for Interop {
    async fn connect(&self, _grant: Grant, _peer: &Arc<Peer>) -> Result<GateConnection, Refusal> {
        Err(Refusal::Unavailable("no sessions here".to_owned()))
    }

    async fn frame(&self, _id: ConnId, _message: Message) -> Result<bool, Status> {
        Ok(false)
    }

    fn sent(&self, _id: ConnId, _bytes: usize) {}

    fn disconnect(&self, _id: ConnId) {}

    fn method(&self, path: &str) -> Option<Method> {
        let open = Access::Open;
        Some(match path.strip_prefix("/grpc.testing.TestService/")? {
            "EmptyCall" => Method::Unary(open, Box::new(|_, _| Box::pin(async { Ok(Answer::default()) }))),
            "UnaryCall" => {
                Method::Unary(open, Box::new(|caller, message| Box::pin(async move { unary(&caller, &message) })))
            }
            "StreamingInputCall" => Method::Streaming(open, Box::<Sum>::default()),
            "StreamingOutputCall" | "FullDuplexCall" => Method::Streaming(open, Box::<Duplex>::default()),
            _ => return None,
        })
    }
}

fn unary(caller: &Caller, message: &[u8]) -> Result<Answer, Status> {
    let asked = Asked::read(message)?;
    if let Some(status) = asked.status {
        return Err(status);
    }
    let (metadata, trailers) = echoed(caller)?;
    Ok(Answer { message: payload_message(asked.size)?, metadata, trailers })
}

/// Returns what is sent back of what a client sent along.
///
/// A call may bring more than an answer takes along: then it is refused.
fn echoed(caller: &Caller) -> Result<(Metadata, Metadata), Status> {
    let refused = |error: MetadataError| Status::new(Code::ResourceExhausted, error.to_string());
    let (mut before, mut after) = (Metadata::new(), Metadata::new());
    if let Some(text) = caller.metadata.text(ECHO_INITIAL) {
        before.append_text(ECHO_INITIAL, text).map_err(refused)?;
    }
    if let Some(bytes) = caller.metadata.binary(ECHO_TRAILING) {
        after.append_binary(ECHO_TRAILING, bytes.clone()).map_err(refused)?;
    }
    Ok((before, after))
}

/// Many messages in, one out: how many bytes their payloads have.
#[derive(Default)]
struct Sum {
    bytes: u64,
    said: bool,
}

impl Exchange for Sum {
    fn poll_step(&mut self, requests: &mut Requests, cx: &mut Context<'_>) -> Poll<Step> {
        if self.said {
            return Poll::Ready(Step::End(Status::ok(), Metadata::new()));
        }
        loop {
            match std::task::ready!(requests.poll_next(cx)) {
                Some(Err(status)) => return Poll::Ready(Step::End(status, Metadata::new())),
                Some(Ok(message)) => match input_payload(&message) {
                    Ok(bytes) => self.bytes += bytes as u64,
                    Err(status) => return Poll::Ready(Step::End(status, Metadata::new())),
                },
                None => {
                    self.said = true;
                    let mut out = Vec::new();
                    number_field(&mut out, 1, self.bytes);
                    return Poll::Ready(Step::Message(Bytes::from(out)));
                }
            }
        }
    }
}

/// Messages in, and for each as many out as it asks for.
#[derive(Default)]
struct Duplex {
    after: Metadata,
    waiting: VecDeque<usize>,
    ends: Option<Status>,
}

impl Exchange for Duplex {
    fn begin(&mut self, caller: &Caller) -> Metadata {
        match echoed(caller) {
            Ok((before, after)) => {
                self.after = after;
                before
            }
            Err(status) => {
                self.ends = Some(status);
                Metadata::new()
            }
        }
    }

    fn poll_step(&mut self, requests: &mut Requests, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(size) = self.waiting.pop_front() {
                return Poll::Ready(match payload_message(size) {
                    Ok(message) => Step::Message(message),
                    Err(status) => Step::End(status, Metadata::new()),
                });
            }
            if let Some(status) = self.ends.take() {
                return Poll::Ready(Step::End(status, std::mem::take(&mut self.after)));
            }
            match std::task::ready!(requests.poll_next(cx)) {
                None => self.ends = Some(Status::ok()),
                Some(Err(status)) => self.ends = Some(status),
                Some(Ok(message)) => match Asked::read(&message) {
                    Err(status) => self.ends = Some(status),
                    Ok(asked) => {
                        self.waiting.extend(asked.sizes);
                        self.ends = asked.status;
                    }
                },
            }
        }
    }
}

/// What a request asks for. The fields of `SimpleRequest` and `StreamingOutputCallRequest` do not collide but in the second,
/// which is a number in one and a message in the other.
#[derive(Default)]
struct Asked {
    size: usize,
    sizes: Vec<usize>,
    status: Option<Status>,
}

impl Asked {
    fn read(message: &[u8]) -> Result<Self, Status> {
        let mut asked = Self::default();
        for field in fields(message)? {
            match field {
                (2, Field::Number(size)) => asked.size = size_of(size)?,
                (2, Field::Bytes(parameters)) => {
                    let mut size = 0;
                    for field in fields(parameters)? {
                        if let (1, Field::Number(number)) = field {
                            size = size_of(number)?;
                        }
                    }
                    asked.sizes.push(size);
                }
                (7, Field::Bytes(echo)) => {
                    let (mut code, mut text) = (Code::Ok, "");
                    for field in fields(echo)? {
                        match field {
                            (1, Field::Number(number)) => {
                                let known = u8::try_from(number).ok().and_then(Code::from_number);
                                code = known.ok_or_else(misshapen)?;
                            }
                            (2, Field::Bytes(bytes)) => text = std::str::from_utf8(bytes).map_err(|_| misshapen())?,
                            _ => {}
                        }
                    }
                    asked.status = Some(Status::new(code, text));
                }
                _ => {}
            }
        }
        Ok(asked)
    }
}

fn misshapen() -> Status {
    Status::new(Code::InvalidArgument, "the message is misshapen")
}

fn size_of(number: u64) -> Result<usize, Status> {
    let size = usize::try_from(number).ok().filter(|size| *size <= PAYLOAD_BYTES_MAX - 64);
    size.ok_or_else(|| Status::new(Code::InvalidArgument, "a payload that is too large"))
}

/// Returns how many bytes the payload of a `StreamingInputCallRequest` has.
fn input_payload(message: &[u8]) -> Result<usize, Status> {
    let mut bytes = 0;
    for field in fields(message)? {
        if let (1, Field::Bytes(payload)) = field {
            for field in fields(payload)? {
                if let (2, Field::Bytes(body)) = field {
                    bytes = body.len();
                }
            }
        }
    }
    Ok(bytes)
}

/// Returns a response whose first field is a payload of so many zeros.
fn payload_message(size: usize) -> Result<Bytes, Status> {
    let mut payload = Vec::with_capacity(size + 8);
    bytes_field(&mut payload, 2, &vec![0; size]);
    let mut message = Vec::with_capacity(size + 16);
    bytes_field(&mut message, 1, &payload);
    Ok(Bytes::from(message))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut message: &[u8]) -> Result<Vec<(u64, Field<'_>)>, Status> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).map_err(|_| misshapen())?;
                let (bytes, rest) = message.split_at_checked(length).ok_or_else(misshapen)?;
                message = rest;
                Field::Bytes(bytes)
            }
            _ => return Err(misshapen()),
        };
        fields.push((tag >> 3, field));
    }
    Ok(fields)
}

fn varint(from: &mut &[u8]) -> Result<u64, Status> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first().ok_or_else(misshapen)?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(misshapen())
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number_field(out: &mut Vec<u8>, field: u64, value: u64) {
    write_varint(out, field << 3);
    write_varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    write_varint(out, field << 3 | 2);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
