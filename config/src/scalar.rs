//! The single values of a file: each knows how its text is read, what an editor may complete, and what to say of a
//! text that is none. Addresses, hosts and paths are parsed here, so that behind this border they are right.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::error::{Words, quoted};
use crate::read::Written;
use crate::units;
use crate::{Endpoint, Host, Name, RouteName, Share, VersionId};

mod cluster;
mod numbers;
mod texts;

pub(crate) use cluster::{LabelKey, ObjectName, RetireWord, is_label_value};
pub(crate) use numbers::{Count, Gate, SignedNumber};
pub(crate) use texts::{
    CollectorUrl, CookieName, CronText, EnvName, HeaderName, JsonBody, Pointer, RateKeyWord, ServerName, TimeZone,
    WebUrl,
};

/// A value that one text holds.
pub(crate) trait Scalar: Sized {
    /// What it is called in the reference.
    const NAME: &'static str;

    /// Reads it.
    fn read(text: &str) -> Result<Self, Words>;

    /// What an editor checks while one types; the reader checks more.
    fn schema() -> Schema;
}

/// A scalar on its way through serde.
#[derive(Debug)]
pub(crate) struct Text<T>(pub(crate) T);

/// A key or item that holds one scalar.
pub(crate) type Value<T> = Written<Text<T>>;

impl<T> Value<T> {
    /// The scalar, if a good one was written.
    pub(crate) fn scalar(&self) -> Option<&T> {
        self.value().map(|Text(value)| value)
    }

    /// The scalar, or `default` where none was written. A bad one was reported, and its file is refused anyway.
    pub(crate) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.scalar().cloned().unwrap_or(default)
    }
}

impl<'de, T: Scalar> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Self)
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).map_err(E::custom)
    }
}

impl<T: Scalar> JsonSchema for Text<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.replace(' ', "-").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

impl<T: JsonSchema> JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

fn words(error: impl fmt::Display) -> Words {
    Words::from_sentence(&error.to_string())
}

const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";
const PERCENT_PATTERN: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$";

impl Scalar for VersionId {
    const NAME: &'static str = "version name";

    fn read(text: &str) -> Result<Self, Words> {
        text.parse().map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": NAME_PATTERN, "description": "The name of a version, such as v2: 1 to 63 of a-z, A-Z, 0-9, -, _ and ., starting with a letter or digit." })
    }
}

impl Scalar for RouteName {
    const NAME: &'static str = "route name";

    fn read(text: &str) -> Result<Self, Words> {
        text.parse().map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": NAME_PATTERN, "description": "The name of a route: 1 to 63 of a-z, A-Z, 0-9, -, _ and ., starting with a letter or digit." })
    }
}

impl Scalar for Name {
    const NAME: &'static str = "name";

    fn read(text: &str) -> Result<Self, Words> {
        text.parse().map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": NAME_PATTERN, "description": "A name: 1 to 63 of a-z, A-Z, 0-9, -, _ and ., starting with a letter or digit." })
    }
}

impl Scalar for Share {
    const NAME: &'static str = "share";

    fn read(text: &str) -> Result<Self, Words> {
        Self::from_str(text).map_err(|_refused| {
            Words::new(format!("{} is no share of traffic", quoted(text)), "write 0% to 100%, in steps of 0.0001%")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": PERCENT_PATTERN, "description": "A share of traffic, 0% to 100%, in steps of 0.0001%." })
    }
}

/// A percentage, as a ratio from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percent(pub(crate) f64);

impl Scalar for Percent {
    const NAME: &'static str = "percentage";

    fn read(text: &str) -> Result<Self, Words> {
        units::parse_percent(text).map(Self).map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": PERCENT_PATTERN, "description": "A percentage, 0% to 100%, such as 0.08%." })
    }
}

/// A factor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor(pub(crate) f64);

impl Scalar for Factor {
    const NAME: &'static str = "number";

    fn read(text: &str) -> Result<Self, Words> {
        units::parse_number(text).map(Self).map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "description": "A plain number, such as 1.1." })
    }
}

impl Scalar for Duration {
    const NAME: &'static str = "duration";

    fn read(text: &str) -> Result<Self, Words> {
        units::parse_duration(text).map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(d|h|m|s|ms|us|ns))+$", "description": "Whole numbers with units d, h, m, s, ms, us or ns, the longer unit first: 250ms, 5m, 1h30m. At most 365d." })
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl Scalar for Size {
    const NAME: &'static str = "size";

    fn read(text: &str) -> Result<Self, Words> {
        units::parse_size(text).map(Self).map_err(words)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(B|[KMGT]i?B)$", "description": "A whole number with a unit: 512B, 64KiB (1,024 bytes each), 10MB (1,000,000 bytes each)." })
    }
}

impl Scalar for bool {
    const NAME: &'static str = "switch";

    fn read(text: &str) -> Result<Self, Words> {
        text.parse().map_err(|_refused| {
            Words::new(format!("{} is neither true nor false", quoted(text)), "write true or false")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean", "description": "true or false." })
    }
}

/// Free text that names something.
impl Scalar for String {
    const NAME: &'static str = "text";

    fn read(text: &str) -> Result<Self, Words> {
        if text.trim().is_empty() {
            return Err(Words::new("the text is empty", "write something, or remove the key"));
        }
        Ok(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"], "description": "Free text." })
    }
}

impl Scalar for PathBuf {
    const NAME: &'static str = "file";

    fn read(text: &str) -> Result<Self, Words> {
        if text.trim().is_empty() || text.contains('\0') {
            return Err(Words::new(format!("{} is no file name", quoted(text)), "write a path, or remove the key"));
        }
        if text.starts_with('~') {
            return Err(Words::new(
                format!("{} starts with `~`, which only a shell expands", quoted(text)),
                "write the whole path",
            ));
        }
        Ok(Self::from(text))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "description": "A path; a relative one starts at the folder of the config file." })
    }
}

impl Scalar for SocketAddr {
    const NAME: &'static str = "address";

    fn read(text: &str) -> Result<Self, Words> {
        text.trim().parse().map_err(|_refused| {
            let way_out =
                "write an IP address and a port such as 0.0.0.0:8080 or [::]:8080 (names are not looked up here)";
            Words::new(format!("{} is no address to listen on", quoted(text)), way_out)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "An IP address and a port to listen on: 0.0.0.0:8080, [::1]:9900. Port 0 takes a free one." })
    }
}

impl Scalar for Endpoint {
    const NAME: &'static str = "endpoint";

    fn read(text: &str) -> Result<Self, Words> {
        let text = text.trim();
        if text.contains("://") || text.contains('/') {
            return Err(Words::new(
                format!("{} is a URL", quoted(text)),
                "write host and port only, such as 10.0.0.7:9001 or model.internal:9001",
            ));
        }
        endpoint(text).ok_or_else(|| {
            let way_out =
                "write host:port such as 10.0.0.7:9001, [::1]:9001 or model.internal:9001, with a port from 1 to 65535";
            Words::new(format!("{} is no endpoint", quoted(text)), way_out)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": ":[0-9]{1,5}$", "description": "Host and port of a model server: 10.0.0.7:9001, [::1]:9001, model.internal:9001." })
    }
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let plain_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if plain_port { port.parse::<NonZeroU16>().ok()? } else { return None };
    let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host_name(host)?,
    };
    Some(Endpoint { host, port: port.get() })
}

/// A DNS name in lower case, or an IPv4 address.
fn host_name(text: &str) -> Option<String> {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let digits_only = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    // A name whose last label is a number is taken for an IPv4 address by every resolver (RFC 1123, 2.1).
    let address_is_good = !digits_only || text.parse::<Ipv4Addr>().is_ok();
    (text.len() <= 253 && text.split('.').all(label) && address_is_good).then(|| text.to_ascii_lowercase())
}

impl Scalar for Host {
    const NAME: &'static str = "host";

    fn read(text: &str) -> Result<Self, Words> {
        let text = text.trim();
        let refuse = |what: &str, way_out: &str| Err(Words::new(format!("{} {what}", quoted(text)), way_out));
        if text == "*" {
            return refuse("is no host", "leave `host` out, then every host matches");
        }
        if text.contains(':') || text.contains('/') {
            return refuse(
                "has more than a host in it",
                "write the name without scheme, port and path, such as models.example.com",
            );
        }
        let (suffix, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains('*') {
            return refuse(
                "has a `*` in the middle",
                "a `*` stands for whole labels at the front only, such as *.example.com",
            );
        }
        match host_name(name) {
            Some(name) if suffix => Ok(Self::Suffix(name)),
            Some(name) => Ok(Self::Exact(name)),
            None => refuse(
                "is no host",
                "write a name such as models.example.com, or *.example.com for every host below it",
            ),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "A host without a port, or *.example.com for every host below example.com." })
    }
}

/// A path's beginning, without a slash at the end unless it is `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PathPrefix(pub(crate) String);

impl Scalar for PathPrefix {
    const NAME: &'static str = "path prefix";

    fn read(text: &str) -> Result<Self, Words> {
        check_path(text, "a path prefix")?;
        let trimmed = text.trim_end_matches('/');
        Ok(Self(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/[^?#%\\s]*$", "description": "The beginning of a path, at a segment border: /v1 takes /v1 and /v1/predict, not /v10." })
    }
}

/// A path that an endpoint is asked for, with a query if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckPath(pub(crate) String);

impl Scalar for CheckPath {
    const NAME: &'static str = "path";

    fn read(text: &str) -> Result<Self, Words> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        check_path(path, "a path")?;
        if !query.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '#' | '"' | '<' | '>')) {
            return Err(Words::new(
                format!("{} has a query that no request can carry", quoted(text)),
                "write it percent-encoded",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/", "description": "A path such as /ready." })
    }
}

/// A path that a router, a log and a person read alike.
fn check_path(path: &str, thing: &str) -> Result<(), Words> {
    let refuse = |what: &str, way_out: &str| Err(Words::new(format!("{} {what}", quoted(path)), way_out));
    if !path.starts_with('/') {
        return refuse(&format!("is no {}", thing.trim_start_matches("a ")), "start it with `/`, such as /v1");
    }
    if path.contains(['?', '#']) {
        return refuse("has a query or fragment in it", "write the path alone");
    }
    if path.contains('%') {
        return refuse(
            "has a percent sign in it",
            "paths are compared as they were sent, so write plain characters only",
        );
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) || path.contains("//") {
        return refuse("has an empty, `.` or `..` segment", "write the path as it is after these are resolved");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@".contains(c);
    if path.chars().all(plain) {
        Ok(())
    } else {
        refuse("has a character that no path can carry", "use letters, digits, / - . _ ~ and : @ ! $ & ' ( ) * + , =")
    }
}
