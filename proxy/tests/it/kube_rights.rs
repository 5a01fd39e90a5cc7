//! The real binary with the rights that `manifests/` grant, and with one of them less.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fakes::api_server::{Effect, Exchange, Grant, Part, Refusal, Resource, Rule, Selection, Verb};
use serde::Deserialize;
use serde_json::Value;

use crate::kube::{Cluster, NAMESPACE, eventually};
use crate::process::Edge;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const STATE: &str = "{ kubernetes: { namespace: default } }";
/// A bake that is over at once, and then the old version is scaled down.
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1s }
    kubernetes: { service: model, retire: { scale_to: 0 } }";

/// As `manifests/` write it.
#[derive(Deserialize)]
struct Role {
    kind: String,
    #[serde(default)]
    rules: Vec<RoleRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleRule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// What the Role in `manifests/` grants, one verb on one kind each, with the names of this cluster.
fn role() -> Vec<Grant> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/edge-rbac.yaml");
    let text = fs::read_to_string(path).unwrap();
    let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Role>(document).unwrap());
    let role = documents.into_iter().find(|document| document.kind == "Role").unwrap();
    role.rules.iter().flat_map(grants).collect()
}

fn grants(rule: &RoleRule) -> Vec<Grant> {
    let [group, written] = [&rule.api_groups, &rule.resources].map(|one| match one.as_slice() {
        [one] => one.as_str(),
        several => panic!("{several:?}"),
    });
    let (plural, part) = match written.split_once('/') {
        None => (written, Part::Whole),
        Some((plural, "scale")) => (plural, Part::Scale),
        Some(other) => panic!("{other:?}"),
    };
    let is_meant = |resource: &Resource| (resource.group(), resource.plural()) == (group, plural);
    let resource = Resource::ALL.into_iter().find(is_meant).unwrap();
    let named = |grant: Grant| {
        let names = rule.resource_names.iter().map(|name| name.replace("delivery-time", "model"));
        names.fold(grant, |grant, name| grant.named(&name))
    };
    rule.verbs.iter().map(|name| named(Grant::on(resource, &[verb(name)]).part(part))).collect()
}

fn verb(name: &str) -> Verb {
    use Verb::{Create, Delete, Get, List, Patch, Update, Watch};
    [Get, List, Watch, Create, Update, Patch, Delete].into_iter().find(|verb| verb.name() == name).unwrap()
}

fn in_words(grant: &Grant) -> String {
    let verb: Vec<_> = grant.verbs.iter().map(|verb| verb.name()).collect();
    format!("{} {} {}", verb.join(","), grant.resource.plural(), grant.part.name())
}

/// A cluster with a Deployment behind v1 and a pod of each version, where the edge has just these rights.
async fn restricted(grants: Vec<Grant>) -> (Cluster, [FakeModel; 2]) {
    let cluster = Cluster::new().await;
    cluster.api.access().restrict("pointsman", grants);
    cluster.add_deployment("v1");
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    (cluster, models)
}

/// From the start to the end of the bake.
async fn promoted(edge: &Edge, cluster: &Cluster) {
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    edge.wait_for_route("v2 up", |route| route["versions"]["v2"]["endpoints"][0]["state"] == "up").await;
    edge.command("promote").await;
    edge.wait_for_phase("steady").await;
    eventually("it is scaled down", || cluster.replicas_of("v1") == 0).await;
    eventually("it is marked", || cluster.live()["metadata"]["annotations"]["pointsman.dev/retired"] == "v1").await;
    eventually("the Events tell of it", || {
        let events = cluster.api.store().all(&Selection::all(Resource::Event, Some(NAMESPACE)));
        events.iter().any(|event| event["reason"] == "Finish")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_is_enough_for_a_whole_rollout_and_none_of_its_verbs_is_left_over() {
    let (cluster, _models) = restricted(role()).await;
    // A write that fails is looked after, and the same decision again is one Event with a count.
    let once = Rule::on(Verb::Patch, Resource::Service).dry_run(false).times(1);
    cluster.api.faults().add(once, Effect::Refuse(Refusal::server_error(503)));
    let edge = cluster.start(STATE, PLAN).await;
    for _ in 0..2 {
        edge.command("pause").await;
        edge.command("resume").await;
    }
    let before = cluster.live();
    promoted(&edge, &cluster).await;
    assert_eq!(edge.config().await["state"]["problem"], Value::Null);

    let unused = || {
        let journal = cluster.api.journal();
        let asked: Vec<_> = journal.iter().filter(|exchange| exchange.user == "pointsman").collect();
        assert!(asked.iter().all(|one| one.status != Some(403)), "{asked:#?}");
        let is_used = |grant: &Grant| {
            let is_it = |one: &&Exchange| {
                grant.verbs.contains(&one.verb)
                    && (grant.resource, grant.part) == (one.target.resource, one.target.part)
            };
            asked.iter().any(is_it)
        };
        role().iter().filter(|grant| !is_used(grant)).map(in_words).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + PATIENCE;
    while !unused().is_empty() {
        assert!(Instant::now() < deadline, "never needed: {:?}", unused());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check_ignored(&before, &cluster.live());
}

/// Whatever Pointsman wrote on the live Service is among what Argo CD is told to ignore.
fn check_ignored(before: &Value, after: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/README.md");
    let text = fs::read_to_string(path).unwrap();
    let pointers: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- /")).collect();
    assert!(pointers.len() > 3, "{pointers:?}");
    let applied = |service: &Value| {
        let mut service = service.clone();
        for pointer in &pointers {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            if let Some(parent) = service.pointer_mut(&format!("/{parent}")).and_then(Value::as_object_mut) {
                parent.remove(&key.replace("~1", "/"));
            }
        }
        let annotations = service["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        (service["spec"].clone(), service["metadata"]["labels"].clone(), annotations)
    };
    assert_ne!(before["spec"]["selector"], after["spec"]["selector"]);
    assert_eq!(applied(before), applied(after));
}

/// What the edge does that needs the right.
#[derive(Clone, Copy)]
enum Needs {
    /// It starts.
    Start,
    /// It ends a rollout.
    End,
    /// It hears of changes at once, and tells of decisions: without, it asks again and again, or does without, and only the
    /// log says so.
    Ease,
}

/// The rights whose lack an edge meets in every rollout; the words in which it says so are the API server's, and its own.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_right_is_missing_the_edge_names_it_and_where_to_grant_it() {
    for (verb, resource, part, needs) in [
        (Verb::List, Resource::Service, Part::Whole, Needs::Start),
        (Verb::Watch, Resource::Service, Part::Whole, Needs::Ease),
        (Verb::Patch, Resource::Service, Part::Whole, Needs::Start),
        (Verb::Create, Resource::Lease, Part::Whole, Needs::Start),
        (Verb::Get, Resource::Lease, Part::Whole, Needs::Start),
        (Verb::List, Resource::EndpointSlice, Part::Whole, Needs::Start),
        (Verb::Watch, Resource::EndpointSlice, Part::Whole, Needs::Ease),
        (Verb::Create, Resource::Event, Part::Whole, Needs::Ease),
        (Verb::Get, Resource::Deployment, Part::Scale, Needs::End),
        (Verb::Patch, Resource::Deployment, Part::Scale, Needs::End),
    ] {
        let is_missing = |grant: &Grant| (grant.verbs[0], grant.resource, grant.part) == (verb, resource, part);
        let mut grants = role();
        let before = grants.len();
        grants.retain(|grant| !is_missing(grant));
        assert!(grants.len() < before, "the Role grants {} {}", verb.name(), resource.plural());
        check_without(&format!("cannot {} resource", verb.name()), grants, needs).await;
    }
}

async fn check_without(refusal: &str, grants: Vec<Grant>, needs: Needs) {
    let (cluster, _models) = restricted(grants).await;
    let edge = cluster.start(STATE, PLAN).await;
    if matches!(needs, Needs::End) {
        edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
        edge.wait_for_route("v2 up", |route| route["versions"]["v2"]["endpoints"][0]["state"] == "up").await;
        edge.command("promote").await;
        edge.wait_for_phase("steady").await;
    }
    for words in
        [refusal, "the API server forbids", "grant it to the service account of Pointsman (Role in `manifests/`)"]
    {
        edge.wait_for_log(words).await;
    }
    if matches!(needs, Needs::Start | Needs::End) {
        // Whoever asks for the status is told as well.
        let deadline = Instant::now() + PATIENCE;
        let told = async || edge.config().await["state"].to_string() + &edge.route().await.to_string();
        while !told().await.contains(refusal) {
            assert!(Instant::now() < deadline, "no {refusal:?} in {}", told().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
