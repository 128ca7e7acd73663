//! Compressed messages: `grpc-encoding` gzip or zstd, inflated within the limit of a message (spec: G-3).
//!
//! Frames of a session carry their own compression (spec: F-21); this is for other calls and other people's clients.

use std::io::{Read, Write as _};

use bytes::Bytes;
use flate2::bufread::GzDecoder;

use super::{Code, Inflate, MessageDecoder, Status};

/// What both ends say in `grpc-accept-encoding`.
pub const ACCEPTED_ENCODINGS: &str = "identity,gzip,zstd";

/// The largest window of zstd, as a power of two: 4 MiB, as much as the largest message. Without it a header of a few
/// bytes may ask for 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 22;
/// zstd's own default: the next levels cost twice the time for a few percent.
const ZSTD_LEVEL: i32 = 3;

/// How the messages of one direction of a call are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Returns the encoding of a call, given its `grpc-encoding` field, if it has one.
    pub fn of(field: Option<&[u8]>) -> Result<Self, Status> {
        match field {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(b"zstd") => Ok(Self::Zstd),
            Some(_) => {
                Err(Status::new(Code::Unimplemented, "this grpc-encoding is not spoken; see grpc-accept-encoding"))
            }
        }
    }

    /// Returns the encoding's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Says whether a `grpc-accept-encoding` field names this encoding.
    pub fn is_accepted_by(self, field: &[u8]) -> bool {
        field.split(|&byte| byte == b',').any(|name| name.trim_ascii() == self.name().as_bytes())
    }

    /// Returns a decoder of messages that are compressed so, or not at all.
    pub fn decoder(self, message_bytes_max: usize) -> MessageDecoder {
        let decoder = MessageDecoder::new(message_bytes_max);
        match self {
            Self::Identity => decoder,
            Self::Gzip => decoder.inflating(inflate_gzip as Inflate),
            Self::Zstd => decoder.inflating(inflate_zstd),
        }
    }

    /// Compresses a message. Nothing if it does not get smaller by that: then it is better sent as it is.
    pub fn deflate(self, message: &[u8]) -> Option<Bytes> {
        let packed = match self {
            Self::Identity => return None,
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(message).and_then(|()| encoder.finish()).ok()?
            }
            Self::Zstd => zstd::bulk::compress(message, ZSTD_LEVEL).ok()?,
        };
        (packed.len() < message.len()).then(|| Bytes::from(packed))
    }
}

fn inflate_gzip(packed: &[u8], most: usize) -> Result<Bytes, Status> {
    let mut decoder = GzDecoder::new(packed);
    let inflated = read(&mut decoder, most)?;
    if decoder.into_inner().is_empty() { Ok(inflated) } else { Err(misshapen()) }
}

fn inflate_zstd(packed: &[u8], most: usize) -> Result<Bytes, Status> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|_| misshapen())?.single_frame();
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|_| misshapen())?;
    let inflated = read(&mut decoder, most)?;
    if decoder.finish().is_empty() { Ok(inflated) } else { Err(misshapen()) }
}

/// Reads to the end, or to one byte more than may be: what is held grows with what has come out.
fn read(from: &mut impl Read, most: usize) -> Result<Bytes, Status> {
    let mut inflated = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut inflated).map_err(|_| misshapen())?;
    if inflated.len() > most {
        let text = format!("a message of more than {most} bytes once it is inflated");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(Bytes::from(inflated))
}

fn misshapen() -> Status {
    Status::new(Code::Internal, "a compressed message is misshapen")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    // spec: G-3
    #[test]
    fn what_inflates_is_bounded_and_what_is_misshapen_is_refused() {
        let text: Vec<u8> = (0..1_000u32).flat_map(u32::to_le_bytes).collect();
        type Pack = fn(&[u8]) -> Vec<u8>;
        let zstd: Pack = |bytes| zstd::bulk::compress(bytes, 3).unwrap();
        for (inflate, pack) in [(inflate_gzip as Inflate, gzip as Pack), (inflate_zstd, zstd)] {
            let packed = pack(&text);
            assert_eq!(inflate(&packed, text.len()).unwrap(), text);
            assert_eq!(inflate(&packed, text.len() - 1).unwrap_err().code, Code::ResourceExhausted);
            assert_eq!(inflate(&pack(b""), 0).unwrap(), "");
            let bomb = pack(&vec![0; 64 << 20]);
            assert_eq!(inflate(&bomb, 1024).unwrap_err().code, Code::ResourceExhausted);
            for end in 0..packed.len() {
                assert_eq!(inflate(&packed[..end], 1 << 20).unwrap_err().code, Code::Internal, "cut at {end}");
            }
            let trailing = [&packed[..], b"x"].concat();
            assert_eq!(inflate(&trailing, 1 << 20).unwrap_err().code, Code::Internal);
            assert_eq!(inflate(b"rubbish", 1 << 20).unwrap_err().code, Code::Internal);
        }
        // A frame whose header asks for a window of 128 MiB.
        let mut stream = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        stream.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
        stream.write_all(&text).unwrap();
        assert_eq!(inflate_zstd(&stream.finish().unwrap(), 1 << 20).unwrap_err().code, Code::Internal);
    }

    // spec: G-3
    #[test]
    fn what_is_compressed_is_read_by_the_other_end() {
        let text = b"a message of some words, a message of some words, a message of some words".repeat(20);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let packed = encoding.deflate(&text).unwrap();
            assert!(packed.len() < text.len() / 4);
            let mut decoder = encoding.decoder(text.len());
            decoder
                .push(Bytes::from([&[1][..], &u32::try_from(packed.len()).unwrap().to_be_bytes(), &packed].concat()));
            assert_eq!(decoder.poll_message().unwrap().unwrap(), text);
            assert_eq!(encoding.deflate(b"xyz"), None, "it would get longer");
            assert_eq!(Encoding::of(Some(encoding.name().as_bytes())), Ok(encoding));
            assert!(encoding.is_accepted_by(ACCEPTED_ENCODINGS.as_bytes()));
            assert!(!encoding.is_accepted_by(b"identity,deflate,gzipped") && !encoding.is_accepted_by(b""));
        }
        assert!(Encoding::Zstd.is_accepted_by(b"gzip, zstd") && Encoding::of(None) == Ok(Encoding::Identity));
        assert_eq!(Encoding::of(Some(b"br")).unwrap_err().code, Code::Unimplemented);
    }
}
