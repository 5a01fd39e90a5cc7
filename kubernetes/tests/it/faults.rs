//! What only the fake API server does: fail as it is told, and refuse whom it is told to refuse.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use pointsman_chaos::fakes::ApiServer;
use pointsman_chaos::fakes::api_server::{
    Effect, Grant, Key, Part, Refusal, Resource, Rule, Settings, Verb, WatchEnd, Writer,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

/// A client that gives up on nothing and repeats nothing.
async fn client(server: &ApiServer, user: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(user, "default")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn add_service(server: &ApiServer) {
    let service = json!({
        "metadata": { "name": "live" },
        "spec": { "selector": { "version": "v1" }, "ports": [{ "port": 80 }] },
    });
    let by = Writer::new("kubectl", SystemTime::now());
    server.store().create(Resource::Service, "default", service, &by).unwrap();
}

fn live() -> Key {
    Key::new(Resource::Service, "default", "live")
}

fn selected(server: &ApiServer) -> String {
    server.store().get(&live()).unwrap()["spec"]["selector"]["version"].as_str().unwrap().to_owned()
}

async fn flip(client: Client, version: &str) -> kube::Result<Service> {
    let fields = json!({ "spec": { "selector": { "version": version } } });
    Api::default_namespaced(client).patch("live", &PatchParams::default(), &Patch::Merge(fields)).await
}

fn code(outcome: kube::Result<Service>) -> u16 {
    let error = outcome.unwrap_err();
    let kube::Error::Api(status) = error else { panic!("{error:?}") };
    status.code
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_as_often_as_they_were_asked_for() {
    let server = ApiServer::start().await.unwrap();
    add_service(&server);
    let client = client(&server, "edge-1").await;
    for (effect, expected) in [
        (Effect::Conflict, 409),
        (Effect::Refuse(Refusal::too_many_requests(Duration::from_secs(1))), 429),
        (Effect::Refuse(Refusal::server_error(500)), 500),
        (Effect::Refuse(Refusal::server_error(503)), 503),
    ] {
        let rule = server.faults().add(Rule::on(Verb::Patch, Resource::Service).times(2), effect);
        for _ in 0..2 {
            assert_eq!(code(flip(client.clone(), "v2").await), expected);
        }
        flip(client.clone(), "v2").await.unwrap();
        assert_eq!(server.faults().met(rule), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_for_one_user_one_object_and_only_for_writes_in_earnest() {
    let server = ApiServer::start().await.unwrap();
    add_service(&server);
    let rule = Rule::on(Verb::Patch, Resource::Service).named("live").by("edge-1").dry_run(false);
    server.faults().add(rule, Effect::Conflict);
    let (first, second) = (client(&server, "edge-1").await, client(&server, "edge-2").await);
    assert_eq!(code(flip(first.clone(), "v2").await), 409);
    flip(second, "v2").await.unwrap();
    let fields = json!({ "spec": { "selector": { "version": "v3" } } });
    let services: Api<Service> = Api::default_namespaced(first);
    services.patch("live", &PatchParams::default().dry_run(), &Patch::Merge(fields)).await.unwrap();
    let journal: Vec<_> = server.journal().into_iter().map(|each| (each.user, each.dry_run, each.status)).collect();
    let expected = [("edge-1", false, 409), ("edge-2", false, 200), ("edge-1", true, 200)];
    assert_eq!(journal, expected.map(|(user, dry_run, status)| (user.to_owned(), dry_run, Some(status))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_patch_lands_when_nobody_waits_for_it() {
    let server = ApiServer::start().await.unwrap();
    add_service(&server);
    let client = client(&server, "edge-1").await;
    let rule = Rule::on(Verb::Patch, Resource::Service).times(1);
    server.faults().add(rule.clone(), Effect::Late { after: None, answer: None });
    let patience = Duration::from_millis(50);
    tokio::time::timeout(patience, flip(client.clone(), "v2")).await.expect_err("it is not answered");
    assert_eq!(selected(&server), "v1");
    server.land();
    eventually("the patch lands", || selected(&server) == "v2").await;

    let answer = Some(Refusal::timeout());
    server.faults().add(rule, Effect::Late { after: Some(Duration::from_millis(20)), answer });
    assert_eq!(code(flip(client, "v3").await), 504);
    eventually("the patch lands", || selected(&server) == "v3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hangs_and_resets_leave_the_object_as_it_is() {
    let server = ApiServer::start().await.unwrap();
    add_service(&server);
    let client = client(&server, "edge-1").await;
    let hang = server.faults().add(Rule::everything(), Effect::Hang);
    tokio::time::timeout(Duration::from_millis(50), flip(client.clone(), "v2")).await.expect_err("it hangs");
    server.faults().remove(hang);
    let reset = server.faults().add(Rule::on_every(Resource::Service).part(Part::Whole), Effect::Reset);
    assert!(!matches!(flip(client.clone(), "v2").await.unwrap_err(), kube::Error::Api(_)));
    server.faults().remove(reset);
    assert_eq!(selected(&server), "v1");
    server.faults().add(Rule::everything(), Effect::Delay(Duration::from_millis(20)));
    flip(client, "v2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_role_does_what_it_says_and_no_more() {
    let server = ApiServer::start().await.unwrap();
    add_service(&server);
    let grant = Grant::on(Resource::Service, &[Verb::Get, Verb::Patch, Verb::List]).named("live");
    server.access().restrict("edge-1", vec![grant]);
    let client = client(&server, "edge-1").await;
    flip(client.clone(), "v2").await.unwrap();
    let services: Api<Service> = Api::default_namespaced(client.clone());
    services.list(&ListParams::default().fields("metadata.name=live")).await.unwrap();
    for refused in [
        services.get("other").await,
        services.list(&ListParams::default()).await.map(|mut all| all.items.remove(0)),
        services.replace("live", &PostParams::default(), &services.get("live").await.unwrap()).await,
    ] {
        assert_eq!(code(refused), 403);
    }
    let refused = Api::<ConfigMap>::default_namespaced(client.clone()).get("x").await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    let words = "configmaps \"x\" is forbidden: User \"edge-1\" cannot get resource \"configmaps\" in API group \"\" \
                 in the namespace \"default\"";
    assert_eq!((status.code, status.message.as_str()), (403, words));
    server.access().lift("edge-1");
    assert_eq!(Api::<ConfigMap>::default_namespaced(client).get_opt("x").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_as_they_are_told() {
    let server = ApiServer::start().await.unwrap();
    let services: Api<Service> = Api::default_namespaced(client(&server, "edge-1").await);
    for (end, expected) in [(WatchEnd::Closed, None), (WatchEnd::Torn, None), (WatchEnd::Expired, Some(410))] {
        let watches = server.journal().len();
        let mut events = services.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        eventually("the watch is open", || server.journal().len() > watches).await;
        server.end_watches(end);
        let last = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
        let told = last.map(|event| {
            let event = event.unwrap();
            let WatchEvent::Error(status) = event else { panic!("{event:?}") };
            status.code
        });
        assert_eq!(told, expected, "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_watch_tells_later_what_it_kept_to_itself() {
    let server = ApiServer::start().await.unwrap();
    let services: Api<Service> = Api::default_namespaced(client(&server, "edge-1").await);
    let mut events = services.watch(&WatchParams::default().disable_bookmarks(), "0").await.unwrap().boxed();
    server.silence_watches(true);
    add_service(&server);
    tokio::time::timeout(Duration::from_millis(50), events.next()).await.expect_err("it is silent");
    server.silence_watches(false);
    let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(_)), "{event:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_with_everything_where_it_was() {
    let mut server = ApiServer::start().await.unwrap();
    add_service(&server);
    let client = client(&server, "edge-1").await;
    server.stop().await;
    assert!(!matches!(flip(client.clone(), "v2").await.unwrap_err(), kube::Error::Api(_)));
    server.restart().await.unwrap();
    assert_eq!(selected(&server), "v1");
    flip(client, "v2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_written_one_by_one_when_they_are_held() {
    let settings = Settings { endpoints_per_slice: 1, allow_loopback: true, ..Settings::default() };
    let server = ApiServer::start_with(settings).await.unwrap();
    server.hold_slices(true);
    add_service(&server);
    let by = Writer::new("kubelet", SystemTime::now());
    for (name, version) in [("a", "v1"), ("b", "v1"), ("c", "v2"), ("d", "v2")] {
        let pod = json!({
            "metadata": { "name": name, "labels": { "version": version } },
            "spec": { "containers": [{ "name": "model", "image": "model:1" }] },
        });
        server.store().create(Resource::Pod, "default", pod, &by).unwrap();
        let status = json!({
            "phase": "Running", "podIP": format!("127.0.0.{}", name.as_bytes()[0]),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        let key = Key::new(Resource::Pod, "default", name);
        server.store().edit(&key, &by, |pod| pod["status"] = status).unwrap();
    }
    let slices: Api<EndpointSlice> = Api::default_namespaced(client(&server, "edge-1").await);
    let pods = async || {
        let items = slices.list(&ListParams::default()).await.unwrap().items;
        let endpoints = items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        let mut pods: Vec<String> = endpoints.map(|each| each.target_ref.unwrap().name.unwrap()).collect();
        pods.sort();
        pods.concat()
    };
    while server.write_one_slice().unwrap() {}
    assert_eq!(pods().await, "ab");
    let flipped = json!({ "version": "v2" });
    server.store().edit(&live(), &by, |service| service["spec"]["selector"] = flipped).unwrap();
    assert!(server.write_one_slice().unwrap());
    assert!(["ac", "ad", "bc", "bd"].contains(&pods().await.as_str()), "half of the flip");
    assert!(server.write_one_slice().unwrap());
    assert!(!server.write_one_slice().unwrap());
    assert_eq!(pods().await, "cd");
}
