//! `status --watch` into a pipe or a file: a line for each change, none for what stays as it is.

use std::collections::BTreeMap;

use pointsman_config::RouteName;
use time::OffsetDateTime;

use super::table::stable_first;
use super::{Seen, problems};
use crate::cli::words::{moment, weight};
use crate::view::RouteView;

/// What was said last of each thing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    routes: BTreeMap<RouteName, (String, Option<u64>)>,
    problems: Vec<String>,
    lost_at: Option<OffsetDateTime>,
}

impl Lines {
    /// What is new in `seen`, a line each.
    pub(super) fn news(&mut self, seen: &Seen, now: OffsetDateTime) -> String {
        let mut told = Vec::new();
        if let Some(lost_at) = self.lost_at.take() {
            told.push(format!(
                "the edge answers again, after {}",
                crate::cli::words::span((now - lost_at).as_seconds_f64())
            ));
        }
        let problems = problems(seen);
        told.extend(problems.iter().filter(|problem| !self.problems.contains(problem)).cloned());
        told.extend(
            self.problems
                .iter()
                .filter(|problem| !problems.contains(problem))
                .map(|problem| format!("no longer: {problem}")),
        );
        self.problems = problems;
        for route in &seen.routes {
            told.extend(self.of_route(route));
        }
        told.into_iter().map(|line| stamped(now, &line)).collect()
    }

    /// Nobody answers; said once.
    pub(super) fn lost(&mut self, why: &str, now: OffsetDateTime) -> String {
        if self.lost_at.is_some() {
            return String::new();
        }
        self.lost_at = Some(now);
        stamped(now, &format!("lost the edge; asking again every second: {why}"))
    }

    fn of_route(&mut self, route: &RouteView) -> Vec<String> {
        let stands = stands(route);
        let last = route.last_decision.as_ref().map(|last| last.id);
        let before = self.routes.insert(route.name.clone(), (stands.clone(), last));
        let mut told = Vec::new();
        let is_news = before.as_ref().is_some_and(|(_, known)| *known != last);
        told.extend(
            route
                .last_decision
                .as_ref()
                .filter(|_| is_news)
                .map(|last| format!("{}: decision {}, {}: {}", route.name, last.id, moment(&last.at), last.sentence)),
        );
        if before.is_none_or(|(known, _)| known != stands) {
            told.push(stands);
        }
        told
    }
}

fn stamped(now: OffsetDateTime, line: &str) -> String {
    let now = now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    format!("{} {line}\n", moment(&now))
}

/// Where a route stands, without anything that changes all the time.
fn stands(route: &RouteView) -> String {
    let step = match (route.step, route.steps) {
        (Some(step), Some(steps)) => format!(" (step {step} of {steps})"),
        (Some(step), None) => format!(" (step {step})"),
        (None, _) => String::new(),
    };
    let parts: Vec<String> = stable_first(route)
        .into_iter()
        .filter_map(|version| {
            let up = route.versions.get(version)?.endpoints.iter().filter(|endpoint| endpoint.state == "up").count();
            Some(format!("{version} {} ({up} up)", weight(route.weights.get(version)?.effective)))
        })
        .collect();
    let verdict = &route.analysis.verdict;
    let analysis = if verdict.is_empty() || verdict == "none" {
        String::new()
    } else {
        format!("; verdict: {verdict} ({})", route.analysis.reason)
    };
    let why = if route.why.is_empty() { String::new() } else { format!("; {}", route.why) };
    format!("{}: {}{step}, {}{analysis}{why}", route.name, route.phase.replace('_', " "), parts.join(", "))
}
