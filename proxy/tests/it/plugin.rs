//! `kubectl pointsman`: the way to the edge is what `kubectl` makes, and ends with the command.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal};

use crate::fixture::{Edge, shifting, view};
use crate::harness::eventually;

/// A folder with the plugin, and a `kubectl` that writes down what it is asked.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// `forward` is what the `kubectl` does when it is to forward a port, as a line of shell.
    fn new(lease: &str, forward: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("asked");
        let script = format!(
            "#!/bin/bash\necho \"$@\" >> {log}\ncase \"$*\" in\n*'get lease'*) {lease} ;;\n*'get secret pointsman-tokens'*) printf c2Vzc2lvbg== ;;\n*port-forward*) echo $$ > {pid}; {forward} ;;\n*) echo no such thing >&2; exit 1 ;;\nesac\n",
            log = log.display(),
            pid = folder.path().join("pid").display(),
        );
        let kubectl = folder.path().join("kubectl");
        std::fs::write(&kubectl, script).unwrap();
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pointsman"), folder.path().join("kubectl-pointsman")).unwrap();
        Self { folder }
    }

    fn to(edge: &Edge) -> Self {
        let port = edge.address.port();
        let forward = format!("echo 'Forwarding from 127.0.0.1:{port} -> 9900'; exec sleep 600");
        Self::new("printf pointsman-abc-7f3d-0badcafe", &forward)
    }

    /// `program`, with this `kubectl` before every other.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.env("PATH", path).env_remove("POINTSMAN_ADMIN").env_remove("POINTSMAN_TOKEN_FILE");
        command
    }

    fn plugin(&self) -> Command {
        self.command(self.folder.path().join("kubectl-pointsman"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.plugin().args(arguments).output().unwrap()
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default()
    }

    /// The process that forwards, or did.
    fn forwarder(&self) -> u32 {
        std::fs::read_to_string(self.folder.path().join("pid")).unwrap().trim().parse().unwrap()
    }

    /// Whether it is there.
    fn forwards(&self) -> bool {
        PathBuf::from(format!("/proc/{}", self.forwarder())).exists()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_leader_is_found_through_its_lease_and_the_way_ends_with_the_command() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "session").unwrap();
    let edge = Edge::with(view(vec![shifting()]), Vec::new(), Some(token.path().to_owned()));
    let place = Place::to(&edge);
    let output = place.run(&["status", "delivery-time", "--context", "kind", "-n", "models"]);
    assert!(output.status.success() && out(&output).contains("delivery-time: shifting"), "{}", err(&output));
    let asked = place.asked();
    assert!(asked.lines().all(|line| line.starts_with("--context=kind --namespace=models ")), "{asked}");
    assert!(asked.contains("port-forward --address=127.0.0.1 pod/pointsman-abc-7f3d :admin"), "{asked}");
    assert!(!place.forwards(), "nothing is left running");
    let output = place.run(&["rollback", "delivery-time", "--reason", "support calls"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(edge.orders().len(), 1, "an order goes the same way, with the token of the cluster");
}

#[test]
fn without_a_lease_any_edge_is_asked_and_an_address_spares_kubectl() {
    let edge = Edge::new(view(vec![shifting()]));
    let forward = format!("echo 'Forwarding from 127.0.0.1:{} -> 9900'; exec sleep 600", edge.address.port());
    let place = Place::new("exit 1", &forward);
    let output = place.run(&["status", "--edge", "other"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(place.asked().contains("port-forward --address=127.0.0.1 deployment/other :admin"), "{}", place.asked());
    let spared = Place::new("exit 1", "exit 1");
    assert!(spared.run(&["status", "--admin", &edge.url("")]).status.success());
    assert_eq!(spared.asked(), "");
}

#[test]
fn the_way_ends_with_a_command_that_is_ended_or_killed() {
    let edge = Edge::new(view(vec![shifting()]));
    for signal in [Signal::TERM, Signal::KILL] {
        let place = Place::to(&edge);
        let mut child = place.plugin().args(["status", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("delivery-time: shifting") && place.forwards(), "{line}");
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let gone = waiting.block_on(eventually(|| !place.forwards()));
        if !gone {
            // Nothing is left running by a test that fails.
            let left = Pid::from_raw(i32::try_from(place.forwarder()).unwrap()).unwrap();
            rustix::process::kill_process(left, Signal::KILL).unwrap();
        }
        assert!(gone, "left behind after {signal:?}");
    }
}

#[test]
fn an_order_for_a_cluster_never_goes_to_the_edge_of_the_environment() {
    let meant = Edge::new(view(vec![shifting()]));
    let local = Edge::new(view(vec![shifting()]));
    let place = Place::to(&meant);
    let program = env!("CARGO_BIN_EXE_pointsman");
    let with_local = |mut command: Command, arguments: &[&str]| {
        let token = place.folder.path().join("token-of-the-local-edge-that-is-not-there");
        command.env("POINTSMAN_ADMIN", local.url("")).env("POINTSMAN_TOKEN_FILE", token);
        command.args(["rollback", "delivery-time"]).args(arguments).output().unwrap()
    };
    let orders: [(Command, &[&str]); 4] = [
        (place.plugin(), &["-n", "prod"]),
        (place.plugin(), &[]),
        (place.command(program), &["--namespace", "prod"]),
        (place.command(program), &["--edge", "other"]),
    ];
    for ((command, arguments), sent) in orders.into_iter().zip(1..) {
        let output = with_local(command, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        assert_eq!((meant.orders().len(), local.orders().len()), (sent, 0), "{arguments:?}");
    }
    let written = with_local(place.plugin(), &["--admin", &local.url(""), "--token-file", "/dev/null"]);
    assert!(err(&written).contains("/dev/null"), "what is written counts: {}", err(&written));
}

#[test]
fn an_address_and_a_cluster_at_once_are_wrong_usage() {
    let edge = Edge::new(view(vec![shifting()]));
    let place = Place::to(&edge);
    let url = edge.url("");
    for arguments in [
        &["rollback", "delivery-time", "--admin", &url, "-n", "prod"][..],
        &["--context", "kind", "rollback", "delivery-time", "--admin", &url],
        &["check", "pointsman.yaml", "--from", &url, "--edge", "other"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", out(&output));
        assert!(err(&output).contains("leave one of them out"), "{arguments:?}: {}", err(&output));
    }
    assert_eq!((place.asked().as_str(), edge.orders().len()), ("", 0), "nobody was asked");
}

#[test]
fn what_kubectl_refuses_is_told_with_the_way_out() {
    let place = Place::new("exit 1", "echo 'error: pods \"pointsman\" is forbidden' >&2; exit 1");
    let output = place.run(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert!(told.contains("is forbidden") && told.contains("--namespace"), "{told}");
    let alone = tempfile::tempdir().unwrap();
    let link = alone.path().join("kubectl-pointsman");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pointsman"), &link).unwrap();
    let output =
        Command::new(link).arg("status").env("PATH", alone.path()).env_remove("POINTSMAN_ADMIN").output().unwrap();
    assert!(err(&output).contains("install it"), "{}", err(&output));
}
