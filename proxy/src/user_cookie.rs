//! The cookie that makes a user of a browser: a random name, signed, and nothing that has to be remembered.
//!
//! Line: assign ► **`user_cookie`** ► ticket. The cookie names nobody's version, so it stays good through every rollout,
//! and nobody can choose a version by choosing a cookie: what was not signed here counts as none. Form: 16 random bytes
//! and the first 16 bytes of their HMAC-SHA256 (RFC 2104, section 5, allows half), in base64url without padding.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use pointsman_config::{Config, Sticky, StickyCookie};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::control::config_watch::read_file;

/// Bytes of a user's name.
const NAME_BYTES: usize = 16;
/// Bytes of the signature that are kept.
const SIGNATURE_BYTES: usize = 16;
/// What is signed besides the name, so that a signature made for something else with the same secret is worth nothing.
const PURPOSE: &[u8] = b"pointsman user cookie 1\0";
/// The shortest secret that is taken from a file, in bytes.
const SHORTEST_SECRET: usize = 16;

/// The secret behind signatures; never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one that nobody knows.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// The text that [`Secret::from_text`] reads, for the state file.
    pub(crate) fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The secret that was written as this text; none if it is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The secret in the file at `path`: all of its text but white space around it.
    fn read(path: &Path) -> Result<Self, SecretError> {
        let bytes = read_file(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
        let secret = bytes.trim_ascii();
        if secret.len() < SHORTEST_SECRET {
            return Err(SecretError::Short { path: path.to_owned(), bytes: secret.len() });
        }
        Ok(Self(Sha256::digest(secret).into()))
    }
}

/// Why the secret of a cookie cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("the cookie secret {} cannot be read; make the file readable for this user, then reload (SIGHUP)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It can be guessed.
    #[error("the cookie secret {} has {bytes} bytes; write at least {SHORTEST_SECRET} random ones (`head -c 32 /dev/urandom | base64`), then reload (SIGHUP)", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length, white space around it left out.
        bytes: usize,
    },
}

/// The secrets in the files that a config names.
pub(crate) type SecretFiles = BTreeMap<PathBuf, Secret>;

/// Reads every secret that `config` names; blocks.
///
/// # Errors
/// If one of the files cannot be read, or is too short to be a secret.
pub(crate) fn read_secrets(config: &Config) -> Result<SecretFiles, SecretError> {
    let cookies = config.routes.iter().filter_map(|route| cookie_of(route.sticky.as_ref()));
    let files = cookies.filter_map(|cookie| cookie.secret_file.as_ref());
    files.map(|path| Secret::read(path).map(|secret| (path.clone(), secret))).collect()
}

fn cookie_of(sticky: Option<&Sticky>) -> Option<&StickyCookie> {
    match sticky {
        Some(Sticky::Cookie(cookie)) => Some(cookie),
        Some(Sticky::Header(_) | Sticky::ClientIp) | None => None,
    }
}

/// Every secret that cookies are signed with.
#[derive(Debug)]
pub(crate) struct Secrets {
    /// For cookies without a file.
    pub(crate) own: Secret,
    pub(crate) files: SecretFiles,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { own: Secret::random(), files: SecretFiles::new() }
    }
}

impl Secrets {
    /// The one for what makes users on a route; none if that needs none.
    pub(crate) fn secret_for(&self, sticky: Option<&Sticky>) -> Option<Secret> {
        let file = &cookie_of(sticky)?.secret_file;
        Some(file.as_ref().and_then(|path| self.files.get(path)).copied().unwrap_or(self.own))
    }
}

/// Signs and knows the cookies of one route.
#[derive(Clone)]
pub(crate) struct UserCookie {
    /// Its name.
    name: Box<str>,
    max_age: Duration,
    signer: Hmac<Sha256>,
}

impl fmt::Debug for UserCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserCookie").field("name", &self.name).field("max_age", &self.max_age).finish_non_exhaustive()
    }
}

/// A user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserName([u8; NAME_BYTES]);

impl UserName {
    /// What the ticket is drawn from.
    pub(crate) fn key(&self) -> &[u8] {
        &self.0
    }
}

impl UserCookie {
    pub(crate) fn new(cookie: &StickyCookie, secret: Secret) -> Self {
        // A key of any length is one, by RFC 2104; this one has a block's half.
        let signer = Hmac::new(&padded(secret).into()).chain_update(PURPOSE);
        Self { name: cookie.name.as_str().into(), max_age: cookie.max_age, signer }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// The user whom this value names; none if it was not signed with our secret.
    pub(crate) fn user(&self, value: &[u8]) -> Option<UserName> {
        let mut room = [0; NAME_BYTES + SIGNATURE_BYTES];
        let written = URL_SAFE_NO_PAD.decode_slice(value, &mut room).ok()?;
        let (name, signature) = room.split_first_chunk::<NAME_BYTES>().filter(|_| written == room.len())?;
        // Takes the same time however much of it is right.
        self.signer.clone().chain_update(name).verify_truncated_left(signature).ok()?;
        Some(UserName(*name))
    }

    /// A user nobody has met, and the `set-cookie` that makes the client one.
    pub(crate) fn new_user(&self, is_secure: bool) -> (UserName, Option<HeaderValue>) {
        let name = UserName(rand::random());
        (name, HeaderValue::from_str(&self.set_cookie(name, is_secure)).ok())
    }

    fn set_cookie(&self, user: UserName, is_secure: bool) -> String {
        let (name, value, seconds) = (&self.name, self.value(user), self.max_age.as_secs());
        let secure = if is_secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    fn value(&self, UserName(name): UserName) -> String {
        let signature = self.signer.clone().chain_update(name).finalize().into_bytes();
        let mut bytes = [0; NAME_BYTES + SIGNATURE_BYTES];
        bytes.iter_mut().zip(name.into_iter().chain(signature)).for_each(|(place, byte)| *place = byte);
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// A key of one block of SHA-256, which is what a shorter one is padded to.
fn padded(Secret(secret): Secret) -> [u8; 64] {
    let mut key = [0; 64];
    key.iter_mut().zip(secret).for_each(|(place, byte)| *place = byte);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cookie(secret: u8) -> UserCookie {
        let settings = StickyCookie { name: "user".to_owned(), max_age: Duration::from_hours(24), secret_file: None };
        UserCookie::new(&settings, Secret([secret; 32]))
    }

    #[test]
    fn a_cookie_names_the_user_it_was_made_for_and_says_so_to_browsers_only() {
        let (user, header) = cookie(1).new_user(true);
        let header = header.unwrap();
        let (pair, attributes) = header.to_str().unwrap().split_once("; ").unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!((name, value.len()), ("user", 43));
        assert_eq!(attributes, "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(cookie(1).user(value.as_bytes()), Some(user));
        let (other, plain) = cookie(1).new_user(false);
        assert!(other != user && !plain.unwrap().to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn what_another_secret_signed_or_nobody_is_none() {
        let (ours, theirs) = (cookie(1), cookie(2));
        let value = theirs.value(UserName([7; NAME_BYTES]));
        assert!(theirs.user(value.as_bytes()).is_some());
        assert_eq!(ours.user(value.as_bytes()), None);
        for forged in ["", "v2", &value[..42], &format!("{value}A"), &"A".repeat(43), &"A".repeat(4_000)] {
            assert_eq!(theirs.user(forged.as_bytes()), None, "{forged}");
        }
    }

    /// The reference value was made with Python's hmac and base64.
    #[test]
    fn the_form_is_the_documented_one() {
        assert_eq!(cookie(3).value(UserName([9; NAME_BYTES])), "CQkJCQkJCQkJCQkJCQkJCc7lquxEgHn-Pf2pTjRRkGg");
    }

    #[test]
    fn a_secret_comes_back_from_its_text_and_is_never_shown() {
        let secret = Secret::random();
        assert_eq!(Secret::from_text(&secret.to_text()), Some(secret));
        assert_eq!(Secret::from_text("short"), None);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_secret_file_that_is_missing_or_short_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let words = |path: &Path| Secret::read(path).unwrap_err().to_string();
        assert!(words(&path).contains("cannot be read") && words(&path).contains("secret"));
        std::fs::write(&path, " short \n").unwrap();
        assert!(words(&path).contains("has 5 bytes"), "{}", words(&path));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let with_line_end = Secret::read(&path).unwrap();
        std::fs::write(&path, "0123456789abcdef").unwrap();
        assert_eq!(Secret::read(&path).unwrap(), with_line_end);
    }

    proptest! {
        #[test]
        fn no_changed_cookie_is_taken(name: [u8; NAME_BYTES], place in 0..43usize, letter in "[A-Za-z0-9_-]") {
            let (cookie, user) = (cookie(1), UserName(name));
            let mut value = cookie.value(user).into_bytes();
            prop_assert_eq!(cookie.user(&value), Some(user));
            let changed = std::mem::replace(&mut value[place], letter.as_bytes()[0]) != letter.as_bytes()[0];
            prop_assert_eq!(cookie.user(&value).is_none(), changed);
        }
    }
}
