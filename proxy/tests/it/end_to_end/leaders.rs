//! Two edges, of which one leads and loses that without knowing.

use std::time::{Duration, Instant};

use pointsman_chaos::fakes::Link;
use pointsman_testbed::{Cluster, PATIENCE, eventually};
use serde_json::{Value, json};

use super::stage::{Outside, Stage, alone};
use super::stories;
use crate::process::Edge;
use crate::trio::{TOKEN, own_address};

stories! {
    what_a_leader_sent_before_it_was_cut_off_lands_no_more,
}

const PLAN: &str =
    "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 1h }
    kubernetes: { service: model }";

/// Two edges, and the ways by which each asks the other.
struct Pair {
    edges: Vec<Outside>,
    between: Vec<Link>,
}

impl Pair {
    async fn start(on: &Stage) -> Self {
        std::fs::write(on.folder.path().join("token"), TOKEN).unwrap();
        let addresses = [own_address(), own_address()];
        let mut between = Vec::new();
        let mut edges = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let other = Link::to(addresses[1 - number]).await.unwrap();
            let replicas = format!(
                "replicas: {{ address: {address}, endpoints: [{address}, {}], token_file: token }}",
                other.address()
            );
            let state = format!("{}\n{replicas}", alone(&on.cluster, "3s"));
            between.push(other);
            edges.push(on.start_named(&format!("edge-{number}"), &state, PLAN).await);
        }
        Self { edges, between }
    }

    fn edge(&self, number: usize) -> &Edge {
        &self.edges[number].edge
    }

    fn cut_between(&self, is_cut: bool) {
        self.between.iter().for_each(|link| link.cut(is_cut));
    }

    async fn role(&self, number: usize) -> Value {
        self.edge(number).config().await["replicas"]["role"].clone()
    }

    /// Waits until just one leads, and gives it.
    async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match [self.role(0).await == "leader", self.role(1).await == "leader"] {
                [true, false] => return 0,
                [false, true] => return 1,
                both => assert!(Instant::now() < deadline, "{both:?}\n{}\n{}", self.edge(0).log(), self.edge(1).log()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_for_weight(&self, percent: f64) {
        for number in 0..2 {
            self.edge(number).wait_for_weight(percent).await;
        }
    }
}

/// Has the leader promote while its flip is held up on the way; gives who led and who leads next, and has taken the canary
/// back. In between the next one may have gone on with the promotion: every edge had moved.
async fn replaced(stage: &Stage, pair: &Pair) -> (usize, usize) {
    let before = pair.leader().await;
    let next = 1 - before;
    let edge = pair.edge(before);
    edge.wait_for_route("a proven way back", |route| route["rollback_ready"]["ready"] == true).await;
    pair.edges[before].way.link.hold(true);
    edge.command("promote").await;
    pair.wait_for_weight(100.0).await;
    eventually("the leader has every edge's word", || async {
        edge.history().await.iter().any(|(_, decision, _)| decision == "flip").then_some(())
    })
    .await;
    pair.cut_between(true);
    pair.edge(next).wait_for_config("the other leads", |config| config["replicas"]["role"] == "leader").await;
    let answer = pair.edge(next).order("rollback", json!({ "reason": "a test" })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    pair.edge(next).wait_for_weight(0.0).await;
    stage.wait_for_selected("v1").await;
    edge.wait_for_config("its write got no answer", |config| config["state"]["problem"].is_string()).await;
    (before, next)
}

async fn what_a_leader_sent_before_it_was_cut_off_lands_no_more(cluster: Cluster) {
    let (stage, [_first, canary]) = Stage::new(cluster).await;
    let pair = Pair::start(&stage).await;
    pair.wait_for_weight(20.0).await;
    let (before, next) = replaced(&stage, &pair).await;
    let fence = stage.annotation("fence").await.unwrap();
    assert!(fence.contains(&format!("/edge-{next}-")), "{fence}");

    let selections = stage.selections();
    pair.edges[before].way.link.hold(false);
    pair.edge(before).wait_for_config("it follows", |config| config["replicas"]["role"] == "follower").await;
    pair.cut_between(false);
    pair.wait_for_weight(0.0).await;
    for number in 0..2 {
        let route = pair.edge(number).wait_for_phase("rolled_back").await;
        assert_eq!(route["quarantined"][0]["version"], "v2");
    }
    let asked = canary.predictions();
    for number in 0..2 {
        assert_eq!(pair.edge(number).version_for("").await, "v1");
    }
    assert_eq!((canary.predictions(), stage.annotation("fence").await.unwrap()), (asked, fence));
    stage.wait_for_kept_phase("rolled_back").await;
    assert_eq!(stage.selections(), selections, "what was sent before landed");
}
