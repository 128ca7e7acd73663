//! The relay's network side, with an echo behind it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use blazedb_relay::serve::{
    Access, Answer, ConnId, Exchange, Gate, GateConnection, Limits, Message, Method, Peer, Refusal, Requests,
    ServeConfig, Step, bind,
};
use blazedb_relay::token::Grant;
use blazedb_wire::grpc::{Metadata, Status};

use crate::Fault;

#[derive(Clone)]
struct Echo;

impl Gate for Echo {
    async fn connect(&self, _grant: Grant, _peer: &Arc<Peer>) -> Result<GateConnection, Refusal> {
        Err(Refusal::Unavailable("no sessions here".to_owned()))
    }

    async fn frame(&self, _id: ConnId, _message: Message) -> Result<bool, Status> {
        Ok(false)
    }

    fn sent(&self, _id: ConnId, _bytes: usize) {}

    fn disconnect(&self, _id: ConnId) {}

    fn method(&self, path: &str) -> Option<Method> {
        match path {
            "/bench.Echo/Unary" => Some(Method::Unary(
                Access::Open,
                Box::new(|_, message| Box::pin(async { Ok(Answer { message, ..Answer::default() }) })),
            )),
            "/bench.Echo/Stream" => Some(Method::Streaming(Access::Open, Box::new(Stream))),
            _ => None,
        }
    }
}

struct Stream;

impl Exchange for Stream {
    fn poll_step(&mut self, requests: &mut Requests, cx: &mut Context<'_>) -> Poll<Step> {
        requests.poll_next(cx).map(|next| match next {
            Some(Ok(message)) => Step::Message(message),
            Some(Err(status)) => Step::End(status, Metadata::new()),
            None => Step::End(Status::ok(), Metadata::new()),
        })
    }
}

pub(crate) async fn serve(dir: &Path, tls: bool, ready: impl FnOnce(SocketAddr)) -> Result<(), Fault> {
    let limits = Limits {
        connections_per_address_max: 2_000,
        stranger_bytes_max: u32::MAX,
        stranger_bytes_per_second: u32::MAX,
        ..Limits::default()
    };
    let config = ServeConfig { dir: dir.to_owned(), listen: "127.0.0.1:0".parse()?, names: Vec::new(), limits };
    let bound = bind(config).await?;
    let bound = if tls { bound } else { bound.in_the_clear() };
    ready(bound.address());
    bound.serve(Echo, std::future::pending()).await;
    Ok(())
}
