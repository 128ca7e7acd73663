//! Errors of the session, by who is to blame: the peer ([`PeerMisbehaved`]) or this side ([`SessionError`]).
//!
//! Each variant of `PeerMisbehaved` stands for one rule of spec/session.md; [`PeerMisbehaved::rule`] names it. A fault of the
//! peer ends the connection and nothing else.

use std::fmt;

use blazedb_wire::{DecodeError, FrameKind, ReplicaId, SpaceId};

use crate::session::SessionState;

/// A rule of the session that the peer broke.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMisbehaved {
    /// S-14: bytes that are not a frame.
    Undecodable(DecodeError),
    /// S-14: a frame that has no place in this state.
    UnexpectedFrame {
        /// What came.
        kind: FrameKind,
        /// When it came.
        state: SessionState,
    },
    /// S-3: the Welcome speaks another protocol version than this side offered.
    Protocol {
        /// The version it named.
        given: u32,
    },
    /// S-3: the Welcome does not answer the replicas of the Hello one by one.
    WelcomeReplicas {
        /// Position of the first difference.
        position: usize,
    },
    /// S-3: the Welcome names a floor above its head.
    WelcomeFloor {
        /// Floor it named.
        floor: u64,
        /// Head it named.
        head: u64,
    },
    /// S-4: sequences are missing between what was received and this entry.
    SequenceGap {
        /// The sequence that had to come.
        wanted: u64,
        /// The first one that came.
        given: u64,
    },
    /// S-6: an entry begins at or below the cursor and ends above it.
    SequenceOverlap {
        /// The cursor.
        cursor: u64,
        /// First sequence of the entry.
        first: u64,
        /// Last sequence of the entry.
        last: u64,
    },
    /// S-7: an entry of another epoch.
    EntryEpoch {
        /// Epoch of the session.
        wanted: u32,
        /// Epoch of the entry.
        given: u32,
    },
    /// S-7: an entry of another space.
    EntrySpace {
        /// Space of the entry.
        given: SpaceId,
    },
    /// S-8: an envelope that does not describe the batch beside it.
    EnvelopeMismatch {
        /// First sequence of the entry.
        first: u64,
    },
    /// S-8: an entry without a sequence.
    EntryUnnumbered,
    /// S-9: an acknowledgement of something that was not pushed on this connection.
    AckUnasked {
        /// Author that it names.
        replica: ReplicaId,
        /// First counter that it names.
        first_counter: u64,
    },
    /// S-13: NeedFrom names an operation above everything that was pushed.
    NeedFromUnasked {
        /// Author that it names.
        replica: ReplicaId,
        /// Counter that it names.
        counter: u64,
    },
}

impl PeerMisbehaved {
    /// Returns the id of the broken rule in spec/session.md.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Protocol { .. } | Self::WelcomeReplicas { .. } | Self::WelcomeFloor { .. } => "S-3",
            Self::SequenceGap { .. } => "S-4",
            Self::SequenceOverlap { .. } => "S-6",
            Self::EntryEpoch { .. } | Self::EntrySpace { .. } => "S-7",
            Self::EnvelopeMismatch { .. } | Self::EntryUnnumbered => "S-8",
            Self::AckUnasked { .. } => "S-9",
            Self::NeedFromUnasked { .. } => "S-13",
            Self::Undecodable(_) | Self::UnexpectedFrame { .. } => "S-14",
        }
    }
}

impl fmt::Display for PeerMisbehaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the relay broke rule {} (", self.rule())?;
        match self {
            Self::Undecodable(_) => f.write_str("bytes that are not a frame")?,
            Self::UnexpectedFrame { kind, state } => write!(f, "{kind:?} while {state:?}")?,
            Self::Protocol { given } => write!(f, "protocol version {given}")?,
            Self::WelcomeReplicas { position } => {
                write!(f, "replica {position} of the welcome is not that of the hello")?;
            }
            Self::WelcomeFloor { floor, head } => write!(f, "floor {floor} above head {head}")?,
            Self::SequenceGap { wanted, given } => write!(f, "sequence {given} where {wanted} had to come")?,
            Self::SequenceOverlap { cursor, first, last } => {
                write!(f, "entry {first}..={last} across cursor {cursor}")?;
            }
            Self::EntryEpoch { wanted, given } => write!(f, "epoch {given} instead of {wanted}")?,
            Self::EntrySpace { given } => write!(f, "an entry of space {given}")?,
            Self::EnvelopeMismatch { first } => write!(f, "the envelope at {first} does not describe its batch")?,
            Self::EntryUnnumbered => f.write_str("an entry without a sequence")?,
            Self::AckUnasked { replica, first_counter } => {
                write!(f, "an acknowledgement of {replica}:{first_counter}, not pushed here")?;
            }
            Self::NeedFromUnasked { replica, counter } => {
                write!(f, "a request for {replica}:{counter}, which nothing pushed needs")?;
            }
        }
        f.write_str("); the connection is made anew, update the relay if this repeats")
    }
}

impl std::error::Error for PeerMisbehaved {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Undecodable(error) => Some(error),
            _ => None,
        }
    }
}

/// A fault of this side that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// A batch of the outbox has no readable head.
    OutboxDamaged(DecodeError),
    /// The outbox returned a position that is not after the one it was asked about.
    OutboxOutOfOrder,
    /// The relay lacks an operation that the outbox does not hold any more.
    OutboxGap {
        /// Its author.
        replica: ReplicaId,
        /// The counter that the relay asked for.
        wanted: u64,
        /// The first counter that the outbox has.
        have: u64,
    },
    /// The driver left too many events unread.
    EventsUnread {
        /// How many there were.
        count: usize,
    },
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutboxDamaged(_) => {
                f.write_str("a batch in the outbox is damaged; verify the file and restore it from a backup")
            }
            Self::OutboxOutOfOrder => f.write_str("the outbox does not move forwards; this is a bug of the driver"),
            Self::OutboxGap { replica, wanted, have } => write!(
                f,
                "the relay lost operation {replica}:{wanted}, which it had acknowledged (the outbox begins at {have}); restore the relay's log"
            ),
            Self::EventsUnread { count } => write!(f, "{count} events are unread; drain poll_event after every call"),
        }
    }
}

impl std::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::OutboxDamaged(error) => Some(error),
            _ => None,
        }
    }
}
