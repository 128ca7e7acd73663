//! Health, asked without a token, so that it tells nothing about spaces: `GET /healthz`, one line of JSON (spec: G-13),
//! and `grpc.health.v1.Health` for whoever asks or watches by gRPC (spec: G-14).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{
    Code, Encoding, Health, MessageBuf, MessageDecoder, Status, encode_message, health_request_service,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::watch;

use super::connection::Running;
use super::web::Source;
use super::{Limits, grpc};

/// Path of the health answer.
pub(super) const PATH: &str = "/healthz";
/// The service that can be asked for by name; the empty name asks for the whole relay.
const SERVICE: &[u8] = b"blaze.v1.Relay";

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
    let decoder = Encoding::of(grpc::encoding_field(headers))?.decoder(limits.check_bytes_max);
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
    let service = health_request_service(&asked)
        .ok_or_else(|| Status::new(Code::Internal, "the HealthCheckRequest is misshapen"))?;
    Ok(if service.is_empty() || service == SERVICE { Service::Known } else { Service::Unknown })
}

/// Returns the `HealthCheckResponse` of a service that is known.
pub(super) fn answer_message(serving: bool) -> MessageBuf {
    message(if serving { Health::Serving } else { Health::NotServing })
}

fn message(health: Health) -> MessageBuf {
    encode_message(Bytes::from_static(health.encode())).expect("two bytes are below every limit")
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
    Now(Health, Wait),
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
            Service::Known if *stop.borrow() => Health::NotServing,
            Service::Known => Health::Serving,
            Service::Unknown => Health::ServiceUnknown,
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
                Next::Now(health, wait) => {
                    self.next = Next::Wait(wait);
                    return Poll::Ready(Some(Frame::data(message(health))));
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
                        return Poll::Ready(Some(Frame::data(message(Health::NotServing))));
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

/// Returns the answer: it serves, its version, for how long.
pub(super) fn answer(uptime: Duration) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(r#"{{"status":"serving","version":"{version}","uptime_s":{}}}"#, uptime.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_json() {
        let text = answer(Duration::from_millis(61_999));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["status"], "serving");
        assert_eq!(json["uptime_s"], 61);
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    }
}
