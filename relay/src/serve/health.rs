//! Health, asked without a token, so that it tells nothing about spaces: `GET /healthz`, one line of JSON (spec: G-13),
//! and `grpc.health.v1.Health/Check` for whoever watches by gRPC (spec: G-14).

use std::time::Duration;

use blazedb_wire::grpc::{Code, MessageBuf, MessageDecoder, Status, encode_message};
use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;

/// Path of the health answer.
pub(super) const PATH: &str = "/healthz";
/// Path of the standard gRPC health check, a unary call.
pub(super) const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";
/// The service that can be asked for by name; the empty name asks for the whole relay.
const SERVICE: &[u8] = b"blaze.v1.Relay";

/// Reads a `HealthCheckRequest` to the end of its body and returns the `HealthCheckResponse`.
///
/// A unary call has exactly one message. Memory: at most one message of `message_bytes_max` and the chunks it came in.
pub(super) async fn check<B>(mut body: B, message_bytes_max: usize, serving: bool) -> Result<MessageBuf, Status>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut decoder = MessageDecoder::new(message_bytes_max);
    let mut asked = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::new(Code::Cancelled, "the client gave the call up"))?;
        let Ok(chunk) = frame.into_data() else { continue };
        decoder.push(chunk);
        while let Some(message) = decoder.poll_message()? {
            if asked.replace(message).is_some() {
                return Err(Status::new(Code::Internal, "a unary call has one message; send no second"));
            }
        }
    }
    decoder.finish()?;
    let asked = asked.ok_or_else(|| Status::new(Code::Internal, "a unary call has one message; send it"))?;
    let service =
        service_of(&asked).ok_or_else(|| Status::new(Code::Internal, "the HealthCheckRequest is misshapen"))?;
    if !service.is_empty() && service != SERVICE {
        return Err(Status::new(Code::NotFound, "ask for no service, or for blaze.v1.Relay"));
    }
    // HealthCheckResponse: field 1, varint; SERVING is 1, NOT_SERVING is 2.
    encode_message(Bytes::from_static(if serving { &[0x08, 1] } else { &[0x08, 2] }))
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
