//! What others say of a canary, and when nothing goes forward: each asked once, about something, at a pace that both
//! sides bear.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::DateTime;

use crate::error::{Findings, Spot, listed, nearest, quoted};
use crate::file::{File, FreezeFile, GuardFile, List, OutsideGateFile, QueryFile};
use crate::freeze::Windows;
use crate::outside::Template;
use crate::read::Written;
use crate::scalar::{CollectorUrl, CronText, SignedNumber, Text, TimeZone};
use crate::units::print_duration;
use crate::{Before, Compared, Freeze, Otherwise, OutsideGate, Query, Route, RouteName};

use super::notify::{refuse_double_names, secret, where_it_is};
use super::range::{at_most, between, count};
use super::{items, required};

/// Each of them is asked all the time.
const MOST_QUERIES: usize = 16;
/// What the guard that asks model servers is called among the gates.
const DRIFT: &str = "drift";
const MOST_GATES: usize = 8;
const MOST_FREEZES: usize = 32;
const DEFAULT_EVERY: Duration = Duration::from_secs(30);
const PACES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const DEFAULT_BREACHES: u32 = 3;
/// Numbers of the first looks at a canary are of the time before, whatever range they are over.
const PACES_BEFORE: u32 = 2;
const DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
/// From when on a freeze is looked at that may never end: any moment will do, and a fixed one gives one file one answer.
const LOOKED_AT: i64 = 1_767_225_600;

/// The good queries and gates of a guard.
pub(super) fn asked(file: &GuardFile, findings: &Findings) -> (Vec<Query>, Vec<OutsideGate>) {
    let way_out = "write at least one, or remove the key";
    let queries = items(file.queries.good(), way_out, findings);
    let gates = items(file.gates.good(), way_out, findings);
    at_most(&queries, MOST_QUERIES, "queries", findings);
    at_most(&gates, MOST_GATES, "gates", findings);
    let names = queries.iter().map(|(_, query)| &query.name).chain(gates.iter().map(|(_, gate)| &gate.name));
    refuse_double_names(names.clone(), "query or gate", findings);
    for (spot, _) in names.filter_map(Written::good).filter(|(_, name)| name.0.as_str() == DRIFT) {
        findings.error(spot, format!("`{DRIFT}` is what the guard's own `drift` is called"), "give it another name");
    }
    let queries = queries.into_iter().take(MOST_QUERIES).filter_map(|(spot, written)| query(spot, written, findings));
    let gates = gates.into_iter().take(MOST_GATES).filter_map(|(spot, written)| gate(spot, written, findings));
    (queries.collect(), gates.collect())
}

fn query(spot: &Spot, file: &QueryFile, findings: &Findings) -> Option<Query> {
    let name = required(&file.name, "name", spot, "name it, such as `name: orders`", findings);
    let way_out = "write where Prometheus is, such as `prometheus: http://prometheus:9090`";
    let prometheus = required(&file.prometheus, "prometheus", spot, way_out, findings);
    let way_out = "write it in PromQL, such as `query: 'sum(rate(orders_total{version=\"{{version}}\"}[5m]))'`";
    let text = required(&file.query, "query", spot, way_out, findings);
    let compare = file.compare.value().copied().unwrap_or(Compared::Value);
    let number = |value: Option<&SignedNumber>| value.map(|SignedNumber(number)| *number);
    let (max, min) = (number(file.max.scalar()), number(file.min.scalar()));
    refuse_odd_limits(spot, file, (max, min), findings);
    refuse_odd_baseline(file, compare, text.map(|(spot, Text(text))| (spot, text)), findings);
    let (query, baseline_query) = (text?.1.0.clone(), file.baseline_query.scalar().cloned());
    let every = between(&file.every, DEFAULT_EVERY, &PACES, findings);
    Some(Query {
        name: name?.1.0.clone(),
        prometheus: {
            let Text(CollectorUrl(url)) = prometheus?.1;
            url.clone()
        },
        delay: between(&file.delay, delay(every, &query, baseline_query.as_ref()), &DELAYS, findings),
        query,
        baseline_query,
        compare,
        max,
        min,
        every,
        breaches: count(&file.breaches, DEFAULT_BREACHES, &(1..=100), findings),
        timeout: between(&file.timeout, DEFAULT_TIMEOUT, &TIMEOUTS, findings),
        authorization: secret(
            ("authorization_file", &file.authorization_file),
            ("authorization_env", &file.authorization_env),
            findings,
        ),
    })
}

/// How long numbers are of the time before: as far back as one of the queries looks.
fn delay(every: Duration, query: &Template, baseline: Option<&Template>) -> Duration {
    let ranges = [Some(query), baseline].into_iter().flatten().map(Template::looks_back);
    let longest = ranges.max().unwrap_or_default();
    longest.max(every.saturating_mul(PACES_BEFORE)).min(*DELAYS.end())
}

fn refuse_odd_limits(spot: &Spot, file: &QueryFile, (max, min): (Option<f64>, Option<f64>), findings: &Findings) {
    let written = file.max.spot().is_some() || file.min.spot().is_some();
    if !written {
        findings.error(spot, "without a limit this query says nothing", "add `max`, `min` or both");
    }
    if let (Some(max), Some(min), Some(place)) = (max, min, file.min.spot())
        && min > max
    {
        let what = format!("`min` ({min}) is above `max` ({max}), so every number is a breach");
        findings.error(place, what, "write a `min` below `max`");
    }
}

fn refuse_odd_baseline(file: &QueryFile, compare: Compared, query: Option<(&Spot, &Template)>, findings: &Findings) {
    if let (Compared::Value, Some(spot)) = (compare, file.baseline_query.spot()) {
        let what = "`baseline_query` is compared with nothing";
        findings.error(spot, what, "add `compare: ratio` or `compare: difference`, or remove it");
    }
    let Some((spot, template)) = query else { return };
    if template.names_the_version() {
        return;
    }
    if compare != Compared::Value && matches!(file.baseline_query, Written::Absent) {
        let what = "this asks the same of both versions, and compares a number with itself";
        findings.error(spot, what, "name the version in it as {{version}}, or write a `baseline_query`");
    } else if compare == Compared::Value {
        let what = "nothing in this query says which version it is about";
        findings.warning(spot, what, "name the version in it as {{version}}, if it has a number of its own");
    }
}

fn gate(spot: &Spot, file: &OutsideGateFile, findings: &Findings) -> Option<OutsideGate> {
    let name = required(&file.name, "name", spot, "name it, such as `name: change-board`", findings);
    let url = where_it_is((spot, "gate"), &file.url, (&file.url_file, &file.url_env), findings);
    Some(OutsideGate {
        name: name?.1.0.clone(),
        url: url?,
        before: before(&file.before, findings),
        otherwise: file.otherwise.value().copied().unwrap_or(Otherwise::Hold),
        every: between(&file.every, DEFAULT_EVERY, &PACES, findings),
        timeout: between(&file.timeout, DEFAULT_TIMEOUT, &TIMEOUTS, findings),
        secret: secret(("secret_file", &file.secret_file), ("secret_env", &file.secret_env), findings),
        authorization: secret(
            ("authorization_file", &file.authorization_file),
            ("authorization_env", &file.authorization_env),
            findings,
        ),
    })
}

fn before(list: &List<Before>, findings: &Findings) -> BTreeSet<Before> {
    if matches!(list, Written::Absent) {
        return [Before::Step, Before::Promotion].into();
    }
    items(list.good(), "name step, promotion or both", findings).into_iter().map(|(_, before)| *before).collect()
}

/// The good freezes; `routes` are those of the file.
pub(super) fn freezes(file: &File, routes: &[Route], findings: &Findings) -> Vec<Freeze> {
    let way_out = "write one such as `{ name: weekend, cron: '0 18 * * 5', duration: 62h }`, or remove `freeze`";
    let given = items(file.freeze.good(), way_out, findings);
    at_most(&given, MOST_FREEZES, "freezes", findings);
    refuse_double_names(given.iter().map(|(_, freeze)| &freeze.name), "freeze", findings);
    let good = given.into_iter().take(MOST_FREEZES);
    good.filter_map(|(spot, written)| freeze(spot, written, routes, findings)).collect()
}

fn freeze(spot: &Spot, file: &FreezeFile, known: &[Route], findings: &Findings) -> Option<Freeze> {
    let name = required(&file.name, "name", spot, "name it, such as `name: weekend`", findings);
    let way_out = "write when it begins, such as `cron: '0 18 * * 5'` for Fridays at six in the evening";
    let cron = required(&file.cron, "cron", spot, way_out, findings);
    let lasts =
        required(&file.duration, "duration", spot, "write how long it lasts, such as `duration: 62h`", findings);
    let routes = routes(&file.routes, known, findings);
    let TimeZone(zone) = file.time_zone.or(TimeZone(chrono_tz::UTC));
    let ((place, Text(CronText(cron))), (duration_spot, Text(lasts))) = (cron?, lasts?);
    if lasts.is_zero() {
        findings.error(duration_spot, "a freeze of 0s freezes nothing", "write how long it lasts, such as 62h");
    }
    // It was read as one when the scalar was.
    let windows = Windows::new(cron, zone, *lasts).ok()?;
    let moment = DateTime::from_timestamp(LOOKED_AT, 0).unwrap_or_default();
    match windows.never_ends(moment) {
        Some(false) => {}
        Some(true) => {
            let what = format!(
                "this freeze never ends, since its next window begins before {} are over",
                print_duration(*lasts)
            );
            findings.warning(place, what, "make it shorter or rarer, or nothing ever goes forward by itself");
        }
        None => findings.warning(place, "this freeze never begins, since no day is like that", "write another `cron`"),
    }
    Some(Freeze { name: name?.1.0.clone(), windows, routes })
}

fn routes(list: &List<Text<RouteName>>, known: &[Route], findings: &Findings) -> BTreeSet<RouteName> {
    if matches!(list, Written::Absent) {
        return BTreeSet::new();
    }
    let given = items(list.good(), "name at least one route, or leave `routes` out for all", findings);
    for (spot, Text(name)) in &given {
        let names = || known.iter().map(|route| route.name.as_str());
        if names().any(|known| known == name.as_str()) {
            continue;
        }
        let all = listed(names().take(20));
        let way_out = match nearest(name.as_str(), names()) {
            Some(near) => format!("did you mean `{near}`? There are {all}"),
            None => format!("use one of {all}"),
        };
        findings.error(spot, format!("there is no route {}", quoted(name.as_str())), way_out);
    }
    given.into_iter().map(|(_, Text(name))| name.clone()).collect()
}
