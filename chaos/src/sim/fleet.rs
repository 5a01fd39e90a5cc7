//! The endpoints of a simulated world, and how they answer.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::{Replay, Route, VersionId};

use super::latency::share_above;
use crate::count::exact;
use crate::scenario::{Behaviour, Down, DownBy, Event, Fault, Latency, Scenario};

/// Every version's endpoints.
pub(super) struct Fleet {
    versions: BTreeMap<VersionId, Member>,
    patience: Patience,
}

/// From when on an answer is slow or given up, and what becomes of a request that an endpoint leaves unanswered.
struct Patience {
    slow: Duration,
    hangs: Duration,
    /// How long one attempt may take, where another endpoint is asked after it.
    per_try: Option<Duration>,
}

impl Patience {
    fn of(route: &Route) -> Self {
        let is_repeated = route.retries.attempts > 1 && route.retries.replay == Replay::Predictions;
        Self {
            slow: route.guard.latency_threshold,
            hangs: route.timeouts.read.min(route.timeouts.total),
            per_try: route.retries.per_try.filter(|_| is_repeated),
        }
    }
}

struct Member {
    behaviour: Behaviour,
    faults: Vec<(Event, Fault)>,
    downs: Vec<(Event, Down)>,
    absent: Absent,
}

/// Endpoints of one version that are not as they should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Absent {
    /// Whose process is gone.
    killed: usize,
    /// Whose process stands still.
    frozen: usize,
    /// Who are back and not ready yet.
    cold: usize,
}

/// Where one endpoint is that an event takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    Cold,
    Away,
}

/// How a version answers at one moment; ratios of its requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answers {
    pub(super) errors: f64,
    pub(super) slow: f64,
    pub(super) hang: f64,
    /// How many requests in a row fail together.
    pub(super) together: u32,
}

impl Answers {
    const NONE: Self = Self { errors: 1.0, slow: 0.0, hang: 0.0, together: 1 };
}

impl Fleet {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let member = |behaviour: &Behaviour| Member {
            behaviour: *behaviour,
            faults: Vec::new(),
            downs: Vec::new(),
            absent: Absent::default(),
        };
        let of = |(version, behaviour): (&VersionId, &Behaviour)| (version.clone(), member(behaviour));
        Self { versions: scenario.versions.iter().map(of).collect(), patience: Patience::of(&scenario.route) }
    }

    /// An event has begun; it is in force by its own times.
    pub(super) fn begin(&mut self, event: &Event) {
        for (version, member) in &mut self.versions {
            member.faults.extend(event.what.fault_of(version).map(|fault| (event.clone(), fault.clone())));
            member.downs.extend(event.what.down_of(version).map(|down| (event.clone(), down.clone())));
        }
    }

    /// Endpoints go and come.
    pub(super) fn move_on(&mut self, now: Duration) {
        for member in self.versions.values_mut() {
            let mut absent = Absent::default();
            for (event, down) in &member.downs {
                match (place(event, down, now), down.by) {
                    (Place::Here, _) => {}
                    (Place::Cold, _) => absent.cold += down.endpoints,
                    (Place::Away, DownBy::Killed) => absent.killed += down.endpoints,
                    (Place::Away, DownBy::Frozen) => absent.frozen += down.endpoints,
                }
            }
            member.absent = absent;
        }
    }

    /// Every version, how many endpoints it has, and how many of them fail their checks now.
    pub(super) fn failing_checks(&self) -> impl Iterator<Item = (&VersionId, usize, usize)> {
        self.versions.iter().map(|(version, member)| {
            let Absent { killed, frozen, cold } = member.absent;
            (version, member.behaviour.endpoints, (killed + frozen + cold).min(member.behaviour.endpoints))
        })
    }

    /// How `version` answers an edge now that takes so many of its endpoints for dead.
    pub(super) fn answers(&self, version: &VersionId, thought_dead: usize, now: Duration) -> Answers {
        let Some(member) = self.versions.get(version) else { return Answers::NONE };
        let own = member.behaviour;
        if member.absent.killed >= own.endpoints {
            return Answers::NONE;
        }
        let mut answers = Answers { errors: own.errors, slow: own.slow, hang: 0.0, together: 1 };
        for (event, fault) in member.faults.iter().filter(|(event, _)| event.is_in_force(now)) {
            let lasted = now.saturating_sub(event.at);
            let part = fault.part_after(lasted);
            answers.errors = (answers.errors + part * fault.failing()).min(1.0);
            answers.slow = (answers.slow + part * (fault.slow + fault.trickle)).min(1.0);
            answers.hang = (answers.hang + part * fault.hang).min(1.0);
            answers.together = answers.together.max(fault.together);
            self.patience.wait_for(fault.latency, &mut answers);
        }
        self.patience.meet_frozen(member.unfound_frozen(thought_dead), &mut answers);
        answers
    }
}

impl Member {
    /// The share of requests that meet an endpoint that stands still, of which the edge does not know yet.
    fn unfound_frozen(&self, thought_dead: usize) -> f64 {
        let Absent { killed, frozen, .. } = self.absent;
        let (all, gone) = (self.behaviour.endpoints, (killed + frozen).min(self.behaviour.endpoints));
        if frozen == 0 {
            return 0.0;
        }
        if gone == all {
            return 1.0;
        }
        let unfound = gone.saturating_sub(thought_dead.max(killed));
        exact(unfound) / exact((all - thought_dead.min(gone)).max(1))
    }
}

impl Patience {
    /// Good answers take as long as a distribution says: what of it is beyond the threshold is slow, what is beyond the
    /// timeout never comes.
    fn wait_for(&self, latency: Option<Latency>, answers: &mut Answers) {
        let Some(latency) = latency else { return };
        let never = share_above(latency, self.hangs);
        answers.hang = (answers.hang + never).min(1.0);
        answers.slow = (answers.slow + share_above(latency, self.slow) - never).min(1.0);
    }

    /// So many requests reach an endpoint that stands still.
    fn meet_frozen(&self, share: f64, answers: &mut Answers) {
        match self.per_try {
            _ if share <= 0.0 => {}
            Some(per_try) if share < 1.0 && per_try < self.slow => {}
            Some(_) if share < 1.0 => answers.slow = (answers.slow + share).min(1.0),
            Some(_) | None => answers.hang = (answers.hang + share).min(1.0),
        }
    }
}

/// Where the endpoints of an event are: away as long as it is in force, in turns if they come and go, and cold when they
/// have come back.
fn place(event: &Event, down: &Down, now: Duration) -> Place {
    let Some(since) = now.checked_sub(event.at) else { return Place::Here };
    let lasted = event.lasts().map_or(since, |lasts| since.min(lasts));
    let is_over = !event.is_in_force(now);
    // A turn lasts as long as the whole event, where they go but once.
    let turn = down.every.unwrap_or(Duration::MAX);
    let turns = lasted.as_nanos() / turn.as_nanos().max(1);
    let was_away = turns.is_multiple_of(2);
    if was_away && !is_over {
        return Place::Away;
    }
    let back_since = if was_away { lasted } else { turn * u32::try_from(turns).unwrap_or(u32::MAX) };
    if since.saturating_sub(back_since) < down.cold { Place::Cold } else { Place::Here }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit_by(event: &str) -> (Fleet, Event) {
        let text = format!(
            "
about: a route
route: {{ stable: v1, weights: {{ v1: 60%, v2: 40% }} }}
versions: {{ v1: {{ endpoints: 4 }}, v2: {{ endpoints: 2 }} }}
rate: 1
events: [ {event} ]
end: 1m
"
        );
        let scenario = Scenario::parse(&text, "small").unwrap();
        let mut fleet = Fleet::new(&scenario);
        fleet.begin(&scenario.events[0]);
        (fleet, scenario.events[0].clone())
    }

    #[track_caller]
    fn check(fleet: &mut Fleet, seconds: f64, wanted: usize) {
        fleet.move_on(Duration::from_secs_f64(seconds));
        let failing = fleet.failing_checks().map(|(_, _, failing)| failing).next().unwrap();
        assert_eq!(failing, wanted, "after {seconds} s");
    }

    #[test]
    fn endpoints_go_once_or_in_turns_and_are_cold_when_they_come_back() {
        let (mut fleet, _) = hit_by("{ at: 10s, for: 5s, version: v1, down: 2, cold: 3s }");
        for (seconds, wanted) in [(9.9, 0), (10.0, 2), (14.9, 2), (15.0, 2), (17.9, 2), (18.0, 0)] {
            check(&mut fleet, seconds, wanted);
        }
        let (mut fleet, _) = hit_by("{ at: 10s, for: 5s, version: v1, down: 1, every: 2s, cold: 1s }");
        for (seconds, wanted) in [(10.0, 1), (11.9, 1), (12.5, 1), (13.5, 0), (14.0, 1), (15.5, 1), (16.0, 0)] {
            check(&mut fleet, seconds, wanted);
        }
    }

    #[test]
    fn who_stands_still_keeps_its_part_of_the_requests_until_it_is_found() {
        let (mut fleet, event) = hit_by("{ at: 1s, version: v1, down: 2, by: frozen }");
        fleet.move_on(event.at);
        let v1: VersionId = "v1".parse().unwrap();
        let hang = |thought_dead| fleet.answers(&v1, thought_dead, Duration::from_secs(2)).hang;
        for (thought_dead, wanted) in [(0, 0.5), (1, 1.0 / 3.0), (2, 0.0)] {
            assert!((hang(thought_dead) - wanted).abs() < 1e-9, "{thought_dead}: {}", hang(thought_dead));
        }
    }

    #[test]
    fn what_of_a_distribution_is_beyond_the_threshold_is_slow() {
        let (fleet, _) = hit_by("{ at: 1s, version: v1, latency: { median: 500ms, p99: 2s } }");
        let answers = fleet.answers(&"v1".parse().unwrap(), 0, Duration::from_secs(2));
        assert!((answers.slow - 0.5).abs() < 1e-6 && answers.hang < 1e-6, "{answers:?}");
    }
}
