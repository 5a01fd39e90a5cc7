//! Three real edges decide as one: on the sum of what all of them counted, through the death of any leader, and each for
//! itself where it is cut off.

use std::time::{Duration, Instant};

use pointsman_chaos::fakes::api_server::{Effect, Part, Refusal, Resource, Rule, Verb};
use pointsman_chaos::fault::Faults;
use serde_json::{Value, json};

use crate::harness::{Answer, Client};
use crate::kube::{LIVE, eventually};
use crate::process::weight_of;
use crate::trio::{TOKEN, Trio, Ways, all_answered};

/// Waits at 20 % for an order.
const PLAN: &str =
    "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 1h }
    kubernetes: { service: model }";

/// Patches of the live Service that are meant.
fn flips() -> Rule {
    Rule::on(Verb::Patch, Resource::Service).named(LIVE).dry_run(false)
}

fn refused() -> Effect {
    Effect::Refuse(Refusal::server_error(503))
}

/// What an edge counted of a version.
fn requests(route: &Value, version: &str) -> u64 {
    route["versions"][version]["requests"].as_u64().unwrap()
}

/// Decisions of a kind that the annotation tells of.
fn decided(trio: &Trio, kind: &str) -> usize {
    let kept = trio.kept();
    kept["decisions"].as_array().into_iter().flatten().filter(|row| row["change"]["decision"] == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_promoted_once_on_what_all_edges_counted_and_retired_when_all_have_said_so() {
    let plan = "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1s }, { weight: 50%, hold: 1h }], promotion: manual, bake: 1s }
    kubernetes: { service: model, retire: { scale_to: 0 } }";
    let trio = Trio::start(Ways::Straight, plan).await;
    trio.cluster.add_deployment("v1");
    let leader = trio.wait_for_all().await;
    let followers = trio.followers_of(leader);
    trio.wait_for_weight(20.0).await;

    // Nothing comes to the leader: it goes on with what the others counted.
    let loads = [trio.load(followers[0], 120), trio.load(followers[1], 120)];
    trio.wait_for_weight(50.0).await;
    trio.everywhere("the second step", |route| (&route["phase"], &route["step"]) == (&json!("shifting"), &json!(2)))
        .await;
    assert_eq!(trio.leaders().await, [leader]);
    let mut counted = [0, 0];
    for load in loads {
        let [v1, v2] = all_answered(load).await;
        counted = [counted[0] + v1, counted[1] + v2];
    }
    let sums = |route: &Value| {
        let summary = &route["analysis"]["summary"];
        ["stable", "canary"].map(|side| summary[side]["requests"].as_u64().unwrap_or_default())
    };
    trio.edge(leader).wait_for_route(&format!("the sum {counted:?}"), |route| sums(route) == counted).await;

    trio.wait_for_way_back(leader).await;
    trio.edge(followers[0]).command("promote").await;
    trio.wait_for_phase("steady").await;
    trio.wait_for_weight(100.0).await;
    trio.everywhere("v2 in production", |route| route["stable"] == "v2").await;
    eventually("the old version is scaled down", || trio.cluster.replicas_of("v1") == 0).await;
    assert_eq!(trio.selections(), ["v1", "v2"], "one flip");
    eventually("the Events tell of it", || trio.told("Finish") == 1).await;
    assert_eq!(["Promote", "Flip", "Bake"].map(|reason| trio.told(reason)), [1, 1, 1]);
    let scaled = trio.cluster.api.journal().into_iter().filter(|asked| {
        asked.verb == Verb::Patch && asked.target.resource == Resource::Deployment && asked.target.part == Part::Scale
    });
    assert_eq!(scaled.count(), 1);
}

/// Kills the leader, with load on both others; gives who leads next, when it does and the dead one is back.
async fn replace_leader(trio: &mut Trio) -> usize {
    let leader = trio.leader().await;
    let loads: Vec<_> = trio.followers_of(leader).into_iter().map(|number| trio.load(number, 50)).collect();
    trio.kill(leader);
    let killed = Instant::now();
    let next = trio.led_by_another_than(&[leader]).await;
    eprintln!("led again after {} ms", killed.elapsed().as_millis());
    for load in loads {
        all_answered(load).await;
    }
    trio.start_again(leader).await;
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_next_goes_forward_from_every_phase_and_promotes_once() {
    let mut trio = Trio::start(Ways::Straight, PLAN).await;
    trio.wait_for_weight(20.0).await;
    replace_leader(&mut trio).await;
    trio.wait_for_phase("shifting").await;
    trio.wait_for_weight(20.0).await;

    // Promoted, and nothing can be written: neither that it was, nor the flip.
    let leader = trio.wait_for_all().await;
    trio.wait_for_way_back(leader).await;
    trio.cluster.api.faults().add(flips(), refused());
    trio.edge(leader).command("promote").await;
    trio.wait_for_weight(100.0).await;
    assert_eq!((trio.cluster.selected().as_str(), decided(&trio, "promote")), ("v1", 0));
    trio.cluster.api.hold_slices(true);
    let loads: Vec<_> = trio.followers_of(leader).into_iter().map(|number| trio.load(number, 50)).collect();
    trio.kill(leader);
    trio.cluster.api.faults().clear();
    let next = trio.led_by_another_than(&[leader]).await;
    eventually("it goes on", || trio.cluster.selected() == "v2").await;
    trio.start_again(leader).await;
    trio.wait_for_phase("promoting").await;
    trio.wait_for_weight(100.0).await;
    for load in loads {
        all_answered(load).await;
    }

    // Flipped, and the slices do not follow yet.
    trio.wait_for_all().await;
    let after = replace_leader(&mut trio).await;
    assert_ne!(after, next);
    trio.wait_for_phase("promoting").await;
    assert_eq!(trio.cluster.selected(), "v2", "no step back");
    trio.cluster.api.hold_slices(false);
    trio.wait_for_phase("baking").await;
    trio.wait_for_all().await;
    replace_leader(&mut trio).await;
    trio.wait_for_phase("baking").await;
    trio.wait_for_weight(100.0).await;
    assert_eq!(trio.selections(), ["v1", "v2"], "one flip");
    assert!(decided(&trio, "promote") <= 1 && decided(&trio, "flip") <= 1, "{:#}", trio.kept());
    assert!(trio.told("Promote") <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_next_takes_a_canary_back_that_the_one_before_took_back() {
    let mut trio = Trio::start(Ways::Straight, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    trio.wait_for_way_back(leader).await;
    trio.edge(leader).command("promote").await;
    trio.wait_for_phase("baking").await;
    trio.cluster.api.faults().add(flips(), refused());
    trio.edge(leader).command("rollback").await;
    trio.wait_for_weight(0.0).await;
    let loads: Vec<_> = trio.followers_of(leader).into_iter().map(|number| trio.load(number, 50)).collect();
    let asked = trio.models[1].predictions();
    trio.kill(leader);
    trio.led_by_another_than(&[leader]).await;
    trio.wait_for_phase("rolling_back").await;
    assert_eq!(trio.cluster.selected(), "v2", "nothing can be written");
    trio.cluster.api.faults().clear();
    eventually("the selector is back", || trio.cluster.selected() == "v1").await;
    // The dead leader is waited for, for seconds.
    trio.wait_for_phase("rolled_back").await;
    trio.start_again(leader).await;
    trio.wait_for_phase("rolled_back").await;
    trio.everywhere("v2 is barred", |route| route["quarantined"][0]["version"] == "v2").await;
    for load in loads {
        all_answered(load).await;
    }
    assert_eq!(trio.models[1].predictions(), asked, "a version that was taken back gets nothing");
    assert_eq!(trio.selections(), ["v1", "v2", "v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_gives_the_lease_back() {
    let mut trio = Trio::start(Ways::Straight, PLAN).await;
    let leader = trio.leader().await;
    let held = trio.holder();
    assert!(held.starts_with(&format!("edge-{leader}-")), "{held}");
    trio.terminate(leader).await;
    assert_ne!(trio.holder(), held);
    trio.led_by_another_than(&[leader]).await;
    assert!(!trio.edge((leader + 1) % 3).log().contains("kube_"), "what a client finds wrong is told by us");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_edge_alone_has_heard_is_not_undone_by_the_next_leader() {
    let mut trio = Trio::start(Ways::Links, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let [knows, unaware] = trio.followers_of(leader)[..] else { panic!("two others") };
    // The one hears that the canary was taken back, the other does not, and nothing is written.
    trio.cut_way(leader, unaware, true);
    trio.cluster.api.faults().add(flips(), refused());
    trio.edge(leader).command("rollback").await;
    trio.edge(knows).wait_for_weight(0.0).await;
    assert_eq!(trio.edge(unaware).weight().await, 20.0);
    trio.cut_api(knows, true);
    trio.kill(leader);
    trio.cluster.api.faults().clear();
    let load = trio.load(knows, 50);
    let asked = trio.models[1].predictions();
    let next = trio.led_by_another_than(&[leader]).await;
    assert_eq!(next, unaware);
    trio.cut_api(knows, false);
    trio.wait_for_weight(0.0).await;
    trio.start_again(leader).await;
    trio.wait_for_phase("rolled_back").await;
    trio.everywhere("v2 is barred", |route| route["quarantined"][0]["version"] == "v2").await;
    all_answered(load).await;
    assert_eq!(trio.models[1].predictions(), asked, "not for a moment");
    assert_eq!(trio.kept()["saved"]["phase"]["name"], "rolled_back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_cut_off_from_everybody_serves_on_trips_alone_and_is_heard_once_it_is_back() {
    let trio = Trio::start(Ways::Links, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let [alone, _] = trio.followers_of(leader)[..] else { panic!("two others") };
    trio.cut_off(alone, true);
    let answered = trio.load(alone, 100);
    trio.edge(leader)
        .wait_for_config("one is missed", |config| {
            let heard = config["replicas"]["replicas"].as_array().into_iter().flatten();
            heard.filter(|replica| replica["heard"] == true).count() == 1
        })
        .await;
    trio.edge(alone).wait_for_route("counted", |route| requests(route, "v2") > 20).await;
    all_answered(answered).await;

    let load = trio.load(alone, 200);
    trio.models[1].set_faults(Faults::none().failing(1.0, 500).unwrap());
    let route = trio.edge(alone).wait_for_route("tripped alone", |route| weight_of(route) == 0.0).await;
    assert_eq!(route["quarantined"][0]["version"], "v2");
    trio.models[1].set_faults(Faults::none());
    assert_eq!(trio.edge(leader).weight().await, 20.0, "nobody else can know");
    load.stop();
    load.finish().await.unwrap();

    let asked = trio.models[1].predictions();
    let load = trio.load(alone, 50);
    trio.cut_off(alone, false);
    trio.wait_for_phase("rolled_back").await;
    trio.wait_for_weight(0.0).await;
    all_answered(load).await;
    assert_eq!(trio.models[1].predictions(), asked, "its trip holds");
    let history = trio.edge(trio.leader().await).history().await;
    let why = history.iter().find(|(_, decision, _)| decision == "rollback").unwrap();
    assert!(why.2.contains(&format!("edge-{alone}-")), "{why:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_the_leader_alone_cannot_reach_reads_on_the_live_service_what_was_decided() {
    let trio = Trio::start(Ways::Links, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let unheard = trio.followers_of(leader)[0];
    trio.cut_way(leader, unheard, true);
    trio.edge(leader)
        .wait_for_config("one is missed", |config| {
            let heard = config["replicas"]["replicas"].as_array().into_iter().flatten();
            heard.filter(|replica| replica["heard"] == true).count() == 1
        })
        .await;
    trio.edge(leader).command("rollback").await;
    let route = trio.edge(unheard).wait_for_route("read there", |route| weight_of(route) == 0.0).await;
    assert_eq!(route["quarantined"][0]["version"], "v2");
    assert_eq!(trio.replicas(unheard).await["role"], "follower");
    trio.cut_way(leader, unheard, false);
    trio.wait_for_phase("rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_writes_nothing_and_what_it_sent_before_lands_no_more() {
    let trio = Trio::start(Ways::Links, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let before = trio.leader().await;
    trio.edge(before).command("rollback").await;
    trio.wait_for_phase("rolled_back").await;
    let retried = trio.edge(before).order("retry", json!({ "version": "v2", "reason": "a test" })).await;
    assert_eq!(retried.status, 200);
    trio.wait_for_weight(20.0).await;
    let late = trio.cluster.api.faults().add(flips().times(1), Effect::Late { after: None, answer: None });
    trio.edge(before).command("pause").await;
    trio.wait_for_phase("paused").await;
    eventually("it is on its way", || trio.cluster.api.faults().met(late) > 0).await;
    trio.cut_off(before, true);
    let next = trio.led_by_another_than(&[before]).await;
    trio.edge(next).command("resume").await;
    eventually("it is kept", || trio.kept()["saved"]["phase"]["name"] == "shifting").await;
    let fence = trio.fence();
    assert!(fence.contains(&format!("/edge-{next}-")), "{fence}");

    // It may decide as it likes by now; nobody hears it, and nothing of it is written.
    assert!(!trio.leads(before).await);
    assert_ne!(trio.edge(before).order("promote", json!({})).await.status, 200);
    trio.cluster.api.land();
    let load = trio.load(before, 50);
    trio.edge(before).wait_for_route("serving on", |route| requests(route, "v1") > 20).await;
    all_answered(load).await;
    assert_eq!((trio.fence(), trio.kept()["saved"]["phase"]["name"].as_str()), (fence, Some("shifting")));
    trio.cut_off(before, false);
    assert_eq!(trio.wait_for_all().await, next);
    trio.wait_for_phase("shifting").await;
    assert_eq!(decided(&trio, "rollback"), 1, "what was retried is not taken back again by telling of it late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trip_of_one_edge_is_in_force_on_all_in_less_than_a_blink() {
    let trio = Trio::start(Ways::Straight, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let [tripping, other] = trio.followers_of(leader)[..] else { panic!("two others") };
    let load = trio.load(tripping, 300);
    trio.edge(tripping).wait_for_route("counted", |route| requests(route, "v2") > 30).await;
    let at_zero = |number: usize| {
        let edge = trio.edge(number);
        async move {
            edge.wait_for_route("back", |route| weight_of(route) == 0.0).await;
            Instant::now()
        }
    };
    trio.models[1].set_faults(Faults::none().failing(1.0, 500).unwrap());
    let began = Instant::now();
    let (one, two, three) = tokio::join!(at_zero(tripping), at_zero(leader), at_zero(other));
    let first = one.min(two).min(three);
    let spread = one.max(two).max(three).duration_since(first);
    eprintln!(
        "the canary failed, {} ms later the first edge had taken it back, all of them {} ms after that",
        first.duration_since(began).as_millis(),
        spread.as_millis()
    );
    assert!(spread < Duration::from_secs(3), "{spread:?}");
    load.stop();
    load.finish().await.unwrap();
    trio.wait_for_phase("rolled_back").await;
    trio.everywhere("v2 is barred", |route| route["quarantined"][0]["version"] == "v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_gone_for_good_holds_up_a_flip_for_seconds_only() {
    let mut trio = Trio::start(Ways::Straight, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    trio.wait_for_way_back(leader).await;
    let gone = trio.followers_of(leader)[0];
    let address = trio.places[gone].address;
    trio.kill(gone);
    let unproven =
        |route: &Value| route["rollback_ready"]["why"].as_str().is_some_and(|why| why.contains("not answer"));
    trio.edge(leader).wait_for_route("it is missed", unproven).await;
    assert_eq!(trio.edge(leader).order("promote", json!({})).await.status, 409);
    trio.wait_for_way_back(leader).await;
    trio.edge(leader).command("promote").await;
    trio.wait_for_phase("baking").await;
    let replicas = trio.replicas(leader).await;
    let of_gone = replicas["replicas"].as_array().unwrap().iter().find(|one| one["address"] == address.to_string());
    assert_eq!((&of_gone.unwrap()["gone"], &of_gone.unwrap()["serves"]), (&json!(true), &json!(false)), "{replicas:#}");

    trio.start_again(gone).await;
    trio.wait_for_phase("baking").await;
    trio.wait_for_weight(100.0).await;
    trio.wait_for_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flip_and_a_retirement_wait_for_every_edge_that_may_serve() {
    let plan =
        "rollout: { canary: v2, strategy: canary, steps: [{ weight: 20%, hold: 1h }], promotion: manual, bake: 2s }
    kubernetes: { service: model }";
    let trio = Trio::start(Ways::Links, plan).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let silent = trio.followers_of(leader)[0];
    let is_heard = |number: usize, heard: bool| {
        let address = trio.ways_of(leader)[number];
        move |config: &Value| {
            let others = config["replicas"]["replicas"].as_array().into_iter().flatten();
            others.filter(|one| one["address"] == address.to_string()).all(|one| one["heard"] == heard)
        }
    };
    // Before it is missed: after that nothing is promoted.
    loop {
        trio.wait_for_way_back(leader).await;
        trio.cut_way(leader, silent, true);
        if trio.edge(leader).order("promote", json!({})).await.status == 200 {
            break;
        }
        trio.cut_way(leader, silent, false);
    }
    trio.edge(leader).wait_for_weight(100.0).await;
    trio.edge(leader).wait_for_config("one is silent", is_heard(silent, false)).await;
    // It reads on the live Service what it is not told; that it does, nobody knows.
    trio.edge(silent).wait_for_weight(100.0).await;
    assert_eq!(trio.cluster.selected(), "v1");
    trio.cut_way(leader, silent, false);
    trio.wait_for_phase("baking").await;
    assert_eq!(trio.cluster.selected(), "v2");

    trio.cut_way(leader, silent, true);
    let retired = || trio.cluster.live()["metadata"]["annotations"]["pointsman.dev/retired"].clone();
    trio.edge(leader).wait_for_phase("steady").await;
    eventually("it is kept", || trio.kept()["saved"]["phase"]["name"] == "steady").await;
    assert_eq!(retired(), Value::Null);
    trio.cut_way(leader, silent, false);
    eventually("it is free to go", || retired() == "v1").await;
}

/// One question to the door for other edges.
async fn ask(trio: &Trio, number: usize, path: &str, token: &str, body: &str) -> Answer {
    let address = trio.places[number].address;
    let mut client = Client::connect(address).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).await;
    // Who is turned away need not be heard out.
    drop(tokio::io::AsyncWriteExt::write_all(&mut client.tcp, body.as_bytes()).await);
    client.answer().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_behind_a_headless_service_find_each_other_and_turn_everybody_else_away() {
    const EXCHANGE: &str = "/replica/v1/exchange";
    let mut trio = Trio::start(Ways::Service, PLAN).await;
    trio.wait_for_weight(20.0).await;
    let leader = trio.leader().await;
    let [one, other] = trio.followers_of(leader)[..] else { panic!("two others") };
    let stale = |term: u64| {
        json!({
            "leader": { "name": "nobody", "instance": 1, "term": term, "address": null },
            "edges": 3, "taken": null, "routes": {}, "ways_back": {}, "heard": {},
        })
        .to_string()
    };
    assert_eq!(ask(&trio, one, EXCHANGE, "sesame", &stale(0)).await.status, 401);
    assert_eq!(ask(&trio, one, EXCHANGE, "", "{}").await.status, 401);
    let answer = ask(&trio, one, EXCHANGE, TOKEN, &stale(0)).await;
    assert_eq!((answer.status, answer.json()["term"].as_u64() > Some(0)), (409, true), "{answer:?}");
    assert_eq!(ask(&trio, one, EXCHANGE, TOKEN, &" ".repeat(9 << 20)).await.status, 413);
    assert!(matches!(ask(&trio, one, EXCHANGE, TOKEN, "{}").await.status, 400 | 422));
    assert_eq!(ask(&trio, one, "/replica/v1/other", TOKEN, "{}").await.status, 404);
    assert_eq!(
        trio.replicas(one).await["leader"],
        trio.replicas(leader).await["name"],
        "nothing of it changed anything"
    );

    // One that the Service no longer names is not waited for.
    trio.wait_for_way_back(leader).await;
    trio.kill(other);
    trio.edge(leader).wait_for_route("it is missed", |route| route["rollback_ready"]["ready"] == false).await;
    trio.cluster.delete_pod(&format!("edge-{other}"));
    trio.wait_for_way_back(leader).await;
    trio.edge(leader).command("promote").await;
    trio.wait_for_phase("baking").await;
    assert_eq!(trio.selections(), ["v1", "v2"]);
    assert_eq!(trio.replicas(leader).await["replicas"].as_array().unwrap().len(), 1);
}
