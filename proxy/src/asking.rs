//! Asks others about a canary: Prometheus for numbers, gates for a yes or a no, the calendar for windows in which nothing
//! goes forward.
//!
//! Line: (Prometheus, gates, clock) ► **asking** ► phase. Whoever decides asks, each question at its own pace and beside the
//! loop, and has at most one answer of each on the way. An answer counts for the trial that it was asked about, and for a
//! gate for the step; what it means is the phase machine's to say ([`pointsman_rollout::Gate`]).

mod calendar;
mod gate;
mod limits;
mod prometheus;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pointsman_config::{Before, Compared, Freeze, Names, OutsideGate, Query, Route, RouteName, VersionId};
use pointsman_rollout::{Asked, Finding, Gate, Outcome, Time};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::info;

use self::calendar::Calendar;
pub(crate) use self::calendar::{Frozen, is_freeze};
use self::limits::{Noted, Numbers, Streak};

/// Questions on their way at once; each blocks a thread for its timeout at most.
const MOST_ON_THE_WAY: usize = 64;
/// An answer counts for so many paces of its question, and for the time that the next one may take.
const PACES: u32 = 3;

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Subject {
    /// The route.
    pub(crate) route: RouteName,
    /// The version in production.
    pub(crate) stable: VersionId,
    /// The version that is tried.
    pub(crate) canary: VersionId,
    /// Its build, if the file names one.
    pub(crate) revision: Option<String>,
    /// The trial of it.
    pub(crate) trial: u64,
    /// What would come next.
    pub(crate) next: Before,
    /// The step that this would be, from 1; none for a promotion.
    pub(crate) step: Option<usize>,
    /// What the canary would get then, in parts per million.
    pub(crate) weight_ppm: u32,
    /// Since when at least it has traffic, whichever edge decided then; none while it has none.
    #[serde(skip)]
    pub(crate) traffic_since: Option<Time>,
    /// Whether a step or a promotion can come next at all: not during a bake, or with weights by hand.
    #[serde(skip)]
    pub(crate) goes_forward: bool,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
enum Question {
    Query(Arc<Query>),
    Gate(Arc<OutsideGate>),
}

impl Question {
    fn name(&self) -> &str {
        match self {
            Self::Query(query) => query.name.as_str(),
            Self::Gate(gate) => gate.name.as_str(),
        }
    }

    fn every(&self) -> Duration {
        match self {
            Self::Query(query) => query.every,
            Self::Gate(gate) => gate.every,
        }
    }

    fn timeout(&self) -> Duration {
        match self {
            // Both versions may be asked about, one after the other.
            Self::Query(query) => query.timeout.saturating_mul(2),
            Self::Gate(gate) => gate.timeout,
        }
    }

    /// Whether an answer about `before` says something about `now`.
    fn is_the_same(&self, before: &Subject, now: &Subject) -> bool {
        match self {
            Self::Query(_) => before.canary == now.canary && before.trial == now.trial,
            Self::Gate(_) => {
                let of = |subject: &Subject| (subject.trial, subject.next, subject.step);
                before.canary == now.canary && of(before) == of(now)
            }
        }
    }

    /// Whether it is to be asked about `subject` at all.
    fn is_due_for(&self, subject: &Subject) -> bool {
        match self {
            Self::Query(_) => subject.traffic_since.is_some(),
            Self::Gate(gate) => subject.goes_forward && gate.before.contains(&subject.next),
        }
    }

    /// Asks; blocks for as long as its timeout says.
    fn ask(&self, subject: &Subject) -> Said {
        match self {
            Self::Query(query) => Said::Numbers(numbers(query, subject)),
            Self::Gate(gate) => {
                let (outcome, words) = gate::ask(gate, subject);
                Said::Verdict(outcome, words)
            }
        }
    }
}

/// What was answered.
#[derive(Debug)]
enum Said {
    Numbers(Result<Numbers, String>),
    Verdict(Outcome, String),
}

fn numbers(query: &Query, subject: &Subject) -> Result<Numbers, String> {
    let of = |version| Names { route: &subject.route, version, stable: &subject.stable, canary: &subject.canary };
    let canary = prometheus::ask(query, &query.query.fill(of(&subject.canary)))?;
    let stable = match query.compare {
        Compared::Value => None,
        Compared::Ratio | Compared::Difference => {
            let template = query.baseline_query.as_ref().unwrap_or(&query.query);
            let asked = prometheus::ask(query, &template.fill(of(&subject.stable)));
            Some(asked.map_err(|why| format!("for stable, {why}"))?)
        }
    };
    Ok(Numbers { canary, stable })
}

/// An answer on its way back.
#[derive(Debug)]
struct Answered {
    route: RouteName,
    name: String,
    number: u64,
    said: Said,
}

/// One question of one route, and its last answer.
#[derive(Debug)]
struct Desk {
    question: Question,
    about: Option<Subject>,
    /// Since when the canary has had traffic in this trial; none while it has none.
    traffic_since: Option<Time>,
    asked_at: Option<Time>,
    is_on_the_way: bool,
    /// Which of its answers counts.
    number: u64,
    streak: Streak,
    finding: Option<Finding>,
}

impl Desk {
    fn new(question: Question) -> Self {
        Self {
            question,
            about: None,
            traffic_since: None,
            asked_at: None,
            is_on_the_way: false,
            number: 0,
            streak: Streak::default(),
            finding: None,
        }
    }

    /// It is about `subject` from now on; what was said of another one counts no more.
    fn turn_to(&mut self, subject: &Subject) {
        let same_trial = |before: &Subject| before.canary == subject.canary && before.trial == subject.trial;
        // A step began later than the traffic that it added to.
        let known = self.traffic_since.filter(|_| self.about.as_ref().is_some_and(same_trial));
        self.traffic_since = subject.traffic_since.map(|since| known.unwrap_or(since).min(since));
        if self.about.as_ref().is_some_and(|before| self.question.is_the_same(before, subject)) {
            self.about = Some(subject.clone());
            return;
        }
        self.about = Some(subject.clone());
        self.number += 1;
        (self.asked_at, self.is_on_the_way, self.finding) = (None, false, None);
        self.streak = Streak::default();
    }

    /// Whether numbers of the moment `at` may be of the time before the canary had traffic for so long.
    fn is_of_before(&self, delay: Duration, at: Time) -> bool {
        self.traffic_since.is_none_or(|since| at.since(since) < delay)
    }

    fn is_due(&self, subject: &Subject, now: Time) -> bool {
        let rested = self.asked_at.is_none_or(|asked_at| now.since(asked_at) >= self.question.every());
        !self.is_on_the_way && rested && self.question.is_due_for(subject)
    }

    /// Takes an answer in; whether what follows from it has changed.
    fn take(&mut self, said: Said) -> bool {
        self.is_on_the_way = false;
        let (Some(subject), Some(at)) = (&self.about, self.asked_at) else { return false };
        let (outcome, is_suspicion, words) = match (said, &self.question) {
            (Said::Numbers(seen), Question::Query(query)) => {
                let of_before = self.is_of_before(query.delay, at);
                let Noted { outcome, is_breach, words } = self.streak.note(query, seen, of_before);
                (outcome, is_breach && outcome == Outcome::Holds, words)
            }
            (Said::Verdict(outcome, words), _) => (outcome, false, words),
            (Said::Numbers(_), Question::Gate(_)) => return false,
        };
        let is_news = self.finding.as_ref().is_none_or(|before| before.outcome != outcome);
        let (version, trial) = (subject.canary.clone(), subject.trial);
        self.finding = Some(Finding { version, trial, outcome, is_suspicion, words, at });
        is_news
    }

    /// What the phase machine is told.
    fn gate(&self, subject: &Subject, now: Time) -> Gate {
        let stale_after = self.question.every().saturating_mul(PACES).saturating_add(self.question.timeout());
        let (asked, finding) = match &self.question {
            Question::Query(_) => (Asked::WithTraffic, self.finding.clone()),
            Question::Gate(_) if !self.question.is_due_for(subject) => (
                Asked::Always,
                Some(finding(subject, (Outcome::Passes, "it is not asked before this".to_owned()), now)),
            ),
            Question::Gate(_) => (Asked::Always, self.finding.clone()),
        };
        Gate { name: self.question.name().to_owned(), asked, stale_after, finding }
    }
}

fn finding(subject: &Subject, (outcome, words): (Outcome, String), at: Time) -> Finding {
    Finding { version: subject.canary.clone(), trial: subject.trial, outcome, is_suspicion: false, words, at }
}

/// Everybody who is asked about canaries.
#[derive(Debug)]
pub(crate) struct Asking {
    runtime: Handle,
    tell: mpsc::UnboundedSender<Answered>,
    told: mpsc::UnboundedReceiver<Answered>,
    on_the_way: usize,
    desks: BTreeMap<RouteName, Vec<Desk>>,
    calendars: Vec<Calendar>,
}

impl Asking {
    /// Asks on threads of `runtime`.
    pub(crate) fn start(runtime: &Handle) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let (desks, calendars) = (BTreeMap::new(), Vec::new());
        Self { runtime: runtime.clone(), tell, told, on_the_way: 0, desks, calendars }
    }

    /// Asks what `routes` want asked from now on; a question that stays goes on where it stood.
    pub(crate) fn set(&mut self, routes: &[Route], freezes: &[Freeze]) {
        let mut before = std::mem::take(&mut self.desks);
        for route in routes {
            let mut known = before.remove(&route.name).unwrap_or_default();
            let mut desks = Vec::new();
            for question in questions(route) {
                let place = known.iter().position(|desk| desk.question == question);
                desks.push(place.map_or_else(|| Desk::new(question), |place| known.swap_remove(place)));
            }
            if !desks.is_empty() {
                self.desks.insert(route.name.clone(), desks);
            }
        }
        if self.calendars.iter().map(Calendar::freeze).ne(freezes) {
            self.calendars = freezes.iter().cloned().map(Calendar::new).collect();
        }
    }

    /// Takes in what was answered since the last tick.
    pub(crate) fn listen(&mut self) {
        while let Ok(Answered { route, name, number, said }) = self.told.try_recv() {
            self.on_the_way = self.on_the_way.saturating_sub(1);
            let desks = self.desks.get_mut(&route).into_iter().flatten();
            let Some(desk) = desks.into_iter().find(|desk| desk.question.name() == name && desk.number == number)
            else {
                continue;
            };
            if desk.take(said)
                && let Some(found) = &desk.finding
            {
                info!(%route, gate = name, outcome = found.outcome.as_str(), found = found.words, "asked about the canary");
            }
        }
    }

    /// What others say of the canary of a route, and asks those whose turn it is; nothing while nobody is tried.
    pub(crate) fn gates(&mut self, subject: Option<&Subject>, (now, clock): (Time, DateTime<Utc>)) -> Vec<Gate> {
        let Some(subject) = subject else { return Vec::new() };
        let mut gates = Vec::new();
        for desk in self.desks.get_mut(&subject.route).into_iter().flatten() {
            desk.turn_to(subject);
            if desk.is_due(subject, now) && self.on_the_way < MOST_ON_THE_WAY {
                desk.asked_at = Some(now);
                desk.is_on_the_way = true;
                self.on_the_way += 1;
                send(&self.runtime, &self.tell, desk, subject);
            }
            gates.push(desk.gate(subject, now));
        }
        for calendar in self.calendars.iter_mut().filter(|calendar| calendar.freeze().is_of(&subject.route)) {
            let standing = calendar.look(clock);
            gates.push(Gate {
                name: calendar.gate_name(),
                asked: Asked::OfTheCalendar,
                stale_after: Duration::MAX,
                finding: Some(finding(subject, standing, now)),
            });
        }
        gates
    }

    /// So much time has passed that the clock did not count: what was said before is so much older.
    pub(crate) fn grow_old(&mut self, uncounted: Duration) {
        for desk in self.desks.values_mut().flatten() {
            desk.asked_at = desk.asked_at.map(|at| at.minus(uncounted));
            if let Some(finding) = &mut desk.finding {
                finding.at = finding.at.minus(uncounted);
            }
        }
    }

    /// Whether anything is asked, or known, about the canaries of `route`.
    pub(crate) fn is_about(&self, route: &RouteName) -> bool {
        self.desks.contains_key(route) || self.calendars.iter().any(|calendar| calendar.freeze().is_of(route))
    }

    /// The freeze that a route is in, if it is in one.
    pub(crate) fn frozen(&mut self, route: &RouteName, clock: DateTime<Utc>) -> Option<Frozen> {
        let of_route = self.calendars.iter_mut().filter(|calendar| calendar.freeze().is_of(route));
        of_route.filter_map(|calendar| calendar.frozen(clock)).max_by_key(|frozen| frozen.until)
    }
}

fn questions(route: &Route) -> impl Iterator<Item = Question> {
    let queries = route.guard.queries.iter().cloned().map(Arc::new).map(Question::Query);
    queries.chain(route.guard.gates.iter().cloned().map(Arc::new).map(Question::Gate))
}

fn send(runtime: &Handle, tell: &mpsc::UnboundedSender<Answered>, desk: &Desk, subject: &Subject) {
    let (question, subject, tell, number) = (desk.question.clone(), subject.clone(), tell.clone(), desk.number);
    drop(runtime.spawn_blocking(move || {
        let said = question.ask(&subject);
        let (route, name) = (subject.route, question.name().to_owned());
        // Whoever asked may have gone.
        drop(tell.send(Answered { route, name, number, said }));
    }));
}

#[cfg(test)]
mod tests {
    use pointsman_config::Config;

    use super::*;

    fn route(guard: &str) -> Route {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:1] }}, v2: {{ endpoints: [127.0.0.1:2] }} }}
    rollout: {{ canary: v2 }}
    guard: {guard}"
        );
        Config::parse(&text, "test").unwrap_or_else(|error| panic!("{error}")).config.routes.remove(0)
    }

    fn desk(guard: &str) -> Desk {
        Desk::new(questions(&route(guard)).next().unwrap())
    }

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(1_000 + seconds))
    }

    fn subject(trial: u64, step: usize) -> Subject {
        Subject {
            route: "r".parse().unwrap(),
            stable: "v1".parse().unwrap(),
            canary: "v2".parse().unwrap(),
            revision: None,
            trial,
            next: Before::Step,
            step: Some(step),
            weight_ppm: 50_000,
            traffic_since: Some(at(0)),
            goes_forward: true,
        }
    }

    fn asked(desk: &mut Desk, subject: &Subject, now: Time) {
        desk.turn_to(subject);
        assert!(desk.is_due(subject, now));
        (desk.asked_at, desk.is_on_the_way) = (Some(now), true);
        assert!(!desk.is_due(subject, at(9_999)), "one answer is on its way at a time");
    }

    const QUERY: &str = "{ queries: [{ name: q, prometheus: 'http://127.0.0.1:9', query: 'x{v=\"{{version}}\"}', max: 1, every: 10s }] }";
    const GATE: &str = "{ gates: [{ name: g, url_env: G, before: [promotion], every: 10s }] }";

    #[test]
    fn a_question_is_asked_at_its_pace_and_an_answer_counts_for_the_trial() {
        let mut desk = desk(QUERY);
        asked(&mut desk, &subject(1, 1), at(0));
        assert!(desk.take(Said::Numbers(Ok(Numbers { canary: 0.5, stable: None }))));
        assert!(!desk.is_due(&subject(1, 1), at(9)) && desk.is_due(&subject(1, 1), at(10)));
        // Another step is still the same trial.
        desk.turn_to(&subject(1, 2));
        assert_eq!(desk.gate(&subject(1, 2), at(9)).finding.unwrap().outcome, Outcome::Passes);
        desk.turn_to(&subject(2, 1));
        assert_eq!(desk.gate(&subject(2, 1), at(9)).finding, None);
        assert!(desk.is_due(&subject(2, 1), at(9)), "at once");
    }

    /// `rate(…[2m])` still holds what the build before did.
    #[test]
    fn a_new_trial_is_not_judged_on_the_numbers_of_the_one_before() {
        let mut desk = desk(&QUERY.replace("x{v=\"{{version}}\"}", "rate(x{v=\"{{version}}\"}[2m])"));
        let mut outcome = |trial, seconds: u64| {
            let subject = Subject { traffic_since: Some(at(trial * 1_000)), ..subject(trial, 1) };
            desk.turn_to(&subject);
            (desk.asked_at, desk.is_on_the_way) = (Some(at(seconds)), true);
            desk.take(Said::Numbers(Ok(Numbers { canary: 7.0, stable: None })));
            desk.finding.as_ref().unwrap().outcome
        };
        for trial in [1, 2] {
            let began = trial * 1_000;
            let early = (0..12).map(|look| outcome(trial, began + 10 * look));
            assert!(early.into_iter().all(|outcome| outcome == Outcome::Holds), "trial {trial}");
            let outcomes = [120, 130, 140].map(|seconds| outcome(trial, began + seconds));
            assert_eq!(outcomes, [Outcome::Holds, Outcome::Holds, Outcome::Fails], "trial {trial}");
        }
    }

    #[test]
    fn a_query_is_not_asked_about_a_canary_without_traffic() {
        let mut desk = desk(QUERY);
        let idle = Subject { traffic_since: None, ..subject(1, 1) };
        desk.turn_to(&idle);
        assert!(!desk.is_due(&idle, at(0)));
    }

    #[test]
    fn a_gate_is_asked_before_what_it_is_for_and_its_answer_is_about_one_step() {
        let mut desk = desk(GATE);
        let step = subject(1, 2);
        desk.turn_to(&step);
        assert!(!desk.is_due(&step, at(0)));
        assert_eq!(desk.gate(&step, at(0)).finding.unwrap().outcome, Outcome::Passes);
        let promotion = Subject { next: Before::Promotion, step: None, ..step };
        asked(&mut desk, &promotion, at(1));
        assert_eq!(desk.gate(&promotion, at(1)).finding, None, "which holds");
        desk.take(Said::Verdict(Outcome::Passes, String::new()));
        assert_eq!(desk.gate(&promotion, at(2)).finding.unwrap().at, at(1), "when it was asked");
        let anew = Subject { trial: 2, ..promotion };
        desk.turn_to(&anew);
        assert_eq!(desk.gate(&anew, at(3)).finding, None);
        let baking = Subject { goes_forward: false, ..anew };
        assert_eq!(desk.gate(&baking, at(3)).finding.unwrap().outcome, Outcome::Passes);
    }

    #[test]
    fn an_answer_that_comes_too_late_is_about_nothing_any_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::start(runtime.handle());
        asking.set(&[route(QUERY)], &[]);
        let desk = &mut asking.desks.get_mut(&"r".parse::<RouteName>().unwrap()).unwrap()[0];
        asked(desk, &subject(1, 1), at(0));
        let late = Answered {
            route: "r".parse().unwrap(),
            name: "q".to_owned(),
            number: desk.number,
            said: Said::Numbers(Ok(Numbers { canary: 7.0, stable: None })),
        };
        desk.turn_to(&subject(2, 1));
        asking.tell.send(late).unwrap();
        asking.listen();
        assert_eq!(asking.desks[&"r".parse::<RouteName>().unwrap()][0].finding, None);
    }

    #[test]
    fn what_was_said_before_a_standstill_is_as_old_as_it_is_and_is_asked_for_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::start(runtime.handle());
        let (name, subject): (RouteName, _) = ("r".parse().unwrap(), subject(1, 1));
        asking.set(&[route(QUERY)], &[]);
        let desk = &mut asking.desks.get_mut(&name).unwrap()[0];
        asked(desk, &subject, at(0));
        desk.take(Said::Numbers(Ok(Numbers { canary: 0.5, stable: None })));
        let stands = |asking: &Asking| {
            let desk = &asking.desks[&name][0];
            let gate = desk.gate(&subject, at(5));
            (desk.is_due(&subject, at(5)), at(5).since(gate.finding.unwrap().at) > gate.stale_after)
        };
        assert_eq!(stands(&asking), (false, false), "neither due nor stale");
        asking.grow_old(Duration::from_mins(5));
        assert_eq!(stands(&asking), (true, true));
    }

    #[test]
    fn what_stays_in_the_file_goes_on_where_it_stood() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::start(runtime.handle());
        let name: RouteName = "r".parse().unwrap();
        asking.set(&[route(QUERY)], &[]);
        asking.desks.get_mut(&name).unwrap()[0].asked_at = Some(at(1));
        asking.set(&[route(QUERY)], &[]);
        assert_eq!(asking.desks[&name][0].asked_at, Some(at(1)));
        asking.set(&[route(&QUERY.replace("max: 1", "max: 2"))], &[]);
        assert_eq!(asking.desks[&name][0].asked_at, None, "another question");
        asking.set(&[], &[]);
        assert!(asking.desks.is_empty());
    }
}
