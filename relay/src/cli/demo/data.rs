//! What the demo fills its database with: a file of the user's, this workspace's packages, or made-up bugs.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use blazedb::{Document, Value};
use blazedb_wire::json::{Documents, Limits};

use crate::cli::failure::Failure;
use crate::cli::load::Item;
use crate::cli::{passphrase, ui};

/// Bugs that are made up where there is no cargo.
const BUGS: u64 = 600;

/// Records of a demo; larger files are imported with `blazedb import`, which does not hold them in memory.
const RECORDS_MAX: usize = 200_000;

/// A lone object with a list of at least this many objects is taken for a wrapper around records; with fewer it is a
/// record that has a list.
const WRAPPED_MIN: usize = 10;

/// The records and where they come from.
pub(crate) struct Data {
    pub(crate) origin: String,
    pub(crate) collection: &'static str,
    pub(crate) items: Vec<Item>,
    /// Canonical JSON of all records.
    pub(crate) json_bytes: u64,
}

/// Reads `input`, or finds something interesting.
pub(crate) fn find(input: Option<&Path>) -> Result<Data, Failure> {
    if let Some(path) = input {
        return from_file(path);
    }
    if let Some(packages) = packages_of_workspace() {
        return build("`cargo metadata` of this workspace".to_owned(), "packages", packages);
    }
    build("a made-up bug tracker (no cargo workspace here)".to_owned(), "bugs", bugs())
}

fn from_file(path: &Path) -> Result<Data, Failure> {
    let shown = path.display();
    let file = File::open(path).map_err(|e| Failure::io(format!("cannot open {shown}"), &e))?;
    let mut documents = Vec::new();
    for parsed in Documents::new(file, Limits::default()) {
        let parsed = parsed.map_err(|e| {
            Failure::new(
                format!("{shown}: {e}"),
                "correct the file; it holds an array of objects, NDJSON or one object",
            )
        })?;
        documents.push(parsed.document);
        if documents.len() > RECORDS_MAX {
            return Err(Failure::new(
                format!("{shown} has more than {RECORDS_MAX} records, which is too much for a demo"),
                "give it a smaller file, or load this one with `blazedb import`",
            ));
        }
    }
    if documents.is_empty() {
        return Err(Failure::new(format!("{shown} has no records"), "give the demo a file with at least one"));
    }
    let (origin, documents) = unwrap(shown.to_string(), documents);
    build(origin, "records", documents)
}

/// Finds the records in a file that wraps them in one object, as GeoJSON does: its longest array of objects.
fn unwrap(origin: String, documents: Vec<Document>) -> (String, Vec<Document>) {
    let [wrapper] = documents.as_slice() else { return (origin, documents) };
    let longest = wrapper
        .iter()
        .filter_map(|(name, value)| match value {
            Value::Array(items) if items.iter().all(|item| matches!(item, Value::Map(_))) => Some((name, items)),
            _ => None,
        })
        .max_by_key(|(_, items)| items.len());
    match longest {
        Some((name, items)) if items.len() >= WRAPPED_MIN => {
            let records = items.iter().filter_map(|item| match item {
                Value::Map(document) => Some(document.clone()),
                _ => None,
            });
            (format!("{origin}, field {}", ui::printable(name, 60)), records.collect())
        }
        _ => (origin, documents),
    }
}

/// Records are named by their field `id` if every one of them has its own.
fn build(origin: String, collection: &'static str, documents: Vec<Document>) -> Result<Data, Failure> {
    let mut seen = std::collections::HashSet::new();
    let named = documents.iter().all(|document| match document.get("id") {
        Some(Value::Text(text)) => seen.insert(text.clone()),
        Some(Value::I64(number)) => seen.insert(number.to_string()),
        _ => false,
    });
    let mut json_bytes = 0;
    let mut items = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        json_bytes += crate::cli::json_text(&document)?.len() as u64;
        items.push(
            Item::new(document, named.then_some("id"))
                .map_err(|e| Failure::new(format!("{origin}, record {}: {e}", index + 1), "leave this record out"))?,
        );
    }
    Ok(Data { origin, collection, items, json_bytes })
}

/// Asks cargo for the packages of the workspace around the current folder, without touching the network; `None` where
/// there is no cargo, no workspace, or not every package has been downloaded.
fn packages_of_workspace() -> Option<Vec<Document>> {
    let all = ["metadata", "--offline", "--format-version", "1"];
    // Packages of other platforms are often not downloaded; then those of this one will do.
    let host = host_triple();
    let here: Vec<&str> = all.iter().copied().chain(["--filter-platform", host.as_deref()?]).collect();
    [&all[..], &here[..]].into_iter().find_map(|arguments| {
        let output = quiet("cargo").args(arguments).output().ok().filter(|output| output.status.success())?;
        // Cargo prints the packages first; an array of records is what the reader wants, and it stops behind it.
        let packages = output.stdout.strip_prefix(b"{\"packages\":")?;
        let documents: Vec<Document> =
            Documents::new(packages, Limits::default()).map_while(Result::ok).map(|parsed| parsed.document).collect();
        (documents.len() > 1).then_some(documents)
    })
}

fn host_triple() -> Option<String> {
    let output = quiet("rustc").arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::null()).env_remove(passphrase::VARIABLE);
    command
}

/// A bug tracker that is the same every time.
fn bugs() -> Vec<Document> {
    const PARTS: [&str; 6] = ["editor", "sync", "search", "settings", "import", "login"];
    const FAULTS: [&str; 6] =
        ["freezes", "forgets its place", "shows yesterday's data", "is slow", "flickers", "crashes"];
    const WHEN: [&str; 5] = ["on start", "after an update", "with large files", "when offline", "in dark mode"];
    const PEOPLE: [&str; 7] = ["Ada", "Bela", "Chidi", "Dalia", "Emre", "Fumiko", "Gita"];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut pick = move |n: usize| {
        // xorshift64: spreads well enough for made-up bugs, and needs no crate.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let map = |pairs: Vec<(&str, Value)>| {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Document>()
    };
    (1..=BUGS)
        .map(|number| {
            let part = PARTS[pick(PARTS.len())];
            let comments = (0..pick(5))
                .map(|_| {
                    let body = format!("Seen {} by {} of us.", WHEN[pick(WHEN.len())], pick(20) + 2);
                    Value::Map(map(vec![
                        ("by", text(PEOPLE[pick(PEOPLE.len())])),
                        ("body", Value::Text(body)),
                        ("votes", Value::I64(pick(40) as i64)),
                    ]))
                })
                .collect();
            map(vec![
                ("id", Value::Text(format!("BUG-{number}"))),
                ("title", Value::Text(format!("{part} {} {}", FAULTS[pick(FAULTS.len())], WHEN[pick(WHEN.len())]))),
                ("open", Value::Bool(pick(3) > 0)),
                ("priority", Value::I64(pick(5) as i64 + 1)),
                ("estimate_hours", Value::F64(pick(64) as f64 / 4.0)),
                ("labels", Value::Array(vec![text(part), text(WHEN[pick(WHEN.len())])])),
                ("assignee", if pick(4) == 0 { Value::Null } else { text(PEOPLE[pick(PEOPLE.len())]) }),
                (
                    "reporter",
                    Value::Map(map(vec![
                        ("name", text(PEOPLE[pick(PEOPLE.len())])),
                        ("team", Value::I64(pick(9) as i64)),
                    ])),
                ),
                ("comments", Value::Array(comments)),
            ])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_bugs_are_many_different_and_named() {
        let data = build("test".to_owned(), "bugs", bugs()).expect("made-up bugs can be stored");
        assert_eq!(data.items.len() as u64, BUGS);
        assert!(data.items.iter().all(|item| item.key.is_some()));
        assert!(data.json_bytes > BUGS * 100);
    }

    #[test]
    fn records_inside_one_object_are_found() {
        let wrapper = Document::from_iter([
            ("type", Value::Text("collection".to_owned())),
            ("features", Value::Array(bugs().into_iter().map(Value::Map).collect())),
            ("numbers", Value::Array(vec![Value::I64(1); 2_000])),
        ]);
        let (origin, records) = unwrap("f.json".to_owned(), vec![wrapper]);
        assert_eq!((origin.as_str(), records.len() as u64), ("f.json, field features", BUGS));
        let (_, alone) = unwrap("f.json".to_owned(), bugs().into_iter().take(1).collect());
        assert_eq!(alone.len(), 1, "a record with a short list is a record");
    }

    #[test]
    fn records_that_share_an_id_get_new_ones() {
        let twins: Vec<Document> = bugs().into_iter().take(1).cycle().take(2).collect();
        let data = build("test".to_owned(), "bugs", twins).expect("two bugs can be stored");
        assert!(data.items.iter().all(|item| item.key.is_none()));
    }
}
