//! Bodies of the fuzz targets: each takes any bytes and asserts what the formats promise about them.

use crate::batch::{Batch, BatchBuilder, Columns};
use crate::envelope::Envelope;
use crate::error::EncodeError;
use crate::explain::{Encoding, explain, rule};
use crate::frame::{COMPRESS_BYTES_MIN, Codec, Frame, FrameHeader, FrameKind, HEADER_BYTES, compress_frame};
use crate::grpc::{
    METADATA_BYTES_MAX, MessageDecoder, Metadata, MetadataError, MetadataValue, PREFIX_BYTES, Status,
    answer_content_type, answer_web_type, format_timeout, parse_timeout, percent_decode, percent_encode, web_trailers,
};
use crate::limits::{COLUMNS_ROWS_BYTES_MAX, FRAME_BODY_BYTES_MAX};
use crate::reader::Reader;
use crate::row::{RawField, Row, RowRef, encode_body};
use crate::shape::Shape;
use crate::value::{Document, Value, ValueRef, encode_value, validate_body, validate_value};
use crate::websocket::{Decoder, Event, OpCode, Side, encode};
use bytes::{Bytes, BytesMut};

/// Owns a value by way of the borrowing getters alone, item by item: the second road to the same value.
pub fn walk(value: &ValueRef<'_>) -> Value {
    match value {
        ValueRef::Array(array) => {
            let items: Vec<Value> = array.iter().map(|item| walk(&item)).collect();
            assert_eq!(items.len(), array.len());
            assert!(array.get(items.len()).is_none());
            for (index, item) in items.iter().enumerate().take(4) {
                // Not walked again: that would double the work at every level.
                assert_eq!(array.get(index).map(|item| item.to_value()).as_ref(), Some(item));
            }
            Value::Array(items)
        }
        ValueRef::Map(map) => {
            let fields: Vec<(String, Value)> =
                map.iter().map(|(name, value)| (name.to_owned(), walk(&value))).collect();
            assert_eq!(fields.len(), map.len());
            for (index, (name, value)) in fields.iter().enumerate().take(4) {
                let (name_there, value_there) = map.get_index(index);
                assert_eq!((name_there, &value_there.to_value()), (name.as_str(), value));
                assert_eq!(map.get(name).map(|value| value.to_value()).as_ref(), Some(value));
            }
            Value::Map(Document::from_pairs(fields).expect("keys of a map are unique"))
        }
        scalar => scalar.to_value(),
    }
}

/// A value: tag byte, then payload.
pub fn fuzz_value(data: &[u8]) {
    let Some((&tag, payload)) = data.split_first() else { return };
    let valid = validate_value(tag, payload);
    let owned = Value::decode(tag, payload);
    let borrowed = ValueRef::decode(tag, payload);
    assert_eq!(valid.err(), owned.as_ref().err().copied());
    assert_eq!(valid.err(), borrowed.as_ref().err().copied());
    let (Ok(owned), Ok(borrowed)) = (owned, borrowed) else { return };
    assert_eq!(walk(&borrowed), owned);
    assert_eq!(walk(&RawField { tag, payload }.index().value()), owned);
    let mut again = Vec::new();
    assert_eq!(encode_value(&owned, &mut again), Ok(tag));
    assert_eq!(again, payload, "canonical");
}

/// What an encoding is (the first byte says), then bytes of it: their explanation covers each byte once, in order.
pub fn fuzz_explain(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let encoding = Encoding::ALL[usize::from(which) % Encoding::ALL.len()];
    let (mut next, mut next_inflated) = (0, 0);
    let outcome = explain(encoding, data, &mut |part| {
        let next = if part.inflated { &mut next_inflated } else { &mut next };
        assert_eq!(part.offset, *next, "{part:?}");
        assert!(!part.bytes.is_empty() && !part.meaning.is_empty(), "{part:?}");
        assert!(part.meaning.chars().all(|c| !c.is_control()), "a terminal obeys nothing: {part:?}");
        *next += part.bytes.len();
        if !part.inflated {
            assert_eq!(part.bytes, &data[part.offset..*next]);
        }
    });
    assert_eq!(next, data.len(), "every byte has a meaning");
    if let Err(error) = outcome {
        assert!(!rule(encoding, &error).is_empty());
    }
}

/// A row: shape, then body.
pub fn fuzz_row(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Ok(shape) = Shape::decode(&mut reader) else { return };
    let mut again = Vec::new();
    shape.encode(&mut again);
    assert_eq!(again, data[..reader.offset()], "canonical");
    assert_eq!(Shape::new(shape.names()), Ok(shape.clone()));
    let body = reader.rest();
    let row = RowRef::trusted(&shape, body);
    match Row::decode(shape.clone(), Bytes::copy_from_slice(body)) {
        Ok(owned) => {
            assert_eq!(validate_body(shape.len(), body), Ok(()));
            assert_eq!(RowRef::decode(&shape, body), Ok(row));
            let document = owned.to_document();
            assert_eq!(document.len(), shape.len());
            for (index, (name, value)) in document.iter().enumerate() {
                assert_eq!(shape.name(index), name);
                assert_eq!(&walk(&row.get_index(index)), value);
                assert_eq!(row.get(name).map(|value| walk(&value)).as_ref(), Some(value));
            }
            assert_eq!(Row::encode(&document), Ok(owned.clone()), "canonical");
            assert_eq!(Row::encode_like(&document, &shape), Ok(owned), "canonical");
            let fields: Vec<RawField<'_>> = row.fields().collect();
            let mut again = Vec::new();
            encode_body(&fields, &mut again);
            assert_eq!(again, body, "assembled from raw fields");
        }
        Err(error) => {
            assert!(error.offset <= body.len());
            assert_eq!(RowRef::decode(&shape, body), Err(error));
            // Getters over bytes that nobody checked say something, but do not panic.
            for (index, (name, value)) in row.iter().enumerate() {
                let _ = value.to_value();
                let _ = row.get(name);
                let _ = row.field(index).index().value().to_value();
            }
        }
    }
}

/// A batch body.
pub fn fuzz_batch(data: &[u8]) {
    match Batch::decode(Bytes::copy_from_slice(data)) {
        Ok(batch) => check_batch(&batch, data),
        Err(error) => assert!(error.offset <= data.len()),
    }
}

fn check_batch(batch: &Batch, data: &[u8]) {
    assert_eq!(batch.bytes(), data);
    let mut builder = BatchBuilder::new(batch.head().clone());
    for (index, op) in batch.ops().enumerate() {
        assert_eq!(batch.op(index), op);
        let owned = op.to_op();
        assert_eq!(owned.as_ref(), op);
        assert_eq!(owned.payload_digest(), op.payload_digest());
        assert_eq!(builder.try_push(&owned), Ok(true), "the builder's limits are the decoder's");
    }
    assert_eq!(builder.bytes_len(), data.len(), "sizes are exact");
    assert_eq!(builder.finish().as_deref(), Ok(data), "canonical");
    let mut next = 0;
    for range in batch.transactions() {
        assert_eq!(range.start, next);
        assert!(range.end > range.start);
        next = range.end;
    }
    assert_eq!(next, batch.len(), "transactions cover the batch");
    // Rows and columns say the same.
    let columns = match Columns::encode(std::slice::from_ref(batch)) {
        Err(EncodeError::Limit { what: "classes in columns", .. }) => return,
        columns => columns.expect("every other batch fits columns"),
    };
    let back = Columns::decode(&columns).expect("what was written is accepted");
    assert_eq!(back.batches(), std::slice::from_ref(batch), "lossless");
}

/// A columnar batch.
pub fn fuzz_columns(data: &[u8]) {
    match Columns::decode(data) {
        Ok(columns) => check_columns(&columns, data),
        Err(error) => assert!(error.offset <= data.len(), "{error}"),
    }
}

fn check_columns(columns: &Columns, data: &[u8]) {
    let batches = columns.batches();
    let rows: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
    assert!(rows <= COLUMNS_ROWS_BYTES_MAX);
    for batch in batches {
        check_batch(batch, batch.bytes());
    }
    let again = match columns.clone().into_entries() {
        Some(entries) => {
            for (envelope, _) in &entries {
                assert_eq!(Envelope::decode(&envelope.to_vec()).as_ref(), Ok(envelope));
            }
            Columns::encode_entries(&entries)
        }
        None => Columns::encode(batches),
    };
    assert_eq!(again.as_deref(), Ok(data), "canonical");
}

/// A compressed frame: a byte for its kind, a byte for its codec, then the body as it is compressed, with the inflated
/// length in front; and the same bytes as a body that is to be compressed.
pub fn fuzz_compressed(data: &[u8]) {
    let Some((&[kind, codec], body)) = data.split_first_chunk::<2>() else { return };
    let kinds = [FrameKind::Push, FrameKind::Entry, FrameKind::Entries, FrameKind::Pushes];
    let kind = kinds[usize::from(kind) % kinds.len()];
    let codec = if codec % 2 == 0 { Codec::Zstd } else { Codec::Lz4 };
    let frame = mended(kind, codec, body);
    match Frame::decode(frame.clone()) {
        Ok(read) => assert_eq!(Frame::decode(read.to_bytes()), Ok(read), "compressed or not"),
        Err(error) => assert!(error.offset <= HEADER_BYTES + FRAME_BODY_BYTES_MAX),
    }
    let plain = mended(kind, Codec::None, body);
    let packed = compress_frame(&plain, codec);
    assert!(packed.len() <= plain.len());
    if packed != plain {
        assert!(body.len() >= COMPRESS_BYTES_MIN);
        assert_eq!(Frame::decode(packed), Frame::decode(plain), "lossless");
    }
}

/// A frame whose header is right, whatever the body is.
fn mended(kind: FrameKind, codec: Codec, body: &[u8]) -> Bytes {
    let mut out = vec![b'B', b'Z', 0, kind.number(), codec.number(), 0, 0, 0];
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out);
    hasher.update(body);
    out.extend_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(body);
    Bytes::from(out)
}

/// An envelope, once as it is and once with its checksum put right.
pub fn fuzz_envelope(data: &[u8]) {
    check_envelope(data);
    let mut mended = data.to_vec();
    let crc = crc32fast::hash(data);
    mended.extend_from_slice(&crc.to_le_bytes());
    check_envelope(&mended);
}

fn check_envelope(data: &[u8]) {
    match Envelope::decode(data) {
        Ok(envelope) => {
            assert_eq!(envelope.to_vec(), data, "canonical");
            assert_eq!(envelope.outcomes().count(), envelope.n as usize);
        }
        Err(error) => assert!(error.offset <= data.len()),
    }
}

/// A frame, once as it is and once with its header put right, so that the body is reached.
pub fn fuzz_frame(data: &[u8]) {
    check_frame(data);
    if data.len() < HEADER_BYTES {
        return;
    }
    let kind = data[3] % 14;
    let Some(kind) = FrameKind::from_number(kind) else { return };
    let mended = mended(kind, Codec::None, &data[HEADER_BYTES..]);
    check_frame(&mended);
}

fn check_frame(data: &[u8]) {
    let codec = data.first_chunk().and_then(|header| FrameHeader::decode(header).ok()).map_or(Codec::None, |h| h.codec);
    match Frame::decode(Bytes::copy_from_slice(data)) {
        Ok(frame) => {
            if codec == Codec::None {
                assert_eq!(frame.to_bytes(), data, "canonical");
            }
            if let Frame::Push(batch) | Frame::Entry { batch, .. } = &frame {
                check_batch(batch, batch.bytes());
            }
        }
        Err(error) => assert!(codec != Codec::None || error.offset <= data.len()),
    }
}

/// A stream of length-prefixed gRPC messages: first how it is cut into chunks (a count, then that many lengths), then the
/// stream. However it is cut, the same messages come out and the same end is reached.
pub fn fuzz_grpc(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let (cuts, stream) = rest.split_at(usize::from(count).min(rest.len()));
    let read = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = MessageDecoder::new(FUZZ_MESSAGE_BYTES_MAX);
        let mut messages = Vec::new();
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            loop {
                match decoder.poll_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(status) => return (messages, Err(status.code)),
                }
            }
        }
        (messages, decoder.finish().map_err(|status| status.code))
    };
    let whole = read(&mut std::iter::once(stream));
    let cut = read(&mut chunks(cuts, stream));
    assert_eq!(whole, cut, "chunks mean nothing");
    let messages: usize = whole.0.iter().map(|message| message.len() + PREFIX_BYTES).sum();
    assert!(messages <= stream.len() && whole.0.iter().all(|message| message.len() <= FUZZ_MESSAGE_BYTES_MAX));
    if whole.1.is_ok() {
        assert_eq!(messages, stream.len(), "nothing is left over");
    }
}

/// What is read out of header fields: lines, each a name, a blank and a value. Whatever is taken has one form, in which it says
/// the same again; whatever is refused says why.
pub fn fuzz_metadata(data: &[u8]) {
    let mut metadata = Metadata::new();
    let mut trailers = Vec::new();
    for line in data.split(|&byte| byte == b'\n') {
        let at = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        fuzz_field(value);
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let before = metadata.iter().count();
        match metadata.receive(name, value) {
            Ok(()) => trailers.push((name, value)),
            Err(MetadataError::TooMuch) => {}
            Err(error) => assert_eq!(error, MetadataError::NotBase64(name.to_owned())),
        }
        assert!(metadata.iter().skip(before).all(|(taken, _)| taken == name));
    }
    let mut again = Metadata::new();
    let mut sent = Metadata::new();
    for ((name, value), (_, text)) in metadata.iter().zip(metadata.encoded()) {
        again.receive(name, text.as_bytes()).expect("what was written can be read");
        let appended = match value {
            MetadataValue::Text(text) => sent.append_text(name, text),
            MetadataValue::Binary(bytes) => sent.append_binary(name, bytes.clone()),
        };
        assert!(matches!(appended, Ok(()) | Err(MetadataError::TooMuch)), "{appended:?}");
    }
    assert_eq!(again, metadata);
    let bytes: usize = sent.encoded().map(|(name, text)| name.len() + text.len()).sum();
    assert!(bytes <= METADATA_BYTES_MAX);
    let message = web_trailers(trailers.iter().copied());
    let (prefix, lines) = message.split_at(PREFIX_BYTES);
    assert_eq!(
        (prefix[0], u32::try_from(lines.len())),
        (0x80, Ok(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]])))
    );
    let lengths: usize = trailers.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
    assert_eq!(lines.len(), lengths);
}

/// The value of a field, as each of those that gRPC keeps for itself.
fn fuzz_field(value: &[u8]) {
    if let Some(timeout) = parse_timeout(value) {
        // The finest unit that can say it: never shorter, and the same once it was written so.
        let again = parse_timeout(format_timeout(timeout).as_bytes()).expect("what was written can be read");
        assert!(again >= timeout, "{timeout:?}");
        assert_eq!(format_timeout(again), format_timeout(timeout));
    }
    let text = percent_decode(value);
    let written = percent_encode(&text);
    assert!(written.bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{written:?}");
    assert_eq!(percent_decode(written.as_bytes()), text);
    let status = Status::from_trailers(Some(value), Some(value));
    let again = Status::from_trailers(Some(status.status_value().as_bytes()), Some(written.as_bytes()));
    assert_eq!(again.code, status.code);
    if let Some(message) = status.message_value() {
        assert!(status.message.starts_with(&percent_decode(message.as_bytes())), "cut, and nothing else");
    }
    if let Some(answer) = answer_content_type(value) {
        assert_eq!(answer_content_type(answer.as_bytes()), Some(answer));
    }
    if let Some(answer) = answer_web_type(value) {
        assert_eq!(answer_web_type(answer.0.as_bytes()), Some(answer));
        assert_eq!(answer_content_type(value), None, "one protocol or the other");
    }
    #[cfg(feature = "encoding")]
    fuzz_encoding(value);
}

#[cfg(feature = "encoding")]
fn fuzz_encoding(value: &[u8]) {
    use crate::grpc::{Code, Encoding};
    match Encoding::of(Some(value)) {
        Ok(encoding) => {
            assert_eq!(encoding.name().as_bytes(), value);
            assert!(encoding.is_accepted_by(value));
        }
        Err(status) => assert_eq!(status.code, Code::Unimplemented),
    }
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
        let longer = [value, &b", "[..], encoding.name().as_bytes()].concat();
        assert!(encoding.is_accepted_by(&longer), "a list says yes wherever it does");
    }
}

/// Cuts a stream into chunks of these lengths, as far as it goes; what is left is the last one.
fn chunks<'d>(cuts: &'d [u8], stream: &'d [u8]) -> impl Iterator<Item = &'d [u8]> {
    let (mut cuts, mut left) = (cuts.iter(), stream);
    std::iter::from_fn(move || {
        let len = cuts.next().map_or(left.len(), |&len| usize::from(len).min(left.len()));
        let (chunk, rest) = left.split_at(len);
        left = rest;
        (!chunk.is_empty() || !left.is_empty()).then_some(chunk)
    })
}

/// The bytes of a WebSocket: first who sends (bit 7: a server) and how they are cut into chunks (a count, then that many
/// lengths), then the bytes. However they are cut, the same events come out and the same end is reached.
pub fn fuzz_websocket(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let side = if first & 0x80 == 0 { Side::Client } else { Side::Server };
    let (cuts, stream) = rest.split_at(usize::from(first & 0x7f).min(rest.len()));
    let read = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::new(side, FUZZ_MESSAGE_BYTES_MAX);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.input().extend_from_slice(chunk);
            loop {
                match decoder.poll_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(code) => {
                        assert_eq!(decoder.poll_event(), Err(code), "an error is final");
                        return (events, Err(code));
                    }
                }
            }
        }
        (events, Ok(()))
    };
    let whole = read(&mut std::iter::once(stream));
    let cut = read(&mut chunks(cuts, stream));
    assert_eq!(whole, cut, "chunks mean nothing");
    let mut bytes = 0;
    let mut again = BytesMut::new();
    for event in &whole.0 {
        let (op, payload) = match event {
            Event::Message(message) => (OpCode::Binary, message),
            Event::Ping(payload) => (OpCode::Ping, payload),
            Event::Pong | Event::Close { .. } => continue,
        };
        assert!(payload.len() <= FUZZ_MESSAGE_BYTES_MAX);
        bytes += payload.len();
        let mask = (side == Side::Client).then_some([1, 2, 3, first]);
        encode(op, payload, mask, &mut again);
        let mut decoder = Decoder::new(side, FUZZ_MESSAGE_BYTES_MAX);
        decoder.input().extend_from_slice(&again.split());
        assert_eq!(decoder.poll_event(), Ok(Some(event.clone())), "what came is what would be sent");
    }
    assert!(bytes <= stream.len());
}

/// Small, so that a fuzzer reaches it.
const FUZZ_MESSAGE_BYTES_MAX: usize = 4096;
