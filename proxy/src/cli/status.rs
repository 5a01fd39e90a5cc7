//! `status`: where routes stand, for somebody who was just woken up. What is wrong stands first; then, by route, what
//! serves, what is tried, whether it is worse, what happens next, and what can be done about it.

mod lines;
mod live;
mod route;
mod table;

use std::time::Duration;

use pointsman_config::RouteName;
use serde::Serialize;
use time::OffsetDateTime;

use self::lines::Lines;
use super::CliError;
use super::args::StatusArgs;
use super::client::Admin;
use super::print::{Page, complain, is_watched};
use super::words::{BAD, BOLD, CAREFUL, moment, paint, paragraph};
use crate::admin::ConfigAnswer;
use crate::control::actuator::PLACE;
use crate::view::{ReplicaView, ReplicasView, RouteView, WebhookView};

/// Between two looks of `--watch`.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Problems of a refused file that are shown; `pointsman check` shows all.
const PROBLEMS_SHOWN: usize = 5;

/// Longest that an answer may take while somebody watches.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A leader that has not asked for so many seconds is told as a problem.
const LEADER_SILENT_S: f64 = 1.0;

/// What the edge that decides is called.
const LEADER: &str = "leader";
/// What stands before a note on the state.
const STATE_NOTE: &str = "Something happened to the state that is kept.";
/// What is shown of an edge that follows.
const OF_THIS_EDGE: &str = "Counts and errors here are those of this edge alone.";

/// Everything that a status is printed from, and what `--json` prints.
#[derive(Debug, Serialize)]
struct Seen {
    routes: Vec<RouteView>,
    config: ConfigAnswer,
}

/// Shows where routes stand, once or again and again.
pub(super) fn status(admin: Admin, args: &StatusArgs) -> Result<(), CliError> {
    let admin = if args.watch { admin.within(ANSWER_WITHIN) } else { admin };
    let seen = look(&admin, args.route.as_ref())?;
    if !args.watch {
        show(&seen, args)
    } else if !args.json && is_watched() {
        live::watch(admin, args.route.clone(), seen)
    } else {
        append(admin, seen, args)
    }
}

fn look(admin: &Admin, route: Option<&RouteName>) -> Result<Seen, CliError> {
    let routes = match route {
        Some(route) => vec![admin.route(route)?],
        None => admin.routes()?,
    };
    Ok(Seen { routes, config: admin.config()? })
}

fn show(seen: &Seen, args: &StatusArgs) -> Result<(), CliError> {
    if args.json {
        Page::appended().json(seen)?;
    } else {
        Page::appended().text(&in_words(seen, OffsetDateTime::now_utc()))?;
    }
    Ok(())
}

/// Looks again every second, and prints one below the other. Goes on over a restart of the edge: whoever watches one wants
/// to see it come back.
fn append(mut admin: Admin, first: Seen, args: &StatusArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| CliError::Watch { source })?;
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(AGAIN_AFTER);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let (page, mut lines) = (Page::appended(), Lines::default());
        let mut looked: Result<Seen, CliError> = Ok(first);
        loop {
            let now = OffsetDateTime::now_utc();
            match (&looked, args.json) {
                (Ok(seen), true) => page.json_line(seen)?,
                (Ok(seen), false) => page.text(&lines.news(seen, now))?,
                (Err(error), true) => complain(&error.chain()),
                (Err(error), false) => page.text(&lines.silent(&Silence::of(error), now))?,
            }
            ticks.tick().await;
            looked = admin.renew().and_then(|()| look(&admin, args.route.as_ref()));
        }
    })
}

/// Why there is nothing new of an edge that answered before.
#[derive(Debug)]
enum Silence {
    /// Nobody answers.
    Lost(String),
    /// It answers, and not with what was asked for.
    Refused(String),
}

impl Silence {
    fn of(error: &CliError) -> Self {
        if error.is_an_answer() { Self::Refused(error.chain()) } else { Self::Lost(error.chain()) }
    }
}

/// What is wrong with the edge itself, with the others beside it, and with whom it tells: a sentence each.
fn problems(seen: &Seen) -> Vec<String> {
    let state = &seen.config.state;
    let mut told: Vec<String> =
        state.problem.iter().map(|problem| format!("{} {}: {problem}", not_kept(&state.file), state.file)).collect();
    told.extend(state.note.iter().map(|note| format!("{STATE_NOTE} {}: {note}", state.file)));
    let config = &seen.config.config;
    told.extend(config.last_error.iter().map(|refused| {
        let first = refused.problems.first().map(String::as_str).unwrap_or_default();
        format!("The config file was changed and refused; the text before it is in force: {first}")
    }));
    told.extend(
        config.needs_restart.iter().map(|change| format!("Only a restart of the edge puts this in force: {change}")),
    );
    told.extend(seen.config.notifications.iter().filter(|hook| hook.failing).map(takes_nothing));
    told.extend(seen.config.replicas.iter().flat_map(between_edges));
    told
}

fn takes_nothing(hook: &WebhookView) -> String {
    let why = hook.last_failure.as_ref().map_or(String::new(), |failure| format!(": {}", failure.problem));
    format!("Webhook {0} does not take its notifications{why}; `pointsman notify test {0}` tries it", hook.name)
}

/// What is wrong between this edge and the others, a sentence each.
fn between_edges(view: &ReplicasView) -> Vec<String> {
    if view.role == LEADER {
        return view.replicas.iter().filter_map(of_a_silent_edge).collect();
    }
    let told = match view.leader.as_ref().zip(view.leader_age_s) {
        None => "No leader has asked this edge yet.".to_owned(),
        Some((_, age_s)) if age_s < LEADER_SILENT_S => return Vec::new(),
        Some((leader, age_s)) => format!("The leader, {leader}, has not asked this edge for {age_s:.1} s."),
    };
    vec![told]
}

fn of_a_silent_edge(replica: &ReplicaView) -> Option<String> {
    let who = replica.name.as_ref().unwrap_or(&replica.address);
    let heard = replica.age_s.map_or("was never heard".to_owned(), |age_s| format!("was heard {age_s:.1} s ago"));
    if replica.gone {
        Some(format!("The edge {who} {heard} and is taken for gone; nothing waits for it."))
    } else {
        let is_missed = replica.serves && !replica.heard;
        is_missed.then(|| format!("The edge {who} {heard}; nothing is promoted without it."))
    }
}

/// Which edge this is among several, without anything that changes all the time; none if it is alone.
fn role(seen: &Seen) -> Option<String> {
    let view = seen.config.replicas.as_ref()?;
    Some(if view.role == LEADER {
        format!("This edge, {}, decides; {} follow.", view.name, view.replicas.len())
    } else {
        let leader = view.leader.as_ref().map_or(String::new(), |leader| format!(" {leader}"));
        format!("This edge, {}, follows{leader}. {OF_THIS_EDGE}", view.name)
    })
}

/// The whole page.
fn in_words(seen: &Seen, now: OffsetDateTime) -> String {
    let mut page =
        state_problem(seen) + &config_problem(seen) + &needs_restart(seen) + &untold(seen) + &who_decides(seen);
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

/// Where a route with a live Service stands now, for who reads about a decision; nothing for any other.
pub(super) fn live_service_now(admin: &Admin, route: &RouteName) -> String {
    // It may have left the file since.
    let Ok(seen) = look(admin, Some(route)) else { return String::new() };
    let Some(standing) = seen.routes.first().map(route::live_service).filter(|text| !text.is_empty()) else {
        return String::new();
    };
    format!("\n{}\n{}{}", paint(BOLD, "Where it stands now"), who_decides(&seen), standing.trim_start_matches('\n'))
}

fn state_problem(seen: &Seen) -> String {
    let state = &seen.config.state;
    let told = |head: String, what: &String| format!("{head}\n{}\n", paragraph(&format!("{}: {what}", state.file), 2));
    let problem = state.problem.as_ref().map(|problem| told(paint(BAD, not_kept(&state.file)), problem));
    let note = state.note.as_ref().map(|note| told(paint(CAREFUL, STATE_NOTE), note));
    problem.unwrap_or_default() + &note.unwrap_or_default()
}

fn not_kept(place: &str) -> &'static str {
    if place == PLACE {
        "Decisions are in force, and not all of them stand in the cluster; a restart would forget those."
    } else {
        "Decisions are not written to disk; a restart would forget them."
    }
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

/// Webhooks that do not take what they are told.
fn untold(seen: &Seen) -> String {
    let failing = seen.config.notifications.iter().filter(|hook| hook.failing);
    failing.map(untold_hook).collect()
}

fn untold_hook(hook: &WebhookView) -> String {
    let head = paint(CAREFUL, &format!("Webhook {} does not take its notifications.", hook.name));
    let failure = hook.last_failure.as_ref();
    let why = failure
        .map_or(String::new(), |failure| format!("{} ({}, {})", failure.problem, failure.event, moment(&failure.at)));
    let lost = hook.given_up + hook.dropped;
    let counts = format!("{} wait, {lost} are lost; `pointsman notify test {}` tries it", hook.waiting, hook.name);
    format!("{head}\n{}\n", paragraph(&format!("{why}; {counts}"), 2))
}

/// Which edge this is among several; nothing if it is alone.
fn who_decides(seen: &Seen) -> String {
    seen.config.replicas.as_ref().map_or_else(String::new, |replicas| {
        if replicas.role == LEADER { as_leader(replicas) } else { as_follower(replicas) }
    })
}

fn as_leader(view: &ReplicasView) -> String {
    let mut text = paragraph(&format!("This edge, {}, decides; {} follow.", view.name, view.replicas.len()), 0);
    for replica in &view.replicas {
        let who = replica.name.as_ref().map_or(String::new(), |name| format!(" {name}"));
        let heard = replica.age_s.map_or("never heard".to_owned(), |age_s| format!("heard {age_s:.1} s ago"));
        let line = format!("{}{who}: {heard}", replica.address);
        if replica.gone {
            let line = paint(CAREFUL, &format!("{line}; taken for gone, nothing waits for it"));
            text.push_str(&paragraph(&line, 2));
        } else if replica.heard || !replica.serves {
            text.push_str(&paragraph(&line, 2));
        } else {
            text.push_str(&paragraph(&paint(BAD, &format!("{line}; nothing is promoted without it")), 2));
        }
    }
    text.push('\n');
    text
}

fn as_follower(view: &ReplicasView) -> String {
    let Some((leader, age_s)) = view.leader.as_ref().zip(view.leader_age_s) else {
        let head = paint(CAREFUL, &format!("This edge, {}, follows, and no leader has asked it yet.", view.name));
        return format!("{}\n", paragraph(&head, 0));
    };
    let asked = format!("This edge, {}, follows {leader}, which asked {age_s:.1} s ago and decides.", view.name);
    let head = if age_s < LEADER_SILENT_S { asked } else { paint(BAD, &asked) };
    format!("{}\n", paragraph(&format!("{head} {OF_THIS_EDGE}"), 0))
}
