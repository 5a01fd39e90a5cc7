//! The admin API over real HTTP: every path, every refusal, who may come in, and the stream of events.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pointsman::admin::Missed;
use pointsman::view::{Event, View};
use pointsman_config::Split;
use pointsman_rollout::OrderKind;
use serde_json::{Value, json};

use crate::fixture::{Edge, canary_split, decisions, rolled_back, route_name, shifting, steady, version, view};

/// What came back.
struct Answer {
    status: u16,
    content_type: String,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// It is a problem with this status and code; gives what it says.
    fn problem(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, body["code"].as_str().unwrap()), (status, code), "{}", self.text);
        assert_eq!(self.content_type, "application/problem+json");
        assert_eq!((body["status"].as_u64(), body["type"].as_str()), (Some(u64::from(status)), Some("about:blank")));
        body["detail"].as_str().unwrap().to_owned()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into()
}

fn read(mut response: http::Response<ureq::Body>) -> Answer {
    let headers = response.headers().clone();
    let content_type = headers.get("content-type").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    Answer {
        status: response.status().as_u16(),
        content_type,
        headers,
        text: response.body_mut().read_to_string().unwrap(),
    }
}

fn get_with(edge: &Edge, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(agent().get(edge.url(path)), |request, (name, value)| request.header(*name, *value));
    read(request.call().unwrap())
}

fn get(edge: &Edge, path: &str) -> Answer {
    get_with(edge, path, &[])
}

fn send_with(edge: &Edge, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let url = edge.url(path);
    let request = if method == "PUT" { agent().put(url) } else { agent().post(url) };
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    read(request.send(body).unwrap())
}

fn post(edge: &Edge, path: &str, body: &str) -> Answer {
    send_with(edge, "POST", path, body, &[("content-type", "application/json")])
}

fn put_weights(edge: &Edge, body: &str) -> Answer {
    send_with(edge, "PUT", "/api/v1/routes/delivery-time/weights", body, &[("content-type", "application/json")])
}

fn edge() -> Edge {
    Edge::new(view(vec![shifting(), steady("ranking")]))
}

#[test]
fn probes_follow_the_life_of_the_edge() {
    let edge = Edge::new(View::default());
    assert_eq!(get(&edge, "/livez").status, 200);
    let starting = get(&edge, "/readyz");
    assert!(starting.problem(503, "not_ready").contains("starting"));
    assert_eq!(starting.headers["retry-after"], "1");
    edge.view.store(view(vec![shifting()]).into());
    assert_eq!((get(&edge, "/readyz").status, get(&edge, "/readyz").text.as_str()), (200, "ready\n"));
    edge.view.store(View { draining: true, ..view(vec![shifting()]) }.into());
    get(&edge, "/readyz").problem(503, "draining");
    assert_eq!(get(&edge, "/livez").status, 200);
}

#[test]
fn metrics_are_served_as_text() {
    let answer = get(&edge(), "/metrics");
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.text.contains("pointsman_config_generation 3\n"));
}

#[test]
fn routes_hold_what_the_contract_names() {
    let edge = edge();
    let all = get(&edge, "/api/v1/routes").json();
    assert_eq!(all["routes"].as_array().unwrap().len(), 2);
    let route = get(&edge, "/api/v1/routes/delivery-time").json();
    assert_eq!(route, all["routes"][0]);
    assert_eq!(
        (&route["name"], &route["phase"], &route["stable"]),
        (&json!("delivery-time"), &json!("shifting"), &json!("v1"))
    );
    assert_eq!((&route["canary"], &route["step"], &route["quarantined"]), (&json!("v2"), &json!(2), &json!([])));
    assert_eq!(route["weights"]["v2"], json!({"desired": 5.0, "effective": 5.0, "observed": 5.2}));
    let seen = &route["versions"]["v1"];
    for key in ["requests", "errors", "error_rate", "p50_ms", "p95_ms", "p99_ms"] {
        assert!(seen[key].is_number(), "{key} in {seen}");
    }
    assert_eq!(seen["endpoints"][0]["address"], json!("127.0.0.1:9001"));
    for key in ["verdict", "reason", "error_rate_difference", "evidence", "forecast"] {
        assert!(!route["analysis"][key].is_null(), "{key}");
    }
}

#[test]
fn an_unknown_route_is_told_the_known_ones() {
    let edge = edge();
    for path in ["/api/v1/routes/nope", "/api/v1/routes/nope/decisions", "/api/v1/routes/%22%1b"] {
        let answer = get(&edge, path);
        assert!(answer.problem(404, "unknown_route").contains("routes: delivery-time, ranking"));
        assert_eq!(answer.json()["known"], json!(["delivery-time", "ranking"]));
    }
    post(&edge, "/api/v1/routes/nope/pause", "{}").problem(404, "unknown_route");
    assert!(edge.orders().is_empty());
}

#[test]
fn unknown_paths_and_methods_are_problems() {
    let edge = edge();
    assert!(get(&edge, "/api/v2").problem(404, "unknown_path").contains("/openapi.json"));
    get(&edge, "/api/v1/routes/delivery-time/pause").problem(405, "method_not_allowed");
}

#[test]
fn decisions_come_newest_first_and_in_pages() {
    let edge = edge();
    let ids = |path: &str| -> Vec<u64> {
        let body = get(&edge, path).json();
        body["decisions"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids("/api/v1/routes/delivery-time/decisions"), [43, 42, 41]);
    assert_eq!(ids("/api/v1/routes/delivery-time/decisions?limit=1"), [43]);
    assert_eq!(ids("/api/v1/routes/delivery-time/decisions?limit=5&before=42"), [41]);
    assert!(ids("/api/v1/routes/ranking/decisions").is_empty());
    get(&edge, "/api/v1/routes/delivery-time/decisions?limit=many").problem(400, "bad_query");
    get(&edge, "/api/v1/routes/delivery-time/decisions?befor=1").problem(400, "bad_query");
    let none = get(&edge, "/api/v1/routes/delivery-time/decisions?limit=0").problem(422, "bad_query");
    assert!(none.contains("1 to 500"), "{none}");
}

#[test]
fn one_decision_comes_with_its_evidence() {
    let edge = edge();
    let row = get(&edge, "/api/v1/decisions/42").json();
    assert_eq!(row["change"]["evidence"]["canary"]["errors"], json!(450));
    assert_eq!(row["failures"].as_array().unwrap().len(), 3);
    get(&edge, "/api/v1/decisions/7").problem(404, "unknown_decision");
    get(&edge, "/api/v1/decisions/x").problem(404, "unknown_decision");
}

#[test]
fn a_log_that_cannot_be_read_says_so() {
    let edge = Edge::new(view(vec![steady("broken")]));
    assert!(
        get(&edge, "/api/v1/routes/broken/decisions").problem(503, "state_unavailable").contains("state.db is locked")
    );
}

#[test]
fn the_config_comes_with_the_state() {
    let config = get(&edge(), "/api/v1/config").json();
    assert_eq!((&config["generation"], &config["hash"]), (&json!(3), &json!("9f86d081884c7d65")));
    assert_eq!(config["state"]["file"], json!("/var/lib/pointsman/state.db"));
    assert_eq!(config["stood_still_s"], json!(600.5));
}

#[test]
fn orders_reach_the_control_loop_with_actor_and_reason() {
    let edge = edge();
    let path = |verb: &str| format!("/api/v1/routes/delivery-time/{verb}");
    let answer = post(&edge, &path("pause"), r#"{"reason":"lunch"}"#);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        (&answer.json()["decisions"][0]["id"], &answer.json()["route"]["name"]),
        (&json!(44), &json!("delivery-time"))
    );
    assert_eq!(answer.json()["persisted"], json!(true));
    assert_eq!(post(&edge, &path("pause"), r#"{"reason":"hang"}"#).json()["persisted"], json!(false));
    send_with(
        &edge,
        "POST",
        &path("promote"),
        "",
        &[("content-type", "application/json"), ("x-pointsman-actor", "anna")],
    );
    post(&edge, &path("rollback"), r#"{"reason":"  \t "}"#);
    post(&edge, &path("retry"), r#"{"version":"v2","reason":" disk was full "}"#);
    let kinds: Vec<(OrderKind, String, String)> =
        edge.orders().into_iter().map(|(_, order)| (order.kind, order.actor, order.reason)).collect();
    let order = |kind, actor: &str, reason: &str| (kind, actor.to_owned(), reason.to_owned());
    let expected = [
        order(OrderKind::Pause, "api", "lunch"),
        order(OrderKind::Pause, "api", "hang"),
        order(OrderKind::Promote, "anna", ""),
        order(OrderKind::Rollback, "api", ""),
        order(OrderKind::Retry(version("v2")), "api", "disk was full"),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn refusals_and_the_end_are_told() {
    let edge = edge();
    let refused = post(&edge, "/api/v1/routes/delivery-time/resume", "{}").problem(409, "wrong_phase");
    assert!(refused.contains("it is not paused"), "{refused}");
    post(&edge, "/api/v1/routes/delivery-time/pause", r#"{"reason":"stop"}"#).problem(503, "stopping");
}

#[test]
fn weights_become_a_split() {
    let cases = [
        (r#"{"weights":{"v1":"90%","v2":"10%"}}"#, canary_split("10%")),
        (r#"{"weights":{"v2":"0.0001%","v1":"99.9999%"}}"#, canary_split("0.0001%")),
        (r#"{"weights":{"v1":"100%"}}"#, Split::Whole(version("v1"))),
        (r#"{"weights":{"v1":"100%","v2":"0%"}}"#, Split::Whole(version("v1"))),
        (r#"{"weights":{"v2":"100%"}}"#, canary_split("100%")),
    ];
    let edge = edge();
    for (body, split) in cases {
        let answer = put_weights(&edge, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text);
        let (route, order) = edge.orders().pop().unwrap();
        assert_eq!((route, order.kind), (route_name("delivery-time"), OrderKind::SetWeights(split)), "{body}");
    }
}

#[test]
fn wrong_weights_say_what_is_wrong() {
    let cases = [
        (r#"{"weights":{"v1":"90%","v2":"20%"}}"#, "bad_weights", "add up to 110%"),
        (r#"{"weights":{"v1":"90%"}}"#, "bad_weights", "add up to 90%"),
        (r#"{"weights":{}}"#, "bad_weights", "add up to 0%"),
        (r#"{"weights":{"v1":"90%","v9":"10%"}}"#, "bad_weights", "no version `v9`; versions: v1, v2"),
        (r#"{"weights":{"v1":"90%","v2":"ten"}}"#, "invalid_body", "`ten` is no share of traffic"),
        (r#"{"weights":{"v1":90,"v2":10}}"#, "invalid_body", "expected a string"),
        (r#"{"weights":{"v1":"100%"},"why":"x"}"#, "invalid_body", "unknown field `why`"),
        (r#"{"reason":"x"}"#, "invalid_body", "missing field `weights`"),
    ];
    let edge = edge();
    for (body, code, words) in cases {
        let said = put_weights(&edge, body).problem(422, code);
        assert!(said.contains(words), "{body}: {said}");
    }
    assert!(edge.orders().is_empty());
}

#[test]
fn two_versions_without_stable_or_three_are_no_split() {
    let mut route = shifting();
    let third = route.versions[&version("v2")].clone();
    route.versions.insert(version("v3"), third);
    let edge = Edge::new(view(vec![route]));
    let said = put_weights(&edge, r#"{"weights":{"v2":"50%","v3":"50%"}}"#).problem(422, "bad_weights");
    assert!(said.contains("one of two must be `v1`"), "{said}");
    let said = put_weights(&edge, r#"{"weights":{"v1":"50%","v2":"25%","v3":"25%"}}"#).problem(422, "bad_weights");
    assert!(said.contains("3 versions"), "{said}");
}

#[test]
fn bad_bodies_are_refused_before_anything_happens() {
    let edge = edge();
    let pause = "/api/v1/routes/delivery-time/pause";
    assert!(post(&edge, pause, "{").problem(400, "bad_body").contains("line 1"));
    post(&edge, "/api/v1/routes/delivery-time/retry", "").problem(400, "bad_body");
    post(&edge, "/api/v1/routes/delivery-time/retry", r#"{"version":"not a name"}"#).problem(422, "invalid_body");
    post(&edge, pause, &format!(r#"{{"reason":"{}"}}"#, "x".repeat(501))).problem(422, "bad_reason");
    post(&edge, pause, r#"{"reason":"two\nlines"}"#).problem(422, "bad_reason");
    post(&edge, pause, &format!(r#"{{"reason":"{}"}}"#, "x".repeat(70_000))).problem(413, "body_too_large");
    for body in ["[]", r#"["v2"]"#, "null", "7", r#""v2""#] {
        for verb in ["pause", "retry"] {
            let said = post(&edge, &format!("/api/v1/routes/delivery-time/{verb}"), body).problem(422, "invalid_body");
            assert!(said.contains("expected a map"), "{body}: {said}");
        }
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        send_with(&edge, "POST", pause, "{}", &[("content-type", content_type)]).problem(415, "not_json");
    }
    let long = "x".repeat(65);
    for actor in ["", "\u{e4}", long.as_str()] {
        let headers = [("content-type", "application/json"), ("x-pointsman-actor", actor)];
        send_with(&edge, "POST", pause, "{}", &headers).problem(400, "bad_actor");
    }
    assert!(edge.orders().is_empty());
}

#[test]
fn without_a_token_only_addresses_and_localhost_are_hosts() {
    let edge = edge();
    for host in ["localhost:9900", "127.0.0.1", "[::1]:9900", "10.1.2.3:9900"] {
        assert_eq!(get_with(&edge, "/api/v1/routes", &[("host", host)]).status, 200, "{host}");
    }
    for host in ["evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example", "x@127.0.0.1.evil.example"] {
        get_with(&edge, "/api/v1/routes", &[("host", host)]).problem(403, "host_not_allowed");
        let headers = [("host", host), ("content-type", "application/json")];
        send_with(&edge, "POST", "/api/v1/routes/delivery-time/pause", "{}", &headers).problem(403, "host_not_allowed");
    }
    assert_eq!(get_with(&edge, "/livez", &[("host", "evil.example")]).status, 200);
    assert!(edge.orders().is_empty());
}

#[test]
fn a_token_is_asked_for_everywhere_but_at_the_probes() {
    let (edge, _, _folder) = edge_with_token();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(&edge, path).status, 200, "{path}");
    }
    for path in [
        "/api/v1/routes",
        "/api/v1/routes/delivery-time",
        "/api/v1/config",
        "/api/v1/events",
        "/api/v1/decisions/42",
        "/openapi.json",
    ] {
        let answer = get(&edge, path);
        assert!(answer.problem(401, "unauthorized").contains("--token-file"));
        assert_eq!(answer.headers["www-authenticate"], r#"Bearer realm="pointsman""#);
    }
    post(&edge, "/api/v1/routes/delivery-time/pause", "{}").problem(401, "unauthorized");
    assert!(edge.orders().is_empty());
}

#[test]
fn only_the_right_token_opens() {
    let (edge, _, _folder) = edge_with_token();
    let refused = with_token(&edge, "Bearer s3cre");
    refused.problem(401, "invalid_token");
    assert_eq!(refused.headers["www-authenticate"], r#"Bearer realm="pointsman", error="invalid_token""#);
    with_token(&edge, "Bearer s3crets").problem(401, "invalid_token");
    with_token(&edge, "Basic s3cret").problem(401, "unauthorized");
    for odd in ["Bearer", "Bearer ", "Bearer s3cret\u{e4}", "s3cret", "\u{e4}"] {
        assert!(raw(&edge, odd).starts_with("HTTP/1.1 401 "), "{odd}");
    }
    for right in ["Bearer s3cret", "bearer s3cret"] {
        assert_eq!(with_token(&edge, right).status, 200, "{right}");
    }
}

#[test]
fn a_new_token_counts_at_once_and_none_opens_to_nobody() {
    let (edge, file, _folder) = edge_with_token();
    std::fs::write(&file, "other").unwrap();
    with_token(&edge, "Bearer s3cret").problem(401, "invalid_token");
    assert_eq!(with_token(&edge, "Bearer other").status, 200);
    std::fs::write(&file, " \n").unwrap();
    with_token(&edge, "Bearer other").problem(503, "token_unreadable");
    std::fs::remove_file(&file).unwrap();
    with_token(&edge, "Bearer other").problem(503, "token_unreadable");
}

/// An edge whose token is `s3cret`, the token's file, and the folder that keeps it.
fn edge_with_token() -> (Edge, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    (Edge::with(view(vec![shifting()]), decisions(), Some(file.clone())), file, folder)
}

/// With a token every host will do.
fn with_token(edge: &Edge, authorization: &str) -> Answer {
    get_with(edge, "/api/v1/routes", &[("authorization", authorization), ("host", "edge.example")])
}

/// The answer to a request with an authorization that no client library would send.
fn raw(edge: &Edge, authorization: &str) -> String {
    let mut stream = TcpStream::connect(edge.address).unwrap();
    write!(
        stream,
        "GET /api/v1/routes HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn openapi_describes_every_path_and_resolves_every_reference() {
    let api = get(&edge(), "/openapi.json").json();
    let mut described: Vec<String> = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    described.sort_unstable();
    let expected = [
        "get /api/v1/config",
        "get /api/v1/decisions/{id}",
        "get /api/v1/events",
        "get /api/v1/routes",
        "get /api/v1/routes/{route}",
        "get /api/v1/routes/{route}/counts",
        "get /api/v1/routes/{route}/decisions",
        "get /api/v1/routes/{route}/series",
        "get /livez",
        "get /metrics",
        "get /readyz",
        "post /api/v1/notifications/{name}/test",
        "post /api/v1/routes/{route}/pause",
        "post /api/v1/routes/{route}/promote",
        "post /api/v1/routes/{route}/resume",
        "post /api/v1/routes/{route}/retry",
        "post /api/v1/routes/{route}/rollback",
        "put /api/v1/routes/{route}/weights",
    ];
    assert_eq!(described, expected);
    let mut references = Vec::new();
    collect_references(&api, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(api.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let weights = &api["paths"]["/api/v1/routes/{route}/weights"]["put"]["responses"];
    for status in ["200", "400", "401", "403", "404", "409", "413", "415", "422", "503", "504"] {
        assert!(weights[status]["description"].is_string(), "{status}");
    }
    let schemas = api["components"]["schemas"].as_object().unwrap();
    for schema in ["RouteView", "DecisionRow", "Problem", "Event", "Missed", "WeightsBody", "EvidenceView"] {
        assert!(schemas.contains_key(schema), "{schema} is missing");
    }
    assert_eq!(api["components"]["securitySchemes"]["token"]["scheme"], json!("bearer"));
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The events of a stream, one (name, id, data) at a time.
struct Events(Box<dyn BufRead>);

impl Events {
    fn of(edge: &Edge) -> Self {
        Self::at(edge, "/api/v1/events")
    }

    fn at(edge: &Edge, path: &str) -> Self {
        let response = agent().get(edge.url(path)).call().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(Box::new(BufReader::new(response.into_body().into_reader())))
    }

    fn next(&mut self) -> (String, String, Value) {
        let (mut name, mut id, mut data) = (String::new(), String::new(), Value::Null);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            match line.trim_end().split_once(": ") {
                Some(("event", text)) => text.clone_into(&mut name),
                Some(("id", text)) => text.clone_into(&mut id),
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                None if line.trim().is_empty() && !name.is_empty() => return (name, id, data),
                Some(_) | None => {}
            }
        }
    }
}

#[test]
fn the_stream_begins_with_what_stands_and_goes_on_with_what_happens() {
    let edge = edge();
    let mut events = Events::of(&edge);
    let standing: Vec<String> = (0..3).map(|_| events.next().0).collect();
    assert_eq!(standing, ["config", "sample", "sample"]);
    edge.events.send(Event::Decision(decisions().remove(1))).unwrap();
    edge.events.send(Event::Sample(rolled_back())).unwrap();
    let (name, id, data) = events.next();
    assert_eq!(
        (name.as_str(), id.as_str(), &data["type"], &data["id"]),
        ("decision", "42", &json!("decision"), &json!(42))
    );
    let (name, _, data) = events.next();
    assert_eq!((name.as_str(), &data["type"], &data["phase"]), ("sample", &json!("sample"), &json!("rolled_back")));
}

#[test]
fn a_reader_that_is_too_slow_is_told_what_it_missed() {
    let edge = edge();
    let mut events = Events::of(&edge);
    // More than the sockets' buffers and the channel hold together.
    let mut big = rolled_back();
    big.why = "x".repeat(4 << 20);
    for _ in 0..40 {
        edge.events.send(Event::Sample(big.clone())).unwrap();
    }
    let missed = std::iter::from_fn(|| Some(events.next())).take(45).find(|(name, ..)| name == "missed");
    let (_, _, data) = missed.expect("nothing was missed");
    let missed: Missed = serde_json::from_value(data).unwrap();
    assert!(missed.kind == "missed" && missed.events > 0 && missed.events < 40, "{missed:?}");
}

/// A stream that was asked for and of which nothing is read but its head.
fn raw_stream(edge: &Edge) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(edge.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn streams_without_readers_do_not_lock_operators_out() {
    let edge = edge();
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..32 {
        let (stream, head) = raw_stream(&edge);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        streams.push(stream);
    }
    let refused = get(&edge, "/api/v1/events");
    assert!(refused.problem(503, "too_many_streams").contains("GET /api/v1/routes"));
    assert_eq!(refused.headers["retry-after"], "1");
    let begun = Instant::now();
    assert_eq!((get(&edge, "/livez").status, get(&edge, "/readyz").status), (200, 200));
    assert_eq!(post(&edge, "/api/v1/routes/delivery-time/pause", "{}").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(streams.pop());
    while raw_stream(&edge).1.starts_with("HTTP/1.1 503 ") {
        assert!(begun.elapsed() < Duration::from_secs(15), "the place of a closed stream did not become free");
    }
}

#[test]
fn a_stream_whose_reader_takes_nothing_is_cut_and_its_place_is_free_again() {
    let edge = edge();
    let (_unread, head) = raw_stream(&edge);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // More than the sockets' buffers hold.
    let mut big = rolled_back();
    big.why = "x".repeat(8 << 20);
    edge.events.send(Event::Sample(big)).unwrap();
    let begun = Instant::now();
    let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let cut = waiting.block_on(async { tokio::time::timeout(Duration::from_secs(30), edge.events.closed()).await });
    assert!(cut.is_ok(), "the stream was not cut");
    assert!(begun.elapsed() > Duration::from_secs(5), "cut too early: {:?}", begun.elapsed());
}

#[test]
fn an_idle_connection_is_closed() {
    let edge = edge();
    let mut stream = TcpStream::connect(edge.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let begun = Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    assert!(begun.elapsed() > Duration::from_secs(2), "closed at once: {:?}", begun.elapsed());
}

#[test]
fn an_open_stream_does_not_hold_up_the_end() {
    let edge = edge();
    let mut events = Events::of(&edge);
    assert_eq!(events.next().0, "config");
    drop(edge);
    let mut rest = Vec::new();
    // Cut, not closed well: both are an end. A stream that went on would hold this up for ever.
    drop(events.0.read_to_end(&mut rest));
}

#[test]
fn the_dashboard_is_a_page_that_needs_no_token_and_loads_from_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let edge = Edge::with(view(vec![shifting()]), decisions(), Some(token));
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard/app.js", "text/javascript; charset=utf-8"),
        ("/dashboard/app.css", "text/css; charset=utf-8"),
        ("/dashboard/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(&edge, path);
        assert_eq!((answer.status, answer.content_type.as_str()), (200, media_type), "{path}");
        assert!(!answer.text.is_empty(), "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        assert_eq!(get_with(&edge, path, &[("if-none-match", &tag)]).status, 304, "{path}");
    }
    get(&edge, "/api/v1/routes").problem(401, "unauthorized");
}

fn second_of(route: &str) -> Event {
    let versions = std::collections::BTreeMap::new();
    let route = route_name(route);
    Event::Second(pointsman::view::SecondView { route, at_ms: 7, versions, rollback: None, promotion: None })
}

#[test]
fn a_reader_with_a_focus_gets_others_in_brief() {
    let edge = Edge::new(view(vec![shifting(), steady("ranking")]));
    assert!(get(&edge, "/api/v1/events?colour=red").problem(400, "bad_query").contains("focus=ROUTE"));
    let mut stream = Events::at(&edge, "/api/v1/events?focus=ranking");
    let kinds: Vec<String> = (0..3).map(|_| stream.next().0).collect();
    assert_eq!(kinds, ["config", "sample", "sample"]);
    for event in [Event::Sample(shifting()), second_of("delivery-time"), second_of("ranking")] {
        edge.events.send(event).unwrap();
    }
    let (kind, _, sample) = stream.next();
    assert_eq!((kind.as_str(), &sample["name"]), ("sample", &json!("delivery-time")));
    assert!(sample["analysis"]["summary"].is_null() && sample["weights"].is_object());
    let (kind, _, second) = stream.next();
    assert_eq!((kind.as_str(), &second["route"]), ("second", &json!("ranking")), "of others there are no seconds");
    let mut of_none = Events::at(&edge, "/api/v1/events?focus=");
    let standing: Vec<_> = (0..3).map(|_| of_none.next()).collect();
    assert!(standing[1].2["analysis"]["summary"].is_null(), "who looks at the list alone gets every route in brief");
    for event in [second_of("ranking"), Event::Sample(shifting())] {
        edge.events.send(event).unwrap();
    }
    assert_eq!(of_none.next().0, "sample", "and no seconds");
}

#[test]
fn what_was_seen_must_be_a_number() {
    let edge = Edge::new(view(vec![shifting()]));
    let order = |seen: &str| {
        let headers = [("content-type", "application/json"), ("x-pointsman-seen-decision", seen)];
        send_with(&edge, "POST", "/api/v1/routes/delivery-time/pause", "{}", &headers)
    };
    assert!(order("latest").problem(400, "bad_seen_decision").contains("number of a decision"));
    assert_eq!(order("43").status, 200);
    assert_eq!(edge.orders().len(), 1);
}
