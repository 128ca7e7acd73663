//! Appends that wait for the log: which of them share the next sync.
//!
//! Those of one space go in the order in which they came, since each names the head that the one before it leaves. Spaces take
//! turns by what they have had: of those that wait, the one that has had least, counted in bytes that its appends put into the
//! log. One that comes anew has had as much as the one that was just served, so that who appends little waits for
//! the group that is under way and for nobody's flood. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use blazedb_wire::SpaceId;

use crate::limits::GROUP_BYTES_MAX;
use crate::log::Append;

/// Appends that wait for the log.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those with appends that wait, by what they have had; of two that have had as much, the one that came anew is first.
    order: BTreeSet<(usize, bool, SpaceId)>,
    /// What each has had, also of those that have nothing waiting and were ahead of others.
    spaces: BTreeMap<SpaceId, (usize, VecDeque<Append>)>,
    /// What the space that was served last had had before.
    served: usize,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn push(&mut self, append: Append) {
        let space = append.space;
        let (had, waiting) = self.spaces.entry(space).or_default();
        if waiting.is_empty() {
            *had = self.served.max(*had);
            self.order.insert((*had, false, space));
        }
        waiting.push_back(append);
    }

    /// Takes the appends that share a sync out: until there are enough bytes, and nobody is waited for.
    pub(super) fn group(&mut self) -> Vec<Append> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < GROUP_BYTES_MAX
            && let Some((had, _, space)) = self.order.pop_first()
        {
            let (has_had, waiting) = self.spaces.get_mut(&space).expect("whoever is in the order is there");
            let append = waiting.pop_front().expect("... and has something waiting");
            self.served = had;
            bytes += append.bytes();
            *has_had = had + append.bytes();
            if !waiting.is_empty() {
                self.order.insert((*has_had, true, space));
            }
            group.push(append);
        }
        if self.is_empty() {
            // Nobody is behind, so nobody is ahead.
            *self = Self::default();
        } else {
            self.spaces.retain(|_, (had, waiting)| !waiting.is_empty() || *had > self.served);
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use blazedb_wire::{Hlc, ReplicaId};
    use bytes::Bytes;

    use super::*;
    use crate::log::{AppendId, Known, LogEntry};

    const MIB: usize = 1 << 20;

    fn append(space: u8, id: u64, bytes: usize) -> Append {
        let entry = LogEntry {
            first_seq: 1,
            last_seq: 1,
            frame: Bytes::from(vec![0; bytes.saturating_sub(512)]),
            replica: ReplicaId::from_bytes([1; 16]),
            known: Known { counter: 1, digest: [0; 16] },
            lives: Vec::new(),
            newest_stamp: Hlc::default(),
        };
        Append { id: AppendId(id), space: SpaceId::from_bytes([space; 16]), expected_head: 0, entries: vec![entry] }
    }

    fn group(line: &mut Line) -> Vec<(u8, u64)> {
        line.group().iter().map(|append| (append.space.as_bytes()[0], append.id.0)).collect()
    }

    fn line(appends: impl IntoIterator<Item = (u8, u64, usize)>) -> Line {
        let mut line = Line::default();
        appends.into_iter().for_each(|(space, id, bytes)| line.push(append(space, id, bytes)));
        line
    }

    // spec: L-24
    #[test]
    fn a_sync_is_shared_up_to_its_bytes() {
        let share = |bytes| line((0..100).map(|id| (1, id, bytes))).group().len();
        assert_eq!(share(MIB / 4), 4);
        assert_eq!(share(MIB / 4 - 1), 5, "the one that goes beyond it is whole");
        assert_eq!(share(MIB), 1, "a long one has its own");
        assert_eq!(line([(1, 1, 10), (1, 2, 10), (2, 3, 10)]).group().len(), 3, "nobody is waited for");
    }

    // spec: L-24
    #[test]
    fn who_appends_little_waits_for_no_flood_of_another_space() {
        let mut line = line((0..20).map(|id| (id as u8 % 2, id, MIB)));
        assert_eq!(group(&mut line), [(0, 0)]);
        assert_eq!(group(&mut line), [(1, 1)]);
        assert_eq!(group(&mut line), [(0, 2)]);
        for id in 100..103 {
            line.push(append(7, id, 600));
        }
        assert_eq!(group(&mut line), [(7, 100), (1, 3)], "of those that have had as much it came anew");
        assert_eq!(group(&mut line), [(7, 101), (7, 102), (0, 4)], "it has had least");
        // One that always has one waiting, and no more, gets no more than its part.
        let mut other = 0;
        for id in 200..208 {
            line.push(append(8, id, MIB));
            other += group(&mut line).iter().filter(|(space, _)| *space != 8).count();
        }
        assert!((4..7).contains(&other), "{other} of eight");
    }

    #[test]
    fn appends_of_a_space_stay_in_order_and_nothing_is_left_behind() {
        let mut line = line((0..30).map(|id| (id as u8 % 3, id, MIB / 2 * (1 + id as usize % 4))));
        let mut seen = BTreeMap::<u8, Vec<u64>>::new();
        while !line.is_empty() {
            group(&mut line).into_iter().for_each(|(space, id)| seen.entry(space).or_default().push(id));
        }
        assert_eq!(seen.len(), 3);
        assert!(seen.values().all(|ids| ids.len() == 10 && ids.is_sorted()), "{seen:?}");
        assert!(line.spaces.is_empty() && line.served == 0);
    }
}
