//! The endpoints of a simulated world, and what the edge's health checks make of them.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::VersionId;
use pointsman_rollout::Ready;

use super::TICK;
use super::policy::ReadyMap;
use crate::scenario::{Behaviour, Event, Fault, Scenario};

/// Every version's endpoints.
pub(super) struct Fleet {
    versions: BTreeMap<VersionId, Member>,
    ready: ReadyMap,
    /// How long until a dead endpoint is found, and one that is back.
    finds_dead: Duration,
    finds_back: Duration,
    /// How much sooner the first check of all comes.
    first_check: Duration,
}

struct Member {
    behaviour: Behaviour,
    faults: Vec<(Event, Fault)>,
    downs: Vec<(Event, usize)>,
    /// Endpoints that are gone, and that the edge thinks gone.
    gone: usize,
    thought_gone: usize,
    /// Since when the two differ.
    differ_since: Duration,
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

impl Fleet {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let member = |version: &VersionId, behaviour: Behaviour| {
            let events = scenario.events.iter();
            let fault = |event: &Event| Some((event.clone(), event.what.fault_of(version)?.clone()));
            let down = |event: &Event| Some((event.clone(), event.what.down_of(version)?.endpoints));
            let (faults, downs) = (events.clone().filter_map(fault).collect(), events.filter_map(down).collect());
            Member { behaviour, faults, downs, gone: 0, thought_gone: 0, differ_since: Duration::ZERO }
        };
        let of = |(version, behaviour): (&VersionId, &Behaviour)| (version.clone(), member(version, *behaviour));
        let all = |(version, behaviour): (&VersionId, &Behaviour)| {
            (version.clone(), Ready { up: behaviour.endpoints, total: behaviour.endpoints })
        };
        let check = &scenario.route.health_check;
        Self {
            versions: scenario.versions.iter().map(of).collect(),
            ready: scenario.versions.iter().map(all).collect(),
            finds_dead: check.interval * check.unhealthy_after,
            finds_back: check.interval * check.healthy_after,
            first_check: check.interval,
        }
    }

    /// What the edge thinks ready.
    pub(super) fn ready(&self) -> &ReadyMap {
        &self.ready
    }

    /// An edge that has just started knows of none that it is ready: each is checked at once, and then as often as it takes.
    pub(super) fn forget(&mut self, now: Duration) {
        for (version, member) in &mut self.versions {
            member.thought_gone = member.behaviour.endpoints;
            member.differ_since = (now + TICK).saturating_sub(self.first_check);
            self.ready.insert(version.clone(), Ready { up: 0, total: member.behaviour.endpoints });
        }
    }

    /// Endpoints go and come, and the edge's checks find it after a while.
    pub(super) fn check(&mut self, now: Duration) {
        for (version, member) in &mut self.versions {
            let hit = |(event, endpoints): &(Event, usize)| if event.is_in_force(now) { *endpoints } else { 0 };
            let gone = member.downs.iter().map(hit).sum::<usize>().min(member.behaviour.endpoints);
            if gone != member.gone {
                member.gone = gone;
                member.differ_since = now;
            }
            let patience = if member.gone > member.thought_gone { self.finds_dead } else { self.finds_back };
            if member.gone != member.thought_gone && now.saturating_sub(member.differ_since) >= patience {
                member.thought_gone = member.gone;
                let up = member.behaviour.endpoints - member.gone;
                self.ready.insert(version.clone(), Ready { up, total: member.behaviour.endpoints });
            }
        }
    }

    /// How `version` answers now.
    pub(super) fn answers(&self, version: &VersionId, now: Duration) -> Answers {
        let Some(member) = self.versions.get(version) else {
            return Answers { errors: 1.0, slow: 0.0, hang: 0.0, together: 1 };
        };
        if member.gone == member.behaviour.endpoints {
            return Answers { errors: 1.0, slow: 0.0, hang: 0.0, together: 1 };
        }
        let own = member.behaviour;
        let mut answers = Answers { errors: own.errors, slow: own.slow, hang: 0.0, together: 1 };
        for (event, fault) in member.faults.iter().filter(|(event, _)| event.is_in_force(now)) {
            let lasted = now.saturating_sub(event.at);
            let part = fault.part_after(lasted);
            answers.errors = (answers.errors + part * fault.failing()).min(1.0);
            answers.slow = (answers.slow + part * fault.slow).min(1.0);
            answers.hang = (answers.hang + part * fault.hang).min(1.0);
            answers.together = answers.together.max(fault.together);
        }
        answers
    }
}
