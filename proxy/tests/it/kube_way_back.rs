//! The real binary promotes nothing unless going back is proven to work at that moment, and says how it stands with that.

use std::fs;
use std::process::Command;

use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::fault::Faults;
use serde_json::{Value, json};

use crate::kube::{Cluster, NAMESPACE};
use crate::process::{self, Edge};

const STATE: &str = "{ kubernetes: { namespace: default } }";
/// Answers of these models are as long as what they were sent.
const AT_REST: &str = "weights: { v1: 100%, v2: 0% }
    kubernetes: { service: model }
    warm_up: { examples: [{ body: '12345', expect: 5 }] }";
const PLAN: &str = "rollout: { canary: v2, strategy: blue-green, promotion: manual, bake: 1h }
    kubernetes: { service: model }
    warm_up: { examples: [{ body: '12345', expect: 5 }] }";

fn wrong() -> Faults {
    serde_json::from_value(json!({ "wrong": { "share": 1.0, "prediction": -1.0 } })).unwrap()
}

/// What the command line says of the route `model`.
async fn said(edge: &Edge, verb: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args([verb, "model", "--admin", &format!("http://{}", edge.admin)]).env("NO_COLOR", "1");
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    // Long lines are wrapped where they are printed.
    String::from_utf8(ended.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn why(route: &Value) -> String {
    route["rollback_ready"]["why"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_stable_does_not_give_its_golden_answers_nothing_is_promoted() {
    let cluster = Cluster::new().await;
    let models = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let edge = cluster.start(STATE, AT_REST).await;
    edge.wait_for_route("v2 up", |route| route["versions"]["v2"]["endpoints"][0]["state"] == "up").await;
    assert!(edge.route().await["rollback_ready"].is_null(), "there is nothing to go back from");

    // Its checks go on passing.
    models[0].set_faults(wrong());
    cluster.write(STATE, PLAN);
    let route = edge.wait_for_route("wrong answers", |route| why(route).contains("gave -1")).await;
    assert!(why(&route).contains("v1 at 127.0.0.1"), "{}", why(&route));
    edge.wait_for_metric("pointsman_rollback_ready{route=\"model\"} ", 0.0).await;
    let answer = edge.order("promote", json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].clone()), (409, json!("no_proven_way_back")));
    assert!(said(&edge, "status").await.contains("way back not proven, so nothing is promoted: v1 at"));

    models[0].set_faults(Faults::default());
    let route = edge.wait_for_route("right answers", |route| route["rollback_ready"]["ready"] == true).await;
    assert!(route["rollback_ready"]["expected_ms"].as_f64().unwrap() > 0.0);
    edge.command("promote").await;
    edge.wait_for_phase("baking").await;
    let explained = said(&edge, "explain").await;
    assert!(explained.contains("service model selects v2; all of its slices agree, 1 ready"), "{explained}");
    assert!(explained.contains("way back proven: "), "{explained}");
}

/// Two edges that know each other, each with a folder of its own; the first one leads.
async fn two_edges(cluster: &Cluster) -> [Edge; 2] {
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = ports.map(|listener| listener.local_addr().unwrap());
    let first = edge_at(cluster, "one", (one, two)).await;
    first.wait_for_config("that it leads", |config| config["replicas"]["role"] == "leader").await;
    [first, edge_at(cluster, "two", (two, one)).await]
}

async fn edge_at(cluster: &Cluster, name: &str, (own, other): (std::net::SocketAddr, std::net::SocketAddr)) -> Edge {
    let folder = cluster.folder.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("token"), "open sesame\n").unwrap();
    fs::write(folder.join("kubeconfig"), cluster.api.kubeconfig("pointsman", NAMESPACE)).unwrap();
    let replicas = format!("{{ address: \"{own}\", endpoints: [\"{own}\", \"{other}\"], token_file: token }}");
    cluster.write(&format!("{STATE}\nreplicas: {replicas}"), PLAN);
    let config = folder.join("pointsman.yaml");
    fs::rename(cluster.folder.path().join("pointsman.yaml"), &config).unwrap();
    let mut command = process::command(&config);
    command.env("KUBECONFIG", folder.join("kubeconfig")).args(["--drain-delay", "0s"]);
    Edge::started_by(command, &config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_cannot_be_told_leaves_no_way_back_and_both_edges_say_so() {
    let cluster = Cluster::new().await;
    let _models: [FakeModel; 2] = [cluster.add_pod("one", "v1").await, cluster.add_pod("two", "v2").await];
    let [leader, mut follower] = two_edges(&cluster).await;
    for edge in [&leader, &follower] {
        edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    }
    let all = json!({ "applied": 2, "edges": 2 });
    let route = leader.wait_for_route("both edges", |route| route["acknowledged"] == all).await;
    let expected = route["rollback_ready"]["expected_ms"].as_f64().unwrap();
    assert!(expected > 0.0, "{expected}");
    let told = said(&leader, "status").await;
    assert!(told.contains("decides; 1 follow"), "{told}");
    assert!(told.contains("ms until every edge and the Service have it"), "{told}");
    assert!(told.contains("edges 2 of 2 apply what is granted"), "{told}");
    assert!(said(&follower, "status").await.contains("way back proven: "), "as the leader found");

    follower.signal(nix::sys::signal::Signal::SIGSTOP);
    leader.wait_for_route("the silent edge", |route| why(route).contains("does not answer")).await;
    assert_eq!(leader.order("promote", json!({})).await.status, 409);
    follower.signal(nix::sys::signal::Signal::SIGCONT);
    leader.wait_for_route("both again", |route| route["rollback_ready"]["ready"] == true).await;

    follower.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(follower.ended().await.success());
}
