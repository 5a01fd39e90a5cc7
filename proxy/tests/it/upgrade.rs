//! One process takes over from another: no connection is refused, no request lost, and nothing is forgotten.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pointsman_chaos::load::Load;
use serde_json::json;

use crate::process::{Edge, Site, command};

async fn successor(site: &Site) -> Edge {
    Edge::start_with(&site.config(), &["--upgrade"]).await
}

/// Takes over in the middle of a load, ten times in a row; a client with kept connections and one with a new connection for
/// each request lose nothing.
#[tokio::test(flavor = "multi_thread")]
async fn ten_upgrades_under_load_lose_no_request() {
    let site = Site::new().await;
    site.write(&site.weights(20));
    let mut edge = site.start().await;
    let address = edge.address;
    let load = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let url = format!("http://{address}/v1/predict");
        Load { rate: 300, connections: 16, headers, ..Load::new(&url).unwrap() }.start().unwrap()
    };
    let loads = [load(&[]), load(&[("connection", "close")])];
    for _ in 0..10 {
        let next = successor(&site).await;
        assert_eq!((next.address, next.admin), (edge.address, edge.admin));
        assert!(edge.ended().await.success(), "{}", edge.log());
        assert!(edge.log().contains("another process has taken over"), "{}", edge.log());
        edge = next;
    }
    for load in loads {
        load.stop();
        let total = load.finish().await.unwrap().figures;
        assert!(total.intended > 100, "{total:?}");
        assert_eq!((total.status.success, total.errors.sum()), (total.intended, 0), "{total:?}\n{}", edge.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_goes_on_and_a_request_in_flight_is_answered_by_who_has_it() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let mut old = site.start().await;
    old.wait_for_weight(50.0).await;
    old.command("rollback").await;
    site.v1.set_faults(r#"{"delay":{"share":1,"ms":1500}}"#.parse().unwrap());
    let address = old.address;
    let slow = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"POST /v1/predict HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    });
    let begun = || site.v1.requests() > 0;
    assert!(crate::harness::eventually(begun).await);
    let new = successor(&site).await;
    assert_eq!(slow.await.unwrap(), "HTTP/1.1 200 OK\r\n");
    assert!(old.ended().await.success());
    let route = new.route().await;
    assert_eq!(route["quarantined"][0]["version"], "v2", "{route:#}");
    let history = new.history().await;
    assert!(history.iter().any(|(_, decision, _)| decision.contains("roll")), "{history:?}");
    assert_eq!(new.order("retry", json!({ "version": "v2", "reason": "mended" })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_process_that_is_replaced_are_written() {
    const REQUESTS: usize = 30;
    let site = Site::new().await;
    site.write(&format!("access_log: {{ file: access.log, sample: 100% }}\n{}", site.weights(0)));
    let mut old = site.start().await;
    site.v1.set_faults(r#"{"delay":{"share":1,"ms":2000}}"#.parse().unwrap());
    let mut slow = Vec::new();
    for _ in 0..REQUESTS {
        let mut client = crate::harness::Client::connect(old.address).await;
        client.send(crate::harness::post("/v1/predict", "{}").as_bytes()).await;
        slow.push(client);
    }
    let endpoint = format!("{{route=\"model\",version=\"v1\",endpoint=\"{}\"}}", site.v1.addr());
    let in_flight = format!("pointsman_endpoint_requests_in_flight{endpoint}");
    old.wait_for_metric(&in_flight, 30.0).await;
    let _new = successor(&site).await;
    assert!(old.ended().await.success());
    let written = fs::read_to_string(site.at("access.log")).unwrap();
    assert_eq!(written.matches("/v1/predict").count(), REQUESTS, "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_breaks_off_leaves_everything_as_it_was() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let edge = site.start().await;
    let door = site.at("state.db.upgrade");
    let talk = |words: &[&str]| {
        let stream = UnixStream::connect(&door).unwrap();
        for word in words {
            writeln!(&stream, "{word}").unwrap();
        }
        stream
    };
    // The first takes the sockets and the state, and dies; the others do not even speak well.
    let dying = talk(&["pointsman upgrade 1", "sockets", "state"]);
    let mut said = String::new();
    let mut lines = BufReader::new(&dying);
    while !said.contains("yours") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said:?}");
    }
    assert_eq!(edge.order("pause", json!({ "reason": "" })).await.status, 503, "orders would be forgotten");
    drop(dying);
    drop(talk(&["GET / HTTP/1.1"]));
    drop(talk(&[]));
    edge.wait_for_log("did not; this one goes on").await;
    let orders =
        || async { edge.order("weights", json!({ "weights": { "v1": "90%", "v2": "10%" }, "reason": "" })).await };
    let mut answer = orders().await;
    while answer.status == 503 {
        answer = orders().await;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(edge.predict().await.status, 200);
    let new = successor(&site).await;
    new.wait_for_weight(10.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_or_nobody_to_take_over_from_is_told_and_changes_nothing() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let (code, said) = fails(&site.config()).await;
    assert!(code == 1 && said.contains("nobody to take over from"), "{said}");
    let edge = site.start().await;
    fs::write(site.at("bad.yaml"), "listeners: 1\n").unwrap();
    let (code, said) = fails(&site.at("bad.yaml")).await;
    assert!(code == 2 && said.contains("bad.yaml:1"), "{said}");
    assert_eq!(edge.predict().await.status, 200);
}

/// Starts a successor that must not come into being; gives its exit code and what it said.
async fn fails(config: &Path) -> (i32, String) {
    let mut command = command(config);
    command.arg("--upgrade").stdout(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(20), output).await.unwrap().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}
