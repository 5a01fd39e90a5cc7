//! How long each part of a request may take, and how large, how many and how often requests may be.

use std::time::Duration;

use crate::error::{Findings, Spot};
use crate::file::{LimitsFile, List, RateFile, RateKeyFile, TimeoutsFile};
use crate::read::{Either, Written};
use crate::scalar::{HeaderName, RateKeyWord, Size, Text};
use crate::units::print_duration;
use crate::{Limits, RateKey, RateLimit, Timeouts};

use super::range::{at_most, count, positive};
use super::required;

/// Each counts every request.
const MOST_RATES: usize = 16;

/// The timeouts, with the defaults for what is left out.
pub(super) fn timeouts(file: &Written<TimeoutsFile>, findings: &Findings) -> Timeouts {
    let default = Timeouts::default();
    let Some(file) = file.value() else { return default };
    let timeouts = Timeouts {
        connect: positive(&file.connect, default.connect, findings),
        read: positive(&file.read, default.read, findings),
        total: positive(&file.total, default.total, findings),
        idle: positive(&file.idle, default.idle, findings),
        stream_idle: positive(&file.stream_idle, default.stream_idle, findings),
    };
    for (name, value, part) in [("connect", &file.connect, timeouts.connect), ("read", &file.read, timeouts.read)] {
        if let (Some((spot, _)), true) = (value.good(), part > timeouts.total && !timeouts.total.is_zero()) {
            let what = format!(
                "`{name}` is longer than `total` ({}), which ends the request before",
                print_duration(timeouts.total)
            );
            findings.warning(spot, what, format!("make `total` longer, or `{name}` shorter"));
        }
    }
    timeouts
}

/// The limits, with the defaults for what is left out.
pub(super) fn limits(file: &Written<LimitsFile>, findings: &Findings) -> Limits {
    let default = Limits::default();
    let Some(file) = file.value() else { return default };
    let Size(body_bytes) = file.body.or(Size(default.body_bytes));
    let Size(header_bytes) = file.headers.or(Size(default.header_bytes));
    if let (Some(spot), false) = (file.headers.spot(), (1_024..=1_000_000).contains(&header_bytes)) {
        findings.error(
            spot,
            "a limit on headers outside of 1KiB to 1000KB cannot be kept",
            "write one in this range, such as 64KiB",
        );
    }
    let concurrent_requests = file.concurrent_requests.or(default.concurrent_requests);
    Limits { body_bytes, header_bytes, concurrent_requests, rate: rates(&file.rate, findings) }
}

fn rates(list: &List<RateFile>, findings: &Findings) -> Vec<RateLimit> {
    let Some((_, list)) = list.good() else { return Vec::new() };
    let given: Vec<_> = list.iter().filter_map(Written::good).collect();
    at_most(&given, MOST_RATES, "rate limits", findings);
    given.into_iter().filter_map(|(spot, file)| rate(spot, file, findings)).collect()
}

fn rate(spot: &Spot, file: &RateFile, findings: &Findings) -> Option<RateLimit> {
    let requests =
        required(&file.requests, "requests", spot, "write how many may come, such as `requests: 100`", findings);
    let per = required(&file.per, "per", spot, "write in which time, such as `per: 1s`", findings);
    let at_least_one = 1..=u32::MAX;
    let requests = requests.map(|_| count(&file.requests, 1, &at_least_one, findings));
    let per = per.map(|_| positive(&file.per, Duration::from_secs(1), findings));
    let burst = count(&file.burst, requests.unwrap_or(1), &at_least_one, findings);
    let key = key(&file.key, spot, findings);
    Some(RateLimit { requests: requests?, per: per?, burst, key: key? })
}

fn key(key: &Written<RateKeyFile>, limit: &Spot, findings: &Findings) -> Option<RateKey> {
    match key.value() {
        None | Some(Either::Word(Text(RateKeyWord::Route))) => Some(RateKey::Route),
        Some(Either::Word(Text(RateKeyWord::ClientIp))) => Some(RateKey::ClientIp),
        Some(Either::Mapping(file)) => {
            let way_out = "name it, such as `header: x-api-key`";
            let header = required(&file.header, "header", key.spot().unwrap_or(limit), way_out, findings);
            header.map(|(_, Text(HeaderName(name)))| RateKey::Header(name.clone()))
        }
    }
}
