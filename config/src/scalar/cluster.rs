//! The single values that name something in a cluster.

use schemars::{Schema, json_schema};

use crate::ServicePort;
use crate::error::{Words, quoted};

use super::Scalar;

/// The most characters of a label (RFC 1123), and of what Kubernetes makes of labels.
const MOST_LABEL: usize = 63;
/// The most characters of a DNS name.
const MOST_SUBDOMAIN: usize = 253;

/// Lower-case letters, digits and `-`, with a letter or digit at both ends (RFC 1123).
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    let ends_are_good = ends.into_iter().all(|end| end.is_some_and(plain));
    ends_are_good && text.len() <= MOST_LABEL && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= MOST_SUBDOMAIN && text.split('.').all(is_label)
}

/// The value of a label, or the name part of its key: letters, digits, `-`, `_` and `.`, with a letter or digit at both
/// ends.
pub(crate) fn is_label_value(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().next_back()];
    let ends_are_good = ends.into_iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ends_are_good && text.len() <= MOST_LABEL && text.bytes().all(inner)
}

/// The name of a Service, a namespace, a Lease or a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectName(pub(crate) String);

impl Scalar for ObjectName {
    const NAME: &'static str = "object name";

    fn read(text: &str) -> Result<Self, Words> {
        let name = text.trim();
        if is_label(name) {
            return Ok(Self(name.to_owned()));
        }
        let way_out = "write 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends, such as delivery-time";
        Err(Words::new(format!("{} is no name that a cluster takes", quoted(text)), way_out))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "description": "The name of an object in a cluster: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends." })
    }
}

/// The key of a label, with or without a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabelKey(pub(crate) String);

impl Scalar for LabelKey {
    const NAME: &'static str = "label key";

    fn read(text: &str) -> Result<Self, Words> {
        let key = text.trim();
        let is_good = match key.split_once('/') {
            Some((prefix, name)) => is_subdomain(prefix) && is_label_value(name),
            None => is_label_value(key),
        };
        is_good.then(|| Self(key.to_owned())).ok_or_else(|| {
            let way_out = "write one such as version or app.kubernetes.io/version";
            Words::new(format!("{} is no key of a label", quoted(text)), way_out)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$", "description": "The key of a label, such as version or app.kubernetes.io/version." })
    }
}

impl Scalar for ServicePort {
    const NAME: &'static str = "Service port";

    fn read(text: &str) -> Result<Self, Words> {
        let text = text.trim();
        let refuse = || {
            let way_out =
                "write its name in the Service, such as http, or the number that pods listen on, from 1 to 65535";
            Words::new(format!("{} is no port of a Service", quoted(text)), way_out)
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().filter(|port| *port > 0).map(Self::Number).ok_or_else(refuse);
        }
        if is_label(text) { Ok(Self::Name(text.to_owned())) } else { Err(refuse()) }
    }

    fn schema() -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" }, { "type": "integer", "minimum": 1, "maximum": 65535 }],
            "description": "The name of a port in the Service, or the number that pods listen on (its `targetPort`).",
        })
    }
}

/// That the old version stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetireWord;

impl Scalar for RetireWord {
    const NAME: &'static str = "retire word";

    fn read(text: &str) -> Result<Self, Words> {
        if text.trim() == "none" {
            return Ok(Self);
        }
        Err(Words::new(
            format!("{} is nothing that can become of an old version", quoted(text)),
            "write none, or `{ scale_to: 0 }`",
        ))
    }

    fn schema() -> Schema {
        json_schema!({ "const": "none" })
    }
}
