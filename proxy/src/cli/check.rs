//! `check` and `schema`: what can be said of a config file without running it, and what its plans will do.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use pointsman_config::{Config, Problem, Route, Severity, json_schema};
use pointsman_rollout::{Expected, Verdict};
use serde::Serialize;

use super::args::CheckArgs;
use super::client::{Admin, Connection};
use super::foresight::Forecast;
use super::print::Page;
use super::words::{BAD, BOLD, CAREFUL, GOOD, Say, counted, paint, paragraph, ratio};
use super::{CliError, WRONG_USAGE};
use crate::control::config_watch::{read_text, read_text_from};
use crate::view::{ReplicasView, RouteView};

/// The share of slow answers that is assumed where no comparison has counted them yet.
const USUALLY_SLOW: f64 = 0.005;

/// A comparison that has gone on for so many seconds tells a rate, as the edge's own window does.
const LONG_ENOUGH_S: f64 = 10.0;
/// What the edge that decides is called.
const LEADER: &str = "leader";

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: &'a str,
    valid: bool,
    errors: usize,
    warnings: usize,
    problems: &'a [Problem],
    /// By route; none without a rate.
    forecasts: Vec<Forecast>,
}

/// Where the traffic that plans are forecast with is known from.
enum Rates {
    /// Nowhere: nothing is forecast.
    Unknown,
    /// The command line: the same for every route.
    Given(Expected),
    /// A running edge, by the name of the route.
    Seen { url: String, routes: Vec<(String, Traffic)> },
}

/// What a running edge knows of a route's traffic.
#[derive(Debug, Clone, Copy)]
enum Traffic {
    /// All of it.
    Whole(Expected),
    /// What it carries itself, in requests per second: one of several edges, and no trial counts those of the others.
    Part(f64),
}

/// Checks one file.
pub(super) fn check(args: &CheckArgs, connection: &Connection) -> Result<ExitCode, CliError> {
    let file = args.file.display().to_string();
    let text = read(&args.file).map_err(|source| CliError::ConfigFile { file: file.clone(), source })?;
    let origin = if file == "-" { "stdin" } else { &file };
    let (mut problems, routes) = match Config::parse(&text, origin) {
        Ok(parsed) => (parsed.warnings, parsed.config.routes),
        Err(errors) => (errors.into_problems(), Vec::new()),
    };
    let rates = rates(args, connection)?;
    let mut forecasts = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let expected = if Forecast::is_about(route) { rates.of(route)? } else { None };
        let forecast = expected.and_then(|expected| Forecast::of(route, expected));
        problems.extend(forecast.iter().flat_map(|forecast| forecast.warnings((&text, origin), index)));
        forecasts.extend(forecast);
    }
    problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    let report = Report { file: origin, valid: errors == 0, errors, warnings, problems: &problems, forecasts };
    if args.json {
        Page::appended().json(&report)?;
    } else {
        Page::appended().text(&in_words(&report))?;
    }
    let denied = errors > 0 || (args.deny_warnings && warnings > 0);
    Ok(if denied { WRONG_USAGE.into() } else { ExitCode::SUCCESS })
}

impl Rates {
    fn of(&self, route: &Route) -> Result<Option<Expected>, CliError> {
        match self {
            Self::Unknown => Ok(None),
            Self::Given(expected) => Ok(Some(*expected)),
            Self::Seen { url, routes } => match routes.iter().find(|(name, _)| name == route.name.as_str()) {
                None => Ok(None),
                Some((_, Traffic::Whole(expected))) => Ok(Some(*expected)),
                Some((name, Traffic::Part(requests_per_s))) => Err(CliError::PartOfTraffic {
                    url: url.clone(),
                    route: name.clone(),
                    requests_per_s: *requests_per_s,
                }),
            },
        }
    }
}

fn rates(args: &CheckArgs, connection: &Connection) -> Result<Rates, CliError> {
    if let Some(requests_per_s) = args.rps {
        return Ok(Rates::Given(Expected { requests_per_s, error_rate: args.baseline, slow_rate: args.slow }));
    }
    let Some(url) = &args.from else { return Ok(Rates::Unknown) };
    let edge = Admin::new(&Connection { admin: Some(url.clone()), in_cluster: false, ..connection.clone() })?;
    let replicas = edge.config()?.replicas;
    let routes = edge.routes()?.iter().map(|route| (route.name.to_string(), seen(route, replicas.as_ref()))).collect();
    Ok(Rates::Seen { url: edge.url().to_owned(), routes })
}

/// The traffic of a running route; how many answers are slow is known of its comparison alone.
fn seen(route: &RouteView, replicas: Option<&ReplicasView>) -> Traffic {
    let of_this_edge = route.versions.values().map(|version| version.requests_per_second).sum();
    let requests_per_s = match replicas.filter(|replicas| has_others(replicas)) {
        None => Some(of_this_edge),
        Some(replicas) => of_all_edges(route, replicas),
    };
    let Some(requests_per_s) = requests_per_s else { return Traffic::Part(of_this_edge) };
    let error_rate = route.versions.get(&route.stable).and_then(|version| version.error_rate).unwrap_or_default();
    let compared = route.analysis.summary.as_ref().map(|summary| summary.stable);
    let slow_rate = compared.and_then(|tally| ratio(tally.slow, tally.requests)).unwrap_or(USUALLY_SLOW);
    Traffic::Whole(Expected { requests_per_s, error_rate, slow_rate })
}

/// Whether other edges serve the same routes; a follower does not know who they are, but that the leader is one.
fn has_others(replicas: &ReplicasView) -> bool {
    replicas.role != LEADER || replicas.replicas.iter().any(|replica| !replica.gone)
}

/// Requests per second of all edges, which the leader counts while two versions are compared.
fn of_all_edges(route: &RouteView, replicas: &ReplicasView) -> Option<f64> {
    let trial = route.analysis.summary.as_ref().filter(|_| replicas.role == LEADER)?;
    let compares = route.weights.values().filter(|weight| weight.effective > 0.0).count() > 1;
    // The clock of a comparison that found something stands still.
    let goes_on = compares && !matches!(trial.verdict, Verdict::Rollback(_));
    let is_known = goes_on && trial.elapsed_seconds >= LONG_ENOUGH_S;
    let requests = ratio(trial.canary.requests + trial.stable.requests, 1).filter(|_| is_known)?;
    Some(requests / trial.elapsed_seconds)
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        return read_text_from(io::stdin());
    }
    read_text(file)
}

fn in_words(report: &Report<'_>) -> String {
    let mut page: String = report.problems.iter().map(problem).collect();
    let errors = if report.errors == 0 { paint(GOOD, "valid") } else { paint(BAD, &counted(report.errors, "error")) };
    let and = if report.warnings == 0 { String::new() } else { format!(", {}", counted(report.warnings, "warning")) };
    page.say(format_args!("{}: {errors}{and}\n", report.file));
    page.extend(report.forecasts.iter().map(Forecast::in_words));
    page
}

/// Place and what is wrong on one line, as editors and CI look for it; the way out below.
fn problem(problem: &Problem) -> String {
    let style = match problem.severity {
        Severity::Error => BAD,
        Severity::Warning => CAREFUL,
    };
    let place = paint(BOLD, &problem.place.to_string());
    let severity = paint(style, &problem.severity.to_string());
    format!("{place}: {severity}: {}\n{}", problem.what, paragraph(&problem.way_out, 4))
}

/// Prints the JSON Schema of the config file.
pub(super) fn schema() -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(&json_schema()).map_err(io::Error::from)?;
    Ok(Page::appended().text(&format!("{text}\n"))?)
}
