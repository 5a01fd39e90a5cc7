//! The single values that name something: headers, cookies, parts of JSON, servers.

use std::time::Duration;

use schemars::{Schema, json_schema};
use serde::de::IgnoredAny;

use crate::error::{Words, quoted};
use crate::freeze::Windows;
use crate::outside::{KNOWN_NAMES, Template};

use super::{Scalar, check_path, endpoint, host_name};

/// The most bytes that a name of a header or cookie may have.
const MOST_NAME_BYTES: usize = 256;

/// A token of RFC 9110, section 5.6.2: what names of headers and cookies (RFC 6265, section 4.1.1) are made of.
fn is_token(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=MOST_NAME_BYTES).contains(&text.len()) && text.bytes().all(inner)
}

fn token(text: &str, thing: &str, example: &str) -> Result<String, Words> {
    let name = text.trim();
    is_token(name).then(|| name.to_owned()).ok_or_else(|| {
        let way_out = format!("write a name such as {example}, of letters, digits and ! # $ % & ' * + - . ^ _ ` | ~");
        Words::new(format!("{} is no name of a {thing}", quoted(text)), way_out)
    })
}

const TOKEN_PATTERN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$";

/// The name of a header, in lower case.
#[derive(Debug, Clone)]
pub(crate) struct HeaderName(pub(crate) String);

impl Scalar for HeaderName {
    const NAME: &'static str = "header name";

    fn read(text: &str) -> Result<Self, Words> {
        token(text, "header", "x-user").map(|name| Self(name.to_ascii_lowercase()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": TOKEN_PATTERN, "description": "The name of a header, such as x-user; upper and lower case are the same." })
    }
}

/// The name of a cookie.
#[derive(Debug, Clone)]
pub(crate) struct CookieName(pub(crate) String);

impl Scalar for CookieName {
    const NAME: &'static str = "cookie name";

    fn read(text: &str) -> Result<Self, Words> {
        token(text, "cookie", "pointsman_user").map(Self)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": TOKEN_PATTERN, "description": "The name of a cookie, such as pointsman_user." })
    }
}

/// Whose requests are counted together, where no header says so.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RateKeyWord {
    Route,
    ClientIp,
}

impl Scalar for RateKeyWord {
    const NAME: &'static str = "rate key";

    fn read(text: &str) -> Result<Self, Words> {
        match text.trim() {
            "route" => Ok(Self::Route),
            "client_ip" => Ok(Self::ClientIp),
            _ => Err(Words::new(
                format!("{} is nothing that requests are counted by", quoted(text)),
                "write route, client_ip, or a header such as `{ header: x-api-key }`",
            )),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ["route", "client_ip"] })
    }
}

/// A JSON pointer (RFC 6901) to something inside of a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pointer(pub(crate) String);

impl Scalar for Pointer {
    const NAME: &'static str = "JSON pointer";

    fn read(text: &str) -> Result<Self, Words> {
        let escapes_are_good = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        if text.starts_with('/') && escapes_are_good {
            return Ok(Self(text.to_owned()));
        }
        let way_out = "write where the number stands, such as /prediction or /result/0/score (~0 is a `~`, ~1 a `/`)";
        Err(Words::new(format!("{} is no JSON pointer", quoted(text)), way_out))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/([^~]|~[01])*$", "description": "Where something stands in a JSON document (RFC 6901): /prediction, /result/0/score." })
    }
}

/// JSON that can be posted.
#[derive(Debug, Clone)]
pub(crate) struct JsonBody(pub(crate) String);

impl Scalar for JsonBody {
    const NAME: &'static str = "JSON";

    fn read(text: &str) -> Result<Self, Words> {
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(IgnoredAny) => Ok(Self(text.to_owned())),
            Err(error) => Err(Words::new(
                format!("{} is no JSON (column {})", quoted(text), error.column()),
                "write it between single quotes, such as '{\"distance_km\": 4.2}'",
            )),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "JSON as a text: '{\"distance_km\": 4.2}'." })
    }
}

/// The name that a server proves, or its address.
#[derive(Debug, Clone)]
pub(crate) struct ServerName(pub(crate) String);

impl Scalar for ServerName {
    const NAME: &'static str = "server name";

    fn read(text: &str) -> Result<Self, Words> {
        host_name(text.trim()).map(Self).ok_or_else(|| {
            Words::new(
                format!("{} is no name of a server", quoted(text)),
                "write one that stands in its certificate, such as models.internal",
            )
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "A name that stands in a certificate, such as models.internal." })
    }
}

/// A cron expression of five fields.
#[derive(Debug, Clone)]
pub(crate) struct CronText(pub(crate) String);

impl Scalar for CronText {
    const NAME: &'static str = "cron expression";

    fn read(text: &str) -> Result<Self, Words> {
        let written = text.trim();
        match Windows::new(written, chrono_tz::UTC, Duration::ZERO) {
            Ok(_) => Ok(Self(written.to_owned())),
            Err(why) => {
                let what = format!(
                    "{} is no cron expression ({})",
                    quoted(text),
                    why.trim_end_matches('.').replace("; ", ", ")
                );
                let way_out = "write minute, hour, day of month, month and day of week, such as '0 18 * * 5' for Fridays at six in the evening";
                Err(Words::new(what, way_out))
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "Minute, hour, day of month, month and day of week: '0 18 * * 5' is Fridays at six in the evening, '0 0 24-26 12 *' midnight on three days of December." })
    }
}

/// A time zone of the IANA database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeZone(pub(crate) chrono_tz::Tz);

impl Scalar for TimeZone {
    const NAME: &'static str = "time zone";

    fn read(text: &str) -> Result<Self, Words> {
        let name = text.trim();
        name.parse().map(Self).map_err(|_unknown| {
            let mut known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let closest = known.find(|zone| zone.eq_ignore_ascii_case(name));
            let near = closest.map(|zone| format!("did you mean `{zone}`? ")).unwrap_or_default();
            let way_out = format!("{near}write one of the IANA database, such as Europe/Berlin or UTC");
            Words::new(format!("{} is no time zone", quoted(text)), way_out)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "description": "A time zone of the IANA database, such as Europe/Berlin, or UTC." })
    }
}

impl Scalar for Template {
    const NAME: &'static str = "query";

    fn read(text: &str) -> Result<Self, Words> {
        if text.trim().is_empty() {
            return Err(Words::new("the query is empty", "write it in PromQL"));
        }
        Self::read(text).map_err(|name| {
            let way_out = format!("use {}", KNOWN_NAMES.map(|name| format!("{{{{{name}}}}}")).join(", "));
            Words::new(format!("{} stands for nothing in a query", quoted(&format!("{{{{{name}}}}}"))), way_out)
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "description": "PromQL in which {{version}}, {{stable}}, {{canary}} and {{route}} stand for their names: orders{version=\"{{version}}\"}." })
    }
}

/// The name of an environment variable.
#[derive(Debug, Clone)]
pub(crate) struct EnvName(pub(crate) String);

impl Scalar for EnvName {
    const NAME: &'static str = "environment variable";

    fn read(text: &str) -> Result<Self, Words> {
        let name = text.trim();
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if starts_well && is_plain && name.len() <= MOST_NAME_BYTES {
            return Ok(Self(name.to_owned()));
        }
        let way_out = "write the name alone, such as ON_CALL_URL, of letters, digits and _";
        Err(Words::new(format!("{} is no name of an environment variable", quoted(text)), way_out))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,255}$", "description": "The name of an environment variable that the edge was started with, such as ON_CALL_URL." })
    }
}

/// Where something is asked or told, without anything that is a secret as a rule.
#[derive(Debug, Clone)]
pub(crate) struct WebUrl(pub(crate) String);

impl Scalar for WebUrl {
    const NAME: &'static str = "plain URL";

    fn read(text: &str) -> Result<Self, Words> {
        // A URL that is refused may be so for the secret in it, so it is not shown.
        CollectorUrl::read(text).map_err(|_shown| {
            let way_out = "write a URL such as https://hooks.example.com/pointsman, without user, query or fragment, or name \
                           a file with `url_file` that holds it";
            Words::new("what stands here is no plain URL", way_out)
        })?;
        // Its path means what it says, with a slash at the end.
        Ok(Self(text.trim().to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://[^/?#@]+[^?#]*$", "description": "A URL such as https://hooks.example.com/pointsman, without user, query or fragment." })
    }
}

/// Where a collector takes spans; without a slash at the end.
#[derive(Debug, Clone)]
pub(crate) struct CollectorUrl(pub(crate) String);

impl Scalar for CollectorUrl {
    const NAME: &'static str = "URL";

    fn read(text: &str) -> Result<Self, Words> {
        let refuse = |what: &str| {
            let way_out = "write a URL such as http://127.0.0.1:4318, without user, query or fragment";
            Words::new(format!("{} {what}", quoted(text)), way_out)
        };
        let url = text.trim().trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").ok_or_else(|| refuse("is no URL"))?;
        if !matches!(scheme, "http" | "https") {
            return Err(refuse("starts with neither http:// nor https://"));
        }
        let (host, path) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
        let path_is_good = path.is_empty() || check_path(path, "a path").is_ok();
        let host_is_good = host_name(host).is_some() || endpoint(host).is_some() || bracketed(host);
        if host_is_good && path_is_good { Ok(Self(url.to_owned())) } else { Err(refuse("is no URL")) }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://[^/?#@]+[^?#]*$", "description": "A URL such as http://127.0.0.1:4318." })
    }
}

/// `[::1]`, without a port.
fn bracketed(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}
