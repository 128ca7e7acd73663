//! What leaves: entries in order, answers beside them, digests between them.

use blazedb_wire::{ErrorCode, Frame};

use super::{ConnId, Effect, Hub, Now, SpaceDigest, Unavailable, error, fatal, space, streaming};
use crate::log::{Packing, StoredEntry};

impl Hub {
    pub(super) fn handle_digest_request(&mut self, now: Now, conn: ConnId, min_seq: u64, out: &mut Vec<Effect>) {
        let Some((state, space)) = streaming(&mut self.conns, &mut self.slots, conn) else { return };
        if min_seq > space.durable {
            let text = format!("a digest at {min_seq} was asked for, the head is {}", space.durable);
            let frame = Frame::Error(error(ErrorCode::CursorAhead, 0, &text));
            return self.answer(now, conn, &frame, out);
        }
        // One at a time: a client that asks again gets the answer that is already being made.
        if !state.digest_wanted {
            state.digest_wanted = true;
            out.push(Effect::DigestWanted { conn, space: space.state.id(), epoch: space.state.epoch(), min_seq });
        }
    }

    pub(super) fn handle_digest_ready(&mut self, conn: ConnId, digest: Option<SpaceDigest>, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.digest_wanted = false;
        let (after, frame) = match digest {
            Some(SpaceDigest { seq, digest, documents }) => (seq, Frame::Digest { seq, digest, documents }),
            None => (0, Frame::Error(error(ErrorCode::Unsupported, 0, "this relay keeps no copy to take a digest of"))),
        };
        state.owe(after, frame.to_bytes());
        self.advance(conn, out);
    }

    pub(super) fn handle_log_read(
        &mut self,
        now: Now,
        conn: ConnId,
        result: Result<Vec<StoredEntry>, Unavailable>,
        out: &mut Vec<Effect>,
    ) {
        let limits = self.limits;
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.reading = false;
        let room = std::mem::take(&mut state.reading_bytes);
        state.account.unqueue(room);
        let Ok(entries) = result else {
            let error = error(ErrorCode::Internal, limits.retry_ms, "the relay cannot read this space");
            return self.close(now, conn, Some(error), out);
        };
        // While the space is being read again nothing is known to be durable; `advance` asks for these entries once more.
        let Some((state, space)) = streaming(&mut self.conns, &mut self.slots, conn) else { return };
        // Asked only while there is something above the position, so nothing at all means the same as a wrong number.
        if entries.first().is_none_or(|entry| entry.first_seq != state.position + 1) {
            let text = format!("cursor {} lies within a batch: start this copy again", state.position);
            return self.close(now, conn, Some(fatal(ErrorCode::CursorAhead, &text)), out);
        }
        // One entry that is long, for a stream that had room for a short one.
        let bytes: usize = entries.iter().map(|entry| entry.frame.len()).sum();
        if bytes > room.max(limits.read_bytes_min) && !state.account.has_room(bytes, limits.queued, 2) {
            let text = "others of this address or connection take nothing of what waits for them: end them, or come back later";
            return self.close(now, conn, Some(error(ErrorCode::Overloaded, limits.retry_ms, text)), out);
        }
        for entry in entries {
            // The log may be ahead of what its answers to appends have told us; those entries come with the answers.
            if entry.last_seq > space.durable {
                break;
            }
            state.position = entry.last_seq;
            let bytes = if state.unread_pushes.remove(&entry.first_seq) {
                space::ack_of(&entry.frame)
            } else {
                Some(entry.frame)
            };
            let Some(bytes) = bytes else {
                let error = error(ErrorCode::Internal, limits.retry_ms, "the relay cannot read this space");
                return self.close(now, conn, Some(error), out);
            };
            state.send(conn, bytes, out);
            state.pay(conn, out);
        }
        self.advance(conn, out);
    }

    /// Moves a connection on: pays what it is owed, reads from the log if it is behind and has room.
    pub(super) fn advance(&mut self, conn: ConnId, out: &mut Vec<Effect>) {
        let limits = self.limits;
        let Some((state, space)) = streaming(&mut self.conns, &mut self.slots, conn) else { return };
        state.pay(conn, out);
        if state.reading {
            return;
        }
        if state.position >= space.durable {
            state.lagging = false;
            return;
        }
        let queued = state.account.queued();
        let room =
            queued <= limits.queue_bytes_max / 2 && state.account.has_room(limits.read_bytes_max, limits.queued, 1);
        if room || queued == 0 {
            state.lagging = false;
            state.reading = true;
            let bytes_max = if room { limits.read_bytes_max } else { limits.read_bytes_min };
            state.reading_bytes = bytes_max;
            state.account.queue(bytes_max);
            out.push(Effect::ReadLog {
                conn,
                space: space.state.id(),
                after_seq: state.position,
                bytes_max,
                packing: Packing { reads: state.reads, until_seq: space.durable, acks: state.unread_pushes.clone() },
            });
        } else if !state.lagging {
            state.lagging = true;
            self.stats.lagged += 1;
        }
    }

    /// Queues an answer that belongs to no place in the stream.
    pub(super) fn answer(&mut self, now: Now, conn: ConnId, frame: &Frame, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.send(conn, frame.to_bytes(), out);
        self.check_answers(now, conn, out);
    }

    /// Closes a connection that asks and never reads.
    pub(super) fn check_answers(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get(&conn) else { return };
        let entry_max = blazedb_wire::limits::FRAME_BODY_BYTES_MAX;
        let ceiling = self.limits.queue_bytes_max + self.limits.answer_bytes_max + entry_max;
        let answers = state.account.queued() - state.reading_bytes + state.owed_bytes;
        // Where others of its connection or address hold more than all may, who takes nothing has less patience.
        let crowded =
            answers > self.limits.read_bytes_min && !state.account.has_room(state.owed_bytes, self.limits.queued, 2);
        if answers > ceiling || crowded {
            let error =
                error(ErrorCode::Overloaded, self.limits.retry_ms, "answers pile up unread: read before asking again");
            self.close(now, conn, Some(error), out);
        }
    }
}
