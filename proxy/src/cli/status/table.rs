//! Many routes at a glance: a line each.

use pointsman_config::VersionId;

use crate::cli::words::{BAD, BOLD, CAREFUL, DIM, GOOD, Say, paint, percent, weight};
use crate::view::RouteView;

/// One line a route.
pub(super) fn table(routes: &[RouteView]) -> String {
    if routes.is_empty() {
        return "No route is in force yet.\n".to_owned();
    }
    let names =
        routes.iter().map(|route| route.name.as_str().chars().count()).max().unwrap_or_default().max("ROUTE".len());
    let mut page =
        format!("{}\n", paint(DIM, &format!("{:<names$}  {:<12}  {:<24}  {}", "ROUTE", "PHASE", "TRAFFIC", "ERRORS")));
    for route in routes {
        let name = format!("{:<names$}", route.name);
        let phase = paint(phase_style(&route.phase), &format!("{:<12}", route.phase));
        page.say(format_args!("{}  {phase}  {:<24}  {}\n", paint(BOLD, &name), traffic(route), errors(route)));
    }
    page
}

/// Red where traffic was taken away, yellow where somebody is waited for.
pub(super) fn phase_style(phase: &str) -> anstyle::Style {
    match phase {
        "steady" => GOOD,
        "rolling_back" | "rolled_back" => BAD,
        "paused" => CAREFUL,
        _ => BOLD,
    }
}

/// Stable before everything else.
pub(super) fn stable_first(route: &RouteView) -> Vec<&VersionId> {
    let mut versions: Vec<&VersionId> = route.versions.keys().collect();
    versions.sort_by_key(|version| (**version != route.stable, Some(*version) != route.canary.as_ref()));
    versions
}

fn traffic(route: &RouteView) -> String {
    let share = |version: &VersionId| {
        route.weights.get(version).map(|weights| weights.effective).filter(|percent| *percent > 0.0)
    };
    let parts: Vec<String> = stable_first(route)
        .into_iter()
        .filter_map(|version| Some(format!("{version} {}", weight(share(version)?))))
        .collect();
    parts.join("  ")
}

fn errors(route: &RouteView) -> String {
    let rate = |version: &VersionId| route.versions.get(version).and_then(|seen| seen.error_rate);
    let parts: Vec<String> = stable_first(route)
        .into_iter()
        .filter_map(|version| Some(format!("{version} {}", percent(rate(version)?))))
        .collect();
    if parts.is_empty() { "no traffic".to_owned() } else { parts.join("  ") }
}
