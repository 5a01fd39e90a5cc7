//! A handful of the live scenarios on the binary under test; `make chaos` plays all of them.

use std::fs;
use std::path::{Path, PathBuf};

use pointsman_chaos::live::{self, Programs, Record};
use pointsman_chaos::scenario::Scenario;

use crate::models::{built, model_server};

/// The edge under test, and the programs that its endpoints are.
fn programs() -> Programs {
    Programs {
        pointsman: PathBuf::from(env!("CARGO_BIN_EXE_pointsman")),
        model_server: model_server(),
        chaos: built("chaos", "pointsman-chaos"),
    }
}

async fn played(name: &str) -> Record {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../chaos/scenarios/{name}.yaml"));
    let scenario = Scenario::parse(&fs::read_to_string(file).unwrap(), name).unwrap();
    let record = live::play(&scenario, &programs()).await.unwrap();
    assert_eq!(record.broken, Vec::<String>::new(), "{}\n{:#?}", record.trace.join("\n"), record.requests);
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_breaks_its_connections_is_taken_back_and_nothing_is_lost() {
    let record = played("live-resets").await;
    let requests = &record.requests;
    assert_eq!((requests.lost, requests.counted_by_edge), (0, Some(requests.sent)));
    assert_eq!(requests.due, requests.good + requests.bad + requests.unanswered_as_planned + requests.not_sent);
    assert!(requests.bad > 0 && requests.bad_by.keys().all(|who| who.starts_with("v2")), "{requests:?}");
    assert_eq!(record.faults["resets"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_killed_after_a_rollback_keeps_the_canary_away() {
    let record = played("live-edge-killed-after-the-rollback").await;
    assert_eq!((record.edge.starts, record.faults["edge killed"]), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_edges_over_an_api_server_go_on_when_the_one_that_leads_is_killed_and_promote_once() {
    let record = played("live-edges-three").await;
    assert_eq!((record.edge.starts, record.faults["edge killed"]), (4, 1));
    let of = |what: &str| record.trace.iter().filter(|line| line.contains(what)).count();
    assert!(of("leads") >= 1, "{}", record.trace.join("\n"));
    assert_eq!(record.requests.lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scenario_that_says_what_is_not_so_is_told() {
    let text = "
about: nothing is wrong, and much is promised
worlds: [live]
route: { stable: v1, weights: { v1: 50%, v2: 50% } }
versions: { v1: {}, v2: { errors: 50% } }
rate: 50
end: 2s
holds: { ends: baking, availability_at_least: 99%, descriptors_at_most: 1, other_bad_answers_at_most: 0 }
";
    let scenario = Scenario::parse(text, "told").unwrap();
    let record = live::play(&scenario, &programs()).await.unwrap();
    let broken = record.broken.join("\n");
    for words in ["should end baking", "answered well, and 0.99 should be", "should hold 1 at most"] {
        assert!(broken.contains(words), "{words}: {broken}");
    }
}
