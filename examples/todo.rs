//! A list of things to do, in one encrypted file.
//!
//! ```sh
//! cargo run --example todo -- add "water the plants"
//! cargo run --example todo -- list
//! cargo run --example todo -- done WORD
//! ```
//!
//! The file is todo.blaze in the current folder; the passphrase comes from BLAZEDB_PASSPHRASE.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use blazedb::{Database, Options, Patch};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Todo {
    title: String,
    done: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let passphrase = std::env::var("BLAZEDB_PASSPHRASE").map_err(|_| "set BLAZEDB_PASSPHRASE first")?;
    let db = Database::open("todo.blaze", Options::passphrase(passphrase))?;
    let todos = db.collection::<Todo>("todos")?;

    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["add", title] => {
            todos.insert(&Todo { title: (*title).to_owned(), done: false })?;
        }
        ["done", word] => {
            for entry in todos.scan() {
                let (id, todo) = entry?;
                if !todo.done && todo.title.contains(word) {
                    // Only this field is written: somebody else may be changing the title at the same moment.
                    todos.update(id, Patch::new().set("done", true))?;
                }
            }
        }
        ["list"] | [] => {
            for entry in todos.scan() {
                let (_, todo) = entry?;
                println!("[{}] {}", if todo.done { 'x' } else { ' ' }, todo.title);
            }
        }
        _ => return Err("todo: add TITLE, done WORD, or list".into()),
    }
    db.close()?;
    Ok(())
}
