//! Leaders that come and go.

use std::time::Duration;

use pointsman_chaos::fakes::api_server::{Effect, Resource, Rule};
use pointsman_kubernetes::annotation::Fence;
use pointsman_kubernetes::{Candidacy, Leadership, LeaseTimes};
use serde_json::json;
use tokio::time::Instant;

use crate::world::{NAMESPACE, World, until};

fn times() -> LeaseTimes {
    LeaseTimes::new(Duration::from_secs(3), Duration::from_secs(2), Duration::from_millis(200)).unwrap()
}

fn stand(world: &World, who: &str) -> Candidacy {
    Candidacy::start(&world.cluster(who), NAMESPACE, "pointsman", who, times())
}

/// Waits until this one leads; gives its proof.
async fn leads(candidacy: &Candidacy) -> Fence {
    let known = until(candidacy.leadership(), "leadership", |known| known.fence().is_some()).await;
    let Leadership::Leading { fence, .. } = known else { panic!("does not lead") };
    fence
}

async fn follows(candidacy: &Candidacy, whom: &str) {
    let leader = Some(whom.to_owned());
    until(candidacy.leadership(), "the leader's name", move |known| {
        *known == Leadership::Following { leader: leader.clone() }
    })
    .await;
}

#[tokio::test]
async fn one_leads_and_the_others_know_whom() {
    let world = World::new().await;
    let a = stand(&world, "a");
    assert_eq!(leads(&a).await.to_string(), "1/a");
    let (b, c) = (stand(&world, "b"), stand(&world, "c"));
    follows(&b, "a").await;
    follows(&c, "a").await;
    let lease = world.get(Resource::Lease, "pointsman");
    assert_eq!(lease["spec"]["holderIdentity"], json!("a"));
    assert_eq!(lease["spec"]["leaseDurationSeconds"], json!(3));
}

#[tokio::test]
async fn of_three_that_stand_at_once_one_leads() {
    let world = World::new().await;
    let candidates = [stand(&world, "a"), stand(&world, "b"), stand(&world, "c")];
    crate::world::eventually("a leader", || candidates.iter().any(|one| one.leadership().borrow().fence().is_some()))
        .await;
    for _ in 0..50 {
        let leaders = candidates.iter().filter(|one| one.leadership().borrow().fence().is_some()).count();
        assert!(leaders <= 1, "{leaders} lead");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_leader_that_resigns_is_replaced_before_its_lease_runs_out() {
    let world = World::new().await;
    let hour = LeaseTimes::new(Duration::from_hours(1), Duration::from_mins(50), Duration::from_millis(100)).unwrap();
    let a = Candidacy::start(&world.cluster("a"), NAMESPACE, "pointsman", "a", hour);
    leads(&a).await;
    let b = stand(&world, "b");
    follows(&b, "a").await;
    a.resign().await;
    assert_eq!(leads(&b).await.to_string(), "2/b");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let world = World::new().await;
    let a = stand(&world, "a");
    let first = leads(&a).await;
    let b = stand(&world, "b");
    follows(&b, "a").await;
    let cut = world.api.faults().add(Rule::everything().by("a"), Effect::Hang);
    let second = leads(&b).await;
    assert!(second.term > first.term && !first.may_replace(&second), "{first} then {second}");
    assert_eq!(a.leadership().borrow().fence(), None);
    assert!(matches!(*a.leadership().borrow(), Leadership::Following { .. }));
    world.api.faults().remove(cut);
    follows(&a, "b").await;
}

#[tokio::test]
async fn a_leader_that_never_hears_again_says_itself_when_it_is_over() {
    let mut world = World::new().await;
    let a = stand(&world, "a");
    leads(&a).await;
    let Leadership::Leading { until: end, .. } = a.leadership().borrow().clone() else { panic!("does not lead") };
    world.api.stop().await;
    until(a.leadership(), "the end", |known| matches!(known, Leadership::Following { .. })).await;
    assert!(Instant::now() >= end);
}

#[tokio::test]
async fn a_lease_that_somebody_deleted_comes_back_with_later_terms_once_a_fence_was_seen() {
    let world = World::new().await;
    let a = stand(&world, "a");
    leads(&a).await;
    world.delete(Resource::Lease, "pointsman");
    a.raise_above(41);
    let known = until(a.leadership(), "a later term", |known| known.fence().is_some_and(|fence| fence.term > 41)).await;
    assert_eq!(known.fence().unwrap().to_string(), "42/a");
}

#[tokio::test]
async fn a_lease_that_may_not_be_kept_makes_nobody_leader() {
    let world = World::new().await;
    world.api.access().restrict("a", Vec::new());
    let (a, b) = (stand(&world, "a"), stand(&world, "b"));
    leads(&b).await;
    assert_eq!(a.leadership().borrow().fence(), None);
}
