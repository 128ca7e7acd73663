//! Health, asked without a token, so that it tells nothing about spaces: `GET /healthz`, one line of JSON (spec: G-13),
//! and `grpc.health.v1.Health` for whoever asks or watches by gRPC (spec: G-14).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{Code, MessageBuf, MessageDecoder, Status, encode_message};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::watch;

use super::connection::Running;
use super::encoding::Encoding;
use super::web::Source;
use super::{Limits, grpc};

/// Path of the health answer.
pub(super) const PATH: &str = "/healthz";
/// Path of the standard gRPC health check, a unary call.
pub(super) const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";
/// Path of the standard stream of health changes.
pub(super) const WATCH_PATH: &str = "/grpc.health.v1.Health/Watch";
/// The service that can be asked for by name; the empty name asks for the whole relay.
const SERVICE: &[u8] = b"blaze.v1.Relay";

// HealthCheckResponse: field 1, varint. The numbers are the standard's.
const SERVING: &[u8] = &[0x08, 1];
const NOT_SERVING: &[u8] = &[0x08, 2];
const SERVICE_UNKNOWN: &[u8] = &[0x08, 3];

/// Whose health is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Known,
    Unknown,
}

/// Reads a `HealthCheckRequest` to the end of its body.
///
/// The call has exactly one message. A caller without a token must not keep a stream by sending it slowly. Memory: at most
/// one message of [`Limits::check_bytes_max`] and the chunks it came in.
pub(super) async fn asked(limits: &Limits, headers: &HeaderMap, source: Source) -> Result<Service, Status> {
    let patience = grpc::call_timeout(headers)?.map_or(limits.check_max, |own| own.min(limits.check_max));
    let decoder = Encoding::of(headers)?.decoder(limits.check_bytes_max);
    tokio::time::timeout(patience, read(source, decoder))
        .await
        .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "the request did not come in time")))
}

async fn read(mut source: Source, mut decoder: MessageDecoder) -> Result<Service, Status> {
    let mut asked = None;
    while let Some(chunk) = source.chunk().await {
        decoder.push(chunk?);
        while let Some(message) = decoder.poll_message()? {
            if asked.replace(message).is_some() {
                return Err(Status::new(Code::Internal, "this call has one message; send no second"));
            }
        }
    }
    decoder.finish()?;
    let asked = asked.ok_or_else(|| Status::new(Code::Internal, "this call has one message; send it"))?;
    let service =
        service_of(&asked).ok_or_else(|| Status::new(Code::Internal, "the HealthCheckRequest is misshapen"))?;
    Ok(if service.is_empty() || service == SERVICE { Service::Known } else { Service::Unknown })
}

/// Returns the `HealthCheckResponse` of a service that is known.
pub(super) fn answer_message(serving: bool) -> MessageBuf {
    message(if serving { SERVING } else { NOT_SERVING })
}

fn message(bytes: &'static [u8]) -> MessageBuf {
    encode_message(Bytes::from_static(bytes)).expect("two bytes are below every limit")
}

/// The answer of a `Watch`: how it is now, and every change, until the relay goes down, the client's time is over or it
/// has watched long enough.
pub(super) struct Watch {
    service: Service,
    next: Next,
    running: Running,
}

/// ```text
/// Now --sent--> Wait --the relay goes down--> Last --sent--> End
///                 '--time is over--------------------------> End
/// ```
enum Next {
    Now(&'static [u8], Wait),
    Wait(Wait),
    Last,
    End(Status),
    Nothing,
}

type Wait = Pin<Box<dyn Future<Output = Woken> + Send>>;

enum Woken {
    Stopping,
    Over(Status),
}

impl Watch {
    pub(super) fn new(
        service: Service,
        mut stop: watch::Receiver<bool>,
        timeout: Option<Duration>,
        limits: &Limits,
        running: Running,
    ) -> Self {
        let now = match service {
            Service::Known if *stop.borrow() => NOT_SERVING,
            Service::Known => SERVING,
            Service::Unknown => SERVICE_UNKNOWN,
        };
        let watch_max = limits.watch_max;
        let over = match timeout {
            Some(own) if own < watch_max => (own, Status::new(Code::DeadlineExceeded, "grpc-timeout is over")),
            _ => (watch_max, Status::new(Code::Unavailable, "watched long enough; watch again")),
        };
        let wait = async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Woken::Stopping,
                () = tokio::time::sleep(over.0) => Woken::Over(over.1),
            }
        };
        Self { service, next: Next::Now(now, Box::pin(wait)), running }
    }

    /// Returns the next piece of the stream, then its trailers, then nothing.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<MessageBuf>>> {
        let going = || Status::new(Code::Unavailable, "the relay is shutting down; reconnect");
        loop {
            match std::mem::replace(&mut self.next, Next::Nothing) {
                Next::Now(bytes, wait) => {
                    self.next = Next::Wait(wait);
                    return Poll::Ready(Some(Frame::data(message(bytes))));
                }
                Next::Wait(mut wait) => match wait.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.next = Next::Wait(wait);
                        return Poll::Pending;
                    }
                    Poll::Ready(Woken::Stopping) => self.next = Next::Last,
                    Poll::Ready(Woken::Over(status)) => self.next = Next::End(status),
                },
                Next::Last => {
                    self.next = Next::End(going());
                    if self.service == Service::Known {
                        return Poll::Ready(Some(Frame::data(message(NOT_SERVING))));
                    }
                }
                Next::End(status) => {
                    self.running.answered();
                    return Poll::Ready(Some(Frame::trailers(grpc::trailers(&status))));
                }
                Next::Nothing => return Poll::Ready(None),
            }
        }
    }
}

/// Returns field 1 (a string) of a protobuf message, empty if it is absent, the last one if it is repeated; other
/// fields are skipped. Nothing if the message is misshapen.
fn service_of(mut message: &[u8]) -> Option<&[u8]> {
    let mut service: &[u8] = &[];
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
            return None;
        }
        let length = match tag & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        if tag == (1 << 3 | 2) {
            std::str::from_utf8(value).ok()?;
            service = value;
        }
        message = rest;
    }
    Some(service)
}

/// Takes a protobuf varint of at most ten bytes off the front.
fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Returns the answer: it serves, its version, for how long.
pub(super) fn answer(uptime: Duration) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(r#"{{"status":"serving","version":"{version}","uptime_s":{}}}"#, uptime.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: G-14
    #[test]
    fn the_service_name_is_read_and_hostile_bytes_are_refused() {
        assert_eq!(service_of(b""), Some(&b""[..]));
        assert_eq!(service_of(b"\x0a\x01a"), Some(&b"a"[..]));
        assert_eq!(service_of(b"\x0a\x01a\x0a\x02bc"), Some(&b"bc"[..]));
        // Fields of every wire type that are not ours.
        assert_eq!(service_of(b"\x10\xff\x01\x19abcdefgh\x25abcd\x2a\x01x\x0a\x01a"), Some(&b"a"[..]));
        for bad in [
            &b"\x0a"[..],
            b"\x0a\x02a",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\x01\xff",
            b"\x00\x01",
            b"\x0b",
            b"\x0e",
            b"\x19abc",
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
        ] {
            assert_eq!(service_of(bad), None, "{bad:x?}");
        }
    }

    #[test]
    fn the_answer_is_json() {
        let text = answer(Duration::from_millis(61_999));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["status"], "serving");
        assert_eq!(json["uptime_s"], 61);
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    }
}
