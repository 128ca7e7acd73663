//! Secret files of the relay: made once, by whoever comes first, and readable by their owner alone.
//!
//! A secret appears under its name in one step (written beside it, then linked), so that `serve` and `token`, started
//! at the same moment, see either nothing or all of it and end up with the same secret. A file that the group or
//! others can read is refused with the command that repairs it, never repaired in silence: whoever could read it may
//! have. On systems without Unix permissions the check does nothing.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

/// No secret file of ours is larger: a PEM private key has a few hundred bytes, a chain a few thousand.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a secret file.
#[derive(Debug)]
pub enum SecretError {
    /// The operating system refused.
    Io {
        /// What was tried: "read", "create".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The group or others may read the file.
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what it should.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The operating system gave no random bytes.
    Entropy(getrandom::Error),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Self::Readable { path, mode } => write!(
                f,
                "{} can be read by others (mode {mode:03o}); run `chmod 600 {}`, and replace the secret if others \
                 have accounts here",
                path.display(),
                path.display()
            ),
            Self::Malformed { path, wanted } => write!(
                f,
                "{} does not hold {wanted}; restore it from a backup, or remove it to have a new one made",
                path.display()
            ),
            Self::Entropy(_) => f.write_str("the operating system gave no random bytes"),
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Entropy(source) => Some(source),
            Self::Readable { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// Returns `N` random bytes from the operating system.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SecretError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut bytes[..]).map_err(SecretError::Entropy)?;
    Ok(bytes)
}

/// Makes the relay's folder, for its owner alone, if it is not there.
pub fn create_folder(dir: &Path) -> Result<(), SecretError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| SecretError::Io { doing: "create the folder", path: dir.to_owned(), source })
}

/// Reads a secret file; nothing if there is none.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
    let io = |source| SecretError::Io { doing: "read", path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    refuse_readable(path, &file)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    (&mut file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SecretError::Malformed { path: path.to_owned(), wanted: "a secret of at most 64 KiB" });
    }
    Ok(Some(bytes))
}

#[cfg(unix)]
fn refuse_readable(path: &Path, file: &File) -> Result<(), SecretError> {
    use std::os::unix::fs::MetadataExt;
    let metadata =
        file.metadata().map_err(|source| SecretError::Io { doing: "read", path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Readable { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_readable(_path: &Path, _file: &File) -> Result<(), SecretError> {
    Ok(())
}

/// Reads a secret file, or makes it with what `make` returns if there is none. If someone else makes it at the same
/// moment, theirs is what counts and is returned.
pub fn load_or_create<E: From<SecretError>>(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, E>,
) -> Result<Zeroizing<Vec<u8>>, E> {
    if let Some(bytes) = read(path)? {
        return Ok(bytes);
    }
    let bytes = make()?;
    if create(path, &bytes)? {
        return Ok(bytes);
    }
    let gone = || SecretError::Io { doing: "read", path: path.to_owned(), source: io::ErrorKind::NotFound.into() };
    Ok(read(path)?.ok_or_else(gone)?)
}

/// Makes a file of mode 0600 durably. False if the name is taken; then nothing has changed.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool, SecretError> {
    let io = |source| SecretError::Io { doing: "create", path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.new", u64::from_le_bytes(*random()?)));
    let beside = PathBuf::from(name);
    let written = write_new(&beside, bytes).and_then(|()| link_new(&beside, path, bytes));
    // The name beside it has done its work or failed to; either way nobody else knows it.
    let _ = fs::remove_file(&beside);
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(io(error)),
    }
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    }
    Ok(true)
}

/// Gives the file its name unless the name is taken. A link does that in one step; file systems without links
/// (exFAT on a stick) get an exclusive create, whose reader may find the file half written in a crash.
fn link_new(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::hard_link(beside, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => write_new(path, bytes),
        done => done,
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a 32-byte key kept as base64 text, or makes a random one.
pub fn load_or_create_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, SecretError> {
    let text = load_or_create(path, || {
        let key = random::<32>()?;
        let mut text = Zeroizing::new(BASE64.encode(&key[..]).into_bytes());
        text.push(b'\n');
        Ok::<_, SecretError>(text)
    })?;
    let mut key = Zeroizing::new([0; 32]);
    // The decoder wants room for the longest input of this length.
    let mut room = Zeroizing::new([0; 48]);
    match BASE64.decode_slice(text.trim_ascii(), &mut room[..]) {
        Ok(32) => {
            key.copy_from_slice(&room[..32]);
            Ok(key)
        }
        _ => Err(SecretError::Malformed { path: path.to_owned(), wanted: "32 bytes as base64" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_makes_it_and_everybody_reads_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.key");
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| *load_or_create_key(&path).unwrap())).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_ne!(keys[0], [0; 32]);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["auth.key"], "nothing is left beside it");
        assert_eq!(BASE64.decode(fs::read(&path).unwrap().trim_ascii()).unwrap(), keys[0]);
    }

    #[cfg(unix)]
    #[test]
    fn modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inner").join("auth.key");
        create_folder(path.parent().unwrap()).unwrap();
        load_or_create_key(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        for bad in [0o640, 0o604, 0o622] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
            let error = load_or_create_key(&path).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        load_or_create_key(&path).unwrap();
    }

    #[test]
    fn a_taken_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(**read(&path).unwrap().unwrap(), *b"one");
    }

    #[test]
    fn rubbish_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("short", BASE64.encode([1; 31]).into_bytes()),
            ("long", BASE64.encode([1; 33]).into_bytes()),
            ("longer", vec![b'A'; 1000]),
            ("raw", vec![0xff; 32]),
        ] {
            let path = dir.path().join(name);
            create(&path, &bytes).unwrap();
            assert!(matches!(load_or_create_key(&path), Err(SecretError::Malformed { .. })), "{name}");
        }
    }
}
