//! Two devices that edit the same record while neither sees the other, and meet.
//!
//! Start a relay, make a token, and give this program what they print:
//!
//! ```sh
//! cargo run --release -- serve --data relay-data
//! cargo run --release -- token --data relay-data --space home > home.token
//! cargo run --example two_devices -- https://127.0.0.1:7420 home.token FINGERPRINT
//! ```

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::time::Duration;

use blazedb::{Database, Document, Options, Patch, Relay, Value};

/// Long enough for a relay on the other side of the world.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, token_file, fingerprint] = args.as_slice() else {
        return Err("two_devices: URL TOKEN_FILE FINGERPRINT".into());
    };
    let token = std::fs::read_to_string(token_file)?;
    // Goes online until there is nothing left to send or to fetch. An app would keep the handle instead.
    let sync = |device: &Database| -> Result<(), blazedb::Error> {
        let relay = Relay::new(url).space("home").token(&token).fingerprint(fingerprint);
        device.enable_sync(relay)?.wait_idle(PATIENCE)
    };

    let folder = tempfile::tempdir()?;
    let open = |name: &str| Database::open(folder.path().join(name), Options::unencrypted());
    let (phone, laptop) = (open("phone.blaze")?, open("laptop.blaze")?);

    // The laptop writes, then both go online, and the phone has it.
    let note = Document::from_pairs([("title", Value::from("plan")), ("text", Value::from("walk"))])?;
    let id = laptop.collection::<Document>("notes")?.insert(&note)?;
    sync(&laptop)?;
    sync(&phone)?;

    // Offline, each changes another field of the same note.
    laptop.collection::<Document>("notes")?.update(id, Patch::new().set("title", "plan for Sunday"))?;
    phone.collection::<Document>("notes")?.update(id, Patch::new().set("text", "walk to the lake"))?;

    // Both go online again, first one, then the other, then the first to hear of the second.
    for device in [&laptop, &phone, &laptop] {
        sync(device)?;
    }
    let seen = |device: &Database| device.collection::<Document>("notes")?.get(id);
    println!("laptop: {:?}\nphone:  {:?}", seen(&laptop)?, seen(&phone)?);
    assert_eq!(laptop.digest()?, phone.digest()?, "both copies are the same");
    Ok(())
}
