//! Plain questions and posts over HTTP to what an operator names outside: webhooks, gates, Prometheus.
//!
//! Stands beside the line, below everything that calls out. Whoever answers is not trusted: one deadline for the whole
//! call, no redirect, a bounded head, and no more of a body than was asked for. URLs and secrets never get into words.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use pointsman_config::SecretSource;
use sha2::Sha256;
use thiserror::Error;
use ureq::{Agent, Body};

use crate::control::config_watch::read_text;

/// When a body was signed, in seconds since 1970.
pub(crate) const TIMESTAMP_HEADER: &str = "x-pointsman-timestamp";
/// `v1=` and the signature in hexadecimal.
pub(crate) const SIGNATURE_HEADER: &str = "x-pointsman-signature";
/// The shortest secret that is signed with, in bytes.
const SHORTEST_SECRET: usize = 16;
/// Largest head of an answer, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// Why a secret cannot be had. It names where the secret stands, never what stands there.
#[derive(Debug, Error)]
pub(crate) enum SecretError {
    /// Its file cannot be read.
    #[error("the file {} cannot be read ({source}); make it readable for the edge", file.display())]
    Unreadable {
        /// The file.
        file: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its variable is not set.
    #[error("the environment variable {name} is not set; start the edge with it, or use a file")]
    Unset {
        /// The variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("{place} is empty")]
    Empty {
        /// Where.
        place: String,
    },
}

/// A secret as it stands now, without white space around it; never shown.
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Reads it; blocks.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(crate) fn read(source: &SecretSource) -> Result<Self, SecretError> {
        let (place, text) = match source {
            SecretSource::File(file) => {
                let unreadable = |source| SecretError::Unreadable { file: file.clone(), source };
                (format!("the file {}", file.display()), read_text(file).map_err(unreadable)?)
            }
            SecretSource::Env(name) => {
                let text = std::env::var(name).map_err(|_unset| SecretError::Unset { name: name.clone() })?;
                (format!("the environment variable {name}"), text)
            }
        };
        let secret = text.trim();
        if secret.is_empty() { Err(SecretError::Empty { place }) } else { Ok(Self(secret.to_owned())) }
    }

    /// The secret itself, for whoever uses it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// What stands in [`SIGNATURE_HEADER`] beside a body that is sent at `stamp`; blocks.
///
/// # Errors
/// If the secret cannot be had or can be guessed, so that nothing may be sent; in words.
pub(crate) fn signature(source: &SecretSource, stamp: u64, body: &[u8]) -> Result<String, String> {
    let secret = Secret::read(source).map_err(|error| error.to_string())?;
    if secret.reveal().len() < SHORTEST_SECRET {
        return Err(format!("its secret has fewer than {SHORTEST_SECRET} bytes, so nothing is signed and sent"));
    }
    Ok(format!("v1={}", code(secret.reveal(), stamp, body)))
}

/// HMAC-SHA256 (RFC 2104) of the timestamp, a full stop and the body, in hexadecimal.
fn code(secret: &str, stamp: u64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        // It takes keys of every length.
        return String::new();
    };
    mac.update(stamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A client whose calls end within `timeout`, whatever the other side does.
pub(crate) fn agent(timeout: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(timeout))
        .max_response_header_size(HEAD_BYTES)
        .user_agent(concat!("pointsman/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Why a call failed, for people; never with the URL in it, which may be a secret.
pub(crate) fn in_words(error: &ureq::Error) -> String {
    use ureq::Error::{BadUri, HostNotFound, Http, Io, Protocol, Timeout};
    let known = if matches!(error, BadUri(_)) {
        "what stands there is no URL of http:// or https://"
    } else if matches!(error, Http(_)) {
        "its URL or its `authorization` holds what no request can carry"
    } else if matches!(error, HostNotFound) {
        "its host has no address"
    } else if matches!(error, Timeout(_)) {
        "it did not answer in time"
    } else if matches!(error, Protocol(_)) {
        "it does not speak HTTP"
    } else if let Io(error) = error {
        return shortened(&format!("no connection, or it broke: {error}"));
    } else {
        return shortened(&error.to_string());
    };
    known.to_owned()
}

/// The body of an answer, which may have `most` bytes.
///
/// # Errors
/// If it is longer, breaks off or does not end in time; in words.
pub(crate) fn body(mut answer: http::Response<Body>, most: u64) -> Result<Vec<u8>, String> {
    let read = answer.body_mut().with_config().limit(most).read_to_vec();
    read.map_err(|error| {
        let is_long = matches!(error, ureq::Error::BodyExceedsLimit(_));
        if is_long { format!("its answer is longer than {most} bytes") } else { in_words(&error) }
    })
}

/// Longest text of somebody else that is shown, in characters.
const SHOWN: usize = 200;

/// Text of somebody else on one line, short enough to show, and harmless to a terminal.
pub(crate) fn shortened(text: &str) -> String {
    let visible = |character: char| if character.is_control() || is_sly(character) { ' ' } else { character };
    let mut shown: String = text.trim().chars().take(SHOWN).map(visible).collect();
    if text.trim().chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Characters that turn a line around or hide in it.
fn is_sly(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_the_space_around_it_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "  s3cret \n").unwrap();
        let secret = Secret::read(&SecretSource::File(file.clone())).unwrap();
        assert_eq!(secret.reveal(), "s3cret");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        std::fs::write(&file, "\n").unwrap();
        let empty = Secret::read(&SecretSource::File(file)).unwrap_err().to_string();
        assert!(empty.contains("is empty"), "{empty}");
        let unset = SecretSource::Env("POINTSMAN_NOBODY_SETS_THIS".to_owned());
        assert!(Secret::read(&unset).unwrap_err().to_string().contains("is not set"));
    }

    #[test]
    fn a_signature_is_that_of_other_tools() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 'a secret of our own'
        let expected = "a9a005b613f079cfa7fd7637e929470409170abfb99d6257bac9e65f3e5bf4c6";
        assert_eq!(code("a secret of our own", 1_700_000_000, b"{}"), expected);
    }

    #[test]
    fn a_bad_url_is_told_without_the_url() {
        let told = in_words(&agent(Duration::from_secs(1)).get("nothing://token@host").call().unwrap_err());
        assert!(!told.contains("token"), "{told}");
    }

    #[test]
    fn what_others_write_is_one_short_harmless_line() {
        assert_eq!(shortened(" a\n\u{1b}[31mb\u{202e} "), "a  [31mb ");
        assert_eq!(shortened(&"x".repeat(300)).chars().count(), SHOWN + 1);
    }
}
