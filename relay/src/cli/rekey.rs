//! `blazedb rekey`: seals a database file anew, with a new master key, in steps that may be interrupted.
//!
//! The file itself says whether a change is under way, so the same command begins one, goes on with one that a crash or
//! Ctrl-C cut off, and has nothing to do where one has ended.

use std::path::Path;
use std::time::Duration;

use blazedb::{
    CipherChoice, Database, Error, ErrorKind, KdfCost, KeyKind, KeySlotInfo, KeySource, Options, RekeyOptions,
    RekeyProgress, Secret,
};
use zeroize::Zeroizing;

use super::args::{Cipher, Kdf, RekeyArgs};
use super::failure::Failure;
use super::signals::StopFlag;
use super::ui::{self, Progress};
use super::{Outcome, exit, open, passphrase};

/// Pages of a step: 1 MiB of the smallest pages, after which Ctrl-C is looked at.
const STEP_PAGES: u64 = 256;

/// How long to wait for whatever still seals with the old key.
const WAIT: Duration = Duration::from_millis(20);

/// Memory of `KdfCost::Light`, by which it is known again.
const LIGHT_KIB: u32 = 19 << 10;

/// Runs `blazedb rekey`.
pub(crate) fn run(args: &RekeyArgs) -> Outcome {
    let shown = args.db.db.display();
    if !args.db.db.exists() {
        return Err(open::absent(&args.db.db));
    }
    if args.db.unencrypted {
        // It says what is there, and not what was given.
        let options = Options::unencrypted().create(false).read_only(true);
        return Err(match Database::open(&args.db.db, options) {
            Ok(_) => not_encrypted(&args.db.db),
            Err(e) => open::explain(&args.db.db, &e),
        });
    }
    let old = passphrase::find(&args.db.db, args.db.passphrase_file.as_deref(), false)?;
    let new = match &args.new_passphrase_file {
        Some(file) => Some(passphrase::find(&args.db.db, Some(file), true)?),
        None if args.new_passphrase => Some(passphrase::ask_new(&args.db.db)?),
        None => None,
    };
    let stop = StopFlag::listen()?;
    let (db, has_new) = open_with_either(args, &old, new.as_ref())?;
    open::warn_of_loss(&args.db.db, &db);
    let is_resumed = db.rekey_progress().is_some();
    if is_resumed {
        ui::say("going on with the change of the key that was begun before");
        go_on(args, &db, &stop)?;
    }
    let cipher = args.cipher.map(choice);
    let is_cipher_there = cipher.is_none() || db.cipher() == cipher;
    // Not where an earlier run has done all of it: the new passphrase alone opens the file, at the cost that is asked for.
    let slots = db.key_slots();
    let is_kdf_there = args.kdf.is_none_or(|kdf| has_cost(&slots, kdf));
    let is_all_there = slots.len() == 1 && is_cipher_there && is_kdf_there;
    let is_alone = slots.len() == 1 || !args.drop_other_keys;
    let is_asked_for = !is_cipher_there || !is_kdf_there || !is_alone;
    let is_left = if has_new { !is_all_there } else { new.is_some() || !is_resumed || is_asked_for };
    if is_left {
        begin(args, &db, &old, new.as_ref(), cipher)?;
        ui::say("the new key is in place; sealing what was written before");
        go_on(args, &db, &stop)?;
    } else if !is_resumed {
        ui::say(format_args!("{shown} opens with the new passphrase already, and no change of its key is under way"));
    }
    let (epoch, cipher) = (db.key_epoch(), db.cipher());
    db.close().map_err(|e| Failure::because("the file did not close", &e, "run `blazedb verify`"))?;
    ui::line(&format!(
        "{shown}: all is sealed with key {epoch}, {}; {}",
        cipher.map_or("no cipher", name),
        if new.is_some() { "only the new passphrase opens it" } else { "the passphrase is as it was" },
    ));
    Ok(exit::DONE)
}

/// Opens the file with its passphrase, or with the new one, as it has that since a change of it began. Returns whether it
/// was the new one.
fn open_with_either(
    args: &RekeyArgs,
    old: &Zeroizing<String>,
    new: Option<&Zeroizing<String>>,
) -> Result<(Database, bool), Failure> {
    let path = &args.db.db;
    let open = |secret: &Zeroizing<String>| Database::open(path, Options::passphrase(secret.as_str()).create(false));
    match open(old) {
        Ok(db) => Ok((db, false)),
        Err(first) => match new {
            Some(new) if open::is_wrong_key(&first) => {
                // Where neither opens it, the first one is what to look at.
                open(new).map(|db| (db, true)).map_err(|_| open::explain(path, &first))
            }
            _ if open::is_not_encrypted(&first) => Err(not_encrypted(path)),
            _ => Err(open::explain(path, &first)),
        },
    }
}

/// A file without a key has none to change.
fn not_encrypted(path: &Path) -> Failure {
    Failure::new(
        format!("{} has no encryption, and none can be added in place", path.display()),
        "export its collections with `blazedb export`, and import them into a new, encrypted file",
    )
}

/// Whether passphrases are hashed at this cost: every one of them.
fn has_cost(slots: &[KeySlotInfo], kdf: Kdf) -> bool {
    let mut passphrases = slots.iter().filter(|slot| slot.kind == KeyKind::Passphrase);
    passphrases.all(|slot| (slot.memory_kib <= LIGHT_KIB) == matches!(kdf, Kdf::Light))
}

/// Puts the new key in place.
fn begin(
    args: &RekeyArgs,
    db: &Database,
    old: &Zeroizing<String>,
    new: Option<&Zeroizing<String>>,
    cipher: Option<CipherChoice>,
) -> Result<(), Failure> {
    let slots = db.key_slots();
    if slots.len() > 1 && !args.drop_other_keys {
        return Err(Failure::new(
            format!("{} keys open {}, and this would leave one", slots.len(), args.db.db.display()),
            "add --drop-other-keys if that is meant, or let the program that added them do it (Database::rekey)",
        ));
    }
    let cost = match args.kdf {
        Some(Kdf::Light) => KdfCost::Light,
        None if has_cost(&slots, Kdf::Light) => KdfCost::Light,
        Some(Kdf::Standard) | None => KdfCost::Standard,
    };
    let key = KeySource::Passphrase(Secret::from(new.unwrap_or(old).as_str()));
    // A mistyped one is no danger: it was asked for twice, or it is in a file.
    let mut options = RekeyOptions::new(key, cost).lock_out_old_keys(new.is_some());
    if let Some(cipher) = cipher {
        options = options.cipher(cipher);
    }
    db.rekey(&options).map_err(|e| {
        let next = "nothing was changed; run `blazedb verify`, look at the disk, and run it again";
        Failure::because(format!("the key of {} was not changed", args.db.db.display()), &e, next)
    })
}

/// Takes steps until nothing of the old key is left, or somebody asks to stop.
fn go_on(args: &RekeyArgs, db: &Database, stop: &StopFlag) -> Result<(), Failure> {
    let mut progress: Option<Progress> = None;
    let mut step = || -> Result<RekeyProgress, Error> {
        let now = db.rekey_step(STEP_PAGES)?;
        progress.get_or_insert_with(|| Progress::start("pages", now.total)).set(now.done.min(now.total));
        if now.done == 0 && !now.finished {
            std::thread::sleep(WAIT);
        }
        Ok(now)
    };
    let shown = args.db.db.display();
    loop {
        if stop.is_raised() {
            return Err(stop.interrupted().with_next(format!(
                "run the same command again: it goes on where it was; meanwhile {shown} can be used as ever"
            )));
        }
        match step() {
            Ok(now) if now.finished => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(broke_off(args, db.rekey_progress(), &e)),
        }
    }
}

/// Says how far it came, what that means for the file, and what to do.
fn broke_off(args: &RekeyArgs, sealed: Option<RekeyProgress>, error: &Error) -> Failure {
    let shown = args.db.db.display();
    // The step that broke off is not counted.
    let far = match sealed {
        None => "its new key is in place".to_owned(),
        Some(now) => format!(
            "its new key is in place, {} of {} pages are done, and some of the next {STEP_PAGES} may be; the others have the key \
             of before",
            ui::thousands(now.done.min(now.total)),
            ui::thousands(now.total)
        ),
    };
    if error.kind() == ErrorKind::Corrupt {
        let which = if args.new_passphrase || args.new_passphrase_file.is_some() { "the new" } else { "its" };
        return Failure::because(
            format!("{shown} is damaged and cannot be sealed anew as a whole; {far}"),
            error,
            format!(
                "running this again ends at the same place. All that is not damaged can be read, with {which} passphrase: \
                 `blazedb verify` says what is damaged; {}",
                open::RESTORE
            ),
        );
    }
    let next = "make room if the disk is full, then run the same command again: it goes on where it was";
    Failure::because(format!("{shown} is not sealed anew as a whole; {far}"), error, next)
}

fn choice(cipher: Cipher) -> CipherChoice {
    match cipher {
        Cipher::Aes256Gcm => CipherChoice::Aes256Gcm,
        Cipher::ChaCha20Poly1305 => CipherChoice::ChaCha20Poly1305,
    }
}

fn name(cipher: CipherChoice) -> &'static str {
    match cipher {
        CipherChoice::Aes256Gcm => "AES-256-GCM",
        CipherChoice::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        CipherChoice::Auto => "a cipher by the CPU",
    }
}
