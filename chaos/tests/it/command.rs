//! The `chaos` program as an operator or a demo starts it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman_chaos::fakes::FakeModel;
use pointsman_chaos::load::{Second, Total};
use serde_json::Value;

use crate::client::send;

/// A running `chaos`, killed when the test ends early.
struct Chaos {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Chaos {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn address(&mut self, before: &str) -> SocketAddr {
        let line = self.line();
        line.strip_prefix(before).unwrap_or_else(|| panic!("`{line}` for `{before}`")).parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// The lines still to come, after a good end.
    fn finish(mut self) -> Vec<String> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        rest.lines().map(str::to_owned).collect()
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn outcome(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chaos")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn total(line: &str) -> Total {
    let mut value: Value = serde_json::from_str(line).unwrap();
    serde_json::from_value(value["total"].take()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_layer_says_where_it_is_and_ends_at_sigterm() {
    let model = FakeModel::start("v1").await.unwrap();
    let upstream = model.addr().to_string();
    let mut chaos =
        Chaos::start(&["fault", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--upstream", &upstream]);
    let (traffic, control) = (chaos.address("listening on "), chaos.address("control on "));
    assert_eq!(send(traffic, "POST", "/v1/predict", "abc").await.json()["prediction"], 3);
    let put = send(control, "PUT", "/faults", r#"{"fail":{"share":1,"status":500}}"#).await;
    assert_eq!(put.status(), 200);
    assert_eq!(send(traffic, "POST", "/v1/predict", "abc").await.status(), 500);
    assert_eq!(send(control, "GET", "/counts", "").await.json()["failed"], 1);
    chaos.signal(Signal::SIGTERM);
    assert!(chaos.finish().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_prints_a_line_each_second_and_the_total() {
    let model = FakeModel::start("v1").await.unwrap();
    let url = format!("http://{}/v1/predict", model.addr());
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body.json");
    std::fs::write(&body, "0123456789").unwrap();
    let arguments = ["load", "--url", &url, "--rate", "200", "--seconds", "2", "--connections", "4", "--body"];
    let chaos = Chaos::start(&[&arguments[..], &[body.to_str().unwrap(), "--header", "x-user: 7"]].concat());
    let lines = chaos.finish();
    let (last, seconds) = lines.split_last().unwrap();
    let seconds: Vec<Second> = seconds.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let total = total(last);
    assert!((2..=3).contains(&seconds.len()), "{lines:?}");
    assert_eq!(seconds.iter().map(|second| second.figures.answered).sum::<u64>(), total.figures.answered);
    assert_eq!((total.figures.intended, total.figures.status.success), (400, 400));
    assert_eq!(model.predictions(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_ends_with_its_total_at_sigterm_and_when_its_input_closes() {
    let model = FakeModel::start("v1").await.unwrap();
    let url = format!("http://{}/v1/predict", model.addr());
    let ends: [fn(&mut Chaos); 3] = [
        |chaos| chaos.signal(Signal::SIGTERM),
        |chaos| chaos.signal(Signal::SIGINT),
        |chaos| drop(chaos.child.stdin.take()),
    ];
    for end in ends {
        let before = model.predictions();
        let mut chaos = Chaos::start(&["load", "--url", &url, "--json", "{}", "--rate", "100"]);
        let first: Second = serde_json::from_str(&chaos.line()).unwrap();
        assert_eq!((first.second, first.figures.failed), (1, 0));
        end(&mut chaos);
        let total = total(chaos.finish().last().unwrap()).figures;
        assert_eq!((total.status.success, total.failed), (model.predictions() - before, 0));
    }
}

#[test]
fn wrong_usage_is_2_and_says_the_way_out() {
    for (arguments, words) in [
        (&["load", "--url", "http://192.0.2.1/"][..], "loopback addresses only"),
        (&["load", "--url", "nonsense"], "write http://127.0.0.1:PORT/PATH"),
        (&["load", "--url", "http://127.0.0.1:1/", "--rate", "0"], "from 1 to 200000"),
        (&["load", "--url", "http://127.0.0.1:1/", "--body", "absent.json"], "absent.json cannot be read"),
        (&["load", "--url", "http://127.0.0.1:1/", "--header", "colourless"], "write NAME: VALUE"),
        (&["load"], "--url"),
        (
            &["fault", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--faults", "{\"fail\":{\"share\":7}}"],
            "0 to 1",
        ),
        (&["--log-format", "xml", "load", "--url", "http://127.0.0.1:1/"], "use `text` or `json`"),
    ] {
        let outcome = outcome(arguments);
        let complaint = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
fn a_port_that_is_taken_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let outcome = outcome(&["fault", "--listen", &addr, "--upstream", "127.0.0.1:1"]);
    let complaint = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("cannot listen") && complaint.contains("in use"), "{complaint}");
}
