//! A connection between a device and the relay: two streams of frames in flight, which the world delivers, delays,
//! doubles, swaps or loses.

use std::collections::VecDeque;

use blazedb_relay::hub::ConnId;
use bytes::Bytes;

/// A frame on its way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) at: u64,
    pub(crate) bytes: Bytes,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    pub(crate) up: VecDeque<Flight>,
    pub(crate) down: VecDeque<Flight>,
}

impl Link {
    pub(crate) fn new(conn: ConnId) -> Self {
        Self { conn, up: VecDeque::new(), down: VecDeque::new() }
    }
}

/// Takes the first frame that is due.
pub(crate) fn due(queue: &mut VecDeque<Flight>, now: u64) -> Option<Bytes> {
    if queue.front()?.at > now {
        return None;
    }
    queue.pop_front().map(|flight| flight.bytes)
}
