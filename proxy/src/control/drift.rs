//! How far the canary's inputs and predictions are from stable's, or from its training: the model servers count, this edge
//! adds up and compares.
//!
//! Line: control ► **drift** ► endpoint; (books) ► (judge) ► board ► control. One task for each route whose guard asks for
//! it, on the edge that decides, while the canary has traffic: it asks every endpoint of both versions that takes requests,
//! all at once and never on the data path, for what it counted since its start. What was counted between two looks goes
//! into the books; what the books hold of the window is judged.

mod books;
mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use pointsman_config::{DriftGuard, RouteName, VersionId};
use pointsman_rollout::Outcome;
use pointsman_telemetry::drift::{FORMAT, Report};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use self::books::Books;
use self::judge::{Judged, Repeated};
use super::controlled::ControlledRoute;
use super::endpoints::Endpoints;
use super::gates::{Board, DRIFT, Found};
use super::health::call::{CallError, Callee};
use super::state::in_words;
use crate::upstream::Speech;

/// Longest that one endpoint may take, unless it is asked more often than that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Endpoints that are named when they do not answer.
const MOST_NAMED: usize = 3;

/// What is asked about a route.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// How.
    pub(crate) guard: DriftGuard,
    /// Who is compared.
    pub(crate) pair: Pair,
    /// Where both run.
    pub(crate) endpoints: Vec<Asked>,
}

/// Two versions, and which trial of the canary it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) stable: VersionId,
    pub(crate) canary: VersionId,
    pub(crate) trial: u64,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) side: Side,
    pub(crate) address: SocketAddr,
    /// The Host header.
    pub(crate) host: String,
    pub(crate) speech: Speech,
}

/// Whose endpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Stable,
    Canary,
}

/// What is to be asked about `route` now; nothing unless its guard says so and its canary has traffic.
pub(crate) fn question(route: &ControlledRoute, endpoints: &Endpoints) -> Option<Question> {
    let guard = route.route().guard.drift.clone()?;
    let subject = route.asked_about().filter(|subject| subject.traffic_since.is_some())?;
    let (name, stable) = (&route.route().name, route.route().stable.clone());
    let of = |side: Side, version: &VersionId| {
        let serving = endpoints.serving(name, version).into_iter();
        serving.map(move |(address, host, speech)| Asked { side, address, host, speech }).collect::<Vec<_>>()
    };
    let both = [of(Side::Stable, &stable), of(Side::Canary, &subject.version)].concat();
    let pair = Pair { stable, canary: subject.version, trial: subject.trial };
    Some(Question { guard, pair, endpoints: both })
}

/// The tasks that ask; handed their questions whenever those change.
#[derive(Debug)]
pub(crate) struct Pulls {
    questions: watch::Sender<BTreeMap<RouteName, Question>>,
}

impl Pulls {
    /// Starts asking on `runtime`; what is found goes to `board`.
    pub(crate) fn start(runtime: &tokio::runtime::Handle, board: Board) -> Self {
        let (questions, changes) = watch::channel(BTreeMap::new());
        runtime.spawn(follow(changes, board));
        Self { questions }
    }

    /// Asks just these from now on.
    pub(crate) fn ask(&self, questions: BTreeMap<RouteName, Question>) {
        self.questions.send_if_modified(|known| {
            let is_new = *known != questions;
            *known = questions;
            is_new
        });
    }
}

/// Keeps one task for each route until the loop is gone.
async fn follow(mut changes: watch::Receiver<BTreeMap<RouteName, Question>>, board: Board) {
    let mut asking: BTreeMap<RouteName, (watch::Sender<Question>, AbortOnDropHandle<()>)> = BTreeMap::new();
    while changes.changed().await.is_ok() {
        let wanted = changes.borrow_and_update().clone();
        asking.retain(|route, _| wanted.contains_key(route));
        for (route, question) in wanted {
            if let Some((tell, _)) = asking.get(&route) {
                tell.send_if_modified(|known| std::mem::replace(known, question.clone()) != question);
            } else {
                let (tell, question) = watch::channel(question);
                let task = tokio::spawn(look_for_ever(route.clone(), question, board.clone()));
                asking.insert(route, (tell, AbortOnDropHandle::new(task)));
            }
        }
    }
}

async fn look_for_ever(route: RouteName, mut question: watch::Receiver<Question>, board: Board) {
    loop {
        let of = question.borrow_and_update().clone();
        let (mut books, mut repeated) = (Books::new(of.guard.window), Repeated::default());
        let mut looks = interval(of.guard.every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Another pair, trial or guard begins anew; endpoints that come and go do not.
        while is_same(&of, &question.borrow()) {
            tokio::select! {
                _ = looks.tick() => {
                    let endpoints = question.borrow().endpoints.clone();
                    let found = look(&of, endpoints, (&mut books, &mut repeated)).await;
                    board.write(&route, DRIFT, found);
                }
                told = question.changed() => if told.is_err() { return },
            }
        }
    }
}

fn is_same(one: &Question, other: &Question) -> bool {
    one.guard == other.guard && one.pair == other.pair
}

/// One look at all endpoints, and what comes of it.
async fn look(question: &Question, endpoints: Vec<Asked>, (books, repeated): (&mut Books, &mut Repeated)) -> Found {
    let at = Instant::now();
    let mut problems = Vec::new();
    let mut told = BTreeMap::new();
    books.keep_only(&endpoints.iter().map(|asked| (asked.side, asked.address)).collect());
    for (asked, answer) in ask_all(question, endpoints).await {
        match answer {
            Ok(report) => {
                told.insert((asked.side, asked.address), report);
            }
            Err(error) => {
                problems.push(format!("{} of {}: {}", asked.host, name(question, asked.side), in_words(&error)));
            }
        }
    }
    problems.extend(books.note(told, at));
    let Judged { outcome, words } = repeated.look(&question.guard, &question.pair, books);
    let (outcome, words) = match (outcome, problems.is_empty()) {
        // What was found against the canary stands on its rows, whoever else is silent.
        (Outcome::Fails, _) | (_, true) => (outcome, words),
        (Outcome::Passes | Outcome::Holds, false) => (Outcome::Holds, unanswered(problems)),
    };
    let Pair { canary, trial, .. } = &question.pair;
    Found { version: canary.clone(), trial: *trial, outcome, words, at }
}

fn name(question: &Question, side: Side) -> &VersionId {
    match side {
        Side::Stable => &question.pair.stable,
        Side::Canary => &question.pair.canary,
    }
}

fn unanswered(mut problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(MOST_NAMED);
    problems.truncate(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("drift cannot be known: {}{more}", problems.join("; "))
}

async fn ask_all(question: &Question, endpoints: Vec<Asked>) -> Vec<(Asked, Result<Report, PullError>)> {
    let mut asking = JoinSet::new();
    let patience = question.guard.every.min(PATIENCE);
    for asked in endpoints {
        let path = question.guard.path.clone();
        asking.spawn(async move {
            let answer = ask(&asked, &path, patience).await;
            (asked, answer)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(asked, _)| (asked.side, asked.address));
    answers
}

/// Why an endpoint tells nothing that can be used.
#[derive(Debug, Error)]
enum PullError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("`{path}` answered {status}; does its model server count drift?")]
    Status { path: String, status: u16 },
    #[error("what `{path}` answered is no report of drift")]
    Garbage { path: String, source: serde_json::Error },
    #[error("`{path}` writes format {theirs}, and this edge reads {FORMAT}; update the older one")]
    Format { path: String, theirs: u32 },
}

async fn ask(asked: &Asked, path: &str, patience: Duration) -> Result<Report, PullError> {
    let Asked { address, host, speech, .. } = asked;
    let callee = Callee { address: *address, host, speech, patience };
    let (status, body) = callee.fetch(path).await?;
    if status != StatusCode::OK {
        return Err(PullError::Status { path: path.to_owned(), status: status.as_u16() });
    }
    read(path, &body)
}

fn read(path: &str, body: &[u8]) -> Result<Report, PullError> {
    #[derive(Deserialize)]
    struct Formatted {
        format: u32,
    }
    let garbage = |source| PullError::Garbage { path: path.to_owned(), source };
    let Formatted { format } = serde_json::from_slice(body).map_err(garbage)?;
    if format != FORMAT {
        return Err(PullError::Format { path: path.to_owned(), theirs: format });
    }
    serde_json::from_slice(body).map_err(garbage)
}
