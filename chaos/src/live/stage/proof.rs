//! What shows that each event really struck, asked before it is mended, or after it where the edge has to start again to see it.

use std::time::{Duration, Instant, SystemTime};

use super::{Active, Stage};
use crate::count::as_u64;
use crate::live::clients::Garbage;
use crate::live::edge::Edge;
use crate::live::kinds;
use crate::live::strikes::{Struck, Tally};
use crate::scenario::{Clients, ConfigFault, EdgeFault, Event, StateFault, What};

/// What lasts shorter may be over before the edge has looked.
const FOUND_WITHIN: Duration = Duration::from_millis(1_500);
/// Names are asked for this often, at least.
const ASKED_EVERY: Duration = Duration::from_secs(12);
/// An edge looks at its clock once a second, on a machine that others use.
const CLOCK_MARGIN: Duration = Duration::from_secs(3);
/// What an edge logs of a name that is not found.
const NOT_FOUND: &str = "addresses cannot be asked for";

/// How things were when an event began.
#[derive(Debug, Default)]
pub(super) struct Before {
    tally: Tally,
    /// Edits that were refused, descriptors that were held, connections that were severed, names that were not found.
    count: u64,
}

impl Stage<'_> {
    pub(super) async fn before(&mut self, event: &Event, edges: &[usize]) -> Before {
        let count = match &event.what {
            What::Fault(fault) => {
                return Before { tally: self.fleet.tally(&fault.version).await, count: 0 };
            }
            What::Config(_) => self.watcher.refused(),
            What::Clients(_) => self.descriptors(),
            What::Names => self.names_not_found(),
            What::Edge { fault: EdgeFault::CutOff, .. } => self.severed(edges),
            What::Edge { .. }
            | What::Down(_)
            | What::Traffic(_)
            | What::State(_)
            | What::Api(_)
            | What::Order(..)
            | What::Edit(_) => 0,
        };
        Before { tally: Tally::default(), count }
    }

    fn descriptors(&self) -> u64 {
        let first = self.edges.all.first().and_then(Edge::holdings);
        first.map_or(0, |held| held.descriptors)
    }

    fn names_not_found(&self) -> u64 {
        self.edges.all.iter().map(|edge| edge.lines_with(NOT_FOUND)).sum()
    }

    fn severed(&self, edges: &[usize]) -> u64 {
        edges.iter().map(|number| self.edges.severed(*number)).sum()
    }

    /// Whether an event can only be seen once the edge has read its files again.
    pub(super) fn is_seen_after(event: &Event) -> bool {
        matches!(&event.what, What::Edge { fault: EdgeFault::Killed, state: Some(fault), .. } if *fault != StateFault::ReadOnly)
    }

    /// Takes down how often an event struck; what never did is broken.
    pub(super) async fn prove(&mut self, active: &Active, event: &Event) {
        for Struck { kind, times, missed } in self.struck(active, event).await {
            self.seen.struck(kind, times);
            if let Some(why) = missed {
                self.watcher.broke("every fault strikes", &format!("never struck: {}: {why}", event.text));
            }
        }
    }

    async fn struck(&mut self, active: &Active, event: &Event) -> Vec<Struck> {
        let lasted = active.since.elapsed();
        match &event.what {
            What::Fault(fault) => {
                let tally = self.fleet.tally(&fault.version).await;
                tally.since(&active.before.tally).of(fault)
            }
            What::Down(down) => {
                vec![Struck::surely(kinds::of_down(down), active.struck, || "no endpoint went".to_owned())]
            }
            What::Traffic(_) => vec![Struck::perhaps(kinds::TRAFFIC, 1)],
            What::Edge { fault, state, .. } => self.edges_struck(active, *fault, *state).await,
            What::State(fault) => vec![self.state_struck(active.since, *fault)],
            What::Config(fault) => vec![self.config_struck(active, *fault, lasted)],
            What::Clients(clients) => vec![self.clients_struck(active, event, *clients)],
            What::Names => {
                let times = self.names_not_found().saturating_sub(active.before.count);
                let said = || "no edge has said that a name was not found".to_owned();
                vec![enough(lasted >= ASKED_EVERY, Struck::surely(kinds::NAMES, times, said))]
            }
            What::Api(fault) => {
                let times = self.cluster.as_ref().map_or(0, |cluster| cluster.struck(active.index, *fault));
                vec![Struck::surely(kinds::of_api(*fault), times, || "no request met it".to_owned())]
            }
            What::Order(..) | What::Edit(_) => Vec::new(),
        }
    }

    async fn edges_struck(&self, active: &Active, fault: EdgeFault, state: Option<StateFault>) -> Vec<Struck> {
        let kind = kinds::of_edge(fault);
        match fault {
            EdgeFault::Killed => {
                let said = || "no edge was there to be killed".to_owned();
                let killed = Struck::surely(kind, active.struck, said);
                let spoiled = state.map(|fault| self.state_struck(active.since, fault));
                [killed].into_iter().chain(spoiled).collect()
            }
            EdgeFault::Frozen => {
                let still = |number: &&usize| self.edges.all.get(**number).is_some_and(Edge::stands_still);
                let times = active.edges.iter().filter(still).map(|_| 1).sum();
                vec![Struck::surely(kind, times, || "no edge stood still".to_owned())]
            }
            EdgeFault::Upgraded => vec![Struck::perhaps(kind, active.struck)],
            EdgeFault::CutOff => {
                let times = self.severed(&active.edges).saturating_sub(active.before.count);
                vec![Struck::surely(kind, times, || "the cut ended no connection".to_owned())]
            }
            EdgeFault::Clock { is_behind, by } => {
                let mut times = 0;
                for number in &active.edges {
                    let clock = self.watcher.clock(*number).await;
                    times += u64::from(clock.is_some_and(|clock| is_off(clock, is_behind, by)));
                }
                // An edge that is down meanwhile is not asked.
                let is_there = |number: &usize| self.edges.all.get(*number).is_some_and(|edge| !edge.is_down);
                let said = || "the edge has another time than it should".to_owned();
                vec![enough(active.edges.iter().all(is_there), Struck::surely(kind, times, said))]
            }
        }
    }

    fn state_struck(&self, since: Instant, fault: StateFault) -> Struck {
        let shown = |of: fn(&crate::live::watch::Shown) -> Option<Instant>| {
            let is_shown = |at: Option<Instant>| at.is_some_and(|at| at >= since);
            u64::from(self.watcher.eyes.iter().any(|eye| is_shown(of(&eye.shown))))
        };
        let kind = kinds::of_state(fault);
        match fault {
            StateFault::Full | StateFault::ReadOnly | StateFault::Newer => {
                Struck::surely(kind, shown(|shown| shown.state), || {
                    "the edge showed no problem of its state".to_owned()
                })
            }
            StateFault::CorruptByte | StateFault::CutOff => Struck::surely(kind, shown(|shown| shown.note), || {
                "the edge did not say that its state was damaged".to_owned()
            }),
            // Whether there was one to delete was asked when it was.
            StateFault::Deleted => Struck::perhaps(kind, 1),
        }
    }

    fn config_struck(&self, active: &Active, fault: ConfigFault, lasted: Duration) -> Struck {
        let is_shown = |at: Option<Instant>| at.is_some_and(|at| at >= active.since);
        let shown = u64::from(self.watcher.eyes.iter().any(|eye| is_shown(eye.shown.config)));
        let refused = self.watcher.refused().saturating_sub(active.before.count);
        let struck =
            Struck::surely(kinds::of_config(fault), shown.max(refused), || "the edge refused nothing".to_owned());
        enough(lasted >= FOUND_WITHIN, struck)
    }

    fn clients_struck(&self, active: &Active, event: &Event, clients: Clients) -> Struck {
        let kind = kinds::of_clients(clients);
        let held = self.descriptors().saturating_sub(active.before.count);
        // Half of its descriptors an edge keeps for its own work, and half of the rest for versions; further clients wait outside.
        let load = as_u64(self.scenario.live.connections);
        let room = self.scenario.live.descriptors.map_or(u64::MAX, |limit| (limit / 4).saturating_sub(load));
        // Who has no room for more sends them away, and has met them as well.
        let own = self.odd.iter().find(|(of, _)| *of == active.index);
        let sent_away = own.map_or(0, |(_, odd)| odd.sent_away());
        let open = |count: u32| {
            let wanted = u64::from(count).min(room) / 2;
            let missed = (held + sent_away < wanted.max(1) && active.since.elapsed() >= FOUND_WITHIN).then(|| {
                format!("the edge held {held} of their connections and ended {sent_away}, {wanted} at least were to be")
            });
            Struck { kind, times: held + sent_away, missed }
        };
        match clients {
            Clients::Idle(count) | Clients::SlowLoris(count) => open(count),
            Clients::Garbage(count) => {
                let garbage = self.garbage(active.index);
                let wanted = event.until.is_none().then(|| u64::from(count));
                Struck { kind, times: garbage.ended, missed: garbage.wrong(wanted) }
            }
        }
    }

    /// What became of clients without HTTP, whether or not they are done.
    fn garbage(&self, index: usize) -> Garbage {
        let present = self.odd.iter().find(|(of, _)| *of == index).map(|(_, odd)| odd.garbage());
        present.or_else(|| self.done.get(&index).copied()).unwrap_or_default()
    }
}

/// What hardly had the time to strike need not have.
fn enough(had_time: bool, struck: Struck) -> Struck {
    if had_time { struck } else { Struck::perhaps(struck.kind, struck.times) }
}

/// Whether a clock is off by about so much.
fn is_off(clock: SystemTime, is_behind: bool, by: Duration) -> bool {
    let now = SystemTime::now();
    let off = if is_behind { now.duration_since(clock) } else { clock.duration_since(now) };
    off.is_ok_and(|off| off.abs_diff(by) <= CLOCK_MARGIN)
}
