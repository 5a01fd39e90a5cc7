//! Writes on a live Service that land, that do not, and that land late.

use std::time::Duration;

use pointsman_chaos::fakes::api_server::{Effect, Grant, Refusal, Resource, Rule, Verb};
use pointsman_config::{Route, RouteName, Version, VersionId};
use pointsman_kubernetes::annotation::{Fence, STATE};
use pointsman_kubernetes::{
    CallError, Document, LiveService, Observed, Obstacle, OnForeign, Selected, Wanted, WriteError, claim, plan,
};
use pointsman_rollout::{Rollout, Saved, Time};
use serde_json::json;

use crate::world::{World, eventually, live, until};

/// A leader of the route `shop`, and what it wants.
struct Leader {
    route: RouteName,
    fence: Fence,
    version: VersionId,
    saved: Saved,
}

fn leader(term: u64, holder: &str, version: &str) -> Leader {
    let stable: VersionId = "v1".parse().unwrap();
    let versions = [(stable.clone(), Version::at(Vec::new()))];
    let route = Route::new("shop".parse().unwrap(), stable, versions.into());
    let name = route.name.clone();
    let saved = Rollout::start(route.into(), Time::default()).0.saved(Time::default());
    let fence = Fence { term, holder: holder.to_owned() };
    Leader { route: name, fence, version: version.parse().unwrap(), saved }
}

impl Leader {
    fn wanted(&self) -> Wanted<'_> {
        let selected = Some(Selected { key: "version", version: &self.version });
        Wanted { selected, ..Wanted::of(&self.route, &self.fence, &self.saved) }
    }

    async fn claim(&self, service: &LiveService) {
        let document = claim(&service.read().await.unwrap(), &self.wanted()).unwrap().unwrap();
        service.write(&document).await.unwrap();
    }

    fn plan(&self, observed: &Observed) -> Document {
        plan(observed, &self.wanted()).unwrap().unwrap()
    }

    async fn flip(&self, service: &LiveService) -> Result<(), WriteError> {
        let observed = service.read().await?;
        service.write(&self.plan(&observed)).await.map(drop)
    }
}

async fn world() -> World {
    let world = World::new().await;
    world.with_live_service();
    world
}

fn selects(version: &str) -> serde_json::Value {
    json!({ "app": "model", "version": version })
}

#[tokio::test]
async fn a_flip_lands_selector_and_state_together_and_leaves_the_other_labels() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    leader(1, "a", "v2").claim(&service).await;
    assert_eq!(world.selector(), selects("v1"));
    leader(1, "a", "v2").flip(&service).await.unwrap();
    assert_eq!(world.selector(), selects("v2"));
    let known = until(service.known(), "the flip", |known| {
        known.service.as_ref().is_some_and(|service| service.selector["version"] == "v2")
    })
    .await;
    let observed = known.service.unwrap();
    assert_eq!(observed.state.read().unwrap().selector, observed.selector);
    assert_eq!(observed.foreign(&"shop".parse().unwrap()), None);
    assert_eq!(plan(&observed, &leader(1, "a", "v2").wanted()), Ok(None));
}

#[tokio::test]
async fn a_patch_made_from_an_earlier_writing_changes_nothing() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let a = leader(1, "a", "v2");
    a.claim(&service).await;
    let document = a.plan(&service.read().await.unwrap());
    world.edit(Resource::Service, "live", "kubectl", |service| service["metadata"]["labels"] = json!({ "team": "ml" }));
    assert_eq!(service.write(&document).await, Err(WriteError::Moved));
    assert_eq!(world.selector(), selects("v1"));
    a.flip(&service).await.unwrap();
    assert_eq!(world.selector(), selects("v2"));
}

#[tokio::test]
async fn a_patch_that_timed_out_and_lands_late_is_seen_and_healed() {
    let world = world().await;
    let service = live(&world.cluster_within("edge", Duration::from_millis(500)));
    leader(1, "a", "v2").claim(&service).await;
    let late = Effect::Late { after: None, answer: None };
    let rule = world.api.faults().add(Rule::on(Verb::Patch, Resource::Service).times(1), late);
    let Err(WriteError::Call(error)) = leader(1, "a", "v2").flip(&service).await else { panic!("it landed") };
    assert!(matches!(error, CallError::Deadline { .. }) && error.may_have_landed(), "{error}");
    assert_eq!((world.api.faults().met(rule), world.selector()), (1, selects("v1")));
    // Meanwhile it was decided to stay with v1, and nothing needed to be written for that.
    world.api.land();
    let known = until(service.known(), "what landed late", |known| {
        known.service.as_ref().is_some_and(|service| service.selector["version"] == "v2")
    })
    .await;
    let back = leader(1, "a", "v1");
    service.write(&back.plan(&known.service.unwrap())).await.unwrap();
    assert_eq!(world.selector(), selects("v1"));
}

#[tokio::test]
async fn a_late_patch_never_lands_once_somebody_wrote_since() {
    let world = world().await;
    let service = live(&world.cluster_within("edge", Duration::from_millis(500)));
    leader(1, "a", "v2").claim(&service).await;
    let late = Effect::Late { after: None, answer: Some(Refusal::timeout()) };
    world.api.faults().add(Rule::on(Verb::Patch, Resource::Service).times(1), late);
    let Err(WriteError::Call(error)) = leader(1, "a", "v2").flip(&service).await else { panic!("it landed") };
    assert!(error.may_have_landed(), "{error}");
    // A new leader claims, and the old one's patch comes in.
    leader(2, "b", "v1").claim(&service).await;
    world.api.land();
    let before = world.live();
    eventually("the late patch", || world.api.journal().len() > 3).await;
    assert_eq!((world.live(), world.selector()), (before, selects("v1")));
}

#[tokio::test]
async fn a_stale_leaders_write_never_lands() {
    let world = world().await;
    let (a, b) = (live(&world.cluster("a")), live(&world.cluster("b")));
    leader(1, "a", "v2").claim(&a).await;
    let in_hand = leader(1, "a", "v2").plan(&a.read().await.unwrap());
    leader(2, "b", "v1").claim(&b).await;
    assert_eq!(a.write(&in_hand).await, Err(WriteError::Moved));
    let by = Fence { term: 2, holder: "b".to_owned() };
    assert_eq!(plan(&a.read().await.unwrap(), &leader(1, "a", "v2").wanted()), Err(Obstacle::Superseded { by }));
    assert_eq!(world.selector(), selects("v1"));
}

#[tokio::test]
async fn of_two_leaders_that_claim_at_once_one_does() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let observed = service.read().await.unwrap();
    let first = claim(&observed, &leader(1, "a", "v1").wanted()).unwrap().unwrap();
    let second = claim(&observed, &leader(2, "b", "v1").wanted()).unwrap().unwrap();
    let (first, second) = tokio::join!(service.write(&first), service.write(&second));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test]
async fn the_way_back_is_rehearsed_without_a_trace_and_timed() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let a = leader(1, "a", "v2");
    a.claim(&service).await;
    let document = a.plan(&service.read().await.unwrap());
    let before = world.live();
    let took = service.rehearse(&document).await.unwrap();
    assert!(took > Duration::ZERO);
    assert_eq!((world.live(), world.selector()), (before, selects("v1")));
    service.write(&document).await.unwrap();
}

#[tokio::test]
async fn a_rehearsal_that_somebody_else_was_faster_than_says_nothing_of_the_way_back() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let a = leader(1, "a", "v2");
    a.claim(&service).await;
    let document = a.plan(&service.read().await.unwrap());
    world
        .edit(Resource::Service, "live", "prometheus", |service| service["metadata"]["labels"]["team"] = "shop".into());
    assert_eq!(service.rehearse(&document).await, Err(WriteError::Moved));
    let document = a.plan(&service.read().await.unwrap());
    service.rehearse(&document).await.unwrap();
}

#[tokio::test]
async fn a_rehearsal_finds_out_that_a_permission_is_missing() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    leader(1, "a", "v2").claim(&service).await;
    world.api.access().restrict("edge", vec![Grant::on(Resource::Service, &[Verb::Get, Verb::List, Verb::Watch])]);
    let document = leader(1, "a", "v2").plan(&service.read().await.unwrap());
    let Err(WriteError::Call(error)) = service.rehearse(&document).await else { panic!("rehearsed") };
    assert!(error.to_string().contains("grant it"), "{error}");
}

#[tokio::test]
async fn a_foreign_change_is_told_with_its_author_and_adopted_or_restored() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let a = leader(1, "a", "v1");
    a.claim(&service).await;
    let edit = || {
        world.edit(Resource::Service, "live", "kubectl-edit", |service| service["spec"]["selector"] = selects("v9"));
    };
    edit();
    let observed = service.read().await.unwrap();
    let foreign = observed.foreign(&a.route).unwrap();
    assert!(foreign.by.starts_with("kubectl-edit ("), "{foreign}");
    assert!(foreign.what.contains("version=v9"), "{foreign}");
    assert_eq!(plan(&observed, &a.wanted()), Err(Obstacle::Foreign(foreign)));
    let restored = Wanted { on_foreign: OnForeign::Restore, ..a.wanted() };
    service.write(&plan(&observed, &restored).unwrap().unwrap()).await.unwrap();
    assert_eq!(world.selector(), selects("v1"));
    edit();
    let adopted = Wanted { on_foreign: OnForeign::Adopt, selected: None, ..a.wanted() };
    let document = plan(&service.read().await.unwrap(), &adopted).unwrap().unwrap();
    let after = service.write(&document).await.unwrap();
    assert_eq!((world.selector(), after.foreign(&a.route)), (selects("v9"), None));
}

#[tokio::test]
async fn a_state_that_somebody_edited_or_removed_is_a_foreign_change() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    let a = leader(1, "a", "v2");
    a.claim(&service).await;
    a.flip(&service).await.unwrap();
    world.edit(Resource::Service, "live", "kubectl-annotate", |service| {
        let text = service["metadata"]["annotations"][STATE].as_str().unwrap().replace("\"serial\":2", "\"serial\":7");
        service["metadata"]["annotations"][STATE] = json!(text);
    });
    let foreign = service.read().await.unwrap().foreign(&a.route).unwrap();
    assert!(foreign.what.contains("was edited") && foreign.by.starts_with("kubectl-annotate"), "{foreign}");
    world.edit(Resource::Service, "live", "kubectl-edit", |service| service["metadata"]["annotations"] = json!({}));
    let foreign = service.read().await.unwrap().foreign(&a.route).unwrap();
    assert!(foreign.what.contains("removed"), "{foreign}");
}

#[tokio::test]
async fn what_the_api_server_will_not_have_is_told_apart_from_a_lost_race() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    leader(1, "a", "v2").claim(&service).await;
    let refused = Effect::Refuse(Refusal::unprocessable_patch());
    world.api.faults().add(Rule::on(Verb::Patch, Resource::Service).times(1), refused);
    let refused = leader(1, "a", "v2").flip(&service).await;
    assert!(matches!(refused, Err(WriteError::Call(CallError::Refused { status: 422, .. }))), "{refused:?}");
}

#[tokio::test]
async fn every_call_ends_within_its_deadline_and_is_asked_once() {
    let world = world().await;
    let service = live(&world.cluster_within("edge", Duration::from_millis(300)));
    until(service.known(), "the Service", |known| known.service.is_some()).await;
    let rule = || Rule::on(Verb::Get, Resource::Service);
    let hang = world.api.faults().add(rule(), Effect::Hang);
    assert!(matches!(service.read().await, Err(CallError::Deadline { .. })));
    assert_eq!(world.api.faults().met(hang), 1);
    world.api.faults().remove(hang);
    for (refusal, words) in [
        (Refusal::too_many_requests(Duration::from_mins(1)), "too busy"),
        (Refusal::server_error(503), "failed"),
        (Refusal::timeout(), "failed"),
    ] {
        let busy = world.api.faults().add(rule(), Effect::Refuse(refusal));
        let error = service.read().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(world.api.faults().met(busy), 1);
        world.api.faults().remove(busy);
    }
}

#[tokio::test]
async fn a_service_that_is_deleted_and_made_again_is_followed() {
    let world = world().await;
    let service = live(&world.cluster("edge"));
    until(service.known(), "the Service", |known| known.service.is_some()).await;
    world.delete(Resource::Service, "live");
    until(service.known(), "nothing", |known| known.service.is_none()).await;
    world.with_live_service();
    until(service.known(), "the new one", |known| known.service.is_some()).await;
}
