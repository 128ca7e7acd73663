//! Servers that lead our client on: they take a connection and say nothing, refuse, promise, hang up, or send without end.
//! What it holds for them stays bounded, it does not spin, each call ends by its deadline, and nothing is left behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blazedb::transport::{CallOptions, Client, ClientOptions, Code, Target, TransportError, Trust};
use blazedb_sync::Backoff;
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::http2::{CANCEL, DATA, frame};
use crate::pool::*;

fn within(ms: u64) -> CallOptions {
    CallOptions::new().timeout(Duration::from_millis(ms))
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_costs_one_and_no_deadline() {
    let server = Server::start_after(usize::MAX, &[], |_| None).await;
    let client = server.client();
    let begun = Instant::now();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.unary(METHOD, Bytes::new(), &within(300)).await.unwrap_err() })
        })
        .collect();
    // Some are given up before that.
    for call in &calls[100..] {
        call.abort();
    }
    for call in calls {
        if let Ok(error) = soon(call).await {
            assert!(error.is_unprocessed(), "{error:?}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(server.connections(), 1);
    let stats = client.stats();
    assert_eq!((stats.calls_open, stats.calls_waiting, stats.connections), (0, 0, 0));
    // Nobody is left who could use the connection that is being made: it is given up, and not in ten seconds.
    let begun = Instant::now();
    drop(client);
    until("the socket of a client that is gone", || server.seen.gone.load(Ordering::SeqCst) == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A client is shared by callers with runtimes of their own; one of them goes away in the middle of an attempt to connect.
#[test]
fn an_attempt_that_died_with_its_runtime_is_made_again() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = servers.block_on(Server::start_after(1, &[], |asked| Some(well(asked.stream))));
    let client = server.client();
    let first = runtime();
    first.block_on(client.unary(METHOD, Bytes::new(), &within(100))).unwrap_err();
    drop(first);
    let answer = runtime().block_on(client.unary(METHOD, Bytes::new(), &within(5_000))).unwrap();
    assert_eq!(answer.message, "well");
    assert_eq!(server.connections(), 2);
}

type Lure = fn(TcpStream);

#[tokio::test]
async fn connections_that_end_before_they_have_begun_are_not_a_storm() {
    let lures: [(&str, Lure); 3] = [
        ("closed at once", drop),
        ("reset", |tcp| tcp.set_zero_linger().unwrap()),
        ("rubbish for a handshake", |mut tcp| {
            tokio::spawn(async move { tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await });
        }),
    ];
    for (what, lure) in lures {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                lure(tcp);
            }
        });
        let target = Target::anonymous(&url, &Trust::Fingerprint([7; 32])).unwrap();
        let client = Client::new(target, ClientOptions::default());
        let begun = Instant::now();
        let calls: Vec<_> = (0..30)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.unary(METHOD, Bytes::new(), &within(1_500)).await.unwrap_err() })
            })
            .collect();
        for call in calls {
            let error = soon(call).await.unwrap();
            let TransportError::NoConnection { source } = error.error() else { panic!("{what}: {error:?}") };
            let is_named = matches!(**source, TransportError::Tls(_) | TransportError::Connect { .. });
            assert!(is_named && error.is_unprocessed(), "{what}: {error:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
        let taken = taken.load(Ordering::SeqCst);
        assert!((2..25).contains(&taken), "{what}: {taken} connections in a second and a half");
    }
}

// spec: G-21
#[tokio::test]
async fn a_hint_of_a_pause_is_bounded() {
    let server = Server::start(&[], |asked| {
        Some(match (asked.connection, asked.stream) {
            (0, 1) => {
                let hint = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "9223372036854775808")];
                trailers(1, &[&GOOD[..], &hint].concat())
            }
            (_, stream) => well(stream),
        })
    })
    .await;
    let client = server.client();
    let error = call(&client).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(600)), "ten minutes, were it an age");
    // The connection is there, and is no more worse for it.
    assert_eq!(call(&client).await.unwrap().message, "well");
}

// spec: G-21
#[tokio::test]
async fn a_refused_call_rests_no_longer_than_it_has_time() {
    // The pool spreads its waits by this; a seed for which the second attempt is to come after the deadline.
    let seed = (0..).find(|seed| Backoff::new(seed ^ 2).next(0) > 80).unwrap();
    let server = Server::start(&[], |asked| Some(reset(asked.stream, REFUSED_STREAM))).await;
    let client = server.client_with(|options| options.seed = seed);
    call(&client).await.unwrap_err();
    let before = server.calls();
    let error = soon(client.unary(METHOD, Bytes::new(), &within(40))).await.unwrap_err();
    assert_eq!(error.status().map(|status| status.code), Some(Code::DeadlineExceeded), "{error:?}");
    assert!(error.is_unprocessed());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.calls(), before + 1, "none was begun behind its deadline");
    assert_eq!(client.stats().calls_open, 0);
}

/// Polls once, and gives up.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        // In the queue again before anything that is woken by what this does.
        cx.waker().wake_by_ref();
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Calls are on their way to a connection when it ends, and one of them was not sent. Its answer is waited for in pieces, as
/// one arm of a `select!` does, while it is made again.
// spec: G-21
#[test]
fn waiting_for_an_answer_in_pieces_loses_nothing_of_a_call_that_is_made_again() {
    // Whether a call was queued and not sent as its connection ended is a matter of moments.
    assert!((0..20).any(|_| waits_in_pieces_for_a_call_that_is_made_again()), "no call was made again");
}

/// Returns whether a call was made again.
fn waits_in_pieces_for_a_call_that_is_made_again() -> bool {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = servers.block_on(Server::start(&[], |asked| match (asked.connection, asked.stream) {
        (0, 1) => Some(well(1)),
        (0, 40..) => None,
        (0, _) => Some(Vec::new()),
        (_, stream) => Some(well(stream)),
    }));
    // So slow to come back that the call has to wait.
    let seed = (0..).find(|seed| Backoff::new(*seed).next(0) > 80).unwrap();
    let client = server.client_with(|options| options.seed = seed);
    let begun = Instant::now();
    runtime().block_on(async {
        call(&client).await.unwrap();
        let mut open = VecDeque::new();
        loop {
            if begun.elapsed() > Duration::from_secs(2) {
                return false;
            }
            if let Some(started) = once(client.streaming(METHOD, &CallOptions::new())).await
                && server.connections() == 1
            {
                open.push_back(started.unwrap().1);
                open.truncate(24);
            }
            let mut at = 0;
            while at < open.len() {
                let is_made_again = match once(open[at].next()).await {
                    None => {
                        at += 1;
                        continue;
                    }
                    Some(Ok(message)) => message.unwrap() == "well",
                    Some(Err(_)) => false,
                };
                if is_made_again {
                    assert!(server.connections() >= 2);
                    return true;
                }
                open.remove(at);
            }
            tokio::task::yield_now().await;
        }
    })
}

const HEALTH_OF_ALL: usize = 5;

fn health(stream: u32) -> Vec<u8> {
    [head(stream, &[]), message(stream, &[8, 1])].concat()
}

// spec: G-14
#[tokio::test]
async fn a_watch_of_health_that_is_refused_is_begun_again() {
    for code in [REFUSED_STREAM, CANCEL] {
        let server = Server::start(&[], move |asked| {
            Some(match (asked.body.len(), asked.stream) {
                (HEALTH_OF_ALL, 1) => reset(1, code),
                (HEALTH_OF_ALL, stream) => health(stream),
                (_, stream) => well(stream),
            })
        })
        .await;
        let client = server.client_with(|options| {
            (options.health_service, options.connections_max) = (Some(String::new()), 1);
        });
        let answer = soon(client.unary(METHOD, Bytes::from_static(b"x"), &within(5_000))).await;
        assert_eq!(answer.unwrap().message, "well", "{code}");
    }
    // One whose health cannot be learnt does not keep calls from another.
    let server = Server::start(&[], |asked| {
        Some(match (asked.connection, asked.body.len()) {
            (0, _) => reset(asked.stream, CANCEL),
            (_, HEALTH_OF_ALL) => health(asked.stream),
            _ => well(asked.stream),
        })
    })
    .await;
    let client = server.client_with(|options| options.health_service = Some(String::new()));
    let answer = soon(client.unary(METHOD, Bytes::from_static(b"x"), &within(5_000))).await;
    assert_eq!((answer.unwrap().message, server.connections()), (Bytes::from_static(b"well"), 2));
}

// spec: G-14
#[tokio::test]
async fn a_watch_of_health_that_ends_at_once_is_not_begun_in_a_loop() {
    let server = Server::start(&[], |asked| {
        let stream = asked.stream;
        Some(match asked.body.len() {
            HEALTH_OF_ALL => [health(stream), trailers(stream, &[("grpc-status", "0")])].concat(),
            _ => well(stream),
        })
    })
    .await;
    let client = server.client_with(|options| options.health_service = Some(String::new()));
    soon(client.unary(METHOD, Bytes::from_static(b"x"), &within(5_000))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = server.calls() - 1;
    assert!((2..16).contains(&asked), "{asked} in two seconds");
}

// spec: G-14
#[tokio::test]
async fn an_answer_about_health_is_small() {
    let server = Server::start(&[], |asked| {
        let stream = asked.stream;
        Some(match asked.body.len() {
            // A field of a later version behind the status.
            HEALTH_OF_ALL => {
                [head(stream, &[]), message(stream, &[&[8, 1, 18, 0xd0, 15], &[0; 2_000][..]].concat())].concat()
            }
            _ => well(stream),
        })
    })
    .await;
    let client = server.client_with(|options| options.health_service = Some(String::new()));
    soon(client.unary(METHOD, Bytes::from_static(b"x"), &within(600))).await.unwrap_err();
}

#[tokio::test]
async fn thousands_of_calls_at_once_are_bounded_and_all_end() {
    let server = Server::start(&[(3, 8)], |asked| Some(well(asked.stream))).await;
    let client = server.client();
    call(&client).await.unwrap();
    let calls: Vec<_> = (0..5_000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.unary(METHOD, Bytes::from_static(b"x"), &within(15_000)).await })
        })
        .collect();
    let (mut well, mut refused) = (0, 0);
    for call in calls {
        match soon(call).await.unwrap() {
            Ok(_) => well += 1,
            Err(error) => {
                assert_eq!(error.status().unwrap().code, Code::ResourceExhausted, "{error:?}");
                assert!(error.is_unprocessed());
                refused += 1;
            }
        }
    }
    assert!(well >= 1_024 && refused > 0, "{well} {refused}");
    assert_eq!(server.calls(), well + 1);
    assert!(server.connections() <= 4);
    let stats = client.stats();
    assert_eq!((stats.calls_open, stats.calls_waiting), (0, 0));
    assert_eq!(call(&client).await.unwrap().message, "well");
}

#[tokio::test]
async fn a_client_dropped_with_calls_open_leaves_nothing_behind() {
    let server = Server::start(&[], |_| Some(Vec::new())).await;
    let client = server.client();
    let open: Vec<_> = (0..40)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.unary(METHOD, Bytes::new(), &within(60_000)).await })
        })
        .collect();
    until("all are open", || server.calls() == 40).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(client);
    for call in &open {
        call.abort();
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    // The server's are: one that accepts. Those of its connections end with them.
    until("the tasks of its connections", || metrics.num_alive_tasks() <= 1).await;
    assert!(tasks > 40, "{tasks}");
}

/// What a call may have waiting to be sent: the server takes what its window has room for, and not a byte more.
#[tokio::test]
async fn what_a_call_sends_waits_in_bounded_memory() {
    let server = Server::start(&[], |_| Some(Vec::new())).await;
    let client = server.client();
    let (requests, _answers) = client.streaming(METHOD, &CallOptions::new()).await.unwrap();
    let message = Bytes::from(vec![7; 16 * 1024]);
    let mut sent = 0;
    while let Ok(ended) = tokio::time::timeout(Duration::from_millis(500), requests.send(message.clone())).await {
        ended.unwrap();
        sent += message.len();
        assert!(sent < 8 << 20, "it waits for nothing");
    }
    // 64 KiB of window, 64 KiB of HTTP/2, eight messages of the queue, and one that is being handed over.
    let most = 2 * 64 * 1024 + 10 * (message.len() + 5);
    assert!((64 * 1024..=most).contains(&sent), "{sent} of {most}");
}

/// A server that sends more than it was given room for.
#[tokio::test]
async fn what_a_server_sends_unasked_is_not_kept() {
    // Announces one message of a megabyte, and sends it in pieces of 16 KiB whatever the window is.
    fn flood(stream: u32, pieces: usize) -> Vec<u8> {
        let mut bytes = head(stream, &[]);
        bytes.extend(frame(DATA, 0, stream, &[0, 0, 16, 0, 0]));
        for _ in 0..pieces {
            bytes.extend(frame(DATA, 0, stream, &[7; 16 * 1024]));
        }
        bytes
    }
    for (pieces, fits) in [(15, true), (17, false)] {
        let server = Server::start(&[], move |asked| Some(flood(asked.stream, pieces))).await;
        let client = server.client();
        let (_requests, mut answers) = client.streaming(METHOD, &within(400)).await.unwrap();
        drop(_requests);
        // Nobody takes anything for a while.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let error = soon(answers.next()).await.unwrap_err();
        let is_timeout = error.status().is_some_and(|status| status.code == Code::DeadlineExceeded);
        assert_eq!(is_timeout, fits, "{pieces}: {error:?}");
    }
}

#[tokio::test]
async fn header_fields_of_an_answer_are_bounded() {
    let server = Server::start(&[], |asked| {
        let stream = asked.stream;
        let value = "y".repeat(if stream == 1 { 7_500 } else { 9_000 });
        Some(
            [head(stream, &[("x", &value)]), message(stream, b"well"), trailers(stream, &[("grpc-status", "0")])]
                .concat(),
        )
    })
    .await;
    let client = server.client();
    assert_eq!(call(&client).await.unwrap().message, "well");
    let error = call(&client).await.unwrap_err();
    assert!(matches!(error.error(), TransportError::Http(_)), "{error:?}");
}
