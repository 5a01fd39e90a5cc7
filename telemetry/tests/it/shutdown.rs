//! Signals that ask a process to stop.

use crate::child::Player;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman_telemetry::shutdown;

fn check(child: &str, signal: Signal) {
    let mut child = Player::start(child, None);
    child.wait_for("listening");
    kill(Pid::from_raw(child.pid()), signal).unwrap();
    child.wait_for("asked to stop");
    child.finish();
}

#[test]
fn sigterm_is_heard() {
    check("shutdown::child_waits_for_sigterm", Signal::SIGTERM);
}

#[test]
fn sigint_is_heard() {
    check("shutdown::child_waits_for_sigint", Signal::SIGINT);
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "played in a child"]
async fn child_waits_for_sigterm() {
    let asked = shutdown::terminate().unwrap();
    println!("listening");
    asked.await;
    println!("asked to stop");
}

#[tokio::test(flavor = "current_thread")]
#[ignore = "played in a child"]
async fn child_waits_for_sigint() {
    let asked = shutdown::interrupt().unwrap();
    println!("listening");
    asked.await;
    println!("asked to stop");
}
