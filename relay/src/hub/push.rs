//! Pushed batches: decided, in flight, durable or given up.

use std::collections::BTreeSet;
use std::sync::Arc;

use blazedb_wire::{ErrorCode, Frame, ReplicaId, SpaceId};

use super::conn::{Deciding, Phase, Wait};
use super::space::Slot;
use super::{ConnId, Effect, Hub, Now, Unavailable, error, fatal, streaming};
use crate::admit::{self, Decision, Refusal};
use crate::log::{AppendError, AppendId, PayloadDigest};

impl Hub {
    /// Decides about the batch at the front of a connection.
    pub(super) fn decide(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let limits = self.limits;
        if self.closing {
            return self.close(now, conn, Some(self.shutting_down()), out);
        }
        let Some((state, space)) = streaming(&mut self.conns, &mut self.slots, conn) else { return };
        let Some(Deciding { batch, length, found, hold }) = state.deciding.take() else { return };
        let replica = batch.head().replica;
        let digest_of = |counter| found.get(&counter).copied().or_else(|| space.inflight_digest(replica, counter));
        match admit::admit(&space.state, &batch, now.admit_time(), digest_of) {
            Ok(Decision::Append(admitted)) => {
                let id = AppendId(self.next_append);
                let append = space.push(id, conn, (&batch, length, hold), *admitted, now.admit_time());
                if state.unread_pushes.len() < limits.unread_pushes_max {
                    state.unread_pushes.insert(append.entries[0].first_seq);
                }
                state.pushed_to = space.state.head();
                self.next_append += 1;
                out.push(Effect::Append(append));
            }
            Ok(Decision::AllKnown(envelope)) => {
                let after = space.state.head();
                state.inflight_bytes -= length;
                state.owe(after, Frame::Ack(*envelope).to_bytes());
                self.check_answers(now, conn, out);
                self.advance(conn, out);
            }
            Ok(Decision::AskDigests { first, last }) => {
                state.deciding = Some(Deciding { batch, length, found, hold });
                state.wait = Wait::Digests { replica, first };
                out.push(Effect::FindDigests { conn, space: space.state.id(), replica, first, last });
            }
            Err(refusal) => {
                state.inflight_bytes -= length;
                let text = refusal.to_string();
                match refusal {
                    Refusal::NeedFrom(op) => {
                        let frame = Frame::Error(error(ErrorCode::NeedFrom(op), 0, &text));
                        self.answer(now, conn, &frame, out);
                    }
                    Refusal::SpaceMismatch { .. } => {
                        self.close(now, conn, Some(fatal(ErrorCode::SpaceMismatch, &text)), out);
                    }
                    Refusal::EpochMismatch { .. } => {
                        self.close(now, conn, Some(fatal(ErrorCode::EpochMismatch, &text)), out);
                    }
                    Refusal::CursorAhead { .. } => {
                        self.close(now, conn, Some(fatal(ErrorCode::CursorAhead, &text)), out);
                    }
                    Refusal::NameClash(_) => {
                        self.stats.name_clashes += 1;
                        self.close(now, conn, Some(fatal(ErrorCode::NameClash, &text)), out);
                    }
                }
            }
        }
    }

    pub(super) fn handle_digests_found(
        &mut self,
        now: Now,
        conn: ConnId,
        asked: (ReplicaId, u64),
        result: Result<Vec<PayloadDigest>, Unavailable>,
        out: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        // An answer to a question that was dropped when the space was read again.
        if state.wait != (Wait::Digests { replica: asked.0, first: asked.1 }) {
            return;
        }
        match result {
            Ok(digests) => {
                state.wait = Wait::Nothing;
                if let Some(deciding) = &mut state.deciding {
                    deciding.found.extend((asked.1..).zip(digests));
                }
                self.drain(now, conn, out);
            }
            Err(Unavailable) => {
                let error = error(ErrorCode::Internal, self.limits.retry_ms, "the relay cannot read this space");
                self.close(now, conn, Some(error), out);
            }
        }
    }

    pub(super) fn handle_appended(
        &mut self,
        now: Now,
        space: SpaceId,
        append: AppendId,
        result: Result<(), AppendError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(name) = self.names.get(&space).cloned() else { return };
        let Some(Slot::Open(open)) = self.slots.get_mut(&name) else { return };
        // An answer to an append that was given up with the state it was made for.
        if open.inflight.front().map(|pending| pending.id) != Some(append) {
            return;
        }
        match result {
            Ok(()) => {
                let pending = open.landed().expect("the front was just looked at");
                self.stats.ops_logged += pending.last_seq + 1 - pending.first_seq;
                if let Some(author) = self.conns.get_mut(&pending.author) {
                    author.inflight_bytes -= pending.length;
                }
                out.push(Effect::Materialize { space, epoch: open.state.epoch(), head: open.durable });
                for conn in open.conns.iter().copied() {
                    let Some(state) = self.conns.get_mut(&conn) else { continue };
                    if state.phase != Phase::Streaming {
                        continue;
                    }
                    if state.position + 1 == pending.first_seq {
                        debug_assert!(!state.reading && !state.lagging, "both mean that it was behind");
                        let mine = state.unread_pushes.contains(&pending.first_seq);
                        let bytes = if mine { &pending.ack } else { &pending.entry };
                        if state.has_room(bytes.len(), &self.limits) {
                            state.unread_pushes.remove(&pending.first_seq);
                            state.position = pending.last_seq;
                            state.send(conn, bytes.clone(), out);
                            state.pay(conn, out);
                        } else {
                            // Its place in the stream is not lost: the log has it.
                            state.lagging = true;
                            self.stats.lagged += 1;
                        }
                    }
                }
            }
            Err(cause) => self.fail_space(now, &name, &cause, out),
        }
        self.finish_closing(now, out);
    }

    /// Forgets what is in flight in a space and reads it again (spec: R-20).
    pub(super) fn fail_space(&mut self, now: Now, name: &Arc<str>, cause: &AppendError, out: &mut Vec<Effect>) {
        let Some(Slot::Open(open)) = self.slots.get_mut(name) else { return };
        let durable = open.durable;
        let (gone, error) = if let AppendError::Full { .. } = cause {
            let pushers: BTreeSet<ConnId> = open.inflight.iter().map(|pending| pending.author).collect();
            // An ack of a known batch whose original is in flight speaks of numbers that now will be somebody else's.
            let promised = |conn: &ConnId| self.conns.get(conn).is_some_and(|state| state.owes_beyond(durable));
            let gone = open.conns.iter().copied().filter(|conn| pushers.contains(conn) || promised(conn)).collect();
            let text = "the relay's log is full: what was not acknowledged stays with its author";
            (gone, error(ErrorCode::Overloaded, self.limits.retry_full_ms, text))
        } else {
            let text = "the relay could not write: send again what was not acknowledged";
            (open.conns.clone(), error(ErrorCode::Internal, self.limits.retry_ms, text))
        };
        open.inflight.clear();
        for conn in gone {
            self.close(now, conn, Some(error.clone()), out);
        }
        let Some(Slot::Open(open)) = self.slots.get_mut(name) else { return };
        let stay = std::mem::take(&mut open.conns);
        for conn in &stay {
            if let Some(state) = self.conns.get_mut(conn) {
                state.wait = Wait::Space;
            }
        }
        self.slots.insert(name.clone(), Slot::Opening { conns: stay });
        out.push(Effect::OpenSpace { name: name.clone() });
    }
}
