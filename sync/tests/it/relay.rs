//! A tiny relay, pure: a log in memory, counters, connections. It also asserts what a client must not do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use blazedb_wire::{
    Batch, Bitmap, Envelope, ErrorCode, ErrorFrame, Frame, OpId, PROTOCOL_VERSION, Reads, ReplicaId, Verdict, Welcome,
};

use crate::make::SPACE;

pub(crate) const EPOCH: u32 = 4;

#[derive(Default)]
pub(crate) struct Relay {
    pub(crate) log: Vec<(Envelope, Batch)>,
    pub(crate) counters: BTreeMap<ReplicaId, u64>,
}

/// The relay's end of one connection.
#[derive(Default)]
pub(crate) struct Connection {
    greeted: bool,
    /// Number of log entries that were sent.
    sent: usize,
    /// First sequences of entries that this connection pushed.
    pushed: BTreeSet<u64>,
    /// Names of batches pushed on this connection since the last NeedFrom.
    names: BTreeSet<(ReplicaId, u64)>,
    /// Answers that wait for their place behind the entries.
    pub(crate) out: VecDeque<Frame>,
    /// Sends the author's own entries whole.
    pub(crate) whole: bool,
}

impl Relay {
    pub(crate) fn head(&self) -> u64 {
        self.log.last().map_or(0, |(envelope, _)| envelope.last_seq())
    }

    /// Takes in a frame of a client.
    pub(crate) fn take(&mut self, connection: &mut Connection, frame: Frame) {
        match frame {
            Frame::Hello(hello) => {
                // spec: S-1
                assert!(!connection.greeted, "one Hello per connection");
                assert!(hello.cursor <= self.head());
                connection.greeted = true;
                connection.sent =
                    self.log.iter().take_while(|(envelope, _)| envelope.last_seq() <= hello.cursor).count();
                let counters = hello.replicas.iter().map(|id| (*id, self.counters.get(id).copied().unwrap_or(0)));
                connection.out.push_back(Frame::Welcome(Welcome {
                    protocol: PROTOCOL_VERSION,
                    space: SPACE,
                    epoch: EPOCH,
                    head: self.head(),
                    floor: 0,
                    relay_ms: 0,
                    clock_trusted: false,
                    reads: Reads::ALL,
                    counters: counters.collect(),
                }));
                self.send_entries(connection);
            }
            // The Hello was lost on the way; a real relay ends the stream.
            _ if !connection.greeted => connection.out.push_back(Frame::Bye),
            Frame::Push(batch) => self.push(connection, batch),
            Frame::Pushes(batches) => batches.into_iter().for_each(|batch| self.push(connection, batch)),
            Frame::Ping(nonce) => connection.out.push_back(Frame::Pong(nonce)),
            Frame::Pong(_) => {}
            Frame::Bye => connection.greeted = false,
            other => panic!("a client does not send {:?}", other.kind()),
        }
    }

    fn push(&mut self, connection: &mut Connection, batch: Batch) {
        let head = batch.head();
        let known = self.counters.get(&head.replica).copied().unwrap_or(0);
        let counters = batch.counter_range();
        if head.first_counter > known + 1 {
            let need = OpId { replica: head.replica, counter: known + 1 };
            connection.names.clear();
            return connection.out.push_back(Frame::Error(ErrorFrame::new(ErrorCode::NeedFrom(need), "gap")));
        }
        let fresh = counters.end - 1 > known;
        let n = batch.len() as u32;
        let mut repeated = Bitmap::new(n);
        (0..batch.len()).filter(|at| batch.op_id(*at).counter <= known).for_each(|at| repeated.set(at));
        let envelope = Envelope {
            epoch: EPOCH,
            first_seq: if fresh { self.head() + 1 } else { 0 },
            relay_ms: 0,
            replica: head.replica,
            first_counter: head.first_counter,
            n,
            verdicts: batch.transactions().map(|range| (Verdict::Applied, range.len() as u32)).collect(),
            absorbed: Bitmap::new(n),
            repeated,
        };
        if !fresh {
            self.send_entries(connection);
            return connection.out.push_back(Frame::Ack(envelope));
        }
        connection.pushed.insert(envelope.first_seq);
        self.counters.insert(head.replica, counters.end - 1);
        self.log.push((envelope, batch));
    }

    /// Notes a pushed batch as it arrives over a line that neither loses nor doubles: none comes twice.
    pub(crate) fn check_once(&self, connection: &mut Connection, batch: &Batch) {
        // spec: S-10
        let name = (batch.head().replica, batch.head().first_counter);
        assert!(connection.names.insert(name), "{name:?} came twice on one connection");
    }

    /// Queues the entries that the connection does not have.
    pub(crate) fn send_entries(&self, connection: &mut Connection) {
        if !connection.greeted {
            return;
        }
        for (envelope, batch) in &self.log[connection.sent..] {
            connection.out.push_back(if connection.pushed.contains(&envelope.first_seq) && !connection.whole {
                Frame::Ack(envelope.clone())
            } else {
                Frame::Entry { envelope: envelope.clone(), batch: batch.clone() }
            });
        }
        connection.sent = self.log.len();
    }
}
