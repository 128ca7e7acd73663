//! Sync over WebSocket: as a page speaks it, and as nobody should.

use blazedb_wire::websocket::{Decoder, Event, OpCode, Side, close, encode, encode_close};
use bytes::BytesMut;

use super::*;

const MASK: [u8; 4] = [1, 2, 3, 4];
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// One WebSocket of a client.
pub(crate) struct Page {
    tls: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Relay {
    /// Sends a handshake with these header fields added and returns the head of the answer.
    pub(crate) async fn shake(&self, more: &[(&str, &str)]) -> (String, Page) {
        let mut tls = self.tls(b"http/1.1").await;
        let mut text = format!("GET {SYNC_PATH} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in more {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        tls.write_all(text.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("the answer", tls.read_u8()).await.unwrap());
        }
        let page = Page { tls, decoder: Decoder::new(Side::Server, MESSAGE_BYTES_MAX) };
        (String::from_utf8(head).unwrap(), page)
    }

    /// Opens a WebSocket with these subprotocols.
    async fn page(&self, protocols: &str) -> Page {
        let (head, page) = self.shake(&[&GOOD[..], &[("sec-websocket-protocol", protocols)]].concat()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        // Some proxies close a connection whose 101 says that it is to be.
        assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        page
    }

    async fn member(&self) -> Page {
        self.page(&format!("blaze.v1, bearer.{}", self.token("home"))).await
    }
}

pub(crate) const GOOD: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", KEY),
];

impl Page {
    async fn send(&mut self, bytes: &[u8]) {
        self.tls.write_all(bytes).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    pub(crate) async fn say(&mut self, op: OpCode, payload: &[u8]) {
        let mut out = BytesMut::new();
        encode(op, payload, Some(MASK), &mut out);
        self.send(&out).await;
    }

    /// Returns what comes next; nothing once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.poll_event().expect("the relay keeps the rules") {
                return Some(event);
            }
            let read = soon("something", self.tls.read_buf(self.decoder.input())).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Waits for the relay's Close and the end of the connection.
    async fn ended(mut self) -> u16 {
        let code = loop {
            match self.next().await.expect("it says why") {
                Event::Close { code, .. } => break code.expect("it says why"),
                Event::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(self.next().await, None, "nothing after a Close");
        code
    }
}

fn status_code(code: Code) -> u16 {
    close::STATUS_BASE + u16::from(code.number())
}

// spec: G-17, G-18
#[tokio::test]
async fn a_page_syncs_over_a_websocket() {
    let mut relay = Relay::start().await;
    let mut page = relay.member().await;
    assert_eq!(relay.next().await, Seen::Connected(ConnId(1), "ann".to_owned()));
    for size in [0, 1, 125, 126, 300, 65_535, 65_536, 200_000, MESSAGE_BYTES_MAX] {
        let frame = Bytes::from(vec![u8::try_from(size % 251).unwrap(); size]);
        page.say(OpCode::Binary, &frame).await;
        let Some(Event::Message(back)) = page.next().await else { panic!("{size}: no message") };
        assert!(back == frame, "{size}");
    }
    // In fragments, with a ping in between.
    let mut out = BytesMut::new();
    encode(OpCode::Binary, b"Hel", Some(MASK), &mut out);
    out[0] = 2;
    encode(OpCode::Ping, b"there?", Some(MASK), &mut out);
    encode(OpCode::Continuation, b"lo", Some(MASK), &mut out);
    page.send(&out).await;
    let mut got = [page.next().await.unwrap(), page.next().await.unwrap()];
    got.sort_by_key(|event| matches!(event, Event::Message(_)));
    assert_eq!(got[0], Event::Pong);
    assert_eq!(got[1], Event::Message(Bytes::from_static(b"Hello")));
    let mut out = BytesMut::new();
    encode_close(close::NORMAL, "done", Some(MASK), &mut out);
    page.send(&out).await;
    assert_eq!(page.ended().await, close::NORMAL);
    assert_eq!(relay.until_disconnected().await, ConnId(1));
    let header = format!("Bearer {}", relay.token("home"));
    let (head, mut page) = relay.shake(&[&GOOD[..], &[("authorization", &header)]].concat()).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("sec-websocket-protocol"), "{head}");
    page.say(OpCode::Binary, b"x").await;
    assert_eq!(page.next().await, Some(Event::Message(Bytes::from_static(b"x"))));
    drop(page);
    relay.until_disconnected().await;
    relay.stop().await;
}

// spec: G-8, G-18, G-19
#[tokio::test]
async fn how_a_session_ended_is_in_the_close() {
    let limits = Limits { connections_per_address_max: 100, ..Limits::default() };
    let mut relay = Relay::with(limits).await;
    assert_eq!(relay.page("blaze.v1").await.ended().await, status_code(Code::Unauthenticated));
    assert_eq!(relay.page("blaze.v1, bearer.a.b.c").await.ended().await, status_code(Code::Unauthenticated));
    let twice = format!("blaze.v1, bearer.{0}, bearer.{0}", relay.token("home"));
    assert_eq!(relay.page(&twice).await.ended().await, status_code(Code::Unauthenticated));
    let locked = format!("blaze.v1, bearer.{}", relay.token("locked"));
    assert_eq!(relay.page(&locked).await.ended().await, status_code(Code::PermissionDenied));

    for (frame, code) in [(&b"close"[..], Code::FailedPrecondition), (b"drop", Code::Unavailable)] {
        let mut page = relay.member().await;
        page.say(OpCode::Binary, frame).await;
        assert_eq!(page.ended().await, status_code(code));
        relay.until_disconnected().await;
    }
    let mut text = BytesMut::new();
    encode(OpCode::Text, b"text", Some(MASK), &mut text);
    let mut bare = BytesMut::new();
    encode(OpCode::Binary, b"not masked", None, &mut bare);
    let over = [&[0x82, 0xff, 0, 0, 0, 0][..], &0x0040_0011u32.to_be_bytes(), &MASK].concat();
    for (bytes, code) in [(&text[..], close::UNSUPPORTED), (&bare, close::PROTOCOL), (&over, close::TOO_BIG)] {
        let mut page = relay.member().await;
        page.send(bytes).await;
        assert_eq!(page.ended().await, code);
        relay.until_disconnected().await;
    }
    let page = relay.member().await;
    let _ = relay.next().await;
    let stopping = tokio::spawn(relay.stop());
    assert_eq!(page.ended().await, status_code(Code::Unavailable));
    soon("shutdown", stopping).await.unwrap();
}

// spec: G-17
#[tokio::test]
async fn handshakes_that_are_none_are_answered_in_http() {
    let relay = Relay::start().await;
    let without = |name: &str| -> Vec<(&str, &str)> { GOOD.into_iter().filter(|(have, _)| *have != name).collect() };
    let with = |name: &'static str, value: &'static str| {
        let mut headers = without(name);
        headers.push((name, value));
        headers
    };
    for (headers, status) in [
        (without("sec-websocket-version"), "426"),
        (with("sec-websocket-version", "8"), "426"),
        (without("sec-websocket-key"), "400"),
        (with("sec-websocket-key", "c2hvcnQ="), "400"),
        (without("connection"), "400"),
        (without("upgrade"), "415"),
        (with("upgrade", "h2c"), "415"),
    ] {
        let (head, _page) = relay.shake(&headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?}: {head}");
    }
    assert!(relay.stop().await.is_empty(), "the gate hears nothing of it");
}

// spec: L-23
#[tokio::test]
async fn a_message_of_a_page_is_counted_as_it_comes() {
    let limits = Limits {
        coming_bytes: Room { address: 1 << 20, relay: 1 << 20 },
        room_wait_max: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut relay = Relay::with(limits).await;
    let mut page = relay.member().await;
    let mut out = BytesMut::new();
    encode(OpCode::Binary, &vec![7; 2 << 20], Some(MASK), &mut out);
    // All but its end: it is never whole.
    page.send(&out[..out.len() - 1]).await;
    assert_eq!(page.ended().await, status_code(Code::ResourceExhausted));
    relay.until_disconnected().await;
    relay.stop().await;
}

// spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_page_that_does_not_end_is_lost_to_who_holds_less() {
    let room = Room { address: 1 << 20, relay: 1 << 20 };
    let grace = Duration::from_millis(100);
    let relay = Relay::with(Limits { coming_bytes: room, room_grace: grace, ..Limits::default() }).await;
    let mut page = relay.member().await;
    let mut out = BytesMut::new();
    encode(OpCode::Binary, &vec![7; 900 << 10], Some(MASK), &mut out);
    // Its length is enough to take room for all of it.
    page.send(&out[..20_000]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let other = memory::requests_from(&relay, "127.0.0.2").await;
    let request = relay.request(Some(&relay.token("home")));
    let (length, status) = memory::pushed(request, other, 700 << 10).await;
    assert_eq!((length, status), (700 << 10, Status::ok()));
    assert_eq!(page.ended().await, status_code(Code::ResourceExhausted));
    relay.stop().await;
}

// One that takes no pongs waits for that, and is told all the same. spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_takes_no_pongs_keeps_no_memory_that_others_need() {
    let room = Room { address: 1 << 20, relay: 1 << 20 };
    let grace = Duration::from_millis(100);
    let relay = Relay::with(Limits { coming_bytes: room, room_grace: grace, ..Limits::default() }).await;
    let mut page = relay.member().await;
    let (mut fragment, mut pings) = (BytesMut::new(), BytesMut::new());
    encode(OpCode::Binary, &vec![7; 900 << 10], Some(MASK), &mut fragment);
    // It says that it is not the last.
    fragment[0] &= 0x7f;
    page.send(&fragment).await;
    (0..1_000).for_each(|_| encode(OpCode::Ping, &[7; 125], Some(MASK), &mut pings));
    // Until the relay waits for the pongs to be taken, and so reads no more.
    while tokio::time::timeout(Duration::from_millis(300), page.send(&pings)).await.is_ok() {}
    let other = memory::requests_from(&relay, "127.0.0.2").await;
    let begun = tokio::time::Instant::now();
    let (length, status) = memory::pushed(relay.request(Some(&relay.token("home"))), other, 700 << 10).await;
    assert_eq!((length, status), (700 << 10, Status::ok()));
    assert!(begun.elapsed() < 20 * grace, "{:?}", begun.elapsed());
    drop(page);
    relay.stop().await;
}

// spec: G-11, G-19
#[tokio::test]
async fn a_page_that_is_silent_or_takes_nothing_is_cut() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let mut relay = Relay::with(limits).await;
    // One that answers pings stays.
    let mut polite = relay.member().await;
    let mut silent = relay.member().await;
    let until = tokio::time::Instant::now() + Duration::from_millis(600);
    let mut pings = 0;
    while tokio::time::Instant::now() < until {
        let Some(Event::Ping(payload)) = polite.next().await else { panic!("a ping") };
        polite.say(OpCode::Pong, &payload).await;
        pings += 1;
    }
    assert!(pings >= 3, "{pings}");
    relay.until_disconnected().await;
    while let Some(event) = silent.next().await {
        assert_eq!(event, Event::Ping(Bytes::new()));
    }
    drop(polite);
    relay.until_disconnected().await;
    relay.stop().await;

    let limits =
        Limits { stall_max: Duration::from_millis(100), close_max: Duration::from_millis(100), ..Limits::default() };
    let mut relay = Relay::with(limits).await;
    let mut page = relay.member().await;
    let mut out = BytesMut::new();
    encode(OpCode::Binary, &vec![7; 1 << 20], Some(MASK), &mut out);
    // It sends, reads nothing, and is sent everything back.
    let feeding = async { while page.tls.write_all(&out).await.is_ok() {} };
    soon("the cut", feeding).await;
    relay.until_disconnected().await;
    relay.stop().await;
}
