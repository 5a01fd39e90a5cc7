//! The old version's Deployment, once it may go.

use pointsman_chaos::fakes::api_server::{Effect, Part, Resource, Rule, Verb};
use pointsman_kubernetes::{CallError, Retired, scale_down};
use serde_json::json;

use crate::world::{NAMESPACE, World};

async fn with_deployment(replicas: u32) -> World {
    let world = World::new().await;
    let labels = json!({ "app": "model", "version": "v1" });
    let template =
        json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "model", "image": "model" }] } });
    let spec = json!({ "replicas": replicas, "selector": { "matchLabels": labels }, "template": template });
    world.create(Resource::Deployment, json!({ "metadata": { "name": "v1" }, "spec": spec }));
    world
}

async fn scale(world: &World, replicas: i32) -> Result<Retired, CallError> {
    scale_down(&world.cluster("edge"), NAMESPACE, "v1", replicas).await
}

fn replicas(world: &World) -> u64 {
    world.get(Resource::Deployment, "v1")["spec"]["replicas"].as_u64().unwrap()
}

#[tokio::test]
async fn a_deployment_is_scaled_down_to_a_set_size_and_never_up() {
    let world = with_deployment(5).await;
    assert_eq!(scale(&world, 1).await, Ok(Retired::From(5)));
    assert_eq!(replicas(&world), 1);
    assert_eq!(scale(&world, 1).await, Ok(Retired::SmallAlready));
    assert_eq!(scale(&world, 3).await, Ok(Retired::SmallAlready));
    assert_eq!(replicas(&world), 1);
}

#[tokio::test]
async fn a_size_that_was_changed_in_between_is_left_alone() {
    let world = with_deployment(5).await;
    let rule = Rule::on(Verb::Patch, Resource::Deployment).part(Part::Scale);
    world.api.faults().add(rule, Effect::Late { after: None, answer: None });
    let cluster = world.cluster("edge");
    let scaling = scale_down(&cluster, NAMESPACE, "v1", 1);
    let racing = async {
        crate::world::eventually("the patch", || world.api.journal().iter().any(|one| one.verb == Verb::Patch)).await;
        world.edit(Resource::Deployment, "v1", "hpa", |deployment| deployment["spec"]["replicas"] = json!(7));
        world.api.land();
    };
    tokio::select! {
        done = scaling => panic!("{done:?}"),
        () = racing => {}
    }
    // What landed late found another size, and did nothing.
    tokio::task::yield_now().await;
    assert_eq!(replicas(&world), 7);
}

#[tokio::test]
async fn a_deployment_that_is_not_there_is_named() {
    let error = scale(&World::new().await, 1).await.unwrap_err().to_string();
    assert!(error.contains("default/v1") && error.contains("found nothing"), "{error}");
}
