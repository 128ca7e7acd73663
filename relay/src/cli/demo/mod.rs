//! `blazedb demo`: everything at once, on one machine, in about half a minute.
//!
//! ```text
//!   device A (a file) --\                                   this process: two databases, two connections
//!                        >-- TLS, HTTP/2 -- relay (a file)  a child process of the same program
//!   device B (a file) --/
//! ```
//!
//! The steps are in [`steps`], in the order in which they are played. A step checks what it shows; the first promise
//! that does not hold ends the demo with a failure. Nothing is left behind unless `--keep` is given.

mod data;
mod device;
mod relay;
mod report;
mod steps;
mod stream;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::device::Device;
use self::relay::RelayProcess;
use super::args::DemoArgs;
use super::failure::Failure;
use super::signals::StopFlag;
use super::{Outcome, exit, open, ui};

/// How long the demo's token is good for.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);

/// Everything on the stage.
struct Stage {
    a: Device,
    b: Device,
    relay: RelayProcess,
    relay_data: PathBuf,
    token: String,
    stop: StopFlag,
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Outcome {
    let stop = StopFlag::listen()?;
    let folder = Folder::create(args.keep)?;
    match play(args, &folder, &stop) {
        Ok(()) => Ok(exit::DONE),
        // Whatever else failed, it failed because everything was being taken down.
        Err(_) if stop.is_raised() => Err(stop.interrupted()),
        Err(failure) => Err(failure),
    }
}

fn play(args: &DemoArgs, folder: &Folder, stop: &StopFlag) -> Result<(), Failure> {
    let begun = Instant::now();
    let data = data::find(args.input.as_deref())?;
    tell(&format!(
        "{} from {} ({} of JSON)",
        ui::plural(data.items.len() as u64, "record"),
        data.origin,
        ui::bytes(data.json_bytes)
    ));

    let relay_data = folder.path.join("relay");
    let relay = RelayProcess::start(&relay_data, &folder.path.join("relay.log"))?;
    let token = issue(&relay_data)?;
    tell(&format!("relay: process {} on {}, TLS 1.3, key {}...", relay.pid(), relay.url(), &relay.fingerprint()[..16]));
    let mut stage = Stage {
        a: Device::create(&folder.path, "A")?,
        b: Device::create(&folder.path, "B")?,
        relay,
        relay_data,
        token,
        stop: stop.clone(),
    };

    let mut report = report::Report::new(&data);
    let collection = data.collection;
    steps::import_offline(&mut stage, data, &mut report)?;
    steps::first_sync(&mut stage, collection, &mut report)?;
    stream::edits(&mut stage, collection, args.edits, &mut report)?;
    steps::cut_off(&mut stage, collection, &mut report)?;
    steps::crash(&mut stage, collection, &mut report)?;
    let agreement = device::agree(&stage.a, &stage.b, stop)?;
    report.measure(&stage)?;
    // Devices first: they leave the relay in peace. Closing folds the logs, which is the size that stays.
    let Stage { a, b, relay, relay_data, .. } = stage;
    let closed = [a.close()?, b.close()?];
    relay.stop()?;
    report.disk_closed = [closed[0], closed[1], open::bytes_on_disk(&relay_data)];
    tell(&report.finish(&agreement, begun.elapsed()));
    if folder.keep {
        ui::say(format_args!("the files are in {}", folder.path.display()));
    }
    Ok(())
}

/// Makes a token the way `blazedb token` does, beside the running relay.
fn issue(relay_data: &std::path::Path) -> Result<String, Failure> {
    blazedb_relay::token::issue(relay_data, device::SPACE, "demo", TOKEN_TTL)
        .map_err(|e| Failure::because("cannot make a token", &e, "check the temporary folder"))
}

/// Says what is going on.
fn tell(line: &str) {
    ui::line(line);
}

/// A temporary folder that goes when it is dropped, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn create(keep: bool) -> Result<Self, Failure> {
        let mut random = [0; 6];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::new(format!("the system gives no random bytes: {e}"), "restart the machine"))?;
        let path = std::env::temp_dir().join(format!("blazedb-demo-{}", ui::hex(&random)));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|e| Failure::io(format!("cannot create {}", path.display()), &e))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            ui::say(format_args!("note: cannot remove {}: {error}", self.path.display()));
        }
    }
}
