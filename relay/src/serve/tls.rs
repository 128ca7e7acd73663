//! TLS 1.3 and nothing older; the certificate made at first start, and its fingerprint (spec: G-9).
//!
//! `DIR/tls.key` and `DIR/tls.crt` may be replaced by a key and chain from elsewhere (PEM); they are read at start.
//! What clients pin is SHA-256 of the SubjectPublicKeyInfo: it survives a renewed certificate with the same key.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Limits;
use crate::secrets::{self, SecretError};

/// Name of the private key in the relay's folder.
pub const KEY_FILE: &str = "tls.key";
/// Name of the certificate chain in the relay's folder.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// HTTP/2 in ALPN.
pub(super) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 in ALPN.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// SHA-256 of a certificate's SubjectPublicKeyInfo; shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is wrong with the key or certificate.
#[derive(Debug)]
pub enum TlsError {
    /// The key file.
    Secret(SecretError),
    /// The certificate file.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file holds something else.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// There is a certificate, but no key.
    KeyMissing {
        /// The folder.
        dir: PathBuf,
    },
    /// Making the certificate failed.
    Make(rcgen::Error),
    /// Key and certificate are refused together, for example because they do not belong to each other.
    Rustls(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(error) => error.fmt(f),
            Self::Io { path, .. } => write!(f, "cannot read or create {}", path.display()),
            Self::Malformed { path, wanted } => {
                write!(f, "{} does not hold {wanted}; restore it from a backup", path.display())
            }
            Self::KeyMissing { dir } => write!(
                f,
                "{} has {CERTIFICATE_FILE} but no {KEY_FILE}; restore the key, or remove the certificate to have a \
                 new pair made (clients that pinned the old fingerprint must be told the new one)",
                dir.display()
            ),
            Self::Make(_) => f.write_str("cannot make a TLS certificate"),
            Self::Rustls(_) => write!(
                f,
                "the TLS key and certificate cannot be used; check that {KEY_FILE} belongs to {CERTIFICATE_FILE}"
            ),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(error) => error.source(),
            Self::Io { source, .. } => Some(source),
            Self::Make(error) => Some(error),
            Self::Rustls(error) => Some(error),
            Self::Malformed { .. } | Self::KeyMissing { .. } => None,
        }
    }
}

impl From<SecretError> for TlsError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

/// The relay's identity on the network.
pub(super) struct Identity {
    pub(super) config: Arc<rustls::ServerConfig>,
    pub(super) fingerprint: Fingerprint,
}

/// Returns the identity kept in `dir`, making what is missing. `names` are further names for a certificate made now;
/// one that exists is not changed.
pub(super) fn load_or_create(dir: &Path, listen: IpAddr, names: &[String]) -> Result<Identity, TlsError> {
    secrets::create_folder(dir)?;
    let key_path = dir.join(KEY_FILE);
    let certificate_path = dir.join(CERTIFICATE_FILE);
    if certificate_path.exists() && !key_path.exists() {
        return Err(TlsError::KeyMissing { dir: dir.to_owned() });
    }
    let key_pem = secrets::load_or_create(&key_path, || {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(TlsError::Make)?;
        Ok::<_, TlsError>(Zeroizing::new(pair.serialize_pem().into_bytes()))
    })?;
    let certificate_pem = match std::fs::read(&certificate_path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pem = self_signed(&key_path, &key_pem, listen, names)?;
            if secrets::create(&certificate_path, pem.as_bytes())? {
                pem.into_bytes()
            } else {
                std::fs::read(&certificate_path)
                    .map_err(|source| TlsError::Io { path: certificate_path.clone(), source })?
            }
        }
        Err(source) => return Err(TlsError::Io { path: certificate_path, source }),
    };
    let malformed = |path: &Path, wanted| TlsError::Malformed { path: path.to_owned(), wanted };
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| malformed(&key_path, "a private key in PEM"))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(&certificate_path, "certificates in PEM"))?;
    let Some(first) = chain.first() else {
        return Err(malformed(&certificate_path, "a certificate in PEM"));
    };
    let fingerprint = fingerprint_of(first).map_err(TlsError::Rustls)?;
    let config = server_config(chain, key).map_err(TlsError::Rustls)?;
    Ok(Identity { config: Arc::new(config), fingerprint })
}

/// Bounds what a session holds for a client that reads slowly.
pub(super) fn bound(session: &mut rustls::ServerConnection, limits: &Limits) {
    session.set_buffer_limit(Some(limits.tls_buffer_bytes_max));
}

fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Fingerprint(Sha256::digest(parsed.subject_public_key_info().as_ref()).into()))
}

fn self_signed(key_path: &Path, key_pem: &[u8], listen: IpAddr, names: &[String]) -> Result<String, TlsError> {
    let malformed = || TlsError::Malformed { path: key_path.to_owned(), wanted: "a private key in PEM" };
    let text = std::str::from_utf8(key_pem).map_err(|_| malformed())?;
    let pair = rcgen::KeyPair::from_pem(text).map_err(|_| malformed())?;
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    // 0.0.0.0 and :: are not names that anybody connects to.
    let listen = (!listen.is_unspecified()).then(|| listen.to_string());
    for name in names.iter().cloned().chain(listen) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let mut parameters = rcgen::CertificateParams::new(all).map_err(TlsError::Make)?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "BlazeDB relay");
    parameters.use_authority_key_identifier_extension = false;
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters.self_signed(&pair).map_err(TlsError::Make)?.pem())
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    // Tickets carry the session themselves: a storm of reconnects needs no cache. Early data stays off (replay).
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_fingerprint_belongs_to_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path(), LOOPBACK, &[]).unwrap().fingerprint;
        assert_eq!(load_or_create(dir.path(), LOOPBACK, &[]).unwrap().fingerprint, first);
        // A new certificate for the same key keeps it.
        std::fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        let renewed = load_or_create(dir.path(), LOOPBACK, &["relay.example".to_owned()]).unwrap();
        assert_eq!(renewed.fingerprint, first);
        // Computed another way: rcgen's own DER of the public key.
        let pem = std::fs::read_to_string(dir.path().join(KEY_FILE)).unwrap();
        let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
        let der = rcgen::PublicKeyData::subject_public_key_info(&pair);
        assert_eq!(first.0, <[u8; 32]>::from(Sha256::digest(&der)));
        assert_eq!(first.to_string().len(), 64);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(load_or_create(other.path(), LOOPBACK, &[]).unwrap().fingerprint, first);
    }

    // spec: G-11
    #[test]
    fn a_session_takes_one_record_more_than_the_socket() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let config = load_or_create(dir.path(), LOOPBACK, &[]).unwrap().config;
        let mut session = rustls::ServerConnection::new(config).unwrap();
        bound(&mut session, &Limits::default());
        assert_eq!(session.writer().write(&[0; 1 << 20]).unwrap(), 16 * 1024);
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        load_or_create(dir.path(), LOOPBACK, &[]).unwrap();
        load_or_create(other.path(), LOOPBACK, &[]).unwrap();
        let certificate = dir.path().join(CERTIFICATE_FILE);
        std::fs::copy(other.path().join(CERTIFICATE_FILE), &certificate).unwrap();
        let error = load_or_create(dir.path(), LOOPBACK, &[]).err().unwrap();
        assert!(matches!(error, TlsError::Rustls(_)), "{error:?}");
        std::fs::write(&certificate, "rubbish").unwrap();
        let error = load_or_create(dir.path(), LOOPBACK, &[]).err().unwrap();
        assert!(matches!(error, TlsError::Malformed { .. }), "{error:?}");
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        let error = load_or_create(dir.path(), LOOPBACK, &[]).err().unwrap();
        assert!(matches!(error, TlsError::KeyMissing { .. }), "{error:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_readable_key_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        load_or_create(dir.path(), LOOPBACK, &[]).unwrap();
        let key = dir.path().join(KEY_FILE);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create(dir.path(), LOOPBACK, &[]).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
