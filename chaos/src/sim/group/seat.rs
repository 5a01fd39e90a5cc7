//! One edge's seat among those that may lead: its rounds of looking at the Lease and writing it, each as long as the calls take.

use std::time::Duration;

use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{Election, LeaseTimes, Move, Record};
use pointsman_rollout::Time;

use super::super::cluster::{Call, Cluster, Fate};

/// A candidate for the Lease, and the terms that were heard of.
pub(super) struct Seat {
    name: String,
    times: LeaseTimes,
    election: Election,
    next_round: Duration,
    asked: Option<Asked>,
    /// The latest term of another leader that was heard of.
    latest: u64,
}

/// A call about the Lease that is under way.
struct Asked {
    what: What,
    /// When it is answered, or given up.
    until: Duration,
    is_answered: bool,
}

enum What {
    Look,
    Write { over: Option<String>, term: u64, sent: Time },
}

impl Seat {
    pub(super) fn new(name: &str, first_round: Duration) -> Self {
        let times = LeaseTimes::default();
        let election = Election::new(name.to_owned(), times);
        Self { name: name.to_owned(), times, election, next_round: first_round, asked: None, latest: 0 }
    }

    /// Looks and writes as far as calls come to their end.
    pub(super) fn stand(&mut self, cluster: &mut Cluster, has_way: bool, (now, clock): (Duration, Time)) {
        loop {
            match self.asked.take() {
                Some(asked) if now < asked.until => {
                    self.asked = Some(asked);
                    return;
                }
                Some(asked) => self.hear(asked, cluster, has_way, (now, clock)),
                None if now < self.next_round => return,
                None => {
                    self.next_round = now + self.times.every();
                    self.ask(What::Look, (cluster, has_way), now);
                }
            }
        }
    }

    fn ask(&mut self, what: What, (cluster, has_way): (&Cluster, bool), now: Duration) {
        let call = match what {
            What::Look => Call::Read,
            What::Write { .. } => Call::Lease,
        };
        let fate = if has_way { cluster.fate(call) } else { Fate::Never };
        self.asked = match fate {
            Fate::After(span) => Some(Asked { what, until: now + span, is_answered: true }),
            // A call that waits longer than until the next round is given up.
            Fate::Never | Fate::Late => Some(Asked { what, until: now + self.times.every(), is_answered: false }),
            Fate::Refused => None,
        };
    }

    fn hear(&mut self, asked: Asked, cluster: &mut Cluster, has_way: bool, (now, clock): (Duration, Time)) {
        if !asked.is_answered {
            return;
        }
        match asked.what {
            What::Look => {
                self.election.saw(cluster.lease().cloned(), clock);
                let (over, term) = match self.election.next(clock) {
                    Move::Wait => return,
                    Move::Create { term } => (None, term),
                    Move::Write { over, term } => (Some(over), term),
                };
                self.ask(What::Write { over, term, sent: clock }, (cluster, has_way), now);
            }
            What::Write { over, term, sent } => {
                let lasts = self.times.lasts();
                let record = Record { holder: self.name.clone(), term, lasts, version: String::new() };
                if let Some(record) = cluster.write_lease(over.as_deref(), record) {
                    self.election.accepted(record, sent, clock);
                }
            }
        }
    }

    /// The proof that this edge leads now; none if it does not.
    pub(super) fn fence(&self, clock: Time) -> Option<Fence> {
        self.election.leads(clock).map(|(fence, _)| fence).filter(|fence| fence.term > self.latest)
    }

    /// Another edge leads, or led, with `term`.
    pub(super) fn heard_of(&mut self, term: u64) {
        self.latest = self.latest.max(term);
    }

    /// The latest term that it knows.
    pub(super) fn term(&self, clock: Time) -> u64 {
        self.fence(clock).map_or(0, |fence| fence.term).max(self.latest)
    }

    /// The latest term of another leader that was heard of.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }

    /// A fence stands there that this Lease cannot have given, or a later leader was heard of.
    pub(super) fn raise_above(&mut self, term: u64) {
        self.election.raise_above(term);
    }

    /// A term that the Lease must be raised above.
    pub(super) fn is_outrun(&self, clock: Time) -> Option<u64> {
        self.election.leads(clock).filter(|(fence, _)| fence.term <= self.latest).map(|_| self.latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{ApiFault, Scenario};
    use crate::sim::TICK;
    use crate::sim::fleet::Fleet;

    fn cluster() -> Cluster {
        let text = "
about: two candidates
api_server: true
worlds: [sim]
route: { stable: v1, weights: { v1: 60%, v2: 40% } }
versions: { v1: {}, v2: {} }
rate: 1
end: 1m
";
        let scenario = Scenario::parse(text, "small").unwrap();
        Cluster::new(&scenario.route, scenario.route.live_service.as_ref().unwrap(), &Fleet::new(&scenario))
    }

    /// Who leads at the end of so many seconds; never both.
    fn who(cluster: &mut Cluster, seats: &mut [Seat; 2], (from, to): (u64, u64), have_way: [bool; 2]) -> [bool; 2] {
        let clock = |now: Duration| Time::after_start(now);
        let mut now = Duration::from_secs(from);
        let mut leads = [false; 2];
        while now < Duration::from_secs(to) {
            now += TICK;
            for (seat, has_way) in seats.iter_mut().zip(have_way) {
                seat.stand(cluster, has_way, (now, clock(now)));
            }
            leads = [0, 1].map(|seat: usize| seats[seat].fence(clock(now)).is_some());
            assert_ne!(leads, [true, true], "at {now:?}");
        }
        leads
    }

    #[test]
    fn one_leads_and_the_other_one_when_the_lease_has_run_out() {
        let mut cluster = cluster();
        let mut seats = [Seat::new("a", Duration::ZERO), Seat::new("b", TICK)];
        assert_eq!(who(&mut cluster, &mut seats, (0, 5), [true, true]), [true, false]);
        assert_eq!(who(&mut cluster, &mut seats, (5, 12), [false, true]), [false, false]);
        assert_eq!(who(&mut cluster, &mut seats, (12, 19), [false, true]), [false, true]);
        assert_eq!(who(&mut cluster, &mut seats, (19, 40), [true, true]), [false, true]);
    }

    #[test]
    fn an_api_server_that_is_slow_changes_no_leader_and_one_that_hangs_ends_each_lead() {
        let mut cluster = cluster();
        let mut seats = [Seat::new("a", Duration::ZERO), Seat::new("b", TICK)];
        who(&mut cluster, &mut seats, (0, 5), [true, true]);
        cluster.trouble(ApiFault::Slow, None);
        assert_eq!(who(&mut cluster, &mut seats, (5, 60), [true, true]), [true, false]);
        cluster.trouble(ApiFault::Hanging, None);
        assert_eq!(who(&mut cluster, &mut seats, (60, 80), [true, true]), [false, false]);
    }
}
