//! The state file in every bad condition: traffic goes on, and the words are clear.

use std::fs;

use nix::sys::signal::Signal;

use crate::process::{Edge, Site, command, weight_of};

async fn problem(edge: &Edge) -> String {
    edge.config().await["state"]["problem"].as_str().unwrap_or_default().to_owned()
}

/// Serves, and an operator's order is obeyed.
async fn check_works(edge: &Edge) {
    edge.wait_for_weight(10.0).await;
    assert_eq!(edge.predict().await.status, 200);
    edge.command("rollback").await;
    edge.wait_for_phase("rolled_back").await;
    assert!(edge.history().await.iter().any(|(_, decision, _)| decision == "rollback"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_folder_that_is_not_there_is_created() {
    let site = Site::new().await;
    site.write(&site.weights(10).replace("state.db", "a/b/state.db"));
    let edge = site.start().await;
    check_works(&edge).await;
    assert_eq!(problem(&edge).await, "");
    assert!(site.at("a/b/state.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_moved_aside_and_traffic_goes_on() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    fs::write(site.state(), "this is no database, it is a text that stands where a database should be\n".repeat(100))
        .unwrap();
    let edge = site.start().await;
    check_works(&edge).await;
    assert!(fs::read_to_string(site.at("state.db.corrupt-1")).unwrap().starts_with("this is no database"));
    assert!(edge.log().contains("state file was damaged and moved aside"), "{}", edge.log());
    let state = edge.config().await["state"].clone();
    let told = state["note"].as_str().unwrap();
    assert!(state["problem"].is_null(), "decisions are written again: {state:#}");
    assert!(told.contains("damaged and moved aside to") && told.contains("state.db.corrupt-1"), "{told}");
    edge.kill_9();
    let edge = site.start().await;
    assert_eq!(edge.weight().await, 0.0, "the new file works");
    assert!(edge.config().await["state"]["note"].is_null(), "that is over");
    assert!(!site.at("state.db.corrupt-2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_newer_format_is_left_alone_and_traffic_goes_on() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    edge.kill_9();
    let file = rusqlite::Connection::open(site.state()).unwrap();
    file.execute_batch("UPDATE meta SET value = '2' WHERE key = 'format'; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(file);
    let before = fs::read(site.state()).unwrap();
    let edge = site.start().await;
    check_works(&edge).await;
    let problem = problem(&edge).await;
    assert!(problem.contains("has format 2") && problem.contains("newer edge"), "{problem}");
    assert_eq!(edge.log().matches("state file cannot be used").count(), 1, "{}", edge.log());
    assert_eq!(fs::read(site.state()).unwrap(), before);
}

/// What was decided while the file could not be written stands in it once it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_works_again_gets_everything_that_it_missed() {
    let site = Site::new().await;
    site.write(&site.weights(10).replace("state.db", "folder/state.db"));
    fs::write(site.at("folder"), "a file where a folder should be").unwrap();
    let edge = site.start().await;
    check_works(&edge).await;
    let words = problem(&edge).await;
    assert!(words.contains("folder/state.db") && words.contains("state.file"), "{words}");
    let history = edge.history().await;
    fs::remove_file(site.at("folder")).unwrap();
    edge.wait_for_config("works", |config| config["state"]["problem"].is_null()).await;
    edge.kill_9();
    let edge = site.start().await;
    assert_eq!(edge.history().await, history);
    assert_eq!(edge.weight().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_edge_on_the_same_file_says_so_and_honours_what_it_reads() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let first = site.start().await;
    check_works(&first).await;
    let second = site.start().await;
    let words = problem(&second).await;
    assert!(words.contains("another running edge") && words.contains("state.file"), "{words}");
    assert_eq!(second.weight().await, 0.0, "v2 was taken back by the first");
    assert_eq!(problem(&first).await, "");
    first.kill_9();
    second.wait_for_config("taken over", |config| config["state"]["problem"].is_null()).await;
    assert_eq!(second.weight().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_and_a_taken_address_end_with_their_exit_codes() {
    let site = Site::new().await;
    site.write("listeners: []\nroutes: 5\n");
    let output = command(&site.config()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("pointsman.yaml:1:") && said.contains("pointsman.yaml:2:"), "every problem: {said}");
    site.write(&site.weights(10));
    let edge = site.start().await;
    for (at, taken) in
        [("listeners: [{ address: 127.0.0.1:0 }]", edge.address), ("admin: { address: 127.0.0.1:0 }", edge.admin)]
    {
        site.write(&site.weights(10).replace(at, &at.replace("127.0.0.1:0", &taken.to_string())));
        let output = command(&site.config()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&taken.to_string()) && said.contains("in use"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

/// Stopped in order, and then started where it may not write: what was taken back stays at 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_holds_in_a_folder_that_became_read_only() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let mut edge = site.start().await;
    check_works(&edge).await;
    edge.signal(Signal::SIGTERM);
    assert_eq!(edge.ended().await.code(), Some(0), "{}", edge.log());
    fs::remove_file(site.at("state.db.lock")).unwrap();
    // For root, too, neither the lock nor what SQLite keeps beside the file can be made.
    for beside in ["state.db.lock", "state.db-shm"] {
        std::os::unix::fs::symlink("nowhere/at-all", site.at(beside)).unwrap();
    }
    let edge = site.start().await;
    let words = problem(&edge).await;
    assert!(words.contains("cannot be locked") && !words.contains("nor could it be read"), "{words}");
    let route = edge.route().await;
    assert_eq!((weight_of(&route), &route["quarantined"][0]["version"]), (0.0, &"v2".into()), "{route:#}");
}

/// Load balancers need a moment to see that nobody new is to come; until then everything is served as usual.
#[tokio::test(flavor = "multi_thread")]
async fn for_the_drain_delay_requests_are_served_while_readyz_says_no() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let mut edge = Edge::start_with(&site.config(), &["--drain-delay", "400ms"]).await;
    let told = std::time::Instant::now();
    edge.signal(Signal::SIGTERM);
    assert_eq!(edge.ended().await.code(), Some(0), "{}", edge.log());
    assert!(told.elapsed() >= std::time::Duration::from_millis(400), "{:?}", told.elapsed());

    let mut edge = Edge::start_with(&site.config(), &["--drain-delay", "1h"]).await;
    let mut kept = crate::harness::Client::connect(edge.address).await;
    edge.signal(Signal::SIGTERM);
    while edge.status_of("/readyz").await != 503 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for _ in 0..3 {
        assert_eq!(edge.predict().await.status, 200, "on a new connection");
        kept.send(b"GET /v1/predict HTTP/1.1\r\nhost: model\r\n\r\n").await;
        let answer = kept.answer().await.unwrap();
        assert_eq!(answer.header("connection"), Some("keep-alive"), "{answer:?}");
    }
    edge.signal(Signal::SIGTERM);
    assert_eq!(edge.ended().await.code(), Some(0), "{}", edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_a_second_signal_ends_at_once() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let mut edge = site.start().await;
    edge.signal(Signal::SIGTERM);
    assert_eq!(edge.ended().await.code(), Some(0), "{}", edge.log());
    let slow = pointsman_chaos::fault::Faults::none().delaying(1.0, 8_000..=8_000).unwrap();
    for again in [Signal::SIGTERM, Signal::SIGINT] {
        let mut edge = site.start().await;
        site.v1.set_faults(slow);
        site.v2.set_faults(slow);
        let mut client = crate::harness::Client::connect(edge.address).await;
        client.send(b"GET /v1/predict HTTP/1.1\r\nhost: model\r\n\r\n").await;
        edge.wait_for_route("a request in flight", |route| {
            ["v1", "v2"].iter().any(|version| route["versions"][version]["endpoints"][0]["in_flight"] == 1)
        })
        .await;
        assert_eq!(edge.status_of("/readyz").await, 200);
        edge.signal(Signal::SIGTERM);
        let draining = std::time::Instant::now();
        while !edge.log().contains("draining") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(edge.status_of("/readyz").await, 503, "nobody new is to come");
        edge.signal(again);
        assert_eq!(edge.ended().await.code(), Some(0), "{}", edge.log());
        assert!(draining.elapsed() < std::time::Duration::from_secs(5), "at once");
    }
}
