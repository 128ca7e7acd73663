//! TLS 1.3 for the client, and the three reasons to believe a certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::{TransportError, Trust};

/// HTTP/2 in ALPN.
pub(super) const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1 in ALPN: offered for a session, which can also travel over WebSocket.
pub(super) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The relay's key is not the pinned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FingerprintMismatch {
    /// The pinned fingerprint.
    pub pinned: [u8; 32],
    /// The fingerprint of the key that the server has.
    pub found: [u8; 32],
}

impl fmt::Display for FingerprintMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex =
            |f: &mut fmt::Formatter<'_>, bytes: &[u8; 32]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        f.write_str("the relay's key has fingerprint ")?;
        hex(f, &self.found)?;
        f.write_str(", pinned is ")?;
        hex(f, &self.pinned)?;
        f.write_str(
            "; if the relay was given a new key, copy the fingerprint that `blazedb serve` prints, \
             otherwise somebody is in between: do not connect",
        )
    }
}

impl std::error::Error for FingerprintMismatch {}

/// Returns the configuration for one way of trusting.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig, TransportError> {
    // Given explicitly: a default of the whole process would be somebody else's to choose.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has cipher suites of TLS 1.3");
    let config = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::CaPem(pem) => builder.with_root_certificates(pem_roots(pem)?),
        Trust::Fingerprint(pinned) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(PinnedKey { pinned: *pinned, provider }))
        }
    }
    .with_no_client_auth();
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, TransportError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems keep certificates that no verifier can read; one good one is enough to go on.
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = match loaded.errors.first() {
            Some(error) => format!("the system's list cannot be read ({error})"),
            None => "the system's list is empty".to_owned(),
        };
        return Err(TransportError::BadAuthorities { why });
    }
    Ok(roots)
}

fn pem_roots(pem: &[u8]) -> Result<RootCertStore, TransportError> {
    let bad = |why: String| TransportError::BadAuthorities { why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(format!("the PEM cannot be read ({error})")))?;
        roots.add(certificate).map_err(|error| bad(format!("a certificate cannot be used ({error})")))?;
    }
    if roots.is_empty() {
        return Err(bad("the PEM holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// Believes exactly one key.
///
/// Name, dates and issuer are not looked at: the pin is stronger than what they could say, and a relay in a living
/// room has none of them. That the server holds the key is still proved, by the signature over the handshake.
#[derive(Debug)]
struct PinnedKey {
    pinned: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let found: [u8; 32] = Sha256::digest(parsed.subject_public_key_info().as_ref()).into();
        if equal_in_constant_time(&found, &self.pinned) {
            Ok(ServerCertVerified::assertion())
        } else {
            let mismatch = FingerprintMismatch { pinned: self.pinned, found };
            Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn equal_in_constant_time(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = left.iter().zip(right).fold(0, |sum, (left, right)| sum | (left ^ right));
    std::hint::black_box(difference) == 0
}

/// Says what went wrong in a handshake, in words that help.
pub(super) fn explain(error: std::io::Error) -> TransportError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(tls @ rustls::Error::InvalidCertificate(why)) = tls else {
        return TransportError::Tls(error);
    };
    if let CertificateError::Other(OtherError(other)) = why
        && let Some(mismatch) = other.downcast_ref::<FingerprintMismatch>()
    {
        return TransportError::Fingerprint(*mismatch);
    }
    TransportError::Certificate(tls.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison() {
        let mut other = [3; 32];
        assert!(equal_in_constant_time(&[3; 32], &other));
        for at in 0..32 {
            other[at] ^= 0x80;
            assert!(!equal_in_constant_time(&[3; 32], &other), "{at}");
            other[at] ^= 0x80;
        }
    }

    #[test]
    fn a_mismatch_says_both_fingerprints_and_what_to_do() {
        let mismatch = FingerprintMismatch { pinned: [0xab; 32], found: [0x01; 32] };
        let text = mismatch.to_string();
        assert!(text.contains(&"ab".repeat(32)) && text.contains(&"01".repeat(32)), "{text}");
        assert!(text.contains("blazedb serve"), "{text}");
    }
}
