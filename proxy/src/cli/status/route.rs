//! One route, in full.

use anstyle::Style;
use pointsman_config::VersionId;
use time::OffsetDateTime;

use super::table::{phase_style, stable_first};
use crate::asking::is_freeze;
use crate::cli::words::{
    BAD, BOLD, CAREFUL, DIM, GOOD, Say, ago, alone, copies, latency, moment, odds, paint, percent, percent_in_text,
    question, rates, signed_points, span, split, weight, wrapped,
};
use crate::view::{
    AcknowledgedView, AnalysisView, DecisionLine, EvidenceView, GateView, QuarantineView, RouteView, VersionView,
    WeightView,
};

/// Width of the labels at the left, the two spaces before them included.
const LABELS: usize = 13;
/// Width of a bar that shows a split.
const BAR: usize = 32;

/// Everything about one route.
pub(super) fn block(route: &RouteView, now: OffsetDateTime) -> String {
    let mut page = headline(route);
    page.push_str(&labelled("why", &route.why));
    page.push_str(&who(route));
    page.push('\n');
    page.push_str(&splits(route));
    page.push('\n');
    page.push_str(&versions(route));
    page.push_str(&endpoints(route));
    page.push_str(&comparison(route));
    page.push_str(&judged_alone(route));
    page.push_str(&labelled("copies", &mirrored(route)));
    page.push_str(&gates(route));
    page.push_str(&quarantine(route));
    page.push_str(&live_service(route));
    page.push('\n');
    page.push_str(&labelled("next", &route.next));
    page.push_str(&choices(route));
    page.push_str(&last_decision(route, now));
    page
}

fn headline(route: &RouteView) -> String {
    let step = match (route.step, route.steps) {
        (Some(step), Some(steps)) => format!(", step {step} of {steps}"),
        (Some(step), None) => format!(", step {step}"),
        (None, _) => String::new(),
    };
    let phase = paint(phase_style(&route.phase), &route.phase.replace('_', " "));
    format!("{}: {phase}{step}, for {}\n", paint(BOLD, route.name.as_str()), span(route.since_s))
}

/// A label and its text, wrapped behind it; nothing for an empty text.
fn labelled(label: &str, text: &str) -> String {
    labelled_in(Style::new(), label, text)
}

/// The same with the text in `style`, which takes no room.
fn labelled_in(style: Style, label: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut page = String::new();
    for (place, line) in wrapped(text, LABELS).iter().enumerate() {
        let label = if place == 0 { left(label) } else { left("") };
        page.say(format_args!("{label}{}\n", paint(style, line)));
    }
    page
}

/// The left column.
fn left(label: &str) -> String {
    paint(DIM, &format!("  {label:<width$}", width = LABELS - 2))
}

/// What others say about the canary.
fn gates(route: &RouteView) -> String {
    gates_in_words(route).iter().map(|(style, text)| labelled_in(*style, "gate", text)).collect()
}

/// The same without labels, a text for each.
pub(super) fn gates_in_words(route: &RouteView) -> Vec<(Style, String)> {
    let line = |seen: &GateView| {
        let style = match seen.outcome.as_str() {
            "passes" => Style::new(),
            "fails" => BAD,
            _ => CAREFUL,
        };
        let looked = seen.observed_s_ago.map_or_else(String::new, |ago| format!(", seen {} ago", span(ago)));
        (style, format!("{} {} for {}{looked}: {}", seen.gate, seen.outcome, span(seen.for_s), seen.words))
    };
    route.gates.iter().map(line).collect()
}

/// What serves, and what is tried.
fn who(route: &RouteView) -> String {
    let named = |version: &VersionId| match route.versions.get(version).and_then(|seen| seen.revision.as_ref()) {
        Some(revision) => format!("{version}, revision {revision}"),
        None => version.to_string(),
    };
    let tried = on_trial(route).map(named).unwrap_or_default();
    let label = if matches!(route.phase.as_str(), "rolling_back" | "rolled_back") { "taken back" } else { "on trial" };
    labelled("serving", &named(&route.stable)) + &labelled(label, &tried)
}

/// The canary, as long as it is not the version in production.
pub(super) fn on_trial(route: &RouteView) -> Option<&VersionId> {
    route.canary.as_ref().filter(|canary| **canary != route.stable)
}

/// The three splits as bars; a single one where there is nothing to divide.
fn splits(route: &RouteView) -> String {
    let shown = shown_versions(route);
    let kinds: [(&str, Weigh); 3] = [
        ("desired", |seen| Some(seen.desired)),
        ("effective", |seen| Some(seen.effective)),
        ("observed", |seen| seen.observed),
    ];
    kinds.iter().map(|(label, kind)| bar(route, &shown, label, *kind)).collect()
}

/// One of the three weights.
pub(super) type Weigh = fn(&WeightView) -> Option<f64>;

/// Versions that have or shall have traffic.
fn shown_versions(route: &RouteView) -> Vec<&VersionId> {
    let has_weight = |version: &&VersionId| {
        let weights = route.weights.get(*version);
        weights.is_some_and(|seen| {
            seen.desired > 0.0 || seen.effective > 0.0 || seen.observed.is_some_and(|percent| percent > 0.0)
        })
    };
    let trial = |version: &&VersionId| **version == route.stable || Some(*version) == route.canary.as_ref();
    stable_first(route).into_iter().filter(|version| has_weight(version) || trial(version)).collect()
}

fn bar(route: &RouteView, versions: &[&VersionId], label: &str, kind: Weigh) -> String {
    let share = |version: &VersionId| route.weights.get(version).and_then(kind);
    let Some(stable) = share(&route.stable) else {
        return labelled(label, "no traffic in the last 10 s");
    };
    let exact = if label == "observed" { |share: f64| percent_in_text(share / 100.0) } else { weight };
    let shares: Vec<String> =
        versions.iter().map(|version| format!("{version} {}", exact(share(version).unwrap_or_default()))).collect();
    let cells = cells(stable, BAR);
    let (full, light) = ("█".repeat(cells), "░".repeat(BAR - cells));
    format!("{}{}{}  {}\n", left(label), paint(GOOD, &full), paint(CAREFUL, &light), shares.join("  "))
}

/// How many of `room` cells stand for `percent` of traffic: all only for all, none only for none.
pub(super) fn cells(percent: f64, room: usize) -> usize {
    let whole = f64::from(u32::try_from(room).unwrap_or(u32::MAX));
    let exact = (percent / 100.0 * whole).round();
    let wanted = if percent >= 100.0 {
        whole
    } else if percent <= 0.0 {
        0.0
    } else {
        exact.clamp(1.0_f64.min(whole), (whole - 1.0).max(0.0))
    };
    (0..=room).rev().find(|count| f64::from(u32::try_from(*count).unwrap_or(u32::MAX)) <= wanted).unwrap_or_default()
}

/// Rates and latencies by version.
fn versions(route: &RouteView) -> String {
    let shown = stable_first(route);
    let name = |version: &VersionId| format!("{version}{}", role(route, version));
    let names =
        shown.iter().map(|version| name(version).chars().count()).max().unwrap_or_default().max("last 60 s".len());
    let head = format!(
        "  {:<names$} {:>10} {:>8} {:>8} {:>8} {:>8}  {}",
        "last 60 s", "requests/s", "errors", "p50", "p95", "p99", "endpoints"
    );
    let mut page = format!("{}\n", paint(DIM, &head));
    for version in shown {
        if let Some(seen) = route.versions.get(version) {
            page.push_str(&version_line(&format!("{:<names$}", name(version)), seen));
        }
    }
    page
}

fn role(route: &RouteView, version: &VersionId) -> &'static str {
    if *version == route.stable {
        " stable"
    } else if Some(version) == route.canary.as_ref() {
        " canary"
    } else {
        ""
    }
}

fn version_line(name: &str, seen: &VersionView) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rate = seen.requests_per_second;
    let rate = if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") };
    let errors = or_dash(seen.error_rate.map(percent));
    let [p50, p95, p99] = [seen.p50_ms, seen.p95_ms, seen.p99_ms].map(|quantile| or_dash(quantile.map(latency)));
    let up = seen.endpoints.iter().filter(|endpoint| endpoint.state == "up").count();
    let all = seen.endpoints.iter().filter(|endpoint| endpoint.state != "draining").count();
    let endpoints = paint(if up == all { GOOD } else { BAD }, &format!("{up} of {all} up"));
    format!("  {} {rate:>10} {errors:>8} {p50:>8} {p95:>8} {p99:>8}  {endpoints}\n", paint(BOLD, name))
}

/// Endpoints that are not up, and why.
fn endpoints(route: &RouteView) -> String {
    let mut page = String::new();
    for version in stable_first(route) {
        let Some(seen) = route.versions.get(version) else { continue };
        for endpoint in seen.endpoints.iter().filter(|endpoint| endpoint.state != "up") {
            let problem = endpoint.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            page.push_str(&labelled(
                "not up",
                &format!("{version} {} is {}{problem}", endpoint.address, endpoint.state),
            ));
        }
    }
    page
}

/// Is the canary worse?
fn comparison(route: &RouteView) -> String {
    let analysis = &route.analysis;
    let Some(canary) = on_trial(route).filter(|_| !matches!(analysis.verdict.as_str(), "" | "none")) else {
        return String::new();
    };
    let verdict = verdict(analysis, canary, &route.stable);
    let mut page = format!("\n{}", labelled_in(verdict_style(analysis), "worse?", &verdict));
    page.push_str(&labelled("", &difference(analysis, canary, &route.stable)));
    let drawn = analysis.summary.as_ref().and_then(|summary| split(canary.as_str(), &summary.split?));
    page.push_str(&labelled("split", &drawn.unwrap_or_default()));
    page.push_str(&evidence(analysis, &route.stable));
    page.push_str(&labelled("forecast", analysis.forecast.as_deref().unwrap_or_default()));
    page
}

/// How a canary does that is judged by itself.
fn judged_alone(route: &RouteView) -> String {
    let canary = on_trial(route).map_or("the canary", VersionId::as_str);
    let seen = route.analysis.alone.as_ref().map(|seen| alone(canary, seen));
    let compared = !matches!(route.analysis.verdict.as_str(), "" | "none");
    let odds = if compared { String::new() } else { evidence(&route.analysis, &route.stable) };
    seen.map(|seen| labelled("limit", &seen) + &odds).unwrap_or_default()
}

/// What copies of requests showed, whether the version that got them has traffic or not.
fn mirrored(route: &RouteView) -> String {
    route.analysis.mirror.as_ref().map(|seen| copies(route.stable.as_str(), seen)).unwrap_or_default()
}

pub(super) fn verdict(analysis: &AnalysisView, canary: &VersionId, stable: &VersionId) -> String {
    match (analysis.verdict.as_str(), analysis.reason.as_str()) {
        ("rollback", "catastrophic") => format!("yes: {canary} fails most of its requests"),
        ("rollback", "error_regression") => format!("yes: {canary} fails more of its requests than {stable} does"),
        ("rollback", "latency_regression") => format!("yes: more of {canary}'s answers are slow than of {stable}'s"),
        ("rollback", "absolute_limit") => format!("yes: {canary} fails more of its requests than is ever allowed"),
        ("promote", _) => format!("no: {canary} is proven to be within the promotion margin of {stable}"),
        ("continue", "collecting") => "not decided yet; evidence is being collected".to_owned(),
        ("continue", "suspect") => format!("perhaps: something looks wrong with {canary}, not yet beyond doubt"),
        ("continue", "common_cause_hold") => "cannot be told: both fail alike, so the cause lies elsewhere".to_owned(),
        ("continue", "baseline_failing_hold") => format!("no: it is {stable} that fails; held until it recovers"),
        ("continue", "no_canary_traffic") => format!("not known: {canary} has had no request"),
        ("continue", "split_mismatch") => {
            format!(
                "cannot be told: requests are not divided as configured, so {canary} and {stable} cannot be compared"
            )
        }
        ("continue", "mirror_pending") => {
            format!("no, but it is not excluded yet that {canary} answers copied requests otherwise than {stable}")
        }
        ("continue", "mirror_disagreement") => {
            format!("it answers otherwise: {canary} disagrees with {stable} on copied requests; held")
        }
        ("continue", "gate_holds") => {
            format!("no: {canary} is proven to be within the promotion margin of {stable}; held by a gate")
        }
        ("inconclusive", _) => "not decided in time; neither was proven".to_owned(),
        (verdict, reason) => format!("{verdict} ({reason})"),
    }
}

pub(super) fn verdict_style(analysis: &AnalysisView) -> Style {
    match (analysis.verdict.as_str(), analysis.reason.as_str()) {
        ("rollback", _) => BAD,
        ("promote", _) => GOOD,
        (_, "suspect" | "common_cause_hold" | "baseline_failing_hold" | "split_mismatch" | "mirror_disagreement")
        | ("inconclusive", _) => CAREFUL,
        _ => BOLD,
    }
}

pub(super) fn difference(analysis: &AnalysisView, canary: &VersionId, stable: &VersionId) -> String {
    let Some(seen) = &analysis.error_rate_difference else { return String::new() };
    let confidence = analysis.summary.as_ref().map_or(0.99, |summary| summary.confidence);
    format!(
        "{} ({} sure: between {} and {} points)",
        rates(canary.as_str(), stable.as_str(), [seen.low, seen.estimate, seen.high]),
        percent_in_text(confidence),
        signed_points(seen.low),
        signed_points(seen.high)
    )
}

/// How far each test is from deciding: its odds, and the odds that it takes.
fn evidence(analysis: &AnalysisView, stable: &VersionId) -> String {
    let rows: Vec<(String, &EvidenceView)> =
        analysis.evidence.iter().map(|(test, seen)| (question(test, stable.as_str()), seen)).collect();
    let width = rows.iter().map(|(question, _)| question.chars().count()).max().unwrap_or_default();
    let mut page = String::new();
    for (place, (question, seen)) in rows.iter().enumerate() {
        let label = if place == 0 { "odds" } else { "" };
        let held = seen.log_e.map_or_else(|| "none".to_owned(), odds);
        page.say(format_args!("{}{question:<width$} {held:>15}, decides at {}\n", left(label), odds(seen.limit)));
    }
    page
}

/// The Service that follows the rollout, whether there is a way back, and how many edges have heard.
pub(in crate::cli) fn live_service(route: &RouteView) -> String {
    let Some(live) = &route.live_service else { return String::new() };
    let slices = if live.agreed { "all of its slices agree" } else { "its slices do not agree yet" };
    let mut text = match &live.selected {
        Some(selects) => format!("{} selects {selects}; {slices}, {} ready", live.service, live.ready),
        None => format!("{} was not seen yet", live.service),
    };
    for more in [&live.foreign, &live.problem].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    let mut page = format!("\n{}", labelled("service", &text));
    if let Some(proven) = &route.rollback_ready {
        let (style, way_back) = match proven.expected_ms {
            Some(expected) => {
                (Style::new(), format!("proven: {expected:.0} ms until every edge and the Service have it"))
            }
            None => (CAREFUL, format!("not proven, so nothing is promoted: {}", proven.why)),
        };
        page.push_str(&labelled_in(style, "way back", &way_back));
    }
    if let Some(AcknowledgedView { applied, edges }) = route.acknowledged {
        let style = if applied < edges { CAREFUL } else { Style::new() };
        page.push_str(&labelled_in(style, "edges", &format!("{applied} of {edges} apply what is granted")));
    }
    page
}

fn quarantine(route: &RouteView) -> String {
    let entry = |held: &QuarantineView| {
        let revision = held.revision.as_ref().map(|revision| format!(", revision {revision}")).unwrap_or_default();
        let why = if held.why == route.why { String::new() } else { format!(": {}", held.why) };
        labelled("held at 0%", &format!("{}{revision}{why}", held.version))
    };
    let entries: String = route.quarantined.iter().map(entry).collect();
    if entries.is_empty() { entries } else { format!("\n{entries}") }
}

/// Commands that the route would obey now, and what each would do, under a label.
fn choices(route: &RouteView) -> String {
    listed(&commands(route))
}

/// Commands that the route would obey now, and what each would do.
pub(super) fn commands(route: &RouteView) -> Vec<(String, String)> {
    let (name, canary) = (&route.name, route.canary.as_ref().map_or("the canary", VersionId::as_str));
    let pause = ("pause", "stop here; the guard stays armed".to_owned());
    let promote = ("promote", format!("all traffic to {canary} now"));
    let is_frozen = route.gates.iter().any(|gate| is_freeze(&gate.gate) && gate.outcome != "passes");
    let rollback = ("rollback", format!("{canary} back to 0% now"));
    let is_foreign = route.live_service.as_ref().is_some_and(|live| live.foreign.is_some());
    let resume = ("resume", "go on".to_owned());
    if is_foreign {
        return vec![
            (format!("pointsman resume {name} --adopt"), "go on with the live Service as it is now".to_owned()),
            (format!("pointsman resume {name} --restore"), "put the live Service back, and go on".to_owned()),
            (format!("pointsman rollback {name}"), rollback.1),
        ];
    }
    let has_all =
        route.canary.as_ref().and_then(|version| route.weights.get(version)).is_some_and(|seen| seen.desired >= 100.0);
    let has_traffic =
        route.canary.as_ref().and_then(|version| route.weights.get(version)).is_some_and(|seen| seen.effective > 0.0);
    let orders = match route.phase.as_str() {
        "warming" | "shifting" => vec![pause, promote, rollback],
        "paused" if has_all => vec![resume, rollback],
        "paused" => vec![resume, promote, rollback],
        "baking" => vec![pause, rollback],
        "promoting" => vec![rollback],
        "steady" if has_traffic => vec![rollback],
        _ => Vec::new(),
    };
    let past_freeze = |verb: &str| if verb == "promote" && is_frozen { " --force --reason TEXT" } else { "" };
    let mut commands: Vec<(String, String)> = orders
        .into_iter()
        .map(|(verb, effect)| (format!("pointsman {verb} {name}{}", past_freeze(verb)), effect))
        .collect();
    commands.extend(
        route.quarantined.iter().map(|held| {
            (format!("pointsman retry {name} {}", held.version), format!("let {} start anew", held.version))
        }),
    );
    commands.extend(
        route
            .last_decision
            .as_ref()
            .map(|_| (format!("pointsman explain {name}"), "why the last decision was taken".to_owned())),
    );
    commands
}

fn listed(commands: &[(String, String)]) -> String {
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or_default();
    let lines = commands.iter().enumerate().map(|(place, (command, effect))| {
        let label = if place == 0 { "you can" } else { "" };
        format!("{}{}  {effect}\n", left(label), paint(BOLD, &format!("{command:<width$}")))
    });
    lines.collect::<Vec<String>>().concat()
}

fn last_decision(route: &RouteView, now: OffsetDateTime) -> String {
    let Some(DecisionLine { id, at, decision, sentence }) = &route.last_decision else { return String::new() };
    let head = format!("decision {id} ({}), {}{}", decision.replace('_', " "), moment(at), ago(at, now));
    labelled("last", &head) + &labelled("", sentence)
}
