//! `status`: where routes stand, for somebody who was just woken up. What is wrong stands first; then, by route, what
//! serves, what is tried, whether it is worse, what happens next, and what can be done about it.

mod route;
mod table;

use std::time::Duration;

use pointsman_config::RouteName;
use serde::Serialize;
use time::OffsetDateTime;

use super::CliError;
use super::args::StatusArgs;
use super::client::Admin;
use super::print::{Page, complain};
use super::words::{BAD, BOLD, CAREFUL, moment, paint, paragraph};
use crate::admin::ConfigAnswer;
use crate::view::RouteView;

/// Between two looks of `--watch`.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Problems of a refused file that are shown; `pointsman check` shows all.
const PROBLEMS_SHOWN: usize = 5;

/// Everything that a status is printed from, and what `--json` prints.
#[derive(Debug, Serialize)]
struct Seen {
    routes: Vec<RouteView>,
    config: ConfigAnswer,
}

/// Shows where routes stand, once or again and again.
pub(super) fn status(admin: &Admin, args: &StatusArgs) -> Result<(), CliError> {
    if args.watch { watch(admin, args) } else { show(&Page::appended(), &look(admin, args.route.as_ref())?, args) }
}

fn look(admin: &Admin, route: Option<&RouteName>) -> Result<Seen, CliError> {
    let routes = match route {
        Some(route) => vec![admin.route(route)?],
        None => admin.routes()?,
    };
    Ok(Seen { routes, config: admin.config()? })
}

fn show(page: &Page, seen: &Seen, args: &StatusArgs) -> Result<(), CliError> {
    if args.json {
        page.json(seen)?;
    } else {
        page.text(&in_words(seen, OffsetDateTime::now_utc()))?;
    }
    Ok(())
}

/// Goes on over a restart of the edge: whoever watches one wants to see it come back.
fn watch(admin: &Admin, args: &StatusArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| CliError::Watch { source })?;
    let page = if args.json { Page::appended() } else { Page::in_place() };
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(AGAIN_AFTER);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = false;
        loop {
            ticks.tick().await;
            match look(admin, args.route.as_ref()) {
                Ok(seen) => show_again(&page, &seen, args)?,
                Err(error) if !answered => return Err(error),
                Err(error) => interrupted(&page, &error)?,
            }
            answered = true;
        }
    })
}

fn show_again(page: &Page, seen: &Seen, args: &StatusArgs) -> Result<(), CliError> {
    if args.json {
        return Ok(page.text(&format!("{}\n", serde_json::to_string(seen).map_err(std::io::Error::from)?))?);
    }
    let now = OffsetDateTime::now_utc();
    let clock = now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    Ok(page.text(&format!("{}\n{}", paint(BOLD, &moment(&clock)), in_words(seen, now)))?)
}

fn interrupted(page: &Page, error: &CliError) -> Result<(), CliError> {
    if page.is_in_place() {
        return Ok(page.text(&paragraph(&paint(BAD, &error.chain()), 0))?);
    }
    complain(&error.chain());
    Ok(())
}

/// The whole page.
fn in_words(seen: &Seen, now: OffsetDateTime) -> String {
    let mut page = state_problem(seen) + &config_problem(seen) + &needs_restart(seen);
    match seen.routes.as_slice() {
        [only] => page.push_str(&route::block(only, now)),
        routes => {
            page.push_str(&table::table(routes));
            for moving in routes.iter().filter(|route| deserves_a_block(route)) {
                page.push('\n');
                page.push_str(&route::block(moving, now));
            }
        }
    }
    page
}

/// A route at rest is told by its line in the table.
fn deserves_a_block(route: &RouteView) -> bool {
    route.phase != "steady" || !route.why.is_empty() || !route.quarantined.is_empty()
}

fn state_problem(seen: &Seen) -> String {
    let state = &seen.config.state;
    let told = |head: String, what: &String| format!("{head}\n{}\n", paragraph(&format!("{}: {what}", state.file), 2));
    let problem = state
        .problem
        .as_ref()
        .map(|problem| told(paint(BAD, "Decisions are not written to disk; a restart would forget them."), problem));
    let note = state.note.as_ref().map(|note| told(paint(CAREFUL, "Something happened to the state file."), note));
    problem.unwrap_or_default() + &note.unwrap_or_default()
}

fn config_problem(seen: &Seen) -> String {
    let config = &seen.config.config;
    let Some(refused) = &config.last_error else { return String::new() };
    let mut text =
        format!("{}\n", paint(BAD, "The config file was changed and refused; the text before it is in force."));
    for problem in refused.problems.iter().take(PROBLEMS_SHOWN) {
        text.push_str(&paragraph(problem, 2));
    }
    let left = refused.problems.len().saturating_sub(PROBLEMS_SHOWN);
    let more = if left > 0 { format!("{left} more; ") } else { String::new() };
    text.push_str(&paragraph(
        &format!("{more}`pointsman check {}` shows them all; refused {}", config.file, moment(&refused.at)),
        2,
    ));
    text.push('\n');
    text
}

fn needs_restart(seen: &Seen) -> String {
    let waiting = &seen.config.config.needs_restart;
    if waiting.is_empty() {
        return String::new();
    }
    let head = paint(CAREFUL, "The config file holds changes that only a restart of the edge puts in force.");
    let changes: String = waiting.iter().map(|change| paragraph(change, 2)).collect();
    format!("{head}\n{changes}\n")
}
