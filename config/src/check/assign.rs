//! Who gets the canary: one thing that makes a user, and overrides that can be heard.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Findings, Spot, listed};
use crate::file::{OverrideFile, RouteFile, StickyFile};
use crate::read::Written;
use crate::scalar::{CookieName, HeaderName, Text, Value};
use crate::{Ask, Override, OverrideSource, Sticky, StickyCookie, VersionId};

use super::range::{at_most, positive};
use super::route::is_known;

const DEFAULT_MAX_AGE: Duration = Duration::from_hours(30 * 24);
/// Each is looked for in every request.
const MOST_OVERRIDES: usize = 64;
const ONE_OF_THREE: &str = "write one of `header: x-user`, `cookie: pointsman_user` and `client_ip: true`";

/// What makes a user, if the route says so.
pub(super) fn sticky(file: &Written<StickyFile>, findings: &Findings) -> Option<Sticky> {
    let (spot, file) = file.good()?;
    let cookie = cookie(file, findings);
    refuse_cookie_keys(file, findings);
    let written = [
        ("header", file.header.spot().is_some()),
        ("cookie", file.cookie.spot().is_some()),
        ("client_ip", file.client_ip.spot().is_some()),
    ];
    let names: Vec<&str> = written.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
    match names.len() {
        0 => findings.error(spot, "nothing says what makes a user", ONE_OF_THREE),
        1 => {}
        _ => findings.error(spot, format!("{} cannot make a user together", listed(names)), ONE_OF_THREE),
    }
    if let Some((spot, Text(false))) = file.client_ip.good() {
        findings.error(
            spot,
            "`client_ip` is not there to be turned off",
            "write `client_ip: true`, or remove `sticky`",
        );
    }
    let header = file.header.scalar().map(|HeaderName(name)| Sticky::Header(name.clone()));
    let address = file.client_ip.scalar().map(|_| Sticky::ClientIp);
    header.or(cookie.map(Sticky::Cookie)).or(address)
}

fn cookie(file: &StickyFile, findings: &Findings) -> Option<StickyCookie> {
    let max_age = positive(&file.max_age, DEFAULT_MAX_AGE, findings);
    let CookieName(name) = file.cookie.scalar()?.clone();
    Some(StickyCookie { name, max_age, secret_file: file.secret_file.scalar().cloned() })
}

/// `max_age` and `secret_file` say something about a cookie, and there is none.
fn refuse_cookie_keys(file: &StickyFile, findings: &Findings) {
    if file.cookie.spot().is_some() {
        return;
    }
    for spot in [file.max_age.spot(), file.secret_file.spot()].into_iter().flatten() {
        findings.error(
            spot,
            format!("{} belongs to a cookie", spot.key()),
            "remove it, or add `cookie: pointsman_user`",
        );
    }
}

/// The overrides that are good.
pub(super) fn overrides(file: &RouteFile, known: &[VersionId], findings: &Findings) -> Vec<Override> {
    let Some((_, list)) = file.overrides.good() else { return Vec::new() };
    let given: Vec<_> = list.iter().filter_map(Written::good).collect();
    at_most(&given, MOST_OVERRIDES, "overrides", findings);
    let mut lines = HashMap::new();
    let mut overrides = Vec::new();
    for (spot, written) in given {
        let source = source(spot, written, findings);
        let ask = ask(spot, written, known, findings);
        let (Some(source), Ok(ask)) = (source, ask) else { continue };
        if let Some(line) = lines.insert((source.clone(), ask.as_ref().map(|ask| ask.value.clone())), spot.line) {
            let what = format!("the override on line {line} asks for the same, so this one never counts");
            findings.error(spot, what, "remove one of them, or give one another `value`");
        }
        overrides.push(Override { source, ask });
    }
    overrides
}

fn source(spot: &Spot, file: &OverrideFile, findings: &Findings) -> Option<OverrideSource> {
    let way_out = "write either `header: x-pointsman-version` or `cookie: beta`";
    match (&file.header, &file.cookie) {
        (Written::Absent, Written::Absent) => {
            findings.error(spot, "nothing says where a tester asks for a version", way_out);
        }
        (Written::Absent, _) | (_, Written::Absent) => {}
        (_, _) => findings.error(spot, "an override looks at one thing, and this one has two", way_out),
    }
    let header = file.header.scalar().map(|HeaderName(name)| OverrideSource::Header(name.clone()));
    header.or_else(|| file.cookie.scalar().map(|CookieName(name)| OverrideSource::Cookie(name.clone())))
}

/// Something is wrong with what an override asks for; it is reported.
struct BadAsk;

/// The value and its version, or nothing where the value names the version.
fn ask(spot: &Spot, file: &OverrideFile, known: &[VersionId], findings: &Findings) -> Result<Option<Ask>, BadAsk> {
    match (&file.value, &file.version) {
        (Written::Absent, Written::Absent) => return Ok(None),
        (Written::Absent, _) => {
            findings.error(
                spot,
                "`version` is there, and no `value` that asks for it",
                "add `value: \"yes\"`, or remove `version`",
            );
        }
        (_, Written::Absent) => {
            findings.error(
                spot,
                "`value` is there, and no `version` that it asks for",
                "add `version: v2`, or remove `value`",
            );
        }
        (_, _) => {}
    }
    let value = value(&file.value, file.cookie.spot().is_some(), findings);
    let version = file.version.good().filter(|(place, Text(id))| is_known(id, place, known, findings));
    let (Some(value), Some((_, Text(version)))) = (value, version) else { return Err(BadAsk) };
    Ok(Some(Ask { value, version: version.clone() }))
}

/// A value that a header or cookie can have (RFC 9110, section 5.5; RFC 6265, section 4.1.1).
fn value(value: &Value<String>, in_cookie: bool, findings: &Findings) -> Option<String> {
    let (spot, Text(text)) = value.good()?;
    let is_good = if in_cookie {
        text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte))
    } else {
        text.trim() == text && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    if !is_good {
        let (thing, way_out) = if in_cookie {
            ("cookie", "use letters, digits and signs other than blank, quote, comma, semicolon and backslash")
        } else {
            ("header", "use letters, digits and signs, without a blank at either end")
        };
        findings.error(spot, format!("no {thing} can have this value"), way_out);
    }
    is_good.then(|| text.clone())
}
