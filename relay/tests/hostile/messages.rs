//! Messages that are less than they say, or more than they seem.

use blazedb::transport::{Target, TransportError, Trust, open_stream};
use blazedb_wire::grpc::Code;
use blazedb_wire::{Frame, FrameKind, HEADER_BYTES, Hello};
use bytes::Bytes;

use crate::World;

/// A frame with a true checksum whose body is zstd and says that it inflates to so many bytes.
fn bomb(inflated: u32, packed: &[u8]) -> Bytes {
    let mut body = inflated.to_le_bytes().to_vec();
    body.extend(packed);
    let mut frame = b"BZ".to_vec();
    frame.extend([0, FrameKind::Push.number(), 1, 0, 0, 0]);
    frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame);
    crc.update(&body);
    frame.extend(crc.finalize().to_le_bytes());
    assert_eq!(frame.len(), HEADER_BYTES);
    frame.extend(body);
    Bytes::from(frame)
}

// spec: F-21, L-15
#[tokio::test]
async fn compressed_bombs_cost_their_stream_and_little_memory() {
    let world = World::new().await;
    let trust = Trust::Fingerprint(world.fingerprint());
    let target = Target::new(&world.url(), &trust, &world.token()).unwrap();
    let most = 4 << 20;
    let zeros = |length: usize| zstd::bulk::compress(&vec![0; length], 1).unwrap();
    let (honest, lying) = (zeros(most), zeros(256 << 20));
    let most = u32::try_from(most).unwrap();
    // The bombs are made: 256 MiB of zeros were held for them.
    let mut world = world;
    world.count_from_here();
    for (what, bomb, code) in [
        ("as much as a frame may, more than a batch may", bomb(most, &honest), Code::ResourceExhausted),
        ("more than it says", bomb(most, &lying), Code::InvalidArgument),
        ("more than a frame may", bomb(most + 1, &honest), Code::ResourceExhausted),
        ("most of the world", bomb(u32::MAX, &lying), Code::ResourceExhausted),
        ("less than it says", bomb(most, &honest[..honest.len() / 2]), Code::InvalidArgument),
        ("rubbish", bomb(most, b"rubbish"), Code::InvalidArgument),
    ] {
        let (sender, mut receiver) = open_stream(&target).await.unwrap();
        let hello = Hello::first();
        sender.send(Frame::Hello(hello).to_bytes()).await.unwrap();
        for _ in 0..20 {
            // The relay may end the stream at the first.
            let _ = sender.send(bomb.clone()).await;
        }
        let error = loop {
            match receiver.next().await {
                Ok(frame) => assert!(frame.is_some(), "{what}: a status that is not OK"),
                Err(error) => break error,
            }
        };
        let TransportError::Status(status) = error else { panic!("{what}: {error:?}") };
        assert_eq!(status.code, code, "{what}: {status}");
    }
    // The largest body, once inflated, and the window of zstd beside it.
    world.memory_stayed_below(16 << 20);
}
