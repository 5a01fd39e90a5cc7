//! What others say of a canary: numbers that somebody else counts, and people or programs that have to agree.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::notify::{SecretSource, WebhookUrl};
use crate::split::{Name, RouteName, VersionId};

/// A number that a Prometheus server counts, and what it may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Query {
    /// Its name among the route's queries and gates.
    pub name: Name,
    /// The server: `{prometheus}/api/v1/query` is asked.
    pub prometheus: String,
    /// What is asked for the canary.
    pub query: Template,
    /// What is asked for stable, where it is compared with; `query` with the version in production if none.
    pub baseline_query: Option<Template>,
    /// What the limits are about.
    pub compare: Compared,
    /// More than this breaches.
    pub max: Option<f64>,
    /// Less than this breaches.
    pub min: Option<f64>,
    /// Between two times at which it is asked. Default 30 s.
    pub every: Duration,
    /// So many breaches in a row take the canary back. Default 3.
    pub breaches: u32,
    /// For so long after the canary's first request of a trial a breach only holds: the numbers are still about the time
    /// before. Default twice `every`, or as far back as the query looks, whichever is longer.
    pub delay: Duration,
    /// How long an answer may take. Default 5 s.
    pub timeout: Duration,
    /// What stands in `authorization`; none: nothing.
    pub authorization: Option<SecretSource>,
}

/// What the limits of a query are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// The canary's number itself.
    Value,
    /// The canary's number over stable's.
    Ratio,
    /// The canary's number minus stable's.
    Difference,
}

/// Somebody outside who is asked before a step or a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutsideGate {
    /// Its name among the route's queries and gates.
    pub name: Name,
    /// Where the question is posted.
    pub url: WebhookUrl,
    /// Before what; at least one. Default both.
    pub before: BTreeSet<Before>,
    /// What it counts as while it does not answer. Default hold.
    pub otherwise: Otherwise,
    /// Between two times at which it is asked. Default 30 s.
    pub every: Duration,
    /// How long an answer may take. Default 5 s.
    pub timeout: Duration,
    /// What questions are signed with; none: they are not.
    pub secret: Option<SecretSource>,
    /// What stands in `authorization`; none: nothing.
    pub authorization: Option<SecretSource>,
}

/// What a gate is asked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// The canary's first or next weight.
    Step,
    /// All traffic for the canary.
    Promotion,
}

/// What a gate counts as that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// It holds.
    Hold,
    /// It has nothing against it.
    Allow,
}

/// A text in which names of the route stand for others: `{{version}}`, `{{stable}}`, `{{canary}}` and `{{route}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Template(String);

/// What stands for the names in a template.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The route.
    pub route: &'a RouteName,
    /// The version that is asked about.
    pub version: &'a VersionId,
    /// The version in production.
    pub stable: &'a VersionId,
    /// The version that is tried.
    pub canary: &'a VersionId,
}

/// The names that may stand in a template.
pub(crate) const KNOWN_NAMES: [&str; 4] = ["version", "stable", "canary", "route"];

impl Template {
    /// The template that this text is.
    ///
    /// # Errors
    /// The name in it that is none.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut rest = text;
        while let Some((_, behind)) = rest.split_once("{{") {
            let (name, behind) = behind.split_once("}}").unwrap_or((behind, ""));
            if !KNOWN_NAMES.contains(&name.trim()) {
                return Err(name.trim().to_owned());
            }
            rest = behind;
        }
        Ok(Self(text.to_owned()))
    }

    /// The text with `names` in it. They are made of letters, digits, `-`, `_` and `.`, so they end no quote.
    pub fn fill(&self, names: Names<'_>) -> String {
        let (mut filled, mut rest) = (String::with_capacity(self.0.len()), self.0.as_str());
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, behind) = behind.split_once("}}").unwrap_or((behind, ""));
            filled.push_str(before);
            filled.push_str(match name.trim() {
                "route" => names.route.as_str(),
                "stable" => names.stable.as_str(),
                "canary" => names.canary.as_str(),
                _ => names.version.as_str(),
            });
            rest = behind;
        }
        filled.push_str(rest);
        filled
    }

    /// How far back it may look, in PromQL: its longest range, such as that of `rate(x[5m])`, what all its subqueries add,
    /// `[1h:1m]`, and its longest `offset`. Rather too far than not far enough: which of them stand in each other is not read.
    pub(crate) fn looks_back(&self) -> Duration {
        let (mut longest, mut subqueries) = (Duration::ZERO, Duration::ZERO);
        for (range, _) in self.0.split('[').skip(1).filter_map(|behind| behind.split_once(']')) {
            match range.split_once(':') {
                Some((range, _)) => {
                    subqueries = subqueries.saturating_add(promql_duration(range.trim()).unwrap_or_default());
                }
                None => longest = longest.max(promql_duration(range.trim()).unwrap_or_default()),
            }
        }
        let offsets = self.0.split("offset").skip(1).filter_map(|behind| behind.split_ascii_whitespace().next());
        let offset = offsets.filter_map(|text| promql_duration(text.trim_end_matches([')', ',', ']', '}']))).max();
        longest.saturating_add(subqueries).saturating_add(offset.unwrap_or_default())
    }

    /// Whether it says which version it is about.
    pub(crate) fn names_the_version(&self) -> bool {
        self.0.split("{{").skip(1).any(|behind| !behind.trim_start().starts_with("route"))
    }
}

/// A duration as PromQL writes it, `1h30m`; none if it is none, such as what stands between brackets in a regular expression.
fn promql_duration(text: &str) -> Option<Duration> {
    // Newer servers take a number for seconds.
    if let Ok(seconds) = text.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let (mut sum, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (count, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        sum = sum.checked_add(promql_unit(unit)?.checked_mul(count.parse().ok()?)?)?;
        rest = behind;
    }
    Some(sum)
}

/// The units of Prometheus: a year has 365 days.
fn promql_unit(unit: &str) -> Option<Duration> {
    match unit {
        "ms" => Some(Duration::from_millis(1)),
        "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_mins(1)),
        "h" => Some(Duration::from_hours(1)),
        "d" => Some(Duration::from_hours(24)),
        "w" => Some(Duration::from_hours(7 * 24)),
        "y" => Some(Duration::from_hours(365 * 24)),
        _ => None,
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_looks_as_far_back_as_its_ranges_subqueries_and_offsets_may_reach() {
        for (text, seconds) in [
            ("x{v=\"{{version}}\"}", 0),
            ("sum(rate(x{v=\"{{version}}\"}[2m])) / sum(rate(y[1h30m]))", 5_400),
            ("max_over_time(rate(x[5m])[1d:1m])", 86_700),
            ("max_over_time(avg_over_time(rate(x[5m])[10m:])[1h:])", 4_500),
            ("rate(x[300])", 300),
            ("sum(rate(x[5m] offset 10m)) / (y offset 1h)", 3_900),
            ("x offset -5m", 0),
            ("x{path=\"offset\"}", 0),
            ("rate(x{path=~\"[0-9]+[ab]\"}[90s])", 90),
            ("x[ 250ms ]", 0),
            ("x[5", 0),
        ] {
            assert_eq!(Template::read(text).unwrap().looks_back().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn names_stand_where_the_template_says() {
        let template =
            Template::read("sum(x{r=\"{{route}}\",v=\"{{ version }}\"}) / y{v=~\"{{stable}}|{{canary}}\"}").unwrap();
        let (route, v1, v2) = ("r-1".parse().unwrap(), "v1".parse().unwrap(), "v2".parse().unwrap());
        let names = Names { route: &route, version: &v2, stable: &v1, canary: &v2 };
        assert_eq!(template.fill(names), "sum(x{r=\"r-1\",v=\"v2\"}) / y{v=~\"v1|v2\"}");
        assert!(template.names_the_version());
        assert!(!Template::read("x{r=\"{{route}}\"}").unwrap().names_the_version());
        assert_eq!(Template::read("x{v=\"{{vers}}\"}"), Err("vers".to_owned()));
        assert_eq!(Template::read("x{{"), Err(String::new()));
        assert_eq!(Template::read("rate(x[5m])").unwrap().fill(names), "rate(x[5m])");
    }
}
