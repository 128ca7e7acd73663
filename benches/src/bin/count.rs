//! Instructions per operation, counted by callgrind: exact where time is not, and the same on a busy machine.
//!
//! ```text
//! cargo run --release -p blazedb-benches --bin count            # all cases under valgrind, a table at the end
//! cargo run --release -p blazedb-benches --bin count -- NAME N  # one case, N times, as valgrind is given it
//! cargo run --release -p blazedb-benches --bin count -- load N   # rows per second of a load of N rows into files
//! ```
//!
//! Each case runs N and 2 N times in a process of its own; the difference is N operations without the set-up. The count
//! is of this process in user space: no kernel, no disk (stores lie in memory). callgrind shows programs a processor
//! with AES and AVX2, without their wider forms and without SHA instructions: ciphers and above all SHA-256 (which
//! chains the groups of an unencrypted log) count more than most machines would spend.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program whose result is what it prints")]

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use blazedb_benches::{Ticket, Tickets, pairs};
use blazedb_engine::{Env, Memory, Options, Store};
use blazedb_wire::Row;
use blazedb_wire::serde::{from_row, to_document};

type Failure = Box<dyn Error>;

/// Rows that a store holds before an operation is counted.
const PRELOADED: usize = 10_000;

/// One operation by name: what it is, how often it runs, and the run itself.
struct Case {
    name: &'static str,
    what: &'static str,
    times: usize,
    run: fn(usize) -> Result<(), Failure>,
}

const CASES: [Case; 19] = [
    Case { name: "encode-struct", what: "ticket to row", times: 500, run: encode_struct },
    Case { name: "encode-document", what: "document to row", times: 500, run: encode_document },
    Case { name: "validate", what: "bytes to row, everything checked", times: 2000, run: validate },
    Case { name: "get-field", what: "one field of a row by name", times: 20_000, run: get_field },
    Case { name: "decode-struct", what: "row to ticket", times: 500, run: decode_struct },
    Case { name: "json-encode-struct", what: "serde_json, ticket to bytes", times: 500, run: json_encode },
    Case { name: "json-decode-struct", what: "serde_json, bytes to ticket", times: 500, run: json_decode },
    Case { name: "msgpack-encode-struct", what: "rmp-serde, ticket to bytes", times: 500, run: msgpack_encode },
    Case { name: "msgpack-decode-struct", what: "rmp-serde, bytes to ticket", times: 500, run: msgpack_decode },
    Case { name: "store-get", what: "random get, one view", times: 5000, run: store_get },
    Case { name: "store-get-view", what: "random get, a view each", times: 5000, run: store_get_view },
    Case {
        name: "store-insert",
        what: "commit of one pair, encrypted",
        times: 500,
        run: |n| store_insert(n, encrypted()),
    },
    Case {
        name: "store-insert-plain",
        what: "commit of one pair, unencrypted",
        times: 500,
        run: |n| store_insert(n, Options::unencrypted()),
    },
    Case {
        name: "store-insert-batch",
        what: "one pair in a commit of 1,000, encrypted",
        times: 10_000,
        run: |n| store_insert_batch(n, encrypted()),
    },
    Case {
        name: "store-insert-batch-plain",
        what: "one pair in a commit of 1,000, unencrypted",
        times: 10_000,
        run: |n| store_insert_batch(n, Options::unencrypted()),
    },
    Case {
        name: "store-load",
        what: "one pair of a load in random order, into an empty tree, encrypted",
        times: LOAD_ROWS,
        run: |n| store_load(n, encrypted(), 0),
    },
    Case {
        name: "store-load-plain",
        what: "the same, unencrypted",
        times: LOAD_ROWS,
        run: |n| store_load(n, Options::unencrypted(), 0),
    },
    Case {
        name: "store-load-ordered-plain",
        what: "one pair of a load in ascending order, unencrypted",
        times: LOAD_ROWS,
        run: store_load_ordered,
    },
    Case {
        name: "store-load-into-plain",
        what: "one pair of a load into a tree of as many, unencrypted",
        times: LOAD_ROWS,
        run: |n| store_load(n, Options::unencrypted(), n),
    },
];

/// Enough for several runs: the default arena holds 20,000.
const LOAD_ROWS: usize = 100_000;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|first| first == "load") {
        return time_load(args.nth(1).map_or(Ok(1_000_000), |rows| rows.parse())?);
    }
    if let (Some(name), Some(times)) = (args.next(), args.next()) {
        let case = CASES.iter().find(|case| case.name == name).ok_or("no case of that name")?;
        return (case.run)(times.parse()?);
    }
    println!("{}\n", sizes()?);
    println!("| case | what | instructions |\n|---|---|---|");
    for case in &CASES {
        let (once, twice) = (instructions(case, case.times)?, instructions(case, 2 * case.times)?);
        let each = twice.saturating_sub(once) as f64 / case.times as f64;
        println!("| {} | {} | {each:.0} |", case.name, case.what);
    }
    Ok(())
}

/// What a ticket weighs in each form.
fn sizes() -> Result<String, Failure> {
    let (tickets, rows) = (tickets(), rows()?);
    let mean = |total: usize| total / tickets.len();
    let bodies = mean(rows.iter().map(|row| row.body().len()).sum());
    let mut shape = Vec::new();
    rows[0].shape().encode(&mut shape);
    let mut total = (0, 0);
    for ticket in &tickets {
        total.0 += serde_json::to_vec(ticket)?.len();
        total.1 += rmp_serde::to_vec_named(ticket)?.len();
    }
    let (json, msgpack) = (mean(total.0), mean(total.1));
    let shape = shape.len();
    Ok(format!(
        "A ticket: {bodies} B as a row body (its shape, once per batch: {shape} B), {msgpack} B as MessagePack, {json} B as JSON."
    ))
}

/// Runs a case in a process of its own under callgrind.
fn instructions(case: &Case, times: usize) -> Result<u64, Failure> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([case.name, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind is needed to count instructions: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find_map(|line| line.split("Collected : ").nth(1)).and_then(|n| n.trim().parse().ok());
    total
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("{} failed under valgrind:\n{said}", case.name).into())
}

/// The same few whatever is asked for: the set-up must cost the same in both runs of a pair.
fn tickets() -> Vec<Ticket> {
    Tickets::new(1).take(64).collect()
}

fn rows() -> Result<Vec<Row>, Failure> {
    tickets().iter().map(|ticket| Ok(Row::encode(&to_document(ticket)?)?)).collect()
}

fn encode_struct(times: usize) -> Result<(), Failure> {
    let tickets = tickets();
    for ticket in tickets.iter().cycle().take(times) {
        black_box(Row::encode(&to_document(black_box(ticket))?)?);
    }
    Ok(())
}

fn encode_document(times: usize) -> Result<(), Failure> {
    let documents = tickets().iter().map(to_document).collect::<Result<Vec<_>, _>>()?;
    for document in documents.iter().cycle().take(times) {
        black_box(Row::encode(black_box(document))?);
    }
    Ok(())
}

fn validate(times: usize) -> Result<(), Failure> {
    for row in rows()?.iter().cycle().take(times) {
        black_box(Row::decode(row.shape().clone(), black_box(row.body().clone()))?);
    }
    Ok(())
}

fn get_field(times: usize) -> Result<(), Failure> {
    for row in rows()?.iter().cycle().take(times) {
        black_box(row.as_ref().get(black_box("priority")));
    }
    Ok(())
}

fn decode_struct(times: usize) -> Result<(), Failure> {
    for row in rows()?.iter().cycle().take(times) {
        black_box(from_row::<Ticket>(black_box(row).as_ref())?);
    }
    Ok(())
}

fn json_encode(times: usize) -> Result<(), Failure> {
    let mut out = Vec::with_capacity(4096);
    for ticket in tickets().iter().cycle().take(times) {
        out.clear();
        serde_json::to_writer(&mut out, black_box(ticket))?;
        black_box(&out);
    }
    Ok(())
}

fn json_decode(times: usize) -> Result<(), Failure> {
    let json = tickets().iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    for json in json.iter().cycle().take(times) {
        black_box(serde_json::from_slice::<Ticket>(black_box(json))?);
    }
    Ok(())
}

fn msgpack_encode(times: usize) -> Result<(), Failure> {
    let mut out = Vec::with_capacity(4096);
    for ticket in tickets().iter().cycle().take(times) {
        out.clear();
        rmp_serde::encode::write_named(&mut out, black_box(ticket))?;
        black_box(&out);
    }
    Ok(())
}

fn msgpack_decode(times: usize) -> Result<(), Failure> {
    let msgpack = tickets().iter().map(rmp_serde::to_vec_named).collect::<Result<Vec<_>, _>>()?;
    for msgpack in msgpack.iter().cycle().take(times) {
        black_box(rmp_serde::from_slice::<Ticket>(black_box(msgpack))?);
    }
    Ok(())
}

fn encrypted() -> Options {
    Options::raw_key([7; 32])
}

fn preloaded(options: Options) -> Result<Store, Failure> {
    let store = Store::open(Env::memory(1), options)?;
    let mut tx = store.write();
    let tree = tx.tree("pairs")?;
    for (key, value) in pairs(1).take(PRELOADED) {
        tx.put(tree, &key, &value)?;
    }
    tx.commit()?;
    Ok(store)
}

fn store_get(times: usize) -> Result<(), Failure> {
    let store = preloaded(encrypted())?;
    let view = store.read();
    let tree = view.tree("pairs")?.ok_or("the tree was made")?;
    let keys: Vec<_> = pairs(1).take(PRELOADED).map(|(key, _)| key).collect();
    for i in 0..times {
        black_box(view.get(tree, &keys[i * 7919 % PRELOADED])?.ok_or("the key was put")?);
    }
    Ok(())
}

fn store_get_view(times: usize) -> Result<(), Failure> {
    let store = preloaded(encrypted())?;
    let tree = store.read().tree("pairs")?.ok_or("the tree was made")?;
    let keys: Vec<_> = pairs(1).take(PRELOADED).map(|(key, _)| key).collect();
    for i in 0..times {
        black_box(store.read().get(tree, &keys[i * 7919 % PRELOADED])?.ok_or("the key was put")?);
    }
    Ok(())
}

fn store_insert(times: usize, options: Options) -> Result<(), Failure> {
    let store = preloaded(options)?;
    for (key, value) in pairs(2).take(times) {
        let mut tx = store.write();
        let tree = tx.tree("pairs")?;
        tx.put(tree, &key, &value)?;
        tx.commit()?;
    }
    Ok(())
}

fn store_insert_batch(times: usize, options: Options) -> Result<(), Failure> {
    let store = preloaded(options)?;
    let mut pairs = pairs(2);
    for _ in 0..times / 1000 {
        let mut tx = store.write();
        let tree = tx.tree("pairs")?;
        for (key, value) in pairs.by_ref().take(1000) {
            tx.put(tree, &key, &value)?;
        }
        tx.commit()?;
    }
    Ok(())
}

/// Loads as many pairs as are asked for into a tree that has `there` of others.
fn store_load(times: usize, options: Options, there: usize) -> Result<(), Failure> {
    let store = Store::open(Env::memory(1), options)?;
    if there > 0 {
        load(&store, pairs(1).take(there))?;
    }
    load(&store, pairs(2).take(times))
}

fn store_load_ordered(times: usize) -> Result<(), Failure> {
    let store = Store::open(Env::memory(1), Options::unencrypted())?;
    load(&store, (0_u64..).zip(pairs(2)).map(|(n, (_, value))| (n.to_be_bytes(), value)).take(times))
}

fn load<K: AsRef<[u8]>, V: AsRef<[u8]>>(store: &Store, rows: impl Iterator<Item = (K, V)>) -> Result<(), Failure> {
    let mut loader = store.loader();
    let tree = loader.tree("pairs")?;
    for (key, value) in rows {
        loader.put(tree, key.as_ref(), value.as_ref())?;
    }
    loader.finish()?;
    Ok(())
}

/// Times loads into files of the current folder, which are removed again.
fn time_load(rows: usize) -> Result<(), Failure> {
    let pairs: Vec<_> = pairs(3).take(rows).collect();
    println!("| load of {rows} rows | rows/s | until `finish` | resident at the end, MiB |\n|---|---|---|---|");
    let memory = Memory { cache_bytes: 128 << 20, ..Memory::SERVER };
    for (name, options) in [("unencrypted", Options::unencrypted()), ("encrypted", encrypted())] {
        let folder = std::env::current_dir()?.join(format!("count-load-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let store = Store::open(Env::file(folder.join("store.blaze")), options.memory(memory))?;
        let started = Instant::now();
        let mut loader = store.loader();
        let tree = loader.tree("pairs")?;
        for (key, value) in &pairs {
            loader.put(tree, key, value)?;
        }
        let put = started.elapsed();
        loader.finish()?;
        let all = started.elapsed();
        let rate = rows as f64 / all.as_secs_f64();
        println!(
            "| {name} | {rate:.0} | {:.2} of {:.2} s | {} |",
            put.as_secs_f64(),
            all.as_secs_f64(),
            resident_mib()
        );
        drop(store);
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

/// Anonymous memory of this process, the pairs included; 0 where the system does not say.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) / 1024
}
