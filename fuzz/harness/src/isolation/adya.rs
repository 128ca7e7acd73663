//! The history as a graph of dependencies, after Adya ("Weak Consistency", 1999) and Cerone and Gotsman ("Analysing
//! Snapshot Isolation", 2018). Uses the values alone, no number that the store gave out.
//!
//! | edge | from | to |
//! |---|---|---|
//! | ww | who wrote a version | who wrote the next one |
//! | wr | who wrote a version | who read it |
//! | rw | who read a version | who wrote the next one |
//! | so | a transaction | the same thread's next one |
//!
//! | name | what |
//! |---|---|
//! | G0 | a cycle of ww |
//! | G1a | a read of what an aborted transaction wrote |
//! | G1b | a read of what its writer wrote over before its commit |
//! | G1c | a cycle of ww and wr |
//! | lost update | two writes that replaced one version (both orders of the two close a cycle) |
//! | G-SI | a cycle without two rw in a row, so of ww, wr, so and (one of them, then rw): snapshot isolation has none |
//! | G2 | any cycle: a serializable history has none |
//!
//! A key is read in full when a range over it is, present or not, so that phantoms are rw edges as well.

use std::collections::{HashMap, VecDeque};

use super::history::{Anomaly, History, Outcome, Transaction, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ww,
    Wr,
    Rw,
    So,
}

struct Edge {
    to: usize,
    kind: Kind,
    key: u16,
}

struct Graph<'h> {
    nodes: Vec<&'h Transaction>,
    edges: Vec<Vec<Edge>>,
}

/// `serializable`: every transaction was, so that no cycle at all is allowed.
pub(crate) fn check(history: &History, serializable: bool) -> Result<(), Anomaly> {
    assert!(!history.has_deletes, "without values there is no order of versions");
    let graph = Graph::new(history)?;
    graph.forbid("G0", |kind| kind == Kind::Ww)?;
    graph.forbid("G1c", |kind| matches!(kind, Kind::Ww | Kind::Wr))?;
    graph.forbid_without_two_rw()?;
    if serializable {
        graph.forbid("G2", |_| true)?;
    }
    Ok(())
}

impl<'h> Graph<'h> {
    /// Finds what is wrong with single reads on the way: G1a, G1b, lost updates.
    fn new(history: &'h History) -> Result<Self, Anomaly> {
        let mut nodes: Vec<&Transaction> = Vec::new();
        let mut edges: Vec<Vec<Edge>> = Vec::new();
        for thread in &history.threads {
            let first = nodes.len();
            nodes.extend(thread.iter().filter(|t| t.outcome != Outcome::Aborted));
            edges.extend((first..nodes.len()).map(|node| {
                let next = (node + 1 < nodes.len()).then_some(Edge { to: node + 1, kind: Kind::So, key: 0 });
                next.into_iter().collect()
            }));
        }
        let mut writer_of: HashMap<(u16, Version), usize> = HashMap::new();
        let mut next_of: HashMap<(u16, Option<Version>), usize> = HashMap::new();
        let index_of: HashMap<u64, usize> = nodes.iter().enumerate().map(|(n, t)| (t.id, n)).collect();
        for (node, transaction) in nodes.iter().enumerate() {
            for write in &transaction.writes {
                let Some(version) = write.put else { continue };
                writer_of.insert((write.key, version), node);
                if let Some(other) = next_of.insert((write.key, write.replaced), node) {
                    let ids = (nodes[other].id, transaction.id);
                    let what =
                        format!("{} and {} both replaced {:?} of key {}", ids.0, ids.1, write.replaced, write.key);
                    return Err(Anomaly { name: "lost update", what });
                }
            }
        }
        // Aborted transactions read committed versions only, too.
        for transaction in history.threads.iter().flatten() {
            for read in &transaction.reads {
                let Some(seen) = read.seen else { continue };
                if !writer_of.contains_key(&(read.key, seen)) {
                    let name = if index_of.contains_key(&seen.writer) { "G1b" } else { "G1a" };
                    return Err(Anomaly {
                        name,
                        what: format!("{} read {seen:?} of key {}", transaction.id, read.key),
                    });
                }
            }
        }
        for (node, transaction) in nodes.iter().enumerate() {
            for read in &transaction.reads {
                let key = read.key;
                if let Some(&writer) = read.seen.and_then(|seen| writer_of.get(&(key, seen))) {
                    edges[writer].push(Edge { to: node, kind: Kind::Wr, key });
                }
                if let Some(&next) = next_of.get(&(key, read.seen))
                    && next != node
                {
                    edges[node].push(Edge { to: next, kind: Kind::Rw, key });
                }
            }
            for write in &transaction.writes {
                let key = write.key;
                if let Some(&writer) = write.replaced.and_then(|replaced| writer_of.get(&(key, replaced))) {
                    edges[writer].push(Edge { to: node, kind: Kind::Ww, key });
                }
            }
        }
        Ok(Self { nodes, edges })
    }

    /// Fails with a cycle of the given kinds of edges if there is one.
    fn forbid(&self, name: &'static str, kinds: impl Fn(Kind) -> bool) -> Result<(), Anomaly> {
        let next = |node: usize, each: &mut dyn FnMut(usize)| {
            self.edges[node].iter().filter(|edge| kinds(edge.kind)).for_each(|edge| each(edge.to));
        };
        match shortest_cycle(self.nodes.len(), next) {
            Some(cycle) => Err(Anomaly { name, what: self.tell(&cycle) }),
            None => Ok(()),
        }
    }

    /// Every transaction stands for two nodes: reached by an rw edge (odd), or by another (even). An rw edge leaves the
    /// even one only, so that no path has two in a row.
    fn forbid_without_two_rw(&self) -> Result<(), Anomaly> {
        let next = |node: usize, each: &mut dyn FnMut(usize)| {
            for edge in &self.edges[node / 2] {
                if edge.kind != Kind::Rw {
                    each(2 * edge.to);
                } else if node.is_multiple_of(2) {
                    each(2 * edge.to + 1);
                }
            }
        };
        match shortest_cycle(2 * self.nodes.len(), next) {
            Some(cycle) => {
                let cycle: Vec<usize> = cycle.iter().map(|node| node / 2).collect();
                Err(Anomaly { name: "G-SI", what: self.tell(&cycle) })
            }
            None => Ok(()),
        }
    }

    fn tell(&self, cycle: &[usize]) -> String {
        let mut text = String::new();
        for (n, &from) in cycle.iter().enumerate() {
            let to = cycle[(n + 1) % cycle.len()];
            let kinds: Vec<String> = self.edges[from]
                .iter()
                .filter(|edge| edge.to == to)
                .map(|edge| format!("{:?} {}", edge.kind, edge.key))
                .take(3)
                .collect();
            text += &format!("{} -[{}]-> ", self.nodes[from].id, kinds.join(", "));
        }
        text + &format!("{}", self.nodes[cycle[0]].id)
    }
}

/// Returns a short cycle of the graph if it has one: peels off what no cycle can contain (Kahn), then walks in breadth
/// from what is left.
fn shortest_cycle(count: usize, next: impl Fn(usize, &mut dyn FnMut(usize))) -> Option<Vec<usize>> {
    let mut incoming = vec![0_u32; count];
    for node in 0..count {
        next(node, &mut |to| incoming[to] += 1);
    }
    let mut free: Vec<usize> = (0..count).filter(|&node| incoming[node] == 0).collect();
    let mut left = count;
    while let Some(node) = free.pop() {
        left -= 1;
        next(node, &mut |to| {
            incoming[to] -= 1;
            if incoming[to] == 0 {
                free.push(to);
            }
        });
    }
    if left == 0 {
        return None;
    }
    // Some of what is left lies behind a cycle only; the starts that are tried are bounded, as they only serve to tell.
    let stuck = (0..count).filter(|&node| incoming[node] > 0);
    stuck.filter_map(|start| back_to(start, &incoming, &next)).take(64).min_by_key(Vec::len)
}

/// Returns the shortest way from a node back to itself.
fn back_to(start: usize, incoming: &[u32], next: &impl Fn(usize, &mut dyn FnMut(usize))) -> Option<Vec<usize>> {
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        next(node, &mut |to| {
            if incoming[to] > 0 && !came_from.contains_key(&to) {
                came_from.insert(to, node);
                queue.push_back(to);
            }
        });
        if came_from.contains_key(&start) {
            break;
        }
    }
    let mut way = vec![*came_from.get(&start)?];
    while way[way.len() - 1] != start {
        way.push(came_from[&way[way.len() - 1]]);
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::super::history::{Read, Write};
    use super::*;

    /// A history in letters, one thread for each word: `rx0` reads of `x` what transaction 0 (nobody) wrote, `wx1`
    /// writes over what transaction 1 wrote. Transactions are numbered by word, from 1.
    fn history(text: &str) -> History {
        let version = |letter: u8| {
            let writer = u64::from(letter - b'0');
            (writer > 0).then_some(Version { writer, nth: 0 })
        };
        let thread = |(n, word): (usize, &str)| {
            let id = n as u64 + 1;
            let (aborted, word) = (word.ends_with('!'), word.trim_end_matches('!'));
            let mut transaction = Transaction {
                id,
                serializable: true,
                snapshot: 0,
                acknowledged_before: 0,
                reads: Vec::new(),
                writes: Vec::new(),
                outcome: if aborted { Outcome::Aborted } else { Outcome::Committed { commit_no: None } },
            };
            for step in word.split(',').map(str::as_bytes) {
                let (key, at) = (u16::from(step[1]), version(step[2]));
                transaction.reads.push(Read { key, seen: at });
                if step[0] == b'w' {
                    transaction.writes.push(Write { key, put: Some(Version { writer: id, nth: 0 }), replaced: at });
                }
            }
            vec![transaction]
        };
        History { threads: text.split(' ').enumerate().map(thread).collect(), ..History::default() }
    }

    fn found(text: &str) -> Option<&'static str> {
        check(&history(text), true).err().map(|anomaly| anomaly.name)
    }

    #[test]
    fn each_anomaly_has_its_name() {
        assert_eq!(found("wx0,wy0 wx1,wy1 rx2,ry2"), None);
        assert_eq!(found("wx0,wy2 wx1,wy0"), Some("G0"));
        assert_eq!(found("wx0! rx1"), Some("G1a"));
        assert_eq!(found("wx0,ry2 rx1,wy0"), Some("G1c"));
        assert_eq!(found("wx0 wx0"), Some("lost update"));
        assert_eq!(found("wx0,wy0 rx1,ry0"), Some("G-SI"), "half of a transaction");
        assert_eq!(found("wx0 wx1,wy0 rx1,ry2"), Some("G-SI"), "a view that moved");
        assert_eq!(found("rx0,wy0 ry0,wx0"), Some("G2"), "write skew");
        assert_eq!(check(&history("rx0,wy0 ry0,wx0"), false), Ok(()), "which snapshot isolation allows");
    }
}
