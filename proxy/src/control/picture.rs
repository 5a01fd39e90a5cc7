//! One route as people see it, made from everything that the loop knows of it.
//!
//! Line: (controlled, window, endpoints) ► **picture** ► view.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::VersionId;
use pointsman_rollout::{Forecast, GateSummary, Measure, Quarantined, Status, Summary, Time, WayBack};

use super::actuator::Report;
use super::controlled::ControlledRoute;
use super::window::{self, LONGEST, Window};
use crate::view::{
    AcknowledgedView, AnalysisView, DecisionLine, DifferenceView, EndpointView, EvidenceView, GateView,
    LiveServiceView, MirrorView, QuarantineView, RollbackReadyView, RouteView, VersionView, WeightView,
};

/// The span of observed weights and requests per second.
const SHORT: Duration = Duration::from_secs(10);

/// What the picture takes from beside the route.
#[derive(Debug)]
pub(crate) struct Beside {
    /// By version.
    pub(crate) endpoints: BTreeMap<VersionId, Endpoints>,
    /// The newest decision.
    pub(crate) last_decision: Option<DecisionLine>,
    pub(crate) mirror: Option<MirrorView>,
    /// Whether most users cannot be told apart any more.
    pub(crate) users_saturated: bool,
}

/// A version's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) views: Vec<EndpointView>,
    /// How often one was ejected.
    pub(crate) ejections: u64,
}

/// The route at `now`.
pub(crate) fn of(route: &ControlledRoute, mut beside: Beside, now: Time) -> RouteView {
    let status = route.status(now);
    let versions = route.route().versions.keys();
    let views = versions
        .map(|name| (name.clone(), version(route, name, beside.endpoints.remove(name).unwrap_or_default(), now)));
    RouteView {
        name: route.route().name.clone(),
        versions: views.collect(),
        weights: weights(route, now),
        analysis: analysis(&status, route),
        last_decision: beside.last_decision,
        mirror: beside.mirror.map(Box::new),
        live_service: live_service(route).map(Box::new),
        rollback_ready: route.way_back().map(rollback_ready).map(Box::new),
        acknowledged: acknowledged(route),
        phase: status.phase.as_str().to_owned(),
        stable: status.stable,
        canary: status.canary,
        step: status.step.map(|step| count(step) + 1),
        steps: status.steps.map(count),
        since_s: status.since.as_secs_f64(),
        next: status.next,
        why: why(status.why, [route.cut_in_words(), beside.users_saturated.then(|| SATURATED.to_owned())]),
        gates: status.gates.into_iter().map(gate).collect(),
        quarantined: status.quarantined.into_iter().map(quarantine).collect(),
    }
}

fn live_service(route: &ControlledRoute) -> Option<LiveServiceView> {
    let service = route.route().live_service.as_ref()?.service.clone();
    let report = route.report();
    let seen = report.and_then(|report| report.seen.as_ref());
    Some(LiveServiceView {
        service,
        selected: seen.map(|seen| seen.selected.in_words().to_owned()),
        ready: seen.and_then(|seen| seen.ready).map_or(0, count),
        agreed: seen.is_some_and(|seen| seen.agreed),
        foreign: seen
            .and_then(|seen| seen.foreign.as_ref())
            .map(|foreign| format!("{}, by {}", foreign.what, foreign.by)),
        problem: report.and_then(problem),
    })
}

fn problem(report: &Report) -> Option<String> {
    let lost = || report.lost.as_ref().map(|why| format!("it is shown as it was last seen: {why}"));
    let is_unheard = report.seen.as_ref().is_some_and(|seen| seen.ready.is_none());
    let unheard = || is_unheard.then(|| "its slices are not heard, so whom it reaches is not known".to_owned());
    report.problem.clone().or_else(lost).or_else(unheard)
}

fn acknowledged(route: &ControlledRoute) -> Option<AcknowledgedView> {
    let around = route.around();
    Some(AcknowledgedView { applied: count(around.applied?), edges: count(around.edges) })
}

fn rollback_ready(way_back: &WayBack) -> RollbackReadyView {
    let expected_ms = match way_back {
        WayBack::Proven { took } => Some(took.as_secs_f64() * 1_000.0),
        WayBack::Unproven { .. } => None,
    };
    let why = way_back.doubt().unwrap_or_default().to_owned();
    RollbackReadyView { ready: expected_ms.is_some(), why, expected_ms }
}

/// What it means that the places for users are taken.
const SATURATED: &str = "saturated: more than half of the 65,536 places that tell users apart are taken, so most errors of \
                         further users are counted by request only; a new revision, or `pointsman retry`, begins anew";

/// What the phase says, and what else there is to say.
fn why(phase: String, besides: [Option<String>; 2]) -> String {
    let said = std::iter::once(phase).filter(|phase| !phase.is_empty()).chain(besides.into_iter().flatten());
    said.collect::<Vec<_>>().join("; ")
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn gate(gate: GateSummary) -> GateView {
    GateView {
        outcome: gate.outcome.as_str().to_owned(),
        gate: gate.gate,
        words: gate.words,
        for_s: gate.for_seconds,
        observed_s_ago: gate.observed_seconds_ago,
    }
}

fn quarantine(held: Quarantined) -> QuarantineView {
    QuarantineView { version: held.version, revision: held.revision, why: held.why }
}

fn weights(route: &ControlledRoute, now: Time) -> BTreeMap<VersionId, WeightView> {
    let asked = route.asked();
    // What testers force onto a version shifts no weight.
    let assigned = |version: &VersionId| route.window(version).map_or(0, |window| window.last(SHORT, now).split);
    let all: u64 = route.route().versions.keys().map(assigned).sum();
    let weight = |version: &VersionId| WeightView {
        desired: asked.share_of(version).percent(),
        effective: route.applied().share_of(version).percent(),
        observed: window::ratio(assigned(version), all).map(|ratio| ratio * 100.0),
    };
    route.route().versions.keys().map(|version| (version.clone(), weight(version))).collect()
}

fn version(route: &ControlledRoute, name: &VersionId, endpoints: Endpoints, now: Time) -> VersionView {
    let revision = route.route().versions.get(name).and_then(|version| version.revision.clone());
    let empty = VersionView {
        requests: 0,
        errors: 0,
        error_rate: None,
        requests_per_second: 0.0,
        p50_ms: None,
        p95_ms: None,
        p99_ms: None,
        revision,
        ejections: endpoints.ejections,
        endpoints: endpoints.views,
    };
    route.window(name).map_or_else(|| empty.clone(), |window| with_traffic(empty.clone(), route, window, now))
}

fn with_traffic(empty: VersionView, route: &ControlledRoute, window: &Window, now: Time) -> VersionView {
    let policy = route.error_policy();
    let late = window.last(LONGEST, now);
    VersionView {
        requests: window::answers(window.totals()),
        errors: window::errors(window.totals(), policy),
        error_rate: window::ratio(window::errors(&late, policy), window::answers(&late)),
        requests_per_second: window.rate(SHORT, now),
        p50_ms: window::latency_ms(&late, 0.50),
        p95_ms: window::latency_ms(&late, 0.95),
        p99_ms: window::latency_ms(&late, 0.99),
        ..empty
    }
}

fn analysis(status: &Status, route: &ControlledRoute) -> AnalysisView {
    let (summary, alone) = (route.summary(), route.judged_alone());
    let mirror = summary.and_then(|summary| summary.mirror.clone());
    let Some(summary) = summary.filter(|_| status.comparing) else {
        let test = alone.map(|alone| ("absolute".to_owned(), measure(alone.evidence)));
        let evidence = test.into_iter().collect();
        return AnalysisView { verdict: "none".to_owned(), mirror, alone, evidence, ..AnalysisView::default() };
    };
    let difference = summary.error_rate_difference.map(|found| DifferenceView {
        low: found.low,
        estimate: found.estimate,
        high: found.high,
    });
    AnalysisView {
        verdict: summary.verdict.as_str().to_owned(),
        reason: summary.verdict.reason().to_owned(),
        error_rate_difference: difference,
        evidence: evidence(summary),
        forecast: summary.forecast.as_ref().map(in_words),
        mirror,
        alone,
        summary: Some(Box::new(summary.clone())),
    }
}

fn evidence(summary: &Summary) -> BTreeMap<String, EvidenceView> {
    summary.tests().into_iter().map(|(name, test)| (name.to_owned(), measure(test))).collect()
}

fn measure(test: Measure) -> EvidenceView {
    EvidenceView { log_e: test.log_e, limit: test.limit }
}

fn in_words(forecast: &Forecast) -> String {
    format!("{} more requests to the canary, {:.0} s at this weight", forecast.requests, forecast.seconds.ceil())
}
