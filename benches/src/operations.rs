//! A thousand operations as a backlog has them, and the encodings of them that are ours.
//!
//! Eight authors write about one list of tasks: 398 inserts of eight fields, 602 updates of two or three, on documents
//! of the same backlog and on older ones, by and for 50 users. What the values take without any encoding is
//! [`values_len`], the floor of the batch.

use crate::{Chance, Ticket, Tickets};
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Document, DocumentId, Hlc, MergeKind, Op, OpKind, ReplicaId, Row, Shape, SpaceId,
    Timestamp, Uuid, Value,
};
use bytes::Bytes;

/// Operations of a backlog.
pub const CHANGES: usize = 1000;
/// Those of them that are inserts.
pub const INSERTS: usize = 398;
/// Devices that wrote them.
pub const AUTHORS: usize = 8;
/// People whom the tasks belong to.
pub const USERS: usize = 50;

/// A value, before anybody encodes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// 16 bytes.
    Uuid([u8; 16]),
    /// Text.
    Text(String),
    /// Milliseconds since 1970.
    Time(i64),
    /// A small integer.
    Int(i64),
    /// A decimal of two places.
    Float(f64),
    /// A flag.
    Bool(bool),
}

impl Field {
    /// What the value takes by itself: 8 bytes for times and floats, 1 for small integers and flags.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Uuid(_) => 16,
            Self::Text(text) => text.len(),
            Self::Time(_) | Self::Float(_) => 8,
            Self::Int(_) | Self::Bool(_) => 1,
        }
    }

    /// Whether it takes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn value(&self) -> Value {
        match self {
            Self::Uuid(bytes) => Value::Uuid(Uuid(*bytes)),
            Self::Text(text) => Value::Text(text.clone()),
            Self::Time(ms) => Value::Timestamp(Timestamp(ms * 1000)),
            Self::Int(n) => Value::I64(*n),
            Self::Float(x) => Value::F64(*x),
            Self::Bool(flag) => Value::Bool(*flag),
        }
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which of the authors.
    pub author: usize,
    /// Its counter, from 1.
    pub counter: u64,
    /// Its wall time, in milliseconds since 1970.
    pub ms: u64,
    /// The counter of its stamp.
    pub tick: u16,
    /// Makes the document; else it changes one.
    pub insert: bool,
    /// The document, a UUIDv7.
    pub id: [u8; 16],
    /// Names and values, by ascending name.
    pub fields: Vec<(&'static str, Field)>,
}

/// Returns the id of an author's replica.
#[must_use]
pub fn author_id(author: usize) -> [u8; 16] {
    random_id(&mut Chance::new(0xa0 + author as u64))
}

fn random_id(chance: &mut Chance) -> [u8; 16] {
    let mut id = [0; 16];
    chance.fill(&mut id);
    id
}

/// A UUIDv7 made at that time.
fn id_at(ms: u64, chance: &mut Chance) -> [u8; 16] {
    let mut id = random_id(chance);
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id[6] = 0x70 | id[6] & 0xf;
    id[8] = 0x80 | id[8] & 0x3f;
    id
}

/// Returns the backlog of `seed`, in the order of its stamps.
#[must_use]
pub fn changes(seed: u64) -> Vec<Change> {
    const START_MS: u64 = 1_790_000_000_000;
    let mut chance = Chance::new(seed);
    let users: Vec<[u8; 16]> = (0..USERS).map(|_| random_id(&mut chance)).collect();
    let projects: Vec<String> = (0..12).map(|_| chance.text(8)).collect();
    let mut documents: Vec<[u8; 16]> = (0..200)
        .map(|_| {
            let earlier = chance.below(30 * 86_400_000);
            id_at(START_MS - earlier, &mut chance)
        })
        .collect();
    let mut counters = [0; AUTHORS];
    let mut ms = START_MS;
    let mut inserts_left = INSERTS;
    let mut changes = Vec::with_capacity(CHANGES);
    for left in (1..=CHANGES).rev() {
        // Bursts, with a pause here and there.
        ms += if chance.below(20) == 0 { chance.below(600_000) } else { chance.below(3000) };
        let author = chance.below(AUTHORS as u64) as usize;
        counters[author] += 1;
        let insert = (chance.below(left as u64) as usize) < inserts_left;
        let user = |chance: &mut Chance| Field::Uuid(users[chance.below(USERS as u64) as usize]);
        let status = |chance: &mut Chance| {
            Field::Text(["open", "active", "blocked", "closed"][chance.below(4) as usize].to_owned())
        };
        let title = |chance: &mut Chance| {
            let length = 4 + chance.below(22) as usize;
            let mut text = chance.text(length);
            text.truncate(30);
            Field::Text(text)
        };
        let mut fields;
        let id;
        if insert {
            inserts_left -= 1;
            id = id_at(ms, &mut chance);
            documents.push(id);
            fields = vec![
                ("created_at", Field::Time(ms as i64)),
                ("done", Field::Bool(false)),
                ("owner", user(&mut chance)),
                ("priority", Field::Int(chance.below(5) as i64)),
                ("project", Field::Text(projects[chance.below(12) as usize].clone())),
                ("status", status(&mut chance)),
                ("title", title(&mut chance)),
                ("updated_at", Field::Time(ms as i64)),
            ];
        } else {
            // Mostly what was touched lately.
            let back = if chance.below(3) == 0 { documents.len() as u64 } else { 40 };
            id = documents[documents.len() - 1 - chance.below(back) as usize];
            fields = vec![("updated_at", Field::Time(ms as i64))];
            match chance.below(6) {
                0 => fields.push(("done", Field::Bool(true))),
                1 => fields.push(("status", status(&mut chance))),
                2 => fields.push(("title", title(&mut chance))),
                3 => fields.extend([("owner", user(&mut chance)), ("status", status(&mut chance))]),
                4 => fields.push(("estimate", Field::Float(chance.below(10_000) as f64 / 100.0))),
                _ => fields.extend([("priority", Field::Int(chance.below(5) as i64)), ("status", status(&mut chance))]),
            }
            fields.sort_by_key(|field| field.0);
        }
        let tick = if chance.below(10) == 0 { 1 } else { 0 };
        changes.push(Change { author, counter: counters[author], ms, tick, insert, id, fields });
    }
    changes
}

/// Returns the bytes of the values alone, and of the values with the document's id and an 8-byte stamp.
#[must_use]
pub fn values_len(changes: &[Change]) -> (usize, usize) {
    let values: usize = changes.iter().flat_map(|change| &change.fields).map(|field| field.1.len()).sum();
    (values, values + changes.len() * (16 + 8))
}

/// Returns the row batches of a backlog: one for each author, as each of them seals it.
#[must_use]
pub fn row_batches(changes: &[Change]) -> Vec<Batch> {
    let mut batches = Vec::new();
    for author in 0..AUTHORS {
        let mut ops = Vec::new();
        for change in changes.iter().filter(|change| change.author == author) {
            let document: Document = change.fields.iter().map(|(name, field)| (*name, field.value())).collect();
            ops.push(Op {
                kind: if change.insert { OpKind::Create } else { OpKind::Update },
                merge: MergeKind::Register,
                more: false,
                hlc: Hlc::from_parts(change.ms, change.tick),
                cursor: 70_000 + change.counter / 16,
                collection: "tasks".into(),
                id: DocumentId(change.id),
                attrs: Bytes::new(),
                set: Some(Row::encode(&document).expect("a few fields fit")),
                unset: Shape::empty(),
            });
        }
        batches.extend(sealed(author, &ops));
    }
    batches
}

/// Returns the row batches in which one author creates these tickets.
#[must_use]
pub fn ticket_batches(tickets: &[Ticket]) -> Vec<Batch> {
    let ops: Vec<Op> = tickets
        .iter()
        .enumerate()
        .map(|(index, ticket)| Op {
            kind: OpKind::Create,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc::from_parts(1_790_000_000_000 + index as u64, 0),
            cursor: 70_000,
            collection: "tickets".into(),
            id: DocumentId(ticket.id.parse::<Uuid>().expect("a ticket's id is a UUID").0),
            attrs: Bytes::new(),
            set: Some(Row::encode(&ticket_document(ticket)).expect("ten fields fit")),
            unset: Shape::empty(),
        })
        .collect();
    sealed(0, &ops)
}

/// The first tickets of a seed.
#[must_use]
pub fn tickets(seed: u64, count: usize) -> Vec<Ticket> {
    Tickets::new(seed).take(count).collect()
}

fn ticket_document(ticket: &Ticket) -> Document {
    let tags = ticket.tags.iter().map(|tag| Value::from(tag.as_str())).collect::<Vec<_>>();
    Document::from_pairs([
        ("id", Value::from(ticket.id.as_str())),
        ("title", ticket.title.as_str().into()),
        ("body", ticket.body.as_str().into()),
        ("status", ticket.status.as_str().into()),
        ("priority", ticket.priority.into()),
        ("score", ticket.score.into()),
        ("done", ticket.done.into()),
        // Integers, as every codec of the comparison has them.
        ("created_ms", ticket.created_ms.into()),
        ("updated_ms", ticket.updated_ms.into()),
        ("tags", tags.into()),
    ])
    .expect("names are distinct")
}

/// As few batches as hold all of them.
fn sealed(author: usize, ops: &[Op]) -> Vec<Batch> {
    let builder = |first_counter: u64| {
        BatchBuilder::new(BatchHead {
            space: SpaceId([0x5b; 16]),
            replica: ReplicaId(author_id(author)),
            first_counter,
            epoch: 1,
            deps: vec![],
            attrs: Bytes::new(),
        })
    };
    let mut batches = Vec::new();
    let mut open = builder(1);
    let mut close = |open: BatchBuilder| {
        let bytes = open.finish().expect("no transaction is open");
        batches.push(Batch::decode(bytes).expect("what was written is accepted"));
    };
    for (index, op) in ops.iter().enumerate() {
        if !open.try_push(op).expect("small operations are good ones") {
            close(std::mem::replace(&mut open, builder(index as u64 + 1)));
            assert_eq!(open.try_push(op), Ok(true), "an empty batch takes any operation");
        }
    }
    if !open.is_empty() {
        close(open);
    }
    batches
}

/// The ten-field record: two UUIDs, two times, three short texts, a small integer, a decimal, a flag.
#[must_use]
pub fn record(seed: u64) -> Vec<(&'static str, Field)> {
    let mut chance = Chance::new(seed);
    let created = 1_790_000_000_000 + chance.below(1_000_000_000) as i64;
    let mut short = |low: u64, high: u64| {
        let length = low + chance.below(high - low);
        let mut text = chance.text(length as usize);
        text.truncate(high as usize);
        Field::Text(text)
    };
    let (project, status, title) = (short(8, 16), short(4, 9), short(16, 28));
    vec![
        ("created_at", Field::Time(created)),
        ("done", Field::Bool(chance.below(2) == 1)),
        ("estimate", Field::Float(chance.below(10_000) as f64 / 100.0)),
        ("id", Field::Uuid(random_id(&mut chance))),
        ("owner", Field::Uuid(random_id(&mut chance))),
        ("priority", Field::Int(chance.below(5) as i64)),
        ("project", project),
        ("status", status),
        ("title", title),
        ("updated_at", Field::Time(created + chance.below(1_000_000_000) as i64)),
    ]
}

/// The record as a row.
#[must_use]
pub fn record_row(record: &[(&'static str, Field)]) -> Row {
    let document: Document = record.iter().map(|(name, field)| (*name, field.value())).collect();
    Row::encode(&document).expect("ten fields fit")
}
