//! Where the passphrase comes from: a file, the environment or a prompt, in this order.
//!
//! Never from an argument. A new file's passphrase has at least [`NEW_CHARACTERS_MIN`] characters; an existing file
//! takes whatever opens it. One trailing line break of a passphrase file is not part of the passphrase, everything
//! else is.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use super::ui;

/// The variable that is read when there is no `--passphrase-file`.
pub(crate) const VARIABLE: &str = "BLAZEDB_PASSPHRASE";

/// Fewer characters than this can be guessed in minutes whatever the key derivation costs.
pub(crate) const NEW_CHARACTERS_MIN: usize = 8;

/// A passphrase file is small; a larger one is a mistake in the path.
const FILE_BYTES_MAX: u64 = 64 * 1024;

const RULE: &str = "at least 8 characters, several unrelated words are better, and it cannot be recovered";

/// Finds the passphrase of the database `db`; `creating` when the file does not exist yet.
pub(crate) fn find(db: &Path, file: Option<&Path>, creating: bool) -> Result<Zeroizing<String>, Failure> {
    let (passphrase, origin) = if let Some(path) = file {
        (read_file(path)?, format!("the passphrase in {}", path.display()))
    } else if let Some(text) = std::env::var_os(VARIABLE) {
        let text = text.into_string().map_err(|_| {
            Failure::new(format!("{VARIABLE} is not UTF-8"), "put the passphrase into a file and use --passphrase-file")
        })?;
        (Zeroizing::new(text), format!("the passphrase in {VARIABLE}"))
    } else if std::io::stdin().is_terminal() || std::io::stderr().is_terminal() {
        (prompt(db, creating)?, "the passphrase".to_owned())
    } else {
        return Err(Failure::new(
            format!("no passphrase for {}", db.display()),
            format!("set {VARIABLE}, use --passphrase-file FILE, or run this in a terminal to be asked"),
        ));
    };
    if passphrase.is_empty() {
        return Err(Failure::new(
            format!("{origin} is empty"),
            "give one, or use --unencrypted if the file is to have no encryption",
        ));
    }
    if creating && passphrase.chars().count() < NEW_CHARACTERS_MIN {
        return Err(Failure::new(format!("{origin} is too short for a new database"), format!("choose {RULE}")));
    }
    Ok(passphrase)
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let shown = path.display();
    let size = fs::metadata(path).map_err(|e| Failure::io(format!("cannot read passphrase file {shown}"), &e))?.len();
    if size > FILE_BYTES_MAX {
        return Err(Failure::new(
            format!("passphrase file {shown} has {size} bytes"),
            "check the path: a passphrase fits in 64 KiB",
        ));
    }
    let bytes =
        Zeroizing::new(fs::read(path).map_err(|e| Failure::io(format!("cannot read passphrase file {shown}"), &e))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Failure::new(format!("passphrase file {shown} is not UTF-8"), "save it as UTF-8 text, or check the path")
    })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn prompt(db: &Path, creating: bool) -> Result<Zeroizing<String>, Failure> {
    if !creating {
        return ask(&format!("Passphrase of {}: ", db.display()));
    }
    ui::say(format_args!("{} is new and will be encrypted. Its passphrase: {RULE}.", db.display()));
    ask_twice("nothing was created")
}

/// Asks for the passphrase that a file is to have from now on.
pub(crate) fn ask_new(db: &Path) -> Result<Zeroizing<String>, Failure> {
    if !std::io::stdin().is_terminal() && !std::io::stderr().is_terminal() {
        return Err(Failure::new(
            format!("no new passphrase for {}", db.display()),
            "use --new-passphrase-file FILE, or run this in a terminal to be asked",
        ));
    }
    ui::say(format_args!("The passphrase that {} has from now on: {RULE}.", db.display()));
    let new = ask_twice("nothing was changed")?;
    if new.chars().count() < NEW_CHARACTERS_MIN {
        return Err(Failure::new("the new passphrase is too short", format!("choose {RULE}")));
    }
    Ok(new)
}

fn ask_twice(nothing: &str) -> Result<Zeroizing<String>, Failure> {
    let first = ask("New passphrase: ")?;
    let second = ask("The same again: ")?;
    if *first != *second {
        return Err(Failure::new("the two passphrases differ", format!("run the command again; {nothing}")));
    }
    Ok(first)
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|e| {
        Failure::new(format!("cannot ask for a passphrase: {e}"), format!("set {VARIABLE} or use a file: see --help"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8], creating: bool) -> Result<Zeroizing<String>, Failure> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("passphrase");
        fs::write(&path, content).expect("a small file");
        find(Path::new("x.blaze"), Some(&path), creating)
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_it() {
        for (content, expected) in [
            (&b"correct horse"[..], "correct horse"),
            (b"correct horse\n", "correct horse"),
            (b"correct horse\r\n", "correct horse"),
            (b"correct horse\n\n", "correct horse\n"),
            (b" correct horse ", " correct horse "),
        ] {
            assert_eq!(*from_file(content, true).expect("a good passphrase"), expected);
        }
    }

    #[test]
    fn a_new_one_is_long_enough_and_an_old_one_may_be_anything() {
        assert!(from_file(b"1234567", true).is_err());
        assert!(from_file(b"12345678", true).is_ok());
        assert!(from_file(b"1", false).is_ok());
        assert!(from_file(b"\n", false).is_err());
        assert!(from_file(b"\xff\xfe12345678", true).is_err());
    }
}
