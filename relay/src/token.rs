//! Bearer tokens: HS256 JSON web tokens, signed with a key that never leaves the relay's folder.
//!
//! The algorithm is ours to choose, never the token's; every claim is required; a token is at most 6 KiB. The clock is
//! an argument of everything but [`issue`]. `DIR/auth.key` is made by whoever comes first, `serve` or `token`, so that
//! tokens can be issued before the relay has run and while it runs. Rules: spec/grpc.md (`spec: G-8`).

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::secrets::{self, SecretError};

/// Name of the signing key in the relay's folder.
pub const KEY_FILE: &str = "auth.key";
/// Who issues our tokens.
pub const ISSUER: &str = "blazedb-relay";
/// Whom our tokens are for.
pub const AUDIENCE: &str = "blazedb";
/// Clocks of the issuer and the verifier may differ by this much.
pub const LEEWAY_S: u64 = 30;
/// Longest token: it is parsed before anything is known about its sender. The longest that [`issue`] makes has 4.3 KB, and this
/// leaves a quarter of a request's header fields to the others (spec: G-11).
pub const TOKEN_BYTES_MAX: usize = 6 * 1024;
/// Longest space or subject of a token: names of people and places, not documents.
pub const NAME_BYTES_MAX: usize = 255;

/// What a valid token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The space, by alias or id.
    pub space: String,
    /// Who it was issued to.
    pub subject: String,
    /// When it expires, in seconds since 1970; [`LEEWAY_S`] are added to it when it is checked.
    pub expires_unix: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    space: String,
    iat: u64,
    exp: u64,
}

/// Why a token was refused, or could not be issued.
#[derive(Debug)]
pub enum TokenError {
    /// The key file.
    Secret(SecretError),
    /// The token is longer than [`TOKEN_BYTES_MAX`].
    TooLong {
        /// Its length.
        given: usize,
    },
    /// It is no JSON web token, a claim is missing or of the wrong type, or it is signed by another algorithm.
    Malformed,
    /// It was signed with another key.
    Signature,
    /// It was issued by, or for, somebody else.
    WrongParty,
    /// It has expired.
    Expired {
        /// When, in seconds since 1970.
        expired_unix: u64,
    },
    /// The space or subject asked for is empty or too long.
    BadName {
        /// Which of the two.
        what: &'static str,
        /// Its length.
        given: usize,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(error) => error.fmt(f),
            Self::TooLong { given } => {
                write!(f, "the token has {given} bytes; the limit is {TOKEN_BYTES_MAX}")
            }
            Self::Malformed => {
                f.write_str("this is no token of a BlazeDB relay; issue one with `blazedb token` and copy all of it")
            }
            Self::Signature => f.write_str(
                "the token was signed with another key; issue one with `blazedb token` in this relay's folder",
            ),
            Self::WrongParty => f.write_str("the token was not issued by a BlazeDB relay for BlazeDB"),
            Self::Expired { expired_unix } => write!(
                f,
                "the token expired at {expired_unix} (seconds since 1970); issue another with `blazedb token`"
            ),
            Self::BadName { what, given } => {
                write!(f, "the {what} has {given} bytes; give 1 to {NAME_BYTES_MAX}")
            }
        }
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(error) => error.source(),
            _ => None,
        }
    }
}

impl From<SecretError> for TokenError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

/// Returns the seconds since 1970, by the system's clock; zero if it stands before that.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Issues a token for `space` to `subject` that is good for `ttl` from now, with the key in `dir`, making the folder
/// and the key if they are not there.
pub fn issue(dir: &Path, space: &str, subject: &str, ttl: Duration) -> Result<String, TokenError> {
    issue_at(dir, space, subject, ttl, unix_now())
}

/// Does what [`issue`] does, from `now_unix` (seconds since 1970).
pub fn issue_at(dir: &Path, space: &str, subject: &str, ttl: Duration, now_unix: u64) -> Result<String, TokenError> {
    for (what, name) in [("space", space), ("subject", subject)] {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(TokenError::BadName { what, given: name.len() });
        }
    }
    secrets::create_folder(dir)?;
    let key = secrets::load_or_create_key(&dir.join(KEY_FILE))?;
    choose_provider();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: subject.to_owned(),
        space: space.to_owned(),
        iat: now_unix,
        exp: now_unix.saturating_add(ttl.as_secs()),
    };
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&key[..]))
        .expect("an HMAC key signs, and six plain claims are JSON");
    Ok(token)
}

/// jsonwebtoken panics if two of its providers are compiled in and none is chosen, which another crate's features
/// could bring about; so the choice is made here. Doing it twice is harmless.
fn choose_provider() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// Checks tokens. It reads the key once.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// Returns a verifier with the key in `dir`, making the folder and the key if they are not there.
    pub fn load_or_create(dir: &Path) -> Result<Self, TokenError> {
        secrets::create_folder(dir)?;
        let key = secrets::load_or_create_key(&dir.join(KEY_FILE))?;
        choose_provider();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        // The library would read the clock by itself; `exp` is compared with `now_unix` below.
        validation.validate_exp = false;
        Ok(Self { key: DecodingKey::from_secret(&key[..]), validation })
    }

    /// Returns what the token grants at `now_unix` (seconds since 1970).
    pub fn verify(&self, token: &str, now_unix: u64) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { given: token.len() });
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => TokenError::WrongParty,
                _ => TokenError::Malformed,
            })?
            .claims;
        if now_unix > claims.exp.saturating_add(LEEWAY_S) {
            return Err(TokenError::Expired { expired_unix: claims.exp });
        }
        for (what, name) in [("space", &claims.space), ("subject", &claims.sub)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(TokenError::BadName { what, given: name.len() });
            }
        }
        Ok(Grant { space: claims.space, subject: claims.sub, expires_unix: claims.exp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use serde_json::{Value, json};

    const NOW: u64 = 1_800_000_000;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn claims() -> Value {
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "space": "home", "iat": NOW, "exp": NOW + 3_600})
    }

    fn sign(dir: &Path, header: &Header, claims: &Value) -> String {
        let key = secrets::load_or_create_key(&dir.join(KEY_FILE)).unwrap();
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(&key[..])).unwrap()
    }

    #[test]
    fn issue_and_verify() {
        let dir = tempfile::tempdir().unwrap();
        let token = issue_at(dir.path(), "home", "ann", HOUR, NOW).unwrap();
        let verifier = Verifier::load_or_create(dir.path()).unwrap();
        let grant = verifier.verify(&token, NOW).unwrap();
        let want = Grant { space: "home".to_owned(), subject: "ann".to_owned(), expires_unix: NOW + 3_600 };
        assert_eq!(grant, want);
        // Exactly to the end of the leeway, and not a second more.
        assert!(verifier.verify(&token, NOW + 3_600 + LEEWAY_S).is_ok());
        assert!(matches!(
            verifier.verify(&token, NOW + 3_601 + LEEWAY_S),
            Err(TokenError::Expired { expired_unix }) if expired_unix == NOW + 3_600
        ));
        // A verifier made first reads the same key as a token issued later.
        let other = tempfile::tempdir().unwrap();
        let verifier = Verifier::load_or_create(other.path()).unwrap();
        let later = issue_at(other.path(), "home", "bob", HOUR, NOW).unwrap();
        assert_eq!(verifier.verify(&later, NOW).unwrap().subject, "bob");
        assert!(matches!(verifier.verify(&token, NOW), Err(TokenError::Signature)));
    }

    #[test]
    fn every_claim_is_required_and_typed() {
        let dir = tempfile::tempdir().unwrap();
        let verifier = Verifier::load_or_create(dir.path()).unwrap();
        let header = Header::new(Algorithm::HS256);
        let check = |change: &dyn Fn(&mut Value)| {
            let mut claims = claims();
            change(&mut claims);
            verifier.verify(&sign(dir.path(), &header, &claims), NOW)
        };
        assert!(check(&|_| {}).is_ok());
        for name in ["iss", "aud", "sub", "space", "iat", "exp"] {
            let missing = check(&|claims| {
                claims.as_object_mut().unwrap().remove(name);
            });
            assert!(matches!(missing, Err(TokenError::Malformed)), "{name}: {missing:?}");
            let null = check(&|claims| claims[name] = Value::Null);
            assert!(matches!(null, Err(TokenError::Malformed)), "{name}: {null:?}");
        }
        // A string where a number belongs must not count as "no expiry" (CVE-2026-25537).
        let text = check(&|claims| claims["exp"] = json!((NOW + 3_600).to_string()));
        assert!(matches!(text, Err(TokenError::Malformed)), "{text:?}");
        let issuer = check(&|claims| claims["iss"] = json!("somebody"));
        assert!(matches!(issuer, Err(TokenError::WrongParty)), "{issuer:?}");
        let audience = check(&|claims| claims["aud"] = json!("somebody"));
        assert!(matches!(audience, Err(TokenError::WrongParty)), "{audience:?}");
        let space = check(&|claims| claims["space"] = json!(""));
        assert!(matches!(space, Err(TokenError::BadName { .. })), "{space:?}");
        let subject = check(&|claims| claims["sub"] = json!("x".repeat(256)));
        assert!(matches!(subject, Err(TokenError::BadName { .. })), "{subject:?}");
    }

    #[test]
    fn the_algorithm_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let verifier = Verifier::load_or_create(dir.path()).unwrap();
        let strong = sign(dir.path(), &Header::new(Algorithm::HS512), &claims());
        assert!(matches!(verifier.verify(&strong, NOW), Err(TokenError::Malformed)));
        let good = sign(dir.path(), &Header::new(Algorithm::HS256), &claims());
        let (_, body_and_signature) = good.split_once('.').unwrap();
        let (body, _) = body_and_signature.split_once('.').unwrap();
        for header in [r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"None"}"#, r#"{"alg":""}"#, "{}"] {
            for signature in ["", "AAAA"] {
                let forged = format!("{}.{body}.{signature}", BASE64.encode(header));
                assert!(matches!(verifier.verify(&forged, NOW), Err(TokenError::Malformed)), "{header}");
            }
        }
    }

    #[test]
    fn rubbish_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let token = issue_at(dir.path(), "home", "ann", HOUR, NOW).unwrap();
        let verifier = Verifier::load_or_create(dir.path()).unwrap();
        for rubbish in ["", ".", "..", "...", "a.b.c", "\u{e4}.\u{e4}.\u{e4}", "eyJhbGciOiJIUzI1NiJ9.e30"] {
            assert!(verifier.verify(rubbish, NOW).is_err(), "{rubbish}");
        }
        // One changed character anywhere refuses the token.
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of a base64 text has spare bits, which the decoder refuses as well.
            assert!(verifier.verify(&changed, NOW).is_err(), "{at}");
        }
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert!(matches!(verifier.verify(&long, NOW), Err(TokenError::TooLong { given: 6145 })));
        assert!(matches!(
            issue_at(dir.path(), "", "ann", HOUR, NOW),
            Err(TokenError::BadName { what: "space", given: 0 })
        ));
    }

    #[test]
    fn the_key_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(format!("{:?}", Verifier::load_or_create(dir.path()).unwrap()), "Verifier { .. }");
    }
}
