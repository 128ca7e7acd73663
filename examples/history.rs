//! A note that is written again and again, how it was at each moment, and one of them brought back.
//!
//! ```sh
//! cargo run --example history
//! ```

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use blazedb::{Database, History, Moment, Options};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Note {
    text: String,
}

/// A month, or 64 MiB, whichever is less.
const KEEP: History = History { keep_ms: 30 * 24 * 3_600_000, keep_bytes: 64 << 20 };

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let db = Database::open(folder.path().join("notes.blaze"), Options::unencrypted())?;
    let notes = db.collection::<Note>("notes")?;
    // The file remembers it. Other collections keep nothing, and pay nothing.
    notes.keep_history(Some(KEEP))?;

    let id = notes.insert(&Note { text: "a plan".into() })?;
    for text in ["a better plan", "the best plan"] {
        notes.replace(id, &Note { text: text.into() })?;
    }
    let best = db.commit_no();
    notes.delete(id)?;

    for version in notes.versions(id)? {
        let version = version?;
        let text = version.document.map_or("nothing".to_owned(), |note| note.text);
        match version.from {
            Some(commit_no) => println!("since commit {commit_no}: {text}"),
            None => println!("before that: {text}"),
        }
    }

    // All of the collection as it was, with the same reads as the present has.
    let then = db.as_of(Moment::Commit(best))?.collection::<Note>("notes")?;
    for item in then.scan() {
        let (_, note) = item?;
        println!("brought back: {}", note.text);
        notes.insert(&note)?;
    }
    Ok(())
}
