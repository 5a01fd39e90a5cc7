//! Several edges: one decides on what all of them counted, each trips alone, and whoever leads next goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{OnRegression, Plan, Promotion, Rollout as RolloutPlan, Route, Split, VersionId};
use pointsman_rollout::{
    Cause, Change, Decision, Drawn, Input, Observed, Order, OrderKind, PhaseName, Ready, Regression, Resume, Role,
    Rollout, Row, Saved, Seen, Selected, ServiceSeen, Tally, Time, WayBack,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{TICK, World, blue_green, canary_plan, live, percent, version, weights, with_revision};

const SECOND: Duration = Duration::from_secs(1);

fn plan(promotion: Promotion) -> Route {
    live(Plan::Rollout(canary_plan(promotion)))
}

/// An edge that follows, beside a leader.
struct Follower {
    rollout: Rollout,
    ready: BTreeMap<VersionId, Ready>,
    now: Time,
}

impl Follower {
    fn of(leader: &World) -> Self {
        let route = Arc::clone(leader.rollout.route());
        let rollout = Rollout::follower(route, Some(leader.rollout.saved(leader.now())), leader.now());
        Self { rollout, ready: leader.ready.clone(), now: leader.now() }
    }

    /// Ticks with so many requests, of which the canary's fail as often as `fails` says.
    fn run(&mut self, ticks: u32, requests: u64, fails: f64) -> Vec<Change> {
        (0..ticks).flat_map(|_| self.tick(requests, fails)).collect()
    }

    fn tick(&mut self, requests: u64, fails: f64) -> Vec<Change> {
        self.now = self.now.plus(TICK);
        let applied = self.rollout.desired().effective(&self.ready);
        let observed = traffic(self.rollout.trial(), &applied, requests, fails);
        let mut seen = Seen::alone(std::slice::from_ref(&observed), &self.ready, &applied, &[]);
        seen.edges = 3;
        self.rollout.step(Input::Tick(&seen), self.now).unwrap()
    }

    fn share(&self) -> f64 {
        self.rollout.desired().granted.share_of(&version("v2")).percent()
    }
}

/// One tick of `requests` under `split`; v2 fails as often as `fails` says, everything else never.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small counts"
)]
fn traffic(trial: u64, split: &Split, requests: u64, fails: f64) -> Observed {
    let (stable, canary, weight) = match split {
        Split::Whole(whole) => (whole.clone(), None, percent(0)),
        Split::Canary { stable, canary, share } => (stable.clone(), Some(canary.clone()), *share),
    };
    let of_canary = requests * u64::from(weight.ppm()) / 1_000_000;
    let tally = |version: &VersionId, requests: u64| {
        let rate = if *version == crate::world::version("v2") { fails } else { 0.0 };
        Tally { requests, errors: (requests as f64 * rate) as u64, slow: 0 }
    };
    let row = Row {
        weight,
        canary: canary.as_ref().map(|canary| tally(canary, of_canary)).unwrap_or_default(),
        stable: tally(&stable, requests - of_canary),
    };
    let drawn = Drawn { canary: row.canary.requests, stable: row.stable.requests };
    Observed { stable, canary, trial, row, requests: None, drawn }
}

/// A leader in `phase`, and who follows it.
fn pair(phase: PhaseName) -> (World, Follower) {
    let mut leader = World::in_cluster(plan(Promotion::Automatic)).fails("v1", 1000).fails("v2", 1000);
    leader.run_until(phase, Duration::from_mins(5));
    let follower = Follower::of(&leader);
    (leader, follower)
}

#[test]
fn a_follower_does_what_the_leader_says_and_never_moves_forward_by_itself() {
    let mut leader = World::in_cluster(plan(Promotion::Automatic)).fails("v1", 1000).fails("v2", 1000);
    let mut follower = Follower::of(&leader);
    let mut reached = BTreeSet::new();
    while leader.phase() != PhaseName::Steady {
        leader.tick();
        assert!(follower.rollout.follow(leader.rollout.saved(leader.now()), leader.now()));
        reached.insert(follower.rollout.phase());
        assert_eq!(follower.rollout.desired().granted, leader.rollout.desired().granted);
        assert_eq!(follower.rollout.desired().selected, None, "the leader alone moves the Service");
        assert_eq!(follower.rollout.serving(), leader.rollout.serving());
    }
    assert!(reached.len() >= 4, "{reached:?}");
    for phase in [PhaseName::Warming, PhaseName::Shifting, PhaseName::Promoting, PhaseName::Baking] {
        let (_, mut follower) = pair(phase);
        let before = follower.rollout.desired();
        assert_eq!(follower.run(3_000, 100, 0.0), [], "{phase}");
        assert_eq!((follower.rollout.phase(), follower.rollout.desired()), (phase, before));
    }
}

#[test]
fn a_follower_that_is_cut_off_takes_a_canary_back_that_fails_most_of_its_requests() {
    for phase in [PhaseName::Shifting, PhaseName::Baking] {
        let (_, mut follower) = pair(phase);
        follower.run(20, 1_000, 0.0);
        let changes = follower.run(100, 1_000, 0.9);
        assert_eq!(changes.len(), 1, "{phase}: {changes:?}");
        assert_eq!(changes[0].cause, Cause::Evidence { regression: Regression::Catastrophic });
        assert!(follower.share().abs() < 1e-9);
        let trip = follower.rollout.trip().unwrap();
        assert_eq!((trip.version.clone(), trip.revision.clone()), (version("v2"), None));
    }
}

#[test]
fn what_is_no_catastrophe_is_left_to_the_leader() {
    for phase in [PhaseName::Shifting, PhaseName::Baking] {
        let (_, mut follower) = pair(phase);
        follower.run(20, 1_000, 0.0);
        assert_eq!(follower.run(600, 1_000, 0.1), [], "{phase}");
        assert!(follower.share() > 1.0);
    }
}

#[test]
fn a_follower_trips_neither_where_the_guard_only_alerts_nor_into_an_outage() {
    let mut noisy = plan(Promotion::Manual);
    noisy.guard.on_regression = OnRegression::Alert;
    let mut leader = World::in_cluster(noisy);
    leader.run_until(PhaseName::Shifting, Duration::from_mins(1));
    let mut follower = Follower::of(&leader);
    assert_eq!(follower.run(100, 1_000, 0.9), []);
    let (_, mut follower) = pair(PhaseName::Baking);
    follower.ready.insert(version("v1"), Ready { up: 0, total: 1 });
    assert_eq!(follower.run(100, 1_000, 0.9), []);
}

#[test]
fn a_trip_stays_until_the_leader_bars_it_too_or_has_heard_of_it() {
    let (mut leader, mut follower) = pair(PhaseName::Shifting);
    follower.run(60, 1_000, 0.9);
    let old_news = leader.rollout.saved(leader.now());
    for _ in 0..3 {
        follower.rollout.follow(old_news.clone(), follower.now);
        assert!(follower.share().abs() < 1e-9, "a leader that has not heard yet undoes nothing");
    }
    let trip = follower.rollout.trip().cloned().unwrap();
    let changes = leader.rollout.take_trip(&trip, "edge-2", leader.now());
    assert!(matches!(&changes[0].cause, Cause::Tripped { by, .. } if by == "edge-2"), "{changes:?}");
    assert_eq!((changes.len(), changes[0].decision), (1, Decision::Rollback));
    assert_eq!(leader.rollout.take_trip(&trip, "edge-2", leader.now()), [], "once");
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    assert_eq!(follower.rollout.trip(), None);
    leader.order(OrderKind::Retry(version("v2"))).unwrap();
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    assert_eq!(follower.rollout.phase(), PhaseName::Warming, "what the leader lifts is lifted");
}

#[test]
fn a_trip_that_was_heard_and_retried_before_the_follower_saw_it_barred_is_over() {
    let (mut leader, mut follower) = pair(PhaseName::Shifting);
    follower.run(60, 1_000, 0.9);
    let trip = follower.rollout.trip().cloned().unwrap();
    leader.rollout.take_trip(&trip, "edge-2", leader.now());
    leader.order(OrderKind::Retry(version("v2"))).unwrap();
    leader.run_until(PhaseName::Shifting, SECOND);
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    assert!(follower.share() > 1.0);
    assert_eq!((follower.rollout.trip(), leader.rollout.take_trip(&trip, "edge-2", leader.now())), (None, Vec::new()));
}

#[test]
fn a_trip_told_by_a_peer_is_obeyed_by_followers_and_holds_against_an_unknowing_leader() {
    let (leader, mut one) = pair(PhaseName::Shifting);
    let mut other = Follower::of(&leader);
    one.run(60, 1_000, 0.9);
    other.tick(100, 0.0);
    let trip = one.rollout.trip().cloned().unwrap();
    assert_eq!(other.rollout.take_trip(&trip, "edge-2", other.now).len(), 1);
    other.rollout.follow(leader.rollout.saved(leader.now()), other.now);
    assert!(other.share().abs() < 1e-9);
}

#[test]
fn a_trip_of_another_build_or_of_what_is_production_by_now_moves_no_traffic() {
    let (_, mut follower) = pair(PhaseName::Shifting);
    follower.run(60, 1_000, 0.9);
    let trip = follower.rollout.trip().cloned().unwrap();
    let mut newer = World::in_cluster(with_revision(plan(Promotion::Manual), "r2"));
    newer.run_until(PhaseName::Shifting, Duration::from_mins(1));
    assert_eq!(newer.rollout.take_trip(&trip, "edge-2", newer.now()), []);
    assert_eq!(newer.phase(), PhaseName::Shifting);
    let (mut finished, _) = pair(PhaseName::Baking);
    finished.run_until(PhaseName::Steady, Duration::from_mins(1));
    let told = finished.rollout.take_trip(&trip, "edge-2", finished.now());
    assert_eq!((told.len(), told[0].decision), (1, Decision::Alert));
    assert_eq!(finished.rollout.desired().granted, Split::Whole(version("v2")));
}

#[test]
fn a_follower_obeys_a_rollback_and_refuses_every_other_order() {
    let (_, mut follower) = pair(PhaseName::Shifting);
    follower.tick(100, 0.0);
    let mut order = |kind| {
        let order = Order { kind, actor: "ada".to_owned(), reason: "a test".to_owned() };
        follower.rollout.step(Input::Order(&order), follower.now)
    };
    for kind in [OrderKind::Promote, OrderKind::Pause, OrderKind::Resume(Resume::GoOn), OrderKind::Retry(version("v2"))]
    {
        assert_eq!(order(kind).unwrap_err().code(), "not_leader");
    }
    assert_eq!(order(OrderKind::Rollback).unwrap().len(), 1);
    assert!(follower.rollout.trip().unwrap().why.contains("ada"));
}

#[test]
fn a_follower_with_another_file_takes_over_only_what_is_barred() {
    let mut leader = World::in_cluster(with_revision(plan(Promotion::Automatic), "r2")).fails("v1", 1000);
    leader.run_until(PhaseName::Shifting, Duration::from_mins(1));
    let (_, mut follower) = pair(PhaseName::Shifting);
    let before = follower.rollout.desired();
    assert!(!follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now));
    assert_eq!(follower.rollout.desired(), before);
    let route = Arc::clone(leader.rollout.route());
    assert_eq!(follower.rollout.step(Input::Edit(route), follower.now).unwrap(), [], "the leader tells");
    assert!(follower.share().abs() < 1e-9, "from the beginning, until the leader says more");
    assert!(follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now));
    assert_eq!(follower.rollout.desired().granted, leader.rollout.desired().granted);
}

#[test]
fn a_follower_without_any_news_gives_the_canary_nothing() {
    let route = Arc::new(live(weights(30)));
    let mut follower = Rollout::follower(route, None, Time::default());
    assert_eq!(follower.desired().granted, Split::Whole(version("v1")));
    let started = follower.lead(None, Time::default());
    assert_eq!((follower.role(), started.len()), (Role::Leader, 1));
    assert_eq!(follower.desired().granted.share_of(&version("v2")), percent(30));
}

#[test]
fn whoever_leads_next_goes_on_in_every_phase_without_a_step_back_or_a_second_promotion() {
    for phase in PhaseName::ALL {
        let mut world = World::in_cluster(plan(Promotion::Automatic)).fails("v1", 1000).fails("v2", 1000);
        match phase {
            PhaseName::RollingBack | PhaseName::RolledBack | PhaseName::Paused => {
                world.run_until(PhaseName::Shifting, Duration::from_mins(1));
                let kind = if phase == PhaseName::Paused { OrderKind::Pause } else { OrderKind::Rollback };
                world.order(kind).unwrap();
                world.run_until(phase, SECOND);
            }
            PhaseName::Steady => {
                world.run_until(PhaseName::Baking, Duration::from_mins(5));
                world.run_until(phase, Duration::from_mins(1));
            }
            PhaseName::Warming | PhaseName::Shifting | PhaseName::Promoting | PhaseName::Baking => {
                world.run_until(phase, Duration::from_mins(5));
            }
        }
        let kept = world.rollout.saved(world.now());
        let granted = world.rollout.desired().granted;
        let mut next = Follower::of(&world).rollout;
        assert_eq!(next.lead(Some(kept), world.now()), [], "{phase}: nothing is decided by leading");
        assert_eq!((next.phase(), next.role()), (phase, Role::Leader));
        assert_eq!(next.desired().granted, granted, "{phase}");
        world.rollout = next;
        world.run_for(Duration::from_mins(3));
        let promotions = world.changes.iter().filter(|change| change.decision == Decision::Promote).count();
        assert!(promotions <= 1, "{phase}: promoted twice");
    }
}

#[test]
fn whoever_leads_next_takes_the_newer_of_what_it_heard_and_of_what_was_kept() {
    let (mut leader, mut follower) = pair(PhaseName::Promoting);
    let kept_before = World::in_cluster(plan(Promotion::Automatic)).rollout.saved(Time::default());
    assert!(kept_before.serial() < leader.rollout.saved(leader.now()).serial());
    follower.rollout.lead(Some(kept_before), follower.now);
    assert_eq!(follower.rollout.phase(), PhaseName::Promoting, "what was decided stays decided");
    let mut follower = Follower::of(&leader);
    leader.run_until(PhaseName::Baking, SECOND);
    follower.rollout.lead(Some(leader.rollout.saved(leader.now())), leader.now());
    assert_eq!(follower.rollout.phase(), PhaseName::Baking);
}

/// One whose file was edited and leads, in `phase` of the new rollout, and one whom the edit has not reached.
fn edited(phase: PhaseName) -> (World, Follower) {
    let (mut leader, follower) = pair(PhaseName::Baking);
    leader.edit(with_revision(plan(Promotion::Automatic), "r2"));
    leader.run_until(phase, Duration::from_mins(5));
    (leader, follower)
}

#[test]
fn whoever_leads_before_an_edit_has_reached_it_goes_on_where_it_stood() {
    for phase in [PhaseName::Shifting, PhaseName::Steady] {
        let (leader, mut next) = edited(phase);
        let (stood, kept) = (next.rollout.desired(), leader.rollout.saved(leader.now()));
        assert!(!next.rollout.follow(kept.clone(), next.now));
        assert_eq!(next.rollout.lead(Some(kept.clone()), next.now), [], "the old rollout is not begun anew");
        assert_eq!((next.rollout.phase(), &next.rollout.desired().granted), (PhaseName::Baking, &stood.granted));
        assert!(next.rollout.serial() >= kept.serial(), "it counts on");
        assert_eq!(next.rollout.weigh(Some(kept.clone()), next.now), []);
        assert_eq!(next.rollout.phase(), PhaseName::Baking);
        assert_eq!(next.rollout.kept(next.now), kept, "what the newer file began is not written over");

        let went_on = next.rollout.step(Input::Edit(Arc::clone(leader.rollout.route())), next.now).unwrap();
        assert_eq!((went_on, next.rollout.phase()), (Vec::new(), phase), "it is not begun a second time");
        assert_eq!(next.rollout.desired().granted, leader.rollout.desired().granted);
        assert!(next.rollout.saved(next.now).serial() >= kept.serial());
    }
}

/// One that leads with an old file, in a cluster where the newer rollout is in `phase`, and what was kept of that.
fn without_the_file(phase: PhaseName) -> (World, Saved) {
    let (newer, old) = edited(phase);
    let kept = newer.rollout.saved(newer.now());
    let mut world = World::in_cluster(plan(Promotion::Automatic));
    world.rollout = old.rollout;
    world.run_for(newer.now().since(world.now()));
    world.cluster().acknowledged = false;
    assert_eq!(world.rollout.lead(Some(kept.clone()), world.now()), []);
    (world, kept)
}

#[test]
fn whoever_leads_without_the_newer_file_moves_nothing_and_writes_down_only_what_is_taken_back() {
    for phase in [PhaseName::Shifting, PhaseName::Baking, PhaseName::Steady] {
        let (mut world, kept) = without_the_file(phase);
        let granted = world.rollout.desired().granted;
        world.run_for(Duration::from_mins(10));
        let desired = world.rollout.desired();
        assert_eq!((desired.selected, desired.retired, desired.granted), (None, None, granted), "{phase}");
        assert!(world.cluster().patches.is_empty(), "{phase}");
        assert_eq!(world.rollout.kept(world.now()), kept, "{phase}");
        let next = world.rollout.status(world.now()).next;
        assert!(next.contains("a newer one"), "{next}");
        for kind in [OrderKind::Promote, OrderKind::Pause, OrderKind::Resume(Resume::GoOn)] {
            assert_eq!(world.order(kind).unwrap_err().code(), "older_file");
        }
    }
}

#[test]
fn a_rollback_ordered_without_the_newer_file_takes_back_what_that_tries() {
    let (mut world, kept) = without_the_file(PhaseName::Shifting);
    let with_the_file = Arc::new(with_revision(plan(Promotion::Automatic), "r2"));
    let mut newer = Rollout::follower(Arc::clone(&with_the_file), Some(kept.clone()), world.now());
    let ready = world.ready.clone();
    newer.step(Input::Tick(&Seen::alone(&[], &ready, &newer.desired().granted, &[])), world.now()).unwrap();
    let phase = world.phase();
    let taken_back = world.order(OrderKind::Rollback).unwrap();
    assert_eq!((taken_back[0].decision, taken_back[0].canary.clone()), (Decision::Rollback, Some(version("v2"))));
    assert_eq!(world.phase(), phase, "what it serves itself is another build, and stays");
    let granted = world.rollout.desired().granted;
    assert_eq!(
        world.order(OrderKind::Rollback).unwrap_err().code(),
        "nothing_to_take_back",
        "it is taken back already"
    );
    assert_eq!(world.rollout.desired().granted, granted, "and nobody meant what this edge's own file tried before");

    assert!(!newer.follow(world.rollout.saved(world.now()), world.now()));
    assert_eq!(newer.desired().granted, Split::Whole(version("v1")), "whoever has the file hears of it");
    let (mut resumed, _) = Rollout::resume(with_the_file, kept, world.now());
    resumed.weigh(Some(world.rollout.kept(world.now())), world.now());
    assert_eq!(resumed.desired().granted, Split::Whole(version("v1")), "and so does whoever reads the live Service");
}

/// The way back from v2, which has come through its bake, to v1.
fn turned_around() -> Route {
    let canary = RolloutPlan { canary: version("v1"), ..canary_plan(Promotion::Automatic) };
    Route { stable: version("v2"), ..live(Plan::Rollout(canary)) }
}

/// Who has turned the roles of v1 and v2 around and shifts, and two whom that edit has not reached.
fn at_turned_roles() -> (World, [Follower; 2]) {
    let (mut leader, _) = pair(PhaseName::Baking);
    leader.run_until(PhaseName::Steady, Duration::from_mins(5));
    let mut old = [Follower::of(&leader), Follower::of(&leader)];
    leader.edit(turned_around());
    leader.run_until(PhaseName::Shifting, Duration::from_mins(5));
    for follower in &mut old {
        follower.now = leader.now();
        assert!(!follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now));
        follower.tick(100, 0.0);
    }
    (leader, old)
}

#[test]
fn that_an_old_file_trusts_its_stable_version_lifts_nothing_where_that_is_on_trial() {
    let rollback = Order { kind: OrderKind::Rollback, actor: "ada".to_owned(), reason: String::new() };
    for is_ordered in [true, false] {
        let (newer, [mut next, mut last]) = at_turned_roles();
        let (now, kept) = (newer.now(), newer.rollout.saved(newer.now()));
        let mut tried = Follower::of(&newer);
        tried.tick(100, 0.0);
        assert_eq!(next.rollout.lead(Some(kept), now), []);
        if is_ordered {
            next.rollout.step(Input::Order(&rollback), now).unwrap();
            assert!(!tried.rollout.follow(next.rollout.saved(now), now));
        } else {
            tried.rollout.step(Input::Order(&rollback), now).unwrap();
            let trip = tried.rollout.trip().cloned().unwrap();
            assert_eq!(next.rollout.take_trip(&trip, "edge-1", now), []);
        }
        assert_eq!(tried.rollout.desired().granted, Split::Whole(version("v2")));
        assert_eq!(next.rollout.desired().granted, Split::Whole(version("v2")), "its own route stays as it is");

        // The edge that leads after it trusts v1 as well, and writes down what it knows.
        last.rollout.follow(next.rollout.saved(now), now);
        assert_eq!(last.rollout.lead(Some(next.rollout.kept(now)), now), []);
        let written = last.rollout.kept(now);
        tried.rollout.follow(last.rollout.saved(now), now);
        tried.rollout.lead(Some(written.clone()), now);
        assert_eq!(tried.rollout.desired().granted, Split::Whole(version("v2")), "ordered: {is_ordered}");
        let (mut resumed, _) = Rollout::resume(Arc::new(turned_around()), written, now);
        resumed.weigh(None, now);
        assert_eq!(resumed.desired().granted, Split::Whole(version("v2")), "ordered: {is_ordered}");
    }
}

#[test]
fn a_file_that_is_put_back_and_moves_no_request_is_told_all_the_same() {
    let weights = live(Plan::Weights(Split::Whole(version("v1"))));
    let mut newer = World::in_cluster(weights.clone()).fails("v1", 1000).fails("v2", 1000);
    let old = Follower::of(&newer);
    newer.edit(plan(Promotion::Automatic));
    newer.run_until(PhaseName::Baking, Duration::from_mins(5));
    let mut world = World::in_cluster(weights);
    world.rollout = old.rollout;
    world.run_for(newer.now().since(world.now()));
    assert_eq!(world.rollout.lead(Some(newer.rollout.saved(newer.now())), world.now()), []);
    world.run_for(Duration::from_secs(130));
    let told: Vec<_> = world.changes.iter().map(|change| (change.decision, &change.cause)).collect();
    assert_eq!(told, [(Decision::Edit, &Cause::File)], "the live Service is this edge's from there on");
    assert_eq!(world.rollout.kept(world.now()).identity().canary, None);
}

#[test]
fn a_file_that_was_put_back_counts_once_every_edge_has_had_it_for_as_long_as_an_edit_may_take() {
    let (mut world, _) = without_the_file(PhaseName::Shifting);
    world.cluster().acknowledged = true;
    world.run_for(Duration::from_secs(100));
    world.cluster().acknowledged = false;
    world.run_for(SECOND);
    world.cluster().acknowledged = true;
    let before = world.changes.len();
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.changes.len(), before, "one of them had another one in between");
    world.run_for(Duration::from_secs(40));
    assert_eq!(world.changes[before].decision, Decision::Start, "{:?}", world.changes);
}

#[test]
fn of_two_edits_that_reached_edges_in_turn_neither_is_written_over_by_the_other() {
    let (mut leader, mut next) = pair(PhaseName::Shifting);
    let with = |revision| Arc::new(with_revision(plan(Promotion::Automatic), revision));
    next.rollout.step(Input::Edit(with("r2")), next.now).unwrap();
    leader.edit(with_revision(plan(Promotion::Automatic), "r3"));
    let kept = leader.rollout.saved(leader.now());
    assert_eq!(next.rollout.lead(Some(kept.clone()), next.now), [], "which of the two is newer nobody can tell");
    assert_eq!(next.rollout.kept(next.now), kept);
    assert_eq!(next.rollout.step(Input::Edit(with("r3")), next.now).unwrap(), []);
    assert_eq!(next.rollout.desired().granted, leader.rollout.desired().granted);

    let (mut leader, mut next) = pair(PhaseName::Shifting);
    leader.edit(with_revision(plan(Promotion::Automatic), "r2"));
    let kept = leader.rollout.saved(leader.now());
    next.rollout.follow(kept.clone(), next.now);
    next.rollout.step(Input::Edit(with("r3")), next.now).unwrap();
    let began = next.rollout.lead(Some(kept), next.now);
    assert_eq!(
        began.iter().map(|change| change.decision).collect::<Vec<_>>(),
        [Decision::Start],
        "it had heard of that"
    );
}

#[test]
fn an_edge_whose_file_was_put_back_before_its_own_was_edited_is_not_ahead_of_the_others() {
    let (mut leader, mut behind) = edited(PhaseName::Shifting);
    let kept = leader.rollout.saved(leader.now());
    behind.rollout.lead(Some(kept), behind.now);
    leader.edit(plan(Promotion::Automatic));
    let kept = leader.rollout.saved(leader.now());
    assert!(behind.rollout.follow(kept.clone(), leader.now()));
    assert_eq!(behind.rollout.desired().granted, leader.rollout.desired().granted);
    behind.rollout.lead(Some(kept.clone()), leader.now());
    assert_eq!(behind.rollout.kept(leader.now()).identity(), kept.identity());
    assert_eq!(behind.rollout.phase(), leader.rollout.phase());
}

#[test]
fn whoever_starts_with_another_stable_version_that_is_not_ready_serves_from_whoever_served() {
    let mut world = World::in_cluster(plan(Promotion::Automatic)).fails("v1", 1000).fails("v2", 1000);
    world.run_until(PhaseName::Baking, Duration::from_mins(5));
    world.run_until(PhaseName::Steady, Duration::from_mins(5));
    let back = Route { plan: Plan::Weights(Split::Whole(version("v1"))), ..plan(Promotion::Automatic) };
    world.restart_with(Arc::new(back));
    world.set_ready("v1", 0);
    world.tick();
    assert_eq!(*world.applied(), Split::Whole(version("v2")), "the one that is there");
    world.set_ready("v1", 1);
    world.run_for(SECOND);
    assert_eq!(*world.applied(), Split::Whole(version("v1")));
}

#[test]
fn whoever_has_the_newer_file_begins_when_it_leads_and_only_once() {
    let (leader, mut newer) = pair(PhaseName::Baking);
    let edited = Arc::new(with_revision(plan(Promotion::Automatic), "r2"));
    newer.rollout.step(Input::Edit(edited), newer.now).unwrap();
    let kept = leader.rollout.saved(leader.now());
    newer.rollout.follow(kept.clone(), newer.now);
    let began = newer.rollout.lead(Some(kept.clone()), newer.now);
    assert_eq!(began.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Start]);
    newer.tick(100, 0.0);
    assert_eq!(newer.rollout.phase(), PhaseName::Shifting);
    // The one whom the edit has not reached leads for a moment.
    newer.rollout.follow(kept.clone(), newer.now);
    assert_eq!(newer.rollout.lead(Some(kept), newer.now), []);
    assert_eq!(newer.rollout.phase(), PhaseName::Shifting);
}

#[test]
fn what_another_rollout_bars_is_taken_back_by_whoever_leads_next() {
    let (mut leader, mut next) = edited(PhaseName::Shifting);
    leader.edit(plan(Promotion::Automatic));
    leader.run_until(PhaseName::Shifting, SECOND);
    leader.order(OrderKind::Rollback).unwrap();
    leader.edit(with_revision(plan(Promotion::Automatic), "r3"));
    let changes = next.rollout.lead(Some(leader.rollout.saved(leader.now())), next.now);
    assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Rollback]);
}

#[test]
fn a_leader_that_could_not_write_for_a_while_keeps_what_it_decided_meanwhile() {
    let mut leader = World::in_cluster(plan(Promotion::Manual));
    leader.run_until(PhaseName::Shifting, Duration::from_mins(1));
    let kept = leader.rollout.saved(leader.now());
    leader.order(OrderKind::Pause).unwrap();
    leader.rollout.step_down();
    assert_eq!(leader.rollout.lead(Some(kept), leader.now()), []);
    assert_eq!(leader.phase(), PhaseName::Paused);
    leader.rollout.step_down();
    assert_eq!(leader.rollout.lead(None, leader.now()), []);
    assert_eq!(leader.phase(), PhaseName::Paused);
}

#[test]
fn a_trip_outlives_the_leader_it_could_not_reach() {
    let (leader, mut follower) = pair(PhaseName::Shifting);
    follower.run(60, 1_000, 0.9);
    follower.rollout.lead(Some(leader.rollout.saved(leader.now())), follower.now);
    assert_eq!(follower.rollout.phase(), PhaseName::RollingBack);
    assert!(follower.share().abs() < 1e-9);
    assert_eq!(follower.rollout.saved(follower.now).phase(), PhaseName::RollingBack);
}

#[test]
fn the_leader_judges_the_sum_of_what_all_edges_saw() {
    let route = plan(Promotion::Manual);
    let mut leader = World::in_cluster(route);
    leader.run_until(PhaseName::Shifting, Duration::from_mins(1));
    let applied = leader.applied().clone();
    let ready = leader.ready.clone();
    let (mut decided, trial) = (Vec::new(), leader.rollout.trial());
    for tick in 1..200_u32 {
        let now = leader.now().plus(TICK * tick);
        let rows: Vec<Observed> = (0..3).map(|_| traffic(trial, &applied, 400, 0.3)).collect();
        decided = leader.rollout.step(Input::Tick(&Seen::alone(&rows, &ready, &applied, &[])), now).unwrap();
        if !decided.is_empty() {
            break;
        }
    }
    assert_eq!(decided.first().map(|change| change.decision), Some(Decision::Rollback));
    let counted = decided[0].evidence.clone().unwrap();
    assert_eq!(counted.canary.requests % 60, 0, "20 of 400 requests, from each of three edges");
}

/// A leader that takes the canary back, who has heard of that, and who has not and leads next.
fn unheard_rollback() -> (World, Follower, Follower) {
    let (mut leader, mut heard) = pair(PhaseName::Shifting);
    let mut next = Follower::of(&leader);
    leader.order(OrderKind::Rollback).unwrap();
    heard.rollout.follow(leader.rollout.saved(leader.now()), leader.now());
    next.tick(100, 0.0);
    (leader, heard, next)
}

#[test]
fn a_rollback_that_an_edge_only_heard_of_outlives_the_leader_that_nobody_else_heard() {
    let (_, mut heard, mut next) = unheard_rollback();
    assert_eq!(next.rollout.lead(None, next.now), []);
    for _ in 0..3 {
        assert!(heard.rollout.follow(next.rollout.saved(next.now), next.now));
        assert!(heard.share().abs() < 1e-9, "an older state gives it nothing");
    }
    let trip = heard.rollout.trip().cloned().expect("the new leader is to be told");
    let changes = next.rollout.take_trip(&trip, "edge-2", next.now);
    assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Rollback]);
    heard.rollout.follow(next.rollout.saved(next.now), next.now);
    assert_eq!((heard.rollout.trip(), heard.rollout.phase()), (None, PhaseName::RollingBack));
}

#[test]
fn whoever_leads_next_takes_back_what_it_or_the_service_knows_to_be_taken_back() {
    let (leader, mut heard, mut next) = unheard_rollback();
    next.rollout.lead(None, next.now);
    for _ in 0..5 {
        // Decisions without knowing of the rollback: this state is the newer one.
        for kind in [OrderKind::Pause, OrderKind::Resume(Resume::GoOn)] {
            let order = Order { kind, actor: "ada".to_owned(), reason: String::new() };
            next.rollout.step(Input::Order(&order), next.now).unwrap();
        }
    }
    let newer = next.rollout.saved(next.now);
    assert!(newer.serial() > heard.rollout.serial());
    let changes = heard.rollout.lead(Some(newer), heard.now);
    assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Rollback]);
    assert!(matches!(changes[0].cause, Cause::Remembered { .. }), "{changes:?}");
    assert!(heard.share().abs() < 1e-9);

    next.rollout.step_down();
    next.rollout.lead(Some(leader.rollout.saved(leader.now())), next.now);
    assert!(next.share().abs() < 1e-9, "and so does the Service, though its state is older");
    assert_eq!(next.rollout.phase(), PhaseName::RollingBack);
}

#[test]
fn of_two_states_with_the_same_number_the_one_that_was_kept_counts() {
    let (mut leader, mut follower) = pair(PhaseName::Shifting);
    let mut other = Follower::of(&leader);
    leader.order(OrderKind::Pause).unwrap();
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    other.tick(100, 0.0);
    other.rollout.lead(None, other.now);
    let order = Order { kind: OrderKind::Promote, actor: "ada".to_owned(), reason: String::new() };
    let proven = WayBack::Proven { took: Duration::from_millis(30) };
    let applied = other.rollout.desired().granted;
    let seen = Seen { way_back: &proven, ..Seen::alone(&[], &other.ready, &applied, &[]) };
    other.rollout.step(Input::Tick(&seen), other.now).unwrap();
    other.rollout.step(Input::Order(&order), other.now).unwrap();
    let kept = other.rollout.saved(other.now);
    assert_eq!(kept.serial(), follower.rollout.serial());
    follower.rollout.lead(Some(kept), follower.now);
    assert_eq!(follower.rollout.phase(), PhaseName::Promoting, "it is not promoted again");
}

#[test]
fn after_a_retry_the_version_is_led_again_by_whoever_took_it_back_and_by_everybody_else() {
    let (mut leader, mut follower) = pair(PhaseName::Shifting);
    leader.order(OrderKind::Rollback).unwrap();
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    leader.order(OrderKind::Retry(version("v2"))).unwrap();
    assert_eq!(leader.rollout.trip(), None);
    let kept = leader.rollout.saved(leader.now());
    leader.rollout.step_down();
    leader.rollout.lead(Some(kept.clone()), leader.now());
    leader.run_until(PhaseName::Shifting, SECOND);
    assert_eq!(follower.rollout.lead(Some(kept), follower.now), []);
    assert_eq!(follower.rollout.phase(), PhaseName::Warming);
    follower.tick(100, 0.0);
    assert_eq!(follower.rollout.phase(), PhaseName::Shifting);
}

#[test]
fn a_rollback_ordered_at_a_follower_holds_for_a_finished_rollout_and_against_a_guard_that_only_alerts() {
    let (mut leader, _) = pair(PhaseName::Baking);
    leader.run_until(PhaseName::Steady, Duration::from_mins(1));
    let mut noisy = plan(Promotion::Manual);
    noisy.guard.on_regression = OnRegression::Alert;
    let mut alerting = World::in_cluster(noisy);
    alerting.run_until(PhaseName::Shifting, Duration::from_mins(1));
    for mut leader in [leader, alerting] {
        let mut follower = Follower::of(&leader);
        follower.tick(100, 0.0);
        let order = Order { kind: OrderKind::Rollback, actor: "ada".to_owned(), reason: String::new() };
        follower.rollout.step(Input::Order(&order), follower.now).unwrap();
        let trip = follower.rollout.trip().cloned().unwrap();
        let changes = leader.rollout.take_trip(&trip, "edge-2", leader.now());
        assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Rollback]);
        assert_eq!(leader.rollout.desired().granted, Split::Whole(version("v1")));
    }
}

#[test]
fn a_trip_into_an_outage_of_stable_is_answered_so_that_all_edges_agree() {
    let (mut leader, mut follower) = pair(PhaseName::Baking);
    follower.run(100, 1_000, 0.9);
    let trip = follower.rollout.trip().cloned().unwrap();
    leader.set_ready("v1", 0);
    leader.tick();
    let changes = leader.rollout.take_trip(&trip, "edge-2", leader.now());
    assert_eq!(changes.iter().map(|change| change.decision).collect::<Vec<_>>(), [Decision::Alert]);
    follower.rollout.follow(leader.rollout.saved(leader.now()), follower.now);
    assert_eq!(follower.rollout.trip(), None);
    assert_eq!(follower.rollout.desired().granted, leader.rollout.desired().granted);
}

/// The number of the build that a state tries.
fn build_of(saved: &Saved) -> u32 {
    let revision = saved.identity().revision.as_deref();
    revision.map_or(0, |revision| revision.trim_start_matches('r').parse().unwrap())
}

/// Everything that happens to two edges and a Service, and what the test remembers of it.
struct History {
    edges: [Rollout; 2],
    leader: usize,
    now: Time,
    ready: BTreeMap<VersionId, Ready>,
    applied: [Split; 2],
    selector: Selected,
    slices: Selected,
    foreign: Option<pointsman_rollout::Foreign>,
    way_back: WayBack,
    kept: Saved,
    connected: bool,
    fails: f64,
    requests: u64,
    /// Builds that were taken back.
    barred: BTreeSet<(VersionId, Option<String>)>,
    /// How often each build of v2 was promoted in the same rollout.
    promotions: BTreeMap<Option<String>, u32>,
    /// The newest build of v2 that the file names; an edit reaches edges one after the other.
    newest: u32,
    /// Whether an edge knows where the rollout of its file stands.
    knows: [bool; 2],
    /// Changes of leader to an edge with another file than the one before.
    behind: u32,
    phases: BTreeSet<PhaseName>,
    flips: u32,
    trips: u32,
    foreigners: u32,
}

impl History {
    fn new(route: Route) -> Self {
        let route = Arc::new(route);
        let now = Time::after_start(Duration::from_hours(1));
        let (leader, _) = Rollout::start(Arc::clone(&route), now);
        let kept = leader.saved(now);
        let follower = Rollout::follower(Arc::clone(&route), Some(kept.clone()), now);
        let home = Split::Whole(version("v1"));
        Self {
            edges: [leader, follower],
            leader: 0,
            now,
            ready: route.versions.keys().map(|version| (version.clone(), Ready { up: 1, total: 1 })).collect(),
            applied: [home.clone(), home],
            selector: Selected::Version(version("v1")),
            slices: Selected::Version(version("v1")),
            foreign: None,
            way_back: WayBack::Proven { took: Duration::from_millis(30) },
            kept,
            connected: true,
            fails: 0.0,
            requests: 400,
            barred: BTreeSet::new(),
            promotions: BTreeMap::new(),
            newest: 0,
            knows: [true, true],
            behind: 0,
            phases: BTreeSet::new(),
            flips: 0,
            trips: 0,
            foreigners: 0,
        }
    }

    fn up(&self, version: &VersionId) -> usize {
        self.ready.get(version).map_or(0, |ready| ready.up)
    }

    fn build(&self, edge: usize, version: &VersionId) -> (VersionId, Option<String>) {
        let revision = self.edges[edge].route().versions.get(version).and_then(|version| version.revision.clone());
        (version.clone(), revision)
    }

    /// What `edge` decided.
    fn note(&mut self, edge: usize, changes: &[Change]) {
        let (_, revision) = self.build(edge, &version("v2"));
        for change in changes {
            match change.decision {
                Decision::Rollback => {
                    self.barred.extend(change.canary.as_ref().map(|canary| self.build(edge, canary)));
                }
                Decision::Promote => {
                    let promotions = self.promotions.entry(revision.clone()).or_default();
                    *promotions += 1;
                    assert!(*promotions <= 1, "promoted twice: {change:?}");
                    assert!(matches!(self.way_back, WayBack::Proven { .. }), "promoted without a way back: {change:?}");
                }
                Decision::Flip => self.flips += 1,
                Decision::Retry => drop(self.promotions.remove(&revision)),
                Decision::Start
                | Decision::Step
                | Decision::Pause
                | Decision::Hold
                | Decision::Resume
                | Decision::Bake
                | Decision::Finish
                | Decision::RollbackDone
                | Decision::Alert
                | Decision::SetWeights
                | Decision::Edit => {}
            }
        }
    }

    fn tick(&mut self, rng: &mut StdRng) {
        self.now = self.now.plus(TICK);
        let observed = [0, 1].map(|edge| {
            let trial = self.edges[edge].trial();
            traffic(trial, &self.applied[edge], self.requests / 2, self.fails)
        });
        let service = ServiceSeen {
            selected: self.selector.clone(),
            ready: Some(match &self.slices {
                Selected::Version(version) => self.up(version),
                Selected::Other(_) => 0,
            }),
            agreed: self.slices == self.selector,
            heard: true,
            foreign: self.foreign.clone(),
        };
        let (leader, follower) = (self.leader, 1 - self.leader);
        let all: Vec<Observed> = if self.connected { observed.to_vec() } else { vec![observed[leader].clone()] };
        let granted = self.edges[leader].desired().granted;
        let same_file = self.edges[0].route() == self.edges[1].route();
        let acknowledged = same_file && self.connected && self.applied == [granted.clone(), granted];
        let seen = Seen {
            service: Some(&service),
            acknowledged,
            way_back: &self.way_back,
            edges: 2,
            ..Seen::alone(&all, &self.ready, &self.applied[leader], &[])
        };
        let decided = self.edges[leader].step(Input::Tick(&seen), self.now).unwrap();
        let seen =
            Seen { edges: 2, ..Seen::alone(&observed[follower..=follower], &self.ready, &self.applied[follower], &[]) };
        let tripped = self.edges[follower].step(Input::Tick(&seen), self.now).unwrap();
        self.trips += u32::try_from(tripped.len()).unwrap();
        assert!(tripped.iter().all(|change| change.decision == Decision::Rollback), "{tripped:?}");
        // A trip is barred for all once the leader has heard of it.
        self.note(leader, &decided);
        self.reconcile(rng);
        self.phases.insert(self.edges[leader].phase());
    }

    /// What the shells do: state to the Service, trips to the leader, the leader's word to the follower, patches.
    fn reconcile(&mut self, rng: &mut StdRng) {
        let (leader, follower) = (self.leader, 1 - self.leader);
        if self.connected {
            if let Some(trip) = self.edges[follower].trip().cloned() {
                let changes = self.edges[leader].take_trip(&trip, "edge", self.now);
                self.note(leader, &changes);
            }
            let saved = self.edges[leader].saved(self.now);
            self.knows[follower] |= self.edges[follower].follow(saved, self.now);
        }
        let (build, before) = (build_of(&self.edges[leader].kept(self.now)), build_of(&self.kept));
        assert!(build >= before, "the rollout of build {before} was written over by that of {build}");
        self.kept = self.edges[leader].kept(self.now);
        let desired = self.edges[leader].desired();
        if let Some(to) = desired.selected.filter(|to| !self.selector.is(to) && rng.random_bool(0.7)) {
            assert!(self.up(&to) > 0, "selected {to}, which has no ready endpoint");
            assert!(!self.barred.contains(&self.build(leader, &to)), "selected {to}, which was taken back");
            let here = self.applied[leader].share_of(&to).ppm();
            assert!(here > 0, "the selector went to {to} before the traffic");
            self.selector = Selected::Version(to);
            self.foreign = None;
        }
        if self.slices != self.selector && rng.random_bool(0.5) {
            self.slices = self.selector.clone();
        }
        for edge in 0..2 {
            self.applied[edge] = self.edges[edge].desired().effective(&self.ready);
            for (barred, _) in self.barred.iter().filter(|barred| self.build(leader, &barred.0) == **barred) {
                let granted = self.edges[leader].desired().granted.share_of(barred).ppm();
                assert_eq!(
                    granted,
                    0,
                    "{barred} was taken back and is granted traffic in {}",
                    self.edges[leader].phase()
                );
            }
        }
    }

    fn order(&mut self, kind: OrderKind) -> bool {
        let order = Order { kind, actor: "ada".to_owned(), reason: String::new() };
        let changes = self.edges[self.leader].step(Input::Order(&order), self.now);
        let obeyed = changes.is_ok();
        self.note(self.leader, &changes.unwrap_or_default());
        obeyed
    }

    fn happen(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..18) {
            0 => self.fails = if rng.random_bool(0.3) { 0.9 } else { 0.0 },
            1 => {
                let named = if rng.random_bool(0.7) { "v2" } else { "v1" };
                self.ready.insert(version(named), Ready { up: usize::from(rng.random_bool(0.6)), total: 1 });
            }
            2 | 3 => self.ready.values_mut().for_each(|ready| ready.up = 1),
            4 => self.connected = rng.random_bool(0.7),
            5 | 6 => self.change_leader(),
            7 => {
                self.foreigners += 1;
                let to = if rng.random_bool(0.5) { "v2" } else { "v1" };
                self.selector = Selected::Version(version(to));
                self.foreign = Some(pointsman_rollout::Foreign {
                    by: "kubectl".to_owned(),
                    what: to.to_owned(),
                    when: format!("{}", self.foreigners),
                });
            }
            8 => {
                self.order(OrderKind::Resume(Resume::Adopt));
            }
            9 | 10 if !self.order(OrderKind::Resume(Resume::Restore)) => {
                self.order(OrderKind::Resume(Resume::GoOn));
            }
            11 => {
                self.order(OrderKind::Promote);
            }
            12 if self.order(OrderKind::Retry(version("v2"))) => {
                self.barred.remove(&self.build(self.leader, &version("v2")));
                self.fails = 0.0;
            }
            13 => {
                let proven = rng.random_bool(0.7);
                self.way_back = if proven {
                    WayBack::Proven { took: Duration::from_millis(30) }
                } else {
                    WayBack::Unproven { why: "not rehearsed".to_owned() }
                };
                // A decision rests on what the last tick showed.
                self.tick(rng);
            }
            15 => {
                self.newest += u32::from(rng.random_bool(0.3));
                self.edit(rng.random_range(0..2));
            }
            16 => (0..2).for_each(|edge| self.edit(edge)),
            _ => {}
        }
    }

    /// The newest file reaches an edge.
    fn edit(&mut self, edge: usize) {
        let mut route = Route::clone(self.edges[edge].route());
        if let Some(canary) = route.versions.get_mut(&version("v2")) {
            canary.revision = (self.newest > 0).then(|| format!("r{}", self.newest));
        }
        if route == **self.edges[edge].route() {
            return;
        }
        let changes = self.edges[edge].step(Input::Edit(Arc::new(route)), self.now).unwrap();
        self.knows[edge] = edge == self.leader;
        self.note(edge, &changes);
        self.applied[edge] = self.edges[edge].desired().effective(&self.ready);
    }

    fn change_leader(&mut self) {
        let next = 1 - self.leader;
        let heard = self.edges[next].saved(self.now);
        let kept = self.kept.clone();
        let newest = kept.serial().max(heard.serial());
        let is_behind = self.edges[next].route() != self.edges[self.leader].route();
        let stood = self.edges[next].phase();
        let changes = self.edges[next].lead(Some(kept), self.now);
        self.note(next, &changes);
        if is_behind && self.knows[next] {
            self.behind += 1;
            let is_known = |change: &Change| matches!(change.decision, Decision::Rollback | Decision::Alert);
            assert!(changes.iter().all(is_known), "its own rollout is not begun anew: {changes:?}");
            assert!(!changes.is_empty() || self.edges[next].phase() == stood, "it went on elsewhere");
        }
        self.knows[next] = true;
        assert!(self.edges[next].saved(self.now).serial() >= newest, "a step backwards");
        let saved = self.edges[next].saved(self.now);
        self.knows[self.leader] |= self.edges[self.leader].follow(saved, self.now);
        self.leader = next;
    }
}

#[test]
fn over_random_histories_of_two_edges_the_service_follows_the_traffic_and_nothing_is_promoted_twice() {
    let mut reached = BTreeSet::new();
    let (mut flips, mut trips, mut behind) = (0, 0, 0);
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let chosen = if rng.random_bool(0.5) {
            canary_plan(Promotion::Automatic)
        } else {
            blue_green(if rng.random_bool(0.5) { Promotion::Automatic } else { Promotion::Manual })
        };
        let mut history = History::new(live(Plan::Rollout(chosen)));
        for _ in 0..60 {
            history.happen(&mut rng);
            for _ in 0..rng.random_range(1..120) {
                history.tick(&mut rng);
            }
        }
        reached.extend(history.phases);
        (flips, trips, behind) = (flips + history.flips, trips + history.trips, behind + history.behind);
    }
    assert_eq!(reached, PhaseName::ALL.into_iter().collect(), "the histories reach every phase");
    assert!(flips > 50 && trips > 5 && behind > 50, "{flips} flips, {trips} trips, {behind} leaders with another file");
}
