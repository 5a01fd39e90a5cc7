//! `status --watch` into a pipe or a file: a line for each change, none for what stays as it is.

use std::collections::BTreeMap;

use pointsman_config::RouteName;
use time::OffsetDateTime;

use super::table::stable_first;
use super::{Seen, Silence, problems, role};
use crate::cli::words::{moment, span, weight};
use crate::view::RouteView;

/// What was said last of each thing.
#[derive(Debug, Default)]
pub(super) struct Lines {
    routes: BTreeMap<RouteName, (String, Option<u64>)>,
    problems: Vec<String>,
    role: Option<String>,
    silent: Option<(OffsetDateTime, &'static str)>,
}

impl Lines {
    /// What is new in `seen`, a line each.
    pub(super) fn news(&mut self, seen: &Seen, now: OffsetDateTime) -> String {
        let mut told = Vec::new();
        if let Some((since, _)) = self.silent.take() {
            told.push(format!("the edge answers again, after {}", span((now - since).as_seconds_f64())));
        }
        let role = role(seen);
        if role != self.role {
            told.extend(role.clone());
        }
        self.role = role;
        let problems = problems(seen);
        let is_among = |problem: &str, known: &[String]| known.iter().any(|known| lasting(known) == lasting(problem));
        told.extend(problems.iter().filter(|problem| !is_among(problem, &self.problems)).cloned());
        told.extend(
            self.problems
                .iter()
                .filter(|problem| !is_among(problem, &problems))
                .map(|problem| format!("no longer: {problem}")),
        );
        self.problems = problems;
        for route in &seen.routes {
            told.extend(self.of_route(route));
        }
        told.into_iter().map(|line| stamped(now, &line)).collect()
    }

    /// Nobody answers, or the edge refuses; each is said once.
    pub(super) fn silent(&mut self, silence: &Silence, now: OffsetDateTime) -> String {
        let (kind, why) = match silence {
            Silence::Lost(why) => ("lost the edge", why),
            Silence::Refused(why) => ("the edge answers, and not with this", why),
        };
        if self.silent.is_some_and(|(_, told)| told == kind) {
            return String::new();
        }
        let since = self.silent.map_or(now, |(since, _)| since);
        self.silent = Some((since, kind));
        stamped(now, &format!("{kind}; asking again every second: {why}"))
    }

    fn of_route(&mut self, route: &RouteView) -> Vec<String> {
        let (stands, why) = (stands(route), why(route));
        let lasting = stands.clone() + &lasting(&why);
        let last = route.last_decision.as_ref().map(|last| last.id);
        let before = self.routes.insert(route.name.clone(), (lasting.clone(), last));
        let mut told = Vec::new();
        let is_news = before.as_ref().is_some_and(|(_, known)| *known != last);
        told.extend(
            route
                .last_decision
                .as_ref()
                .filter(|_| is_news)
                .map(|last| format!("{}: decision {}, {}: {}", route.name, last.id, moment(&last.at), last.sentence)),
        );
        if before.is_none_or(|(known, _)| known != lasting) {
            told.push(stands + &why);
        }
        told
    }
}

fn stamped(now: OffsetDateTime, line: &str) -> String {
    let now = now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    format!("{} {line}\n", moment(&now))
}

/// `text` without its numbers and the units behind them: what is left says the same for as long as nothing happens. A gate
/// that holds is told with its span, a split that is off with its draws.
fn lasting(text: &str) -> String {
    let bare = |word: &str| word.trim_matches(|character: char| !character.is_ascii_alphanumeric()).to_owned();
    let is_number = |word: &str| word.starts_with(|first: char| first.is_ascii_digit()) && word.parse::<f64>().is_ok();
    let (mut left, mut counted) = (Vec::new(), false);
    for word in text.split_whitespace() {
        let is_unit = counted && matches!(bare(word).as_str(), "ms" | "s" | "min" | "h");
        counted = is_number(&bare(word).replace(',', ""));
        if !counted && !is_unit {
            left.push(word);
        }
    }
    left.join(" ")
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
    format!("{}: {}{step}, {}{analysis}", route.name, route.phase.replace('_', " "), parts.join(", "))
}

fn why(route: &RouteView) -> String {
    if route.why.is_empty() { String::new() } else { format!("; {}", route.why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_counts_are_no_news_and_everything_else_is() {
        let holds = "the gate `drift` holds for 12 s: nothing has been found out yet";
        for same in ["holds for 119 s:", "holds for 2 min:", "holds for 2 h 5 min:"] {
            assert_eq!(lasting(holds), lasting(&holds.replace("holds for 12 s:", same)), "{same}");
        }
        let drawn = "the canary got 5.02% of 1200 draws (since 1,200 s)";
        assert_eq!(lasting(drawn), lasting("the canary got 5.10% of 1300 draws (since 1,300 s)"));
        for other in [holds.replace("drift", "people"), holds.replace("holds", "fails"), holds.replace("yet", "v2")] {
            assert_ne!(lasting(holds), lasting(&other));
        }
    }
}
