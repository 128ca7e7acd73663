//! What must hold when a world has come to rest.
//!
//! - The log is one gapless sequence, no operation counts twice, and every acknowledged write of every device is in it.
//! - What a naive reading of the log gives is what every device shows, and the relay's copy has the same digest.
//! - Every device's inbox holds the same things, apart from what was refused to one of them.

use std::collections::{BTreeMap, BTreeSet};

use blazedb::{Document, DocumentId, Value};
use blazedb_sync::BoxReason;
use blazedb_wire::{Batch, Envelope, Frame, OpId, OpKind, OpRef, Verdict};

use crate::world::World;

type Place = (String, DocumentId);
type Stamp = (u64, u32);

/// A document as a naive reader of the log sees it: no stored bytes, no exceptions, no caches.
enum Naive {
    Live { fields: BTreeMap<String, (Stamp, Option<Value>)>, birth: u64, reborn: bool, creator: u32 },
    Dead { seq: u64 },
}

/// Which value was written where.
struct Values {
    written: BTreeMap<i64, (String, DocumentId, String)>,
    /// A file was copied before its first sync: both copies tell of the same documents, under names of their own.
    twins: bool,
}

impl Values {
    fn note(&mut self, value: i64, place: (String, DocumentId, String)) -> Result<(), String> {
        match self.written.insert(value, place.clone()) {
            Some(first) if !(self.twins && first == place) => {
                Err(format!("the write of {value} counts twice in the log: in {first:?} and {place:?}"))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn check(world: &mut World) -> Result<(), String> {
    let frames = world.relay.read_all()?;
    let mut names = BTreeSet::new();
    let mut values = Values { written: BTreeMap::new(), twins: world.unbound_copies };
    let mut documents: BTreeMap<Place, Naive> = BTreeMap::new();
    for frame in frames {
        let Frame::Entry { envelope, batch } = frame else {
            return Err("the log holds something that is no entry".into());
        };
        world.report.ops += batch.len() as u64;
        read_entry(&envelope, &batch, &mut names, &mut values, &mut documents)?;
    }
    for device in &world.devices {
        if let Some(lost) = device.acknowledged.iter().find(|value| !values.written.contains_key(value)) {
            return Err(format!(
                "device {} acknowledged the write of {lost}, and the log does not hold it",
                device.name
            ));
        }
    }
    let expected = shown(documents);
    world.report.documents = expected.len() as u64;
    let relay = world.relay.digest()?;
    let mut inbox: Option<BTreeSet<String>> = None;
    for device in &world.devices {
        let found = device.documents()?;
        if found != expected {
            return Err(difference(device.name, &found, &expected));
        }
        let db = device.database().ok_or("a device is off at the end")?;
        let digest = db.digest().map_err(|e| format!("{e:?}"))?;
        if digest != relay.digest {
            return Err(format!(
                "device {} shows the right documents under another digest than the relay",
                device.name
            ));
        }
        let entries = db.inbox().map_err(|e| format!("{e:?}"))?;
        world.report.boxed += entries.len() as u64;
        let set: BTreeSet<String> =
            entries.iter().filter(|e| e.reason != BoxReason::Refused).map(|e| format!("{e:?}")).collect();
        match &inbox {
            None => inbox = Some(set),
            Some(first) if *first != set => {
                let odd: Vec<_> = first.symmetric_difference(&set).take(2).collect();
                return Err(format!("device {} has another inbox than device 0: {odd:?}", device.name));
            }
            Some(_) => {}
        }
        db.verify(&mut |_| {}).map_err(|e| format!("device {} does not verify: {e:?}", device.name))?;
    }
    Ok(())
}

fn read_entry(
    envelope: &Envelope,
    batch: &Batch,
    names: &mut BTreeSet<OpId>,
    values: &mut Values,
    documents: &mut BTreeMap<Place, Naive>,
) -> Result<(), String> {
    let verdicts: Vec<Verdict> =
        envelope.verdicts.iter().flat_map(|(v, n)| std::iter::repeat_n(*v, *n as usize)).collect();
    for (index, verdict) in verdicts.into_iter().enumerate() {
        let op = batch.op(index);
        let id = OpId { replica: envelope.replica, counter: envelope.first_counter + index as u64 };
        if envelope.repeated.get(index) {
            if !names.contains(&id) {
                return Err(format!("{id:?} is called a repeat and was not there before"));
            }
            continue;
        }
        if !names.insert(id) {
            return Err(format!("{id:?} counts twice in the log"));
        }
        if let Some(row) = &op.set {
            for (name, value) in row.iter() {
                if let Value::I64(value) = value.to_value() {
                    values.note(value, (op.collection.to_string(), op.id, name.to_owned()))?;
                }
            }
        }
        if verdict != Verdict::Applied {
            continue;
        }
        let seq = envelope.first_seq + index as u64;
        let absorbed = apply(documents, &op, seq, envelope.replica.tag());
        if absorbed != envelope.absorbed.get(index) {
            return Err(format!(
                "operation {seq}: the relay says absorbed = {}, a reader of its log {absorbed}",
                !absorbed
            ));
        }
    }
    Ok(())
}

/// Applies an operation the naive way; returns whether it sits on a dead document.
fn apply(documents: &mut BTreeMap<Place, Naive>, op: &OpRef<'_>, seq: u64, tag: u32) -> bool {
    let place = (op.collection.to_string(), op.id);
    let stamp = (op.hlc.0, tag);
    let mut writes: Vec<(String, Option<Value>)> = Vec::new();
    if let Some(row) = &op.set {
        writes.extend(row.iter().map(|(name, value)| (name.to_owned(), Some(value.to_value()))));
    }
    writes.extend(op.unset.names().map(|name| (name.to_owned(), None)));
    let dead_at = match documents.get(&place) {
        Some(Naive::Dead { seq }) => Some(*seq),
        _ => None,
    };
    match (op.kind, dead_at) {
        (OpKind::Delete, None) => {
            documents.insert(place, Naive::Dead { seq });
        }
        (OpKind::Delete, Some(_)) => {}
        (OpKind::Update, Some(_)) => return true,
        (OpKind::Create, Some(died)) if op.cursor < died => return true,
        (OpKind::Create, _) => {
            if dead_at.is_some() || !documents.contains_key(&place) {
                let life = Naive::Live { fields: BTreeMap::new(), birth: seq, reborn: dead_at.is_some(), creator: tag };
                documents.insert(place.clone(), life);
            }
            write(documents, &place, stamp, writes);
        }
        (OpKind::Update, None) => {
            let earlier_life = match documents.get(&place) {
                Some(Naive::Live { birth, reborn, creator, .. }) => *reborn && op.cursor < *birth && *creator != tag,
                _ => false,
            };
            if !earlier_life {
                write(documents, &place, stamp, writes);
            }
        }
    }
    false
}

fn write(documents: &mut BTreeMap<Place, Naive>, place: &Place, stamp: Stamp, writes: Vec<(String, Option<Value>)>) {
    // An update of a document that is not there is applied nowhere.
    let Some(Naive::Live { fields, .. }) = documents.get_mut(place) else { return };
    for (name, value) in writes {
        let newer = fields.get(&name).is_none_or(|(old, _)| stamp > *old);
        if newer {
            fields.insert(name, (stamp, value));
        }
    }
}

fn shown(documents: BTreeMap<Place, Naive>) -> BTreeMap<Place, Document> {
    documents
        .into_iter()
        .filter_map(|(place, naive)| match naive {
            Naive::Live { fields, .. } => {
                let pairs = fields.into_iter().filter_map(|(name, (_, value))| Some((name, value?)));
                Some((place, Document::from_pairs(pairs).expect("names of a map are distinct")))
            }
            Naive::Dead { .. } => None,
        })
        .collect()
}

fn difference(name: usize, found: &BTreeMap<Place, Document>, expected: &BTreeMap<Place, Document>) -> String {
    for (place, document) in expected {
        match found.get(place) {
            None => return format!("device {name} lacks {place:?}: {document:?}"),
            Some(other) if other != document => {
                return format!("device {name} shows {place:?} as {other:?}, the log says {document:?}");
            }
            Some(_) => {}
        }
    }
    let extra = found.keys().find(|place| !expected.contains_key(place));
    format!("device {name} shows {extra:?}, which the log does not hold")
}
