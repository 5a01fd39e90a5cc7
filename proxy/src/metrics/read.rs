//! How each metric is read from the view.

use pointsman_config::{RouteName, VersionId};
use pointsman_rollout::{Decision, Outcome as GateOutcome, PhaseName};
use pointsman_telemetry::buckets::LATENCY_SECONDS;
use prometheus::proto;

use super::{Sample, Scrape, Value};
use crate::mirror::books::{CopyCounts, MirrorResult};
use crate::outcome::Outcome;
use crate::recorder::Counts;
use crate::retry::books::{RetryCounts, RetryResult};
use crate::tls::{self, FileStatus};
use crate::view::{EndpointView, EvidenceView, GateView, RouteView, VersionView};

impl Sample {
    pub(super) fn number<const N: usize>(labels: [&str; N], value: f64) -> Self {
        Self { labels: labels.map(str::to_owned).to_vec(), value: Value::Number(value) }
    }
}

/// A count as the floating-point number that the text format writes.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts stay far below 2^53; std has no lossless conversion"
)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

pub(super) fn requests(scrape: &Scrape<'_>) -> Vec<Sample> {
    counted(scrape).flat_map(|(route, version, counts)| by_outcome(route, version, counts)).collect()
}

fn by_outcome<'a>(
    route: &'a RouteName,
    version: &'a VersionId,
    counts: &'a Counts,
) -> impl Iterator<Item = Sample> + 'a {
    Outcome::ALL
        .into_iter()
        .zip(counts.outcomes)
        .map(|(outcome, count)| Sample::number([route.as_str(), version.as_str(), outcome.as_str()], number(count)))
}

pub(super) fn retries(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_retries(scrape, |counts| {
        RetryResult::ALL.into_iter().zip(counts.results).map(|(result, count)| (result.as_str(), count)).collect()
    })
}

pub(super) fn stale_connections(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_retries(scrape, |counts| vec![("excused", counts.stale_excused), ("charged", counts.stale_charged)])
}

fn by_retries(scrape: &Scrape<'_>, read: fn(&RetryCounts) -> Vec<(&'static str, u64)>) -> Vec<Sample> {
    let of_version = |(route, version, counts): (&RouteName, &VersionId, &RetryCounts)| -> Vec<Sample> {
        let sample = |(result, count)| Sample::number([route.as_str(), version.as_str(), result], number(count));
        read(counts).into_iter().map(sample).collect()
    };
    let all = scrape.view.retries.iter();
    all.flat_map(|(route, versions)| versions.iter().map(move |(version, counts)| (route, version, counts)))
        .flat_map(of_version)
        .collect()
}

pub(super) fn refusals(scrape: &Scrape<'_>) -> Vec<Sample> {
    let by_code = scrape.view.refusals.iter().flat_map(|(route, codes)| codes.iter().map(move |told| (route, told)));
    let route_name = |route: &Option<RouteName>| route.as_ref().map(RouteName::to_string).unwrap_or_default();
    by_code.map(|(route, (code, count))| Sample::number([&route_name(route), code], number(*count))).collect()
}

pub(super) fn mirrored(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_copies = |(route, copies): (&RouteName, &CopyCounts)| {
        MirrorResult::ALL
            .into_iter()
            .zip(copies.results)
            .map(|(result, count)| {
                Sample::number([route.as_str(), copies.version.as_str(), result.as_str()], number(count))
            })
            .collect::<Vec<_>>()
    };
    copies(scrape).flat_map(of_copies).collect()
}

pub(super) fn mirror_durations(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_copies = |(route, copies): (&RouteName, &CopyCounts)| {
        [("stable", &copies.stable), ("copy", &copies.copy)].map(|(side, times)| Sample {
            labels: vec![route.to_string(), copies.version.to_string(), side.to_owned()],
            value: Value::Histogram(histogram(&times.histogram, times.sum_us)),
        })
    };
    copies(scrape).flat_map(of_copies).collect()
}

fn copies<'a>(scrape: &Scrape<'a>) -> impl Iterator<Item = (&'a RouteName, &'a CopyCounts)> {
    let routes = scrape.view.mirrors.iter();
    routes.flat_map(|(route, counts)| counts.copies.iter().map(move |copies| (route, copies)))
}

pub(super) fn durations(scrape: &Scrape<'_>) -> Vec<Sample> {
    counted(scrape)
        .map(|(route, version, counts)| Sample {
            labels: vec![route.to_string(), version.to_string()],
            value: Value::Histogram(histogram(&counts.histogram, counts.sum_us)),
        })
        .collect()
}

fn counted<'a>(scrape: &Scrape<'a>) -> impl Iterator<Item = (&'a RouteName, &'a VersionId, &'a Counts)> {
    let view = scrape.view;
    view.counts
        .iter()
        .flat_map(|(route, versions)| versions.iter().map(move |(version, counts)| (route, version, counts)))
}

/// Buckets counted apart become buckets that each hold all faster ones, as Prometheus wants them. The encoder writes
/// the last one, +Inf, from the count.
fn histogram(by_bucket: &[u64], sum_us: u64) -> proto::Histogram {
    let mut below = 0;
    let buckets = LATENCY_SECONDS.iter().copied().zip(by_bucket).map(|(edge, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(edge);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(by_bucket.iter().sum());
    histogram.set_sample_sum(number(sum_us) / 1e6);
    histogram
}

pub(super) fn weights(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| -> Vec<Sample> {
        let lines = route.weights.iter().flat_map(|(version, weight)| {
            [("desired", Some(weight.desired)), ("effective", Some(weight.effective)), ("observed", weight.observed)]
                .into_iter()
                .filter_map(move |(kind, percent)| {
                    Some(Sample::number([route.name.as_str(), version.as_str(), kind], percent? / 100.0))
                })
        });
        lines.collect()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn phases(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| {
        PhaseName::ALL
            .map(|phase| Sample::number([route.name.as_str(), phase.as_str()], flag(route.phase == phase.as_str())))
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn gates(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| {
        let of_gate = |gate: &GateView| {
            GateOutcome::ALL.map(|outcome| {
                let labels = [route.name.as_str(), gate.gate.as_str(), outcome.as_str()];
                Sample::number(labels, flag(gate.outcome == outcome.as_str()))
            })
        };
        route.gates.iter().flat_map(of_gate).collect::<Vec<_>>()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn decisions(scrape: &Scrape<'_>) -> Vec<Sample> {
    let counted = &scrape.view.decisions;
    let of_route = |route: &RouteView| {
        Decision::ALL.map(|decision| {
            let count = counted.get(&(route.name.clone(), decision.as_str())).copied().unwrap_or_default();
            Sample::number([route.name.as_str(), decision.as_str()], number(count))
        })
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn evidence(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_test(scrape, |test| test.log_e)
}

pub(super) fn evidence_limits(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_test(scrape, |test| Some(test.limit))
}

fn by_test(scrape: &Scrape<'_>, value: fn(&EvidenceView) -> Option<f64>) -> Vec<Sample> {
    let of_route = |route: &RouteView| -> Vec<Sample> {
        let tests = route.analysis.evidence.iter();
        tests.filter_map(|(test, seen)| Some(Sample::number([route.name.as_str(), test], value(seen)?))).collect()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn rollback_ready(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| {
        let proven = route.rollback_ready.as_ref()?;
        Some(Sample::number([route.name.as_str()], flag(proven.ready)))
    };
    scrape.view.routes.iter().filter_map(of_route).collect()
}

pub(super) fn rollback_expected(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| {
        let expected_ms = route.rollback_ready.as_ref()?.expected_ms?;
        Some(Sample::number([route.name.as_str()], expected_ms / 1_000.0))
    };
    scrape.view.routes.iter().filter_map(of_route).collect()
}

pub(super) fn quarantined(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| -> Vec<Sample> {
        let is_held = |version: &VersionId| route.quarantined.iter().any(|held| held.version == *version);
        route
            .versions
            .keys()
            .map(|version| Sample::number([route.name.as_str(), version.as_str()], flag(is_held(version))))
            .collect()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn endpoints_up(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_endpoint(scrape, |endpoint| flag(endpoint.state == "up"))
}

pub(super) fn ejections(scrape: &Scrape<'_>) -> Vec<Sample> {
    let of_route = |route: &RouteView| -> Vec<Sample> {
        let versions = route.versions.iter();
        let line = |(version, seen): (&VersionId, &VersionView)| {
            Sample::number([route.name.as_str(), version.as_str()], number(seen.ejections))
        };
        versions.map(line).collect()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn endpoints_in_flight(scrape: &Scrape<'_>) -> Vec<Sample> {
    by_endpoint(scrape, |endpoint| f64::from(endpoint.in_flight))
}

fn by_endpoint(scrape: &Scrape<'_>, value: fn(&EndpointView) -> f64) -> Vec<Sample> {
    let of_route = |route: &RouteView| -> Vec<Sample> {
        let lines = route.versions.iter().flat_map(|(version, seen)| {
            let one = move |endpoint: &EndpointView| {
                Sample::number([route.name.as_str(), version.as_str(), &endpoint.address], value(endpoint))
            };
            seen.endpoints.iter().map(one)
        });
        lines.collect()
    };
    scrape.view.routes.iter().flat_map(of_route).collect()
}

pub(super) fn reloads(scrape: &Scrape<'_>) -> Vec<Sample> {
    let config = &scrape.view.config;
    vec![Sample::number(["ok"], number(config.reloads_ok)), Sample::number(["failed"], number(config.reloads_failed))]
}

pub(super) fn log_lines(scrape: &Scrape<'_>) -> Vec<Sample> {
    let observed = scrape.view.observed;
    vec![
        Sample::number(["written"], number(observed.lines_written)),
        Sample::number(["dropped"], number(observed.lines_dropped)),
    ]
}

pub(super) fn spans(scrape: &Scrape<'_>) -> Vec<Sample> {
    let observed = scrape.view.observed;
    vec![
        Sample::number(["exported"], number(observed.spans_exported)),
        Sample::number(["dropped"], number(observed.spans_dropped)),
    ]
}

pub(super) fn notifications(scrape: &Scrape<'_>) -> Vec<Sample> {
    let fates = scrape.view.notifications.iter().flat_map(|hook| {
        [("delivered", hook.delivered), ("given_up", hook.given_up), ("dropped", hook.dropped)]
            .map(|(result, count)| Sample::number([hook.name.as_str(), result], number(count)))
    });
    fates.collect()
}

pub(super) fn notification_retries(scrape: &Scrape<'_>) -> Vec<Sample> {
    let hooks = scrape.view.notifications.iter();
    hooks.map(|hook| Sample::number([hook.name.as_str()], number(hook.retries))).collect()
}

pub(super) fn notifications_waiting(scrape: &Scrape<'_>) -> Vec<Sample> {
    let hooks = scrape.view.notifications.iter();
    hooks.map(|hook| Sample::number([hook.name.as_str()], number(hook.waiting))).collect()
}

pub(super) fn generation(scrape: &Scrape<'_>) -> Vec<Sample> {
    vec![Sample::number([], number(scrape.view.config.generation))]
}

pub(super) fn leader(scrape: &Scrape<'_>) -> Vec<Sample> {
    let leads = scrape.view.replicas.as_ref().is_none_or(|replicas| replicas.role == "leader");
    vec![Sample::number([], flag(leads))]
}

pub(super) fn replicas(scrape: &Scrape<'_>) -> Vec<Sample> {
    // Only the leader knows others; everybody else has none to tell of.
    let others = || scrape.view.replicas.iter().flat_map(|view| &view.replicas);
    let heard = others().filter(|replica| replica.heard).count();
    let counts = [("heard", heard), ("silent", others().count() - heard)];
    counts.map(|(state, count)| Sample::number([state], number(u64::try_from(count).unwrap_or(u64::MAX)))).to_vec()
}

pub(super) fn stood_still(scrape: &Scrape<'_>) -> Vec<Sample> {
    vec![Sample::number([], scrape.view.stood_still.as_secs_f64())]
}

pub(super) fn certificate_ends(_: &Scrape<'_>) -> Vec<Sample> {
    let ends = |status: &FileStatus| {
        let seconds = u64::try_from(status.not_after).ok().filter(|_| status.not_after < i64::MAX)?;
        Some(Sample::number([status.file.as_str()], number(seconds)))
    };
    tls::statuses().iter().filter_map(ends).collect()
}

pub(super) fn certificate_stale(_: &Scrape<'_>) -> Vec<Sample> {
    tls::statuses().iter().map(|status| Sample::number([status.file.as_str()], flag(!status.usable))).collect()
}

pub(super) fn refused(scrape: &Scrape<'_>) -> Vec<Sample> {
    vec![Sample::number([], flag(scrape.view.config.last_error.is_some()))]
}

pub(super) fn state_problem(scrape: &Scrape<'_>) -> Vec<Sample> {
    vec![Sample::number([], flag(scrape.view.state.problem.is_some()))]
}

pub(super) fn build_info(_: &Scrape<'_>) -> Vec<Sample> {
    vec![Sample::number([env!("CARGO_PKG_VERSION")], 1.0)]
}
