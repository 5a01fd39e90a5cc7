//! How endpoints are asked, warmed, favoured and left out.

use std::time::Duration;

use crate::error::{Findings, Spot};
use crate::file::{EjectionFile, ExampleFile, HealthCheckFile, RouteFile, WarmUpFile};
use crate::read::Written;
use crate::scalar::{CheckPath, Factor, JsonBody, SignedNumber};
use crate::units::print_duration;
use crate::{DEFAULT_SLOW_START, Ejection, Example, Golden, HealthCheck, Signature, WarmUp};

use super::range::{at_most, count, factor, positive};
use super::{items, required};

const MOST_CHECKS: u32 = 100;
const DEFAULT_WARM_UP_PATH: &str = "/v1/predict";
const DEFAULT_CALLS: u32 = 10;
const MOST_CALLS: u32 = 1_000;
const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_EXAMPLES: usize = 100;
const DEFAULT_TOLERANCE: f64 = 1e-6;
const LONG_SLOW_START: Duration = Duration::from_hours(1);

/// The health check, with the defaults for what is left out.
pub(super) fn health_check(file: &Written<HealthCheckFile>, findings: &Findings) -> HealthCheck {
    let default = HealthCheck::default();
    let Some(file) = file.value() else { return default };
    let interval = positive(&file.interval, default.interval, findings);
    let timeout = positive(&file.timeout, default.timeout, findings);
    if let (Some(spot), true) = (file.timeout.spot().or(file.interval.spot()), timeout > interval) {
        findings.warning(
            spot,
            "a check may take longer than the time between two checks",
            "make `interval` longer, or `timeout` shorter",
        );
    }
    HealthCheck {
        path: file.path.scalar().map(|CheckPath(path)| path.clone()),
        interval,
        timeout,
        healthy_after: count(&file.healthy_after, default.healthy_after, &(1..=MOST_CHECKS), findings),
        unhealthy_after: count(&file.unhealthy_after, default.unhealthy_after, &(1..=MOST_CHECKS), findings),
    }
}

/// The warm-up, if the route has one.
pub(super) fn warm_up(file: &Written<WarmUpFile>, findings: &Findings) -> Option<WarmUp> {
    let (spot, file) = file.good()?;
    let CheckPath(path) = file.path.or(CheckPath(DEFAULT_WARM_UP_PATH.to_owned()));
    let golden = golden(spot, file, findings);
    let calls = count(&file.calls, DEFAULT_CALLS, &(1..=MOST_CALLS), findings);
    let timeout = positive(&file.timeout, DEFAULT_CALL_TIMEOUT, findings);
    let signature = signature(file, findings);
    Some(WarmUp { path, golden: golden?, signature, calls, timeout })
}

fn signature(file: &WarmUpFile, findings: &Findings) -> Signature {
    if let (Some(spot), Written::Absent) = (file.signature.spot(), &file.model) {
        findings.error(
            spot,
            "`signature` is compared in model descriptions, and no `model` says where they are",
            "write `model: /v1/model`, or remove `signature`",
        );
    }
    file.signature.value().copied().unwrap_or_default()
}

fn golden(spot: &Spot, file: &WarmUpFile, findings: &Findings) -> Option<Golden> {
    let way_out = "write `model: /v1/model` for the endpoint's own examples, or list some under `examples`";
    match (&file.model, &file.examples) {
        (Written::Absent, Written::Absent) => {
            findings.error(spot, "nothing says what an endpoint must answer", way_out);
            None
        }
        (model, Written::Absent) => model.scalar().map(|CheckPath(path)| Golden::Model(path.clone())),
        (Written::Absent, examples) => {
            let given = items(examples.good(), way_out, findings);
            at_most(&given, MOST_EXAMPLES, "examples", findings);
            Some(Golden::Examples(given.into_iter().filter_map(|(spot, file)| example(spot, file, findings)).collect()))
        }
        (_, _) => {
            findings.error(
                spot,
                "`model` and `examples` cannot both say what an endpoint must answer",
                "keep one of them",
            );
            None
        }
    }
}

fn example(spot: &Spot, file: &ExampleFile, findings: &Findings) -> Option<Example> {
    let body =
        required(&file.body, "body", spot, "write what is posted, such as `body: '{\"distance_km\": 4.2}'`", findings);
    let Factor(tolerance) = file.tolerance.or(Factor(DEFAULT_TOLERANCE));
    if let (Some(spot), Written::Absent) = (file.tolerance.spot(), &file.expect) {
        findings.error(spot, "`tolerance` is there, and no `expect` that it belongs to", "add `expect`, or remove it");
    }
    let JsonBody(body) = body?.1.0.clone();
    Some(Example { body, expect: file.expect.scalar().map(|SignedNumber(number)| *number), tolerance })
}

/// How long an endpoint that came up is favoured less.
pub(super) fn slow_start(file: &RouteFile, findings: &Findings) -> Duration {
    let slow_start = file.slow_start.or(DEFAULT_SLOW_START);
    if let (Some((spot, _)), true) = (file.slow_start.good(), slow_start > LONG_SLOW_START) {
        let what = format!(
            "an endpoint that came up has less than its part of the requests for {}",
            print_duration(slow_start)
        );
        findings.warning(spot, what, "write seconds or minutes, such as 30s");
    }
    slow_start
}

/// When an endpoint sits out, with the defaults for what is left out.
pub(super) fn ejection(file: &Written<EjectionFile>, findings: &Findings) -> Ejection {
    let default = Ejection::default();
    let Some(file) = file.value() else { return default };
    let base_time = positive(&file.base_time, default.base_time, findings);
    let max_time = positive(&file.max_time, default.max_time, findings);
    if let (Some(spot), true) = (file.max_time.spot().or(file.base_time.spot()), max_time < base_time) {
        let what = format!(
            "`max_time` ({}) is shorter than `base_time` ({})",
            print_duration(max_time),
            print_duration(base_time)
        );
        findings.error(spot, what, "make `max_time` the longer one");
    }
    let any = 0..=u32::MAX;
    Ejection {
        consecutive_failures: count(&file.consecutive_failures, default.consecutive_failures, &any, findings),
        success_rate_deviations: factor(
            &file.success_rate_deviations,
            default.success_rate_deviations,
            0.0..=10.0,
            "0 to 10, such as 1.9 (0 turns it off)",
            findings,
        ),
        success_rate_requests: count(
            &file.success_rate_requests,
            default.success_rate_requests,
            &(1..=u32::MAX),
            findings,
        ),
        interval: positive(&file.interval, default.interval, findings),
        base_time,
        max_time,
        max_ejected_ppm: file.max_ejected.scalar().map_or(default.max_ejected_ppm, |share| share.ppm()),
    }
}
