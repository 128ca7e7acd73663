//! Compressed messages of a request: `grpc-encoding` gzip or zstd, inflated within the limit of a message (spec: G-3).
//!
//! Answers are never compressed here: a frame of a session carries its own compression (spec: F-21), and other answers
//! are a few bytes.

use std::io::Read;

use blazedb_wire::grpc::{Code, Inflate, MessageDecoder, Status};
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::HeaderMap;

/// What the relay says in `grpc-accept-encoding`.
pub(super) const ACCEPTED: &str = "identity,gzip,zstd";

/// The largest window of zstd, as a power of two: 4 MiB, as much as the largest message. Without it a header of a few
/// bytes may ask for 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 22;

/// How the messages of a request are compressed.
pub(super) enum Encoding {
    Identity,
    Packed(Inflate),
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Packed(inflate_gzip)),
            Some(b"zstd") => Ok(Self::Packed(inflate_zstd)),
            Some(_) => {
                Err(Status::new(Code::Unimplemented, "this grpc-encoding is not spoken; see grpc-accept-encoding"))
            }
        }
    }

    pub(super) fn decoder(self, message_bytes_max: usize) -> MessageDecoder {
        let decoder = MessageDecoder::new(message_bytes_max);
        match self {
            Self::Identity => decoder,
            Self::Packed(inflate) => decoder.inflating(inflate),
        }
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
    use std::io::Write as _;

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
}
