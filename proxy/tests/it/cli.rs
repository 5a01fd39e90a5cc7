//! The command line: the real program against the real admin API; what it prints is kept in tests/golden and read by
//! people. `UPDATE_GOLDEN=1` writes the files anew.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use pointsman::view::{DifferenceView, GateView, RouteView, View};
use pointsman_rollout::{Cause, Decision, Difference, OrderKind, Regression};
use serde_json::{Value, json};

use crate::fixture::{Edge, canary_split, decisions, rolled_back, row, shifting, steady, troubled, version, view};

const VALID: &str = "\
listeners:
  - address: 127.0.0.1:0
routes:
  - name: delivery-time
    stable: v1
    versions:
      v1: { endpoints: [127.0.0.1:9001] }
      v2: { endpoints: [127.0.0.1:9002] }
    weights: { v1: 95%, v2: 5% }
";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["POINTSMAN_ADMIN", "POINTSMAN_TOKEN_FILE", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.env("USER", "anna");
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn against(edge: &Edge, arguments: &[&str]) -> Output {
    command(arguments).env("POINTSMAN_ADMIN", edge.url("")).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// It went well, and printed what stands in the file.
fn golden(name: &str, output: &Output) {
    assert_eq!((code(output), err(output).as_str()), (0, ""), "{}", out(output));
    let text = out(output);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
        assert!(!line.contains(char::is_control) && line.trim_end() == line, "{line:?}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        text, kept,
        "tests/golden/{name}.txt differs; read it, then UPDATE_GOLDEN=1 cargo test -p pointsman cli"
    );
}

fn edge_with(view: View) -> Edge {
    Edge::new(view)
}

#[test]
fn status_of_a_canary_on_trial() {
    let edge = edge_with(view(vec![shifting()]));
    golden("status_shifting", &against(&edge, &["status"]));
    golden("status_shifting", &against(&edge, &["status", "delivery-time"]));
}

#[test]
fn status_of_a_canary_that_was_taken_back() {
    let edge = edge_with(view(vec![rolled_back()]));
    golden("status_rolled_back", &against(&edge, &["status", "delivery-time"]));
}

#[test]
fn status_of_a_canary_that_is_worse() {
    let mut route = shifting();
    "continue".clone_into(&mut route.analysis.verdict);
    "suspect".clone_into(&mut route.analysis.reason);
    "the canary looks worse than stable, not yet beyond doubt".clone_into(&mut route.why);
    let edge = edge_with(view(vec![route]));
    golden("status_suspect", &against(&edge, &["status"]));
}

#[test]
fn status_of_one_version_at_rest() {
    let edge = edge_with(view(vec![steady("ranking")]));
    golden("status_steady", &against(&edge, &["status", "ranking"]));
}

#[test]
fn status_of_many_routes_begins_with_what_is_wrong() {
    let edge = edge_with(troubled(view(vec![steady("ranking"), rolled_back(), steady("a-route-with-a-long-name")])));
    golden("status_many", &against(&edge, &["status"]));
}

#[test]
fn history_lists_decisions_newest_first() {
    let edge = edge_with(view(vec![rolled_back()]));
    golden("history", &against(&edge, &["history", "delivery-time"]));
    golden("history_newest", &against(&edge, &["history", "delivery-time", "--limit", "1"]));
    let empty = Edge::with(view(vec![steady("ranking")]), Vec::new(), None);
    golden("history_empty", &against(&empty, &["history", "ranking"]));
    let listed: Value =
        serde_json::from_slice(&against(&edge, &["history", "delivery-time", "--json"]).stdout).unwrap();
    assert_eq!(listed["decisions"][0]["id"], json!(43));
}

#[test]
fn explain_tells_of_the_last_decision_with_evidence() {
    let edge = edge_with(view(vec![rolled_back()]));
    golden("explain_rollback", &against(&edge, &["explain", "delivery-time"]));
    golden("explain_step", &against(&edge, &["explain", "delivery-time", "41"]));
    let told: Value = serde_json::from_slice(&against(&edge, &["explain", "delivery-time", "--json"]).stdout).unwrap();
    assert_eq!((&told["id"], &told["failures"][0]["outcome"]), (&json!(42), &json!("error")));
}

#[test]
fn explain_tells_what_to_do_after_every_decision() {
    let causes = [
        (
            Decision::Pause,
            Cause::Deadline { waiting_for: "step 2 stayed undecided for 60 min".to_owned() },
            "pointsman resume delivery-time",
        ),
        (
            Decision::Alert,
            Cause::Evidence { regression: Regression::LatencyRegression },
            "pointsman rollback delivery-time",
        ),
        (
            Decision::Rollback,
            Cause::Operator { actor: "anna".to_owned(), reason: "wrong build".to_owned() },
            "pointsman retry delivery-time v2",
        ),
        (Decision::Promote, Cause::Plan { reason: "proven".to_owned() }, "pointsman rollback delivery-time"),
        (Decision::Edit, Cause::File, "pointsman status delivery-time"),
        (Decision::Hold, held_by("drift"), "`pointsman promote delivery-time` does not wait for it"),
        (Decision::Hold, held_by("freeze/weekend"), "`pointsman promote delivery-time --force --reason TEXT`"),
    ];
    let edge = Edge::with(
        view(vec![shifting()]),
        causes.iter().zip(1..).map(|((decision, cause, _), id)| row(id, *decision, cause.clone())).collect(),
        None,
    );
    for ((decision, _, command), id) in causes.iter().zip(1..) {
        let told = out(&against(&edge, &["explain", "delivery-time", &id.to_string()]));
        let advice = told.split("What to do").nth(1).unwrap_or_else(|| panic!("{told}"));
        let advice = advice.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(advice.contains(command), "{decision:?}: {told}");
    }
}

fn held_by(gate: &str) -> Cause {
    Cause::GateHolds { gate: gate.to_owned(), why: "nothing goes forward until Monday".to_owned(), seconds: 12 }
}

#[test]
fn what_is_advised_during_a_freeze_is_what_the_edge_would_obey() {
    let mut route = shifting();
    let gate = |name: &str| GateView {
        gate: name.to_owned(),
        outcome: "holds".to_owned(),
        words: "nothing goes forward until Monday".to_owned(),
        for_s: 12.0,
        observed_s_ago: Some(0.1),
    };
    route.gates = vec![gate("drift")];
    let status = |route: &RouteView| out(&against(&edge_with(view(vec![route.clone()])), &["status"]));
    assert!(!status(&route).contains("--force"), "{}", status(&route));
    route.gates.push(gate("freeze/weekend"));
    let told = status(&route);
    assert!(told.contains("pointsman promote delivery-time --force --reason TEXT"), "{told}");
}

#[test]
fn explain_without_a_decision_or_of_another_route_says_where_to_look() {
    let edge = Edge::with(view(vec![shifting(), steady("ranking")]), decisions(), None);
    let none = against(&edge, &["explain", "ranking"]);
    assert_eq!(code(&none), 1);
    assert!(err(&none).contains("`ranking` has no decision yet; `pointsman status ranking`"), "{}", err(&none));
    let other = against(&edge, &["explain", "ranking", "42"]);
    assert!(err(&other).contains("say `pointsman explain delivery-time 42`"), "{}", err(&other));
    let unknown = against(&edge, &["explain", "ranking", "7"]);
    let said = err(&unknown);
    assert_eq!((code(&unknown), said.contains("/api/")), (1, false), "{said}");
    assert!(
        said.contains("there is no decision 7; `pointsman history ranking` lists them (unknown_decision)"),
        "{said}"
    );
}

#[test]
fn with_next_to_no_data_nothing_is_called_the_same() {
    let mut route = shifting();
    route.analysis.error_rate_difference = Some(DifferenceView { low: -0.6, estimate: 0.0, high: 0.9 });
    let mut rows = decisions();
    for row in &mut rows {
        if let Some(evidence) = &mut row.change.evidence {
            evidence.error_rate_difference = Some(Difference { low: -0.6, estimate: 0.0, high: 0.9 });
        }
    }
    let edge = Edge::with(view(vec![route]), rows, None);
    for arguments in [&["status"][..], &["explain", "delivery-time"]] {
        let told = out(&against(&edge, arguments)).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains("v2's error rate beside v1's is not known yet"), "{told}");
        assert!(!told.contains("the same as"), "{told}");
    }
}

#[test]
fn json_is_what_the_api_gives() {
    let edge = edge_with(view(vec![shifting()]));
    let status: Value = serde_json::from_slice(&against(&edge, &["status", "--json"]).stdout).unwrap();
    assert_eq!(status["routes"][0], serde_json::to_value(shifting()).unwrap());
    assert_eq!(status["config"]["generation"], json!(3));
}

#[test]
fn orders_carry_the_user_and_the_reason_and_report_the_decision() {
    let edge = edge_with(view(vec![shifting()]));
    golden("pause", &against(&edge, &["pause", "delivery-time", "--reason", "lunch"]));
    let expected = [
        (vec!["promote", "delivery-time"], OrderKind::Promote),
        (vec!["rollback", "delivery-time"], OrderKind::Rollback),
        (vec!["retry", "delivery-time", "v2"], OrderKind::Retry(version("v2"))),
        (vec!["weights", "delivery-time", "v1=90%", "v2=10%"], OrderKind::SetWeights(canary_split("10%"))),
    ];
    for (arguments, kind) in expected {
        let output = against(&edge, &arguments);
        assert_eq!((code(&output), err(&output).as_str()), (0, ""));
        assert_eq!(edge.orders().pop().unwrap().1.kind, kind);
    }
    let (_, first) = edge.orders().remove(0);
    assert_eq!((first.actor.as_str(), first.reason.as_str()), ("anna", "lunch"));
    let warned = out(&against(&edge, &["pause", "delivery-time", "--reason", "hang"]));
    assert!(warned.contains("decision 44, in force\n") && warned.contains("Not kept yet"), "{warned}");
}

#[test]
fn refused_orders_end_with_1_and_wrong_ones_with_2() {
    let edge = edge_with(view(vec![shifting()]));
    let cases: [(&[&str], i32, &str); 12] = [
        (&["resume", "delivery-time"], 1, "it is not paused (wrong_phase)"),
        (&["pause", "nope"], 1, "there is no route `nope`; routes: delivery-time (unknown_route)"),
        (&["weights", "delivery-time", "v1=90%", "v2=20%"], 2, "the weights add up to 110%; make them add up to 100%"),
        (&["weights", "delivery-time", "v1=50%", "v1=50%"], 2, "`v1` is given twice"),
        (&["weights", "delivery-time", "v1=90", "v2=10%"], 2, "`90` is no share of traffic"),
        (&["weights", "delivery-time", "v1"], 2, "write VERSION=SHARE"),
        (&["status", "not a name"], 2, "is no name"),
        (&["status", "not a name"], 2, "tip: `pointsman status` lists the routes"),
        (&["rollback"], 2, "tip: `pointsman status` lists the routes"),
        (&["rollback"], 2, "Usage: pointsman rollback <ROUTE>"),
        (&["explain", "delivery-time", "last"], 2, "as `pointsman history ROUTE` lists them"),
        (&["history", "delivery-time", "--limit", "0"], 2, "write a number from 1 to 500"),
    ];
    for (arguments, exit, words) in cases {
        let output = against(&edge, arguments);
        assert_eq!((code(&output), out(&output).as_str()), (exit, ""), "{arguments:?}: {}", err(&output));
        assert!(err(&output).starts_with("error: ") && err(&output).contains(words), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn a_token_file_opens_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let edge = Edge::with(view(vec![shifting()]), decisions(), Some(file.clone()));
    let denied = against(&edge, &["status"]);
    assert_eq!((code(&denied), err(&denied).contains("--token-file")), (1, true), "{}", err(&denied));
    let path = file.to_str().unwrap();
    assert_eq!(code(&against(&edge, &["status", "--token-file", path])), 0);
    assert_eq!(code(&against(&edge, &["pause", "delivery-time", "--token-file", path])), 0);
    let by_name = command(&["--admin", &edge.url(""), "history", "delivery-time"])
        .env("POINTSMAN_TOKEN_FILE", path)
        .output()
        .unwrap();
    assert_eq!(code(&by_name), 0, "{}", err(&by_name));
    let missing = against(&edge, &["status", "--token-file", "/nonexistent/token"]);
    assert_eq!(
        (code(&missing), err(&missing).contains("`/nonexistent/token` cannot be read")),
        (2, true),
        "{}",
        err(&missing)
    );
}

#[test]
fn nobody_there_somebody_else_there_and_no_address() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let nobody = run(&["status", "--admin", &url]);
    assert_eq!((code(&nobody), out(&nobody).as_str()), (1, ""));
    let said = err(&nobody);
    for words in [url.as_str(), "pointsman run --config FILE", "POINTSMAN_ADMIN", "refused"] {
        assert!(said.contains(words), "{said}");
    }
    let clients = answering("502 Bad Gateway", r#"{"type":"urn:pointsman:problem:upstream_connect","status":502}"#);
    let data = run(&["status", "--admin", &clients]);
    assert!(err(&data).contains("is where this edge serves clients; ask its admin address"), "{}", err(&data));
    let other = answering("200 OK", "<html>hi\n");
    let strange = run(&["status", "--admin", &other]);
    assert_eq!(
        (code(&strange), err(&strange).contains("status 200, but not as an edge")),
        (1, true),
        "{}",
        err(&strange)
    );
    let https = run(&["status", "--admin", "https://edge:9900"]);
    assert_eq!((code(&https), err(&https).contains("ssh -L")), (2, true), "{}", err(&https));
    let half = run(&["status", "--admin", "http://"]);
    assert_eq!((code(&half), err(&half).contains("`http://` is no admin address")), (2, true), "{}", err(&half));
}

/// A web server that is no admin API; answers one request, with this.
fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
    });
    url
}

#[test]
fn colours_are_for_terminals_only() {
    let edge = edge_with(view(vec![rolled_back()]));
    assert!(!out(&against(&edge, &["status"])).contains('\u{1b}'));
    let forced = |name: &str| {
        command(&["status", "--admin", &edge.url("")]).env("CLICOLOR_FORCE", "1").env(name, "1").output().unwrap()
    };
    assert!(out(&forced("SOMETHING_ELSE")).contains('\u{1b}'));
    assert!(!out(&forced("NO_COLOR")).contains('\u{1b}'));
}

/// A child that is killed with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn watching_appends_where_it_is_piped_and_a_closed_pipe_is_no_error() {
    let edge = edge_with(view(vec![shifting()]));
    let child = command(&["status", "--watch", "--json", "--admin", &edge.url("")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    for phase in ["shifting", "rolled_back"] {
        let seen: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(seen["routes"][0]["phase"], json!(phase));
        edge.view.store(view(vec![rolled_back()]).into());
    }
    drop(lines);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn watching_into_a_pipe_says_what_changed_and_nothing_else() {
    let edge = edge_with(view(vec![shifting()]));
    let child = command(&["status", "--watch", "--admin", &edge.url("")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("UTC delivery-time: shifting (step") && !first.contains('\u{1b}'), "{first}");
    edge.view.store(view(vec![rolled_back()]).into());
    let said: Vec<String> = lines.by_ref().take(2).collect();
    assert!(said[0].contains("decision") && said[1].contains("delivery-time: rolled back"), "{said:?}");
    let address = edge.address;
    drop(edge);
    let lost = lines.next().unwrap();
    assert!(lost.contains("lost the edge"), "{lost}");
    let edge = Edge::at(address, view(vec![rolled_back()]));
    let again = lines.next().unwrap();
    assert!(again.contains("answers again"), "{again}");
    drop(edge);
}

#[test]
fn watching_into_a_pipe_says_once_that_a_gate_holds() {
    let held = |seconds: u32, problem: Option<&str>| {
        let mut route = shifting();
        route.why = format!("the gate `drift` holds for {seconds} s: nothing has been found out yet");
        let mut view = view(vec![route]);
        view.state.problem = problem.map(str::to_owned);
        view
    };
    let edge = edge_with(held(12, None));
    let child = command(&["status", "--watch", "--admin", &edge.url("")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("holds for 12 s"), "{first}");
    for problem in [Some("the disk is full"), None] {
        edge.view.store(held(13, problem).into());
        let next = lines.next().unwrap();
        assert!(next.contains("the disk is full"), "a span that goes on is no news: {next}");
    }
    edge.view.store(view(vec![rolled_back()]).into());
    let next = lines.next().unwrap();
    assert!(next.contains("decision"), "{next}");
}

fn check(text: &str, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.yaml"), text).unwrap();
    let output = command(&["check", "pointsman.yaml"]).args(arguments).current_dir(folder.path()).output().unwrap();
    assert_eq!(err(&output), "");
    (code(&output), out(&output))
}

#[test]
fn check_prints_every_problem_with_its_place() {
    let (exit, said) = check(VALID, &[]);
    assert!(exit == 0 && said.lines().last().unwrap().starts_with("pointsman.yaml: valid"), "{said}");
    let broken = VALID.replace("v2: 5%", "v2: 15%").replace("stable: v1", "stabel: v1");
    let (exit, said) = check(&broken, &[]);
    assert_eq!(exit, 2, "{said}");
    assert!(
        said.contains("pointsman.yaml:5:") && said.contains("pointsman.yaml:9:") && said.contains("stable"),
        "{said}"
    );
    assert!(said.lines().last().unwrap().starts_with("pointsman.yaml: 3 errors"), "{said}");
}

#[test]
fn check_prints_json_reads_standard_input_and_misses_a_file() {
    let broken = VALID.replace("v2: 5%", "v2: 15%");
    let (exit, said) = check(&broken, &["--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((exit, &report["valid"], &report["errors"]), (2, &json!(false), &json!(1)), "{said}");
    assert_eq!(
        (&report["problems"][0]["severity"], &report["problems"][0]["place"]["line"]),
        (&json!("error"), &json!(9))
    );

    let mut child =
        command(&["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(VALID.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(code(&output) == 0 && out(&output).contains("stdin: valid"), "{}", out(&output));

    let missing = run(&["check", "/nonexistent.yaml"]);
    assert_eq!(
        (code(&missing), err(&missing).contains("`/nonexistent.yaml` cannot be read; give the path")),
        (2, true),
        "{}",
        err(&missing)
    );
}

#[test]
fn the_schema_is_json_and_names_what_a_file_holds() {
    let output = run(&["schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(code(&output) == 0 && schema["properties"]["routes"].is_object(), "{schema}");
}

#[test]
fn help_version_and_wrong_usage() {
    for arguments in [&["--help"][..], &["status", "--help"], &["--version"]] {
        let output = run(arguments);
        assert!(code(&output) == 0 && err(&output).is_empty() && !out(&output).is_empty(), "{arguments:?}");
    }
    for arguments in
        [&[][..], &["dance"], &["status", "--loud"], &["run"], &["pause"], &["history", "x", "--limit", "0"]]
    {
        let output = run(arguments);
        assert!(
            code(&output) == 2 && out(&output).is_empty() && !err(&output).is_empty(),
            "{arguments:?}: {}",
            out(&output)
        );
    }
}

#[test]
fn running_without_a_config_file_is_wrong_usage() {
    let output = run(&["run", "--config", "/nonexistent.yaml"]);
    assert_eq!((code(&output), err(&output).contains("/nonexistent.yaml")), (2, true), "{}", err(&output));
    let format = run(&["run", "--config", "/nonexistent.yaml", "--log-format", "xml"]);
    assert_eq!((code(&format), err(&format).contains("use `text` or `json`")), (2, true), "{}", err(&format));
}

#[test]
fn linked_as_a_kubectl_plugin_it_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("kubectl-pointsman");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pointsman"), &link).unwrap();
    let output = Command::new(&link).args(["status", "--help"]).output().unwrap();
    assert!(out(&output).contains("Usage: kubectl pointsman status"), "{}", out(&output));
    assert!(out(&output).contains("--namespace") && !out(&run(&["status", "--help"])).contains("--namespace"));
    let edge = edge_with(view(vec![shifting()]));
    let output = Command::new(&link).args(["status", "--admin", &edge.url("")]).output().unwrap();
    assert!(out(&output).contains("delivery-time: shifting"), "{}", out(&output));
}
