//! Which other edges there are, who of them is heard, and who applies what. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pointsman_config::{RouteName, Split};
use pointsman_rollout::{Time, Trip};

use super::rows::Instance;
use super::wire::{Answer, Applied};
use crate::view::ReplicaView;

/// Who has answered so lately is heard: four rounds.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Of whom nobody knows whether it serves, and who has been silent for so long, is not waited for any more.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// The same where its machine says all that time that nobody listens where it was heard before: the process has ended. One
/// that starts again in its place begins from what stands on the live Services.
const ENDED_AFTER: Duration = Duration::from_secs(5);

/// Whether an edge takes traffic, as far as is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It does, or may: nothing goes on without it.
    Yes,
    /// It is not ready; if it answers, it counts.
    No,
    /// It is listed in a file, which does not know. Nothing goes on without it until it has been silent for long.
    Unknown,
}

/// Where edges are, this one perhaps among them; none while that is not known.
pub(crate) type Addresses = Option<BTreeMap<SocketAddr, Serves>>;

/// What is known of one of them.
#[derive(Debug)]
struct Member {
    serves: Serves,
    heard: Option<Heard>,
    /// Whether it ever answered this process, or asked it.
    has_spoken: bool,
    silence: Option<Silence>,
}

/// Questions to which there was no answer, since the last one to which there was.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Time,
    /// Since when every one of them was turned away by its machine; none if the last one was not.
    refused_since: Option<Time>,
}

#[derive(Debug)]
struct Heard {
    at: Time,
    /// How long it took to put in force what it was told.
    took: Duration,
    name: String,
    instance: Instance,
    applied: BTreeMap<RouteName, Applied>,
    /// Its trips that were taken up and that it may not know were.
    trips: BTreeMap<RouteName, Trip>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Members {
    me: Instance,
    are_known: bool,
    list: BTreeMap<SocketAddr, Member>,
}

impl Members {
    /// Nobody yet, as this process sees it.
    pub(crate) fn new(me: Instance) -> Self {
        Self { me, are_known: false, list: BTreeMap::new() }
    }

    /// These are there from now on.
    pub(crate) fn set(&mut self, addresses: &Addresses) {
        self.are_known = addresses.is_some();
        let Some(addresses) = addresses else { return };
        self.list.retain(|address, _| addresses.contains_key(address));
        for (address, serves) in addresses {
            let unheard = Member { serves: *serves, heard: None, has_spoken: false, silence: None };
            self.list.entry(*address).or_insert(unheard).serves = *serves;
        }
    }

    /// The one at `address` did not answer; `refuses` says whether nobody listens there.
    pub(crate) fn is_silent(&mut self, address: SocketAddr, refuses: bool, now: Time) {
        let Some(member) = self.list.get_mut(&address) else { return };
        let silence = member.silence.get_or_insert(Silence { since: now, refused_since: None });
        silence.refused_since = silence.refused_since.or(Some(now)).filter(|_| refuses);
    }

    /// The one at `address` asked this process.
    pub(crate) fn has_asked(&mut self, address: SocketAddr) {
        if let Some(member) = self.list.get_mut(&address) {
            member.has_spoken = true;
        }
    }

    /// Nobody asks any more: silence says nothing.
    pub(crate) fn forget_silence(&mut self) {
        self.list.values_mut().for_each(|member| member.silence = None);
    }

    /// One of them answered.
    pub(crate) fn take(&mut self, (address, took): (SocketAddr, Duration), answer: Answer, now: Time) {
        let Answer { name, instance, applied, trips, batch: _, later: _ } = answer;
        if let Some(member) = self.list.get_mut(&address) {
            member.heard = Some(Heard { at: now, took, name, instance, applied, trips });
            (member.has_spoken, member.silence) = (true, None);
        }
    }

    /// So much time has passed that the clock did not count: what was heard before is so much older. Nobody was silent
    /// meanwhile, since nobody listened.
    pub(crate) fn grow_old(&mut self, uncounted: Duration) {
        for heard in self.list.values_mut().filter_map(|member| member.heard.as_mut()) {
            heard.at = heard.at.minus(uncounted);
        }
    }

    /// How many edges serve, this one included: those of the list, and whoever else answers.
    pub(crate) fn edges(&self, now: Time) -> usize {
        let counted = || self.others().filter(|(_, member)| Self::counts(member, now)).map(|(_, member)| &member.heard);
        let instances: BTreeSet<_> = counted().flatten().map(|heard| heard.instance).collect();
        let unheard = counted().filter(|heard| heard.is_none()).count();
        1 + instances.len() + unheard
    }

    /// Every address but this process's own, as far as that is known.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.others().map(|(address, _)| *address)
    }

    /// Whether every other edge that serves has answered of late that it applies `split`, out of the state `serial`.
    pub(crate) fn have_applied(&self, route: &RouteName, serial: u64, split: &Split, now: Time) -> bool {
        let mut others = self.others().filter(|(_, member)| Self::counts(member, now));
        self.are_known && others.all(|(_, member)| member.applies(route, serial, split, now))
    }

    /// How many of the others did.
    pub(crate) fn count_applied(&self, route: &RouteName, serial: u64, split: &Split, now: Time) -> usize {
        self.others().filter(|(_, member)| member.applies(route, serial, split, now)).count()
    }

    /// How long the slowest of the others that serve took to put in force what it was told last of `route`.
    ///
    /// # Errors
    /// Why one did not, as the end of a sentence.
    pub(crate) fn pushed(&self, route: &RouteName, now: Time) -> Result<Duration, String> {
        if !self.are_known {
            return Err("it is not known yet which other edges there are".to_owned());
        }
        let others = self.others().filter(|(_, member)| Self::counts(member, now));
        let took = others.map(|(address, member)| match member.heard.as_ref().filter(|heard| is_fresh(heard, now)) {
            None => Err(format!("the edge at {address} does not answer, so it could not be told")),
            Some(heard) if !heard.applied.contains_key(route) => Err(format!(
                "the edge at {address} does not follow this rollout, since its config file names another one"
            )),
            Some(heard) => Ok(heard.took),
        });
        took.collect::<Result<Vec<_>, _>>().map(|took| took.into_iter().max().unwrap_or_default())
    }

    /// Where this process is asked by others; none if it is not in the list, or has not asked itself yet.
    pub(crate) fn own_address(&self) -> Option<SocketAddr> {
        let is_own = |member: &Member| member.heard.as_ref().is_some_and(|heard| heard.instance == self.me);
        self.list.iter().find(|(_, member)| is_own(member)).map(|(address, _)| *address)
    }

    /// What to tell the one at `address` that was heard of its trips.
    pub(crate) fn trips_heard(&self, address: SocketAddr) -> BTreeMap<RouteName, Trip> {
        let heard = self.list.get(&address).and_then(|member| member.heard.as_ref());
        heard.map(|heard| heard.trips.clone()).unwrap_or_default()
    }

    /// Which process answered at `address` last.
    pub(crate) fn instance(&self, address: SocketAddr) -> Option<Instance> {
        self.list.get(&address)?.heard.as_ref().map(|heard| heard.instance)
    }

    /// For people.
    pub(crate) fn views(&self, now: Time) -> Vec<ReplicaView> {
        let view = |(address, member): (&SocketAddr, &Member)| ReplicaView {
            address: address.to_string(),
            name: member.heard.as_ref().map(|heard| heard.name.clone()),
            age_s: member.heard.as_ref().map(|heard| now.since(heard.at).as_secs_f64()),
            heard: member.heard.as_ref().is_some_and(|heard| is_fresh(heard, now)),
            serves: Self::counts(member, now),
            gone: member.is_gone(now),
        };
        self.others().map(view).collect()
    }

    fn others(&self) -> impl Iterator<Item = (&SocketAddr, &Member)> {
        let is_other = |member: &Member| member.heard.as_ref().is_none_or(|heard| heard.instance != self.me);
        self.list.iter().filter(move |(_, member)| is_other(member))
    }

    /// Whether nothing goes on without it.
    fn counts(member: &Member, now: Time) -> bool {
        let serves = match member.serves {
            Serves::Yes => true,
            Serves::No => false,
            Serves::Unknown => !member.is_gone(now),
        };
        serves || member.heard.as_ref().is_some_and(|heard| is_fresh(heard, now))
    }

    /// Where others are, if that is known.
    pub(crate) fn others_if_known(&self) -> Option<BTreeSet<SocketAddr>> {
        self.are_known.then(|| self.elsewhere().collect())
    }
}

impl Member {
    /// Whether it has been silent for so long that it is taken for gone. Who is behind a Service is never: its slices say
    /// whether it serves.
    fn is_gone(&self, now: Time) -> bool {
        let Some(silence) = self.silence.filter(|_| self.serves == Serves::Unknown) else { return false };
        // The question that was under way when it ended was not turned away, but broken off.
        let refused_since = silence.refused_since.filter(|_| self.has_spoken);
        let has_ended = refused_since.is_some_and(|since| now.since(since) >= ENDED_AFTER);
        has_ended || now.since(silence.since) >= GONE_AFTER
    }
}

impl Member {
    /// Whether it has answered of late that it applies `split`, out of the state `serial`.
    fn applies(&self, route: &RouteName, serial: u64, split: &Split, now: Time) -> bool {
        let heard = self.heard.as_ref().filter(|heard| is_fresh(heard, now));
        let applied = heard.and_then(|heard| heard.applied.get(route));
        applied.is_some_and(|applied| applied.serial == serial && applied.split == *split)
    }
}

fn is_fresh(heard: &Heard, now: Time) -> bool {
    now.since(heard.at) < HEARD_WITHIN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::replicas::rows::Batch;

    const ME: Instance = Instance(0);
    const TOOK: Duration = Duration::from_millis(3);

    fn at(milliseconds: u64) -> Time {
        Time::after_start(Duration::from_millis(10_000 + milliseconds))
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn route() -> RouteName {
        "r".parse().unwrap()
    }

    fn split() -> Split {
        Split::Whole("v2".parse().unwrap())
    }

    fn members(serves: &[Serves]) -> Members {
        let mut members = Members::new(ME);
        let addresses = (0..).zip(serves).map(|(number, serves)| (address(number), *serves)).collect();
        members.set(&Some(addresses));
        members
    }

    fn answer(instance: u64, serial: u64, split: Split) -> Answer {
        Answer {
            name: format!("edge-{instance}"),
            instance: Instance(instance),
            batch: Batch::default(),
            applied: [(route(), Applied { serial, split })].into(),
            trips: BTreeMap::new(),
            later: BTreeMap::new(),
        }
    }

    fn have_applied(members: &Members, now: Time) -> bool {
        members.have_applied(&route(), 5, &split(), now)
    }

    #[test]
    fn while_nobody_knows_who_there_is_nothing_is_acknowledged() {
        assert!(!have_applied(&Members::new(ME), at(0)));
        let mut alone = Members::new(ME);
        alone.set(&Some(BTreeMap::new()));
        assert!(have_applied(&alone, at(0)));
    }

    #[test]
    fn what_was_heard_before_a_standstill_is_old_and_nobody_is_gone_for_it() {
        let mut members = members(&[Serves::Unknown]);
        members.take((address(0), TOOK), answer(1, 5, split()), at(0));
        members.is_silent(address(0), true, at(100));
        members.grow_old(Duration::from_mins(1));
        assert!(!have_applied(&members, at(200)), "it was heard a minute ago");
        assert_eq!(members.edges(at(200)), 2, "it is waited for");
        members.take((address(0), TOOK), answer(1, 5, split()), at(300));
        assert!(have_applied(&members, at(300)));
    }

    #[test]
    fn this_edge_is_not_waited_for_once_it_has_answered_itself() {
        let mut members = members(&[Serves::Yes]);
        assert_eq!((have_applied(&members, at(0)), members.edges(at(0))), (false, 2));
        members.take((address(0), TOOK), answer(0, 0, split()), at(0));
        assert_eq!((have_applied(&members, at(0)), members.edges(at(0))), (true, 1));
        assert_eq!((members.own_address(), members.elsewhere().count()), (Some(address(0)), 0));
    }

    #[test]
    fn who_is_not_ready_is_not_waited_for_unless_it_answers() {
        let mut members = members(&[Serves::Yes, Serves::No]);
        members.take((address(0), TOOK), answer(1, 5, split()), at(0));
        assert!(have_applied(&members, at(0)));
        members.take((address(1), TOOK), answer(2, 4, split()), at(0));
        assert!(!have_applied(&members, at(0)), "it applies an older state");
        assert!(!have_applied(&members, at(1_000)), "now the first one is silent");
    }

    #[test]
    fn of_a_list_nobody_is_waited_for_who_has_been_silent_for_long() {
        for (refuses, was_heard, gone_after) in
            [(true, true, 5_000), (true, false, 30_000), (false, true, 30_000), (false, false, 30_000)]
        {
            let mut members = members(&[Serves::Unknown]);
            if was_heard {
                members.has_asked(address(0));
            }
            let asked = |members: &mut Members, from: u64, until: u64| {
                (from..until).step_by(200).for_each(|when| members.is_silent(address(0), refuses, at(when)));
            };
            asked(&mut members, 2_000, gone_after + 2_000);
            assert!(!have_applied(&members, at(gone_after + 1_999)), "{refuses} {was_heard}");
            assert!(have_applied(&members, at(gone_after + 2_000)), "{refuses} {was_heard}");
            assert_eq!(members.edges(at(gone_after + 2_000)), 1);
            let view = members.views(at(gone_after + 2_000)).remove(0);
            assert!(view.gone && !view.serves);
            members.take((address(0), TOOK), answer(2, 4, split()), at(gone_after + 2_100));
            assert!(!have_applied(&members, at(gone_after + 2_100)), "it is back");
        }
    }

    #[test]
    fn one_that_was_turned_away_only_at_times_may_serve_where_nobody_reaches_it() {
        let mut members = members(&[Serves::Unknown]);
        members.take((address(0), TOOK), answer(1, 4, split()), at(0));
        for second in (0..20).step_by(4) {
            members.is_silent(address(0), true, at(second * 1_000 + 100));
            members.is_silent(address(0), false, at(second * 1_000 + 4_000));
        }
        assert!(!have_applied(&members, at(20_000)));
    }

    #[test]
    fn one_that_ended_in_the_middle_of_a_question_is_gone_as_soon_as_any_other_that_ended() {
        let mut members = members(&[Serves::Unknown]);
        members.take((address(0), TOOK), answer(1, 4, split()), at(0));
        members.is_silent(address(0), false, at(100));
        (300..5_400).step_by(200).for_each(|when| members.is_silent(address(0), true, at(when)));
        assert!(!have_applied(&members, at(5_299)) && have_applied(&members, at(5_300)));
    }

    #[test]
    fn whoever_a_service_names_is_waited_for_as_long_as_it_does() {
        let mut members = members(&[Serves::Yes]);
        members.is_silent(address(0), true, at(0));
        assert!(!have_applied(&members, at(600_000)));
        members.set(&Some([(address(0), Serves::No)].into()));
        assert!(have_applied(&members, at(600_000)));
    }

    #[test]
    fn a_restarted_edge_has_acknowledged_nothing_until_it_is_heard() {
        let mut members = members(&[Serves::Yes]);
        members.take((address(0), TOOK), answer(1, 5, split()), at(0));
        let mut anew = answer(9, 5, split());
        anew.applied.clear();
        members.take((address(0), TOOK), anew, at(200));
        assert!(!have_applied(&members, at(200)));
        assert_eq!(members.instance(address(0)), Some(Instance(9)));
    }

    #[test]
    fn the_slowest_edge_says_how_long_a_push_takes_and_a_silent_one_that_none_arrives() {
        let pushed = |members: &Members, now| members.pushed(&route(), now);
        assert!(pushed(&Members::new(ME), at(0)).unwrap_err().contains("not known yet"));
        let mut members = members(&[Serves::Yes, Serves::Yes]);
        members.take((address(0), TOOK), answer(1, 5, split()), at(0));
        assert!(pushed(&members, at(0)).unwrap_err().contains("10.0.0.1:1 does not answer"));
        members.take((address(1), TOOK * 4), answer(2, 5, split()), at(0));
        assert_eq!(pushed(&members, at(0)), Ok(TOOK * 4));
        members.take((address(1), TOOK), Answer { applied: BTreeMap::new(), ..answer(2, 5, split()) }, at(0));
        assert!(pushed(&members, at(0)).unwrap_err().contains("names another one"));
        members.set(&Some(BTreeMap::new()));
        assert_eq!(pushed(&members, at(0)), Ok(Duration::ZERO), "an edge alone tells nobody");
    }

    proptest! {
        /// Against a plain reading of the rule: everybody who serves answered within the last second that it applies this.
        #[test]
        fn acknowledged_is_what_everybody_who_serves_said_of_late(
            said in proptest::collection::vec((any::<bool>(), proptest::option::of((0_u64..2_000, 4_u64..6, any::<bool>()))), 0..5)
        ) {
            let serves: Vec<_> = said.iter().map(|(serves, _)| if *serves { Serves::Yes } else { Serves::No }).collect();
            let mut members = members(&serves);
            let now = at(2_000);
            let mut all = true;
            for (number, (serves, heard)) in (0_u16..).zip(&said) {
                let fresh = heard.is_some_and(|(when, _, _)| when > 1_000);
                if let Some((when, serial, moved)) = heard {
                    let split = if *moved { split() } else { Split::Whole("v1".parse().unwrap()) };
                    members.take((address(number), TOOK), answer(u64::from(number) + 1, *serial, split), at(*when));
                }
                if *serves || fresh {
                    all &= fresh && heard.is_some_and(|(_, serial, moved)| serial == 5 && moved);
                }
            }
            prop_assert_eq!(have_applied(&members, now), all);
        }
    }
}
