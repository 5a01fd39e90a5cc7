//! How the server ends: nothing that was begun is lost, and the end comes.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::python::{self, TRITON_CLIENTS};
use crate::server::{PATIENCE, Server, Wire, bundle, predict_request, program, row};

/// A request of which half the body is still to come.
fn half_a_request(server: &Server) -> (Wire, String) {
    let request = predict_request(&row().to_string());
    let (sent, held_back) = request.split_at(request.len() - 20);
    let mut wire = Wire::to(server.address).unwrap();
    wire.write(sent).unwrap();
    (wire, held_back.to_owned())
}

#[test]
fn a_request_under_way_is_finished_while_ready_says_no() {
    let server = Server::of("v1");
    let (mut wire, rest) = half_a_request(&server);
    server.signal(Signal::SIGTERM);
    server.until("/ready answers 503", || server.get("/ready").status == 503);
    let ready = server.get("/ready").json();
    assert_eq!(ready["status"], "draining");
    assert!(ready["reason"].as_str().unwrap().contains("asked to stop"));
    assert_eq!(server.get("/health").status, 200);
    wire.write(&rest).unwrap();
    let (status, head, body) = wire.read().unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("connection: close"), "{head}");
    assert!(wire.is_closed());
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_the_end_up() {
    let server = Server::of("v1");
    let mut used = Wire::to(server.address).unwrap();
    used.write(&predict_request(&row().to_string())).unwrap();
    assert_eq!(used.read().unwrap().0, 200);
    let mut unused = Wire::to(server.address).unwrap();
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(used.is_closed() && unused.is_closed());
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_open_channel_of_grpc_does_not_hold_the_end_up() {
    let Some(python) = python::with("triton", TRITON_CLIENTS) else {
        return;
    };
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("DRAIN_SECONDS", "600"));
    let script = "import sys, tritonclient.grpc as triton\n\
        client = triton.InferenceServerClient(sys.argv[1])\n\
        print(client.is_server_live(), flush=True)\n\
        sys.stdin.read()";
    let mut held = Command::new(python.program())
        .args(["-c", script, &server.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(held.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "True");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
    drop(held.stdin.take());
    held.wait().unwrap();
}

#[test]
fn a_request_that_never_ends_is_cut_off_at_the_deadline() {
    let mut command = program(&bundle("v1"));
    let server = Server::start(command.env("DRAIN_SECONDS", "1"));
    let (mut wire, _) = half_a_request(&server);
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(wire.read().is_err());
}

#[test]
fn an_interrupt_ends_it_at_once() {
    let server = Server::of("v1");
    let (_wire, _) = half_a_request(&server);
    let start = Instant::now();
    server.signal(Signal::SIGINT);
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    lost: AtomicUsize,
    stop: AtomicBool,
}

impl Seen {
    /// Sends one request; `None` when it was lost, else whether the server closes afterwards.
    fn ask(&self, wire: &mut Wire, request: &str) -> Option<bool> {
        if let Ok((200, head, _)) = wire.write(request).and_then(|()| wire.read()) {
            self.answered.fetch_add(1, Ordering::Relaxed);
            Some(head.contains("connection: close"))
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            None
        }
    }

    /// Keeps its connection until the server closes it.
    fn keep_asking(&self, mut wire: Wire, request: &str) {
        while self.ask(&mut wire, request) == Some(false) {}
    }

    /// A new connection for each request, until nobody listens any more.
    fn ask_anew(&self, server: &Server, request: &str) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.ask(&mut Wire::to(server.address)?, request);
        }
        Ok(())
    }
}

#[test]
fn a_drain_under_load_loses_nothing() {
    let server = Server::of("v1");
    let request = predict_request(&row().to_string());
    let seen = Seen::default();
    thread::scope(|scope| {
        let keepers: Vec<_> = (0..6)
            .map(|_| {
                let wire = Wire::to(server.address).unwrap();
                scope.spawn(|| seen.keep_asking(wire, &request))
            })
            .collect();
        let anew = scope.spawn(|| seen.ask_anew(&server, &request));
        server.until("load is up", || seen.answered.load(Ordering::Relaxed) > 500);
        server.signal(Signal::SIGTERM);
        // Every kept connection hears that it should go elsewhere, while new ones are still answered.
        for keeper in keepers {
            keeper.join().unwrap();
        }
        seen.stop.store(true, Ordering::Relaxed);
        anew.join().unwrap().unwrap();
    });
    assert_eq!(seen.lost.load(Ordering::Relaxed), 0);
    assert_eq!(server.ended(PATIENCE).code(), Some(0));
}
