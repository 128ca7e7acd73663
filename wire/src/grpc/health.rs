//! `grpc.health.v1`: two protobuf messages, small enough to be written by hand (spec: G-14).

use bytes::Bytes;

/// Path of the standard health check, a unary call.
pub const HEALTH_CHECK_PATH: &str = "/grpc.health.v1.Health/Check";
/// Path of the standard stream of health changes.
pub const HEALTH_WATCH_PATH: &str = "/grpc.health.v1.Health/Watch";

/// What a `HealthCheckResponse` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The server does not know.
    Unknown,
    /// It serves.
    Serving,
    /// It is there and does not serve, as when it drains.
    NotServing,
    /// There is no such service. Only a stream of changes says so: it tells when there is one.
    ServiceUnknown,
}

impl Health {
    /// Returns the `HealthCheckResponse`.
    pub fn encode(self) -> &'static [u8] {
        match self {
            Self::Unknown => &[],
            Self::Serving => &[0x08, 1],
            Self::NotServing => &[0x08, 2],
            Self::ServiceUnknown => &[0x08, 3],
        }
    }

    /// Reads a `HealthCheckResponse`; a number that is not defined yet is [`Health::Unknown`], and nothing is what is no
    /// protobuf.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let mut health = Self::Unknown;
        walk(message, |tag, number, _| {
            if tag == STATUS_TAG {
                health = match number {
                    1 => Self::Serving,
                    2 => Self::NotServing,
                    3 => Self::ServiceUnknown,
                    _ => Self::Unknown,
                };
            }
            Some(())
        })?;
        Some(health)
    }
}

/// Field 1, a number.
const STATUS_TAG: u64 = 1 << 3;
/// Field 1, a text.
const SERVICE_TAG: u64 = 1 << 3 | 2;

/// Returns the `HealthCheckRequest` for a service; the empty name asks for the whole server.
pub fn health_request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 6);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).expect("seven bits"));
        message.extend_from_slice(service.as_bytes());
    }
    Bytes::from(message)
}

/// Returns the service that a `HealthCheckRequest` names, empty if it names none. Nothing if the message is misshapen.
pub fn health_request_service(message: &[u8]) -> Option<&[u8]> {
    let mut service: &[u8] = &[];
    walk(message, |tag, _, value| {
        if tag == SERVICE_TAG {
            std::str::from_utf8(value).ok()?;
            service = value;
        }
        Some(())
    })?;
    Some(service)
}

/// Visits the fields of a protobuf message: the tag, the number or 0, the bytes or none. Nothing if it is misshapen, or
/// the visitor says so.
fn walk<'a>(mut message: &'a [u8], mut visit: impl FnMut(u64, u64, &'a [u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
            return None;
        }
        let mut number = 0;
        let length = match tag & 7 {
            0 => {
                number = varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        visit(tag, number, value)?;
        message = rest;
    }
    Some(())
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

#[cfg(test)]
mod tests {
    use super::*;

    // spec: G-14
    #[test]
    fn the_service_name_is_read_and_hostile_bytes_are_refused() {
        assert_eq!(health_request_service(b""), Some(&b""[..]));
        assert_eq!(health_request_service(b"\x0a\x01a"), Some(&b"a"[..]));
        assert_eq!(health_request_service(b"\x0a\x01a\x0a\x02bc"), Some(&b"bc"[..]));
        // Fields of every wire type that are not ours.
        assert_eq!(health_request_service(b"\x10\xff\x01\x19abcdefgh\x25abcd\x2a\x01x\x0a\x01a"), Some(&b"a"[..]));
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
            assert_eq!(health_request_service(bad), None, "{bad:x?}");
        }
    }

    // spec: G-14
    #[test]
    fn what_one_end_writes_the_other_reads() {
        for service in ["", "a", "blaze.v1.Relay", &"x".repeat(127), &"x".repeat(128), &"x".repeat(20_000)] {
            assert_eq!(health_request_service(&health_request(service)), Some(service.as_bytes()));
        }
        for health in [Health::Unknown, Health::Serving, Health::NotServing, Health::ServiceUnknown] {
            assert_eq!(Health::decode(health.encode()), Some(health));
        }
        assert_eq!(Health::decode(b"\x12\x01x\x08\x02"), Some(Health::NotServing), "other fields are passed over");
        assert_eq!(Health::decode(b"\x08\x63"), Some(Health::Unknown));
        for bad in [&b"\x08"[..], b"\x0a\x02a", b"\x00", b"\xff"] {
            assert_eq!(Health::decode(bad), None, "{bad:x?}");
        }
    }
}
