//! TLS with clients: which certificate is shown, how it is renewed, who may come in; and TLS with versions.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman::listen::{ListenError, Listeners, Patience};
use pointsman::outcome::Outcome;
use pointsman_chaos::fakes::FakeModel;
use pointsman_config::{Listener, ListenerTls, Protocol, UpstreamTls};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{PATIENCE, RawServer, TestEdge, eventually, get, route};
use crate::pki::{Pki, chain};
use crate::speak::{Speaks, Talk, tcp, tls, whole};

fn edge_over(tls: ListenerTls, v1: &[SocketAddr]) -> TestEdge {
    TestEdge::listening(Some(tls), Patience::default(), route(), v1, &[])
}

/// The certificate that the edge shows to a client that asks for `name`.
async fn shown(pki: &Pki, edge: &TestEdge, name: &str) -> Option<CertificateDer<'static>> {
    let stream = tls(pki.client(&["http/1.1"], None), name, edge.address).await.ok()?;
    stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone())
}

#[tokio::test]
async fn the_certificate_is_shown_whose_names_fit_and_else_the_first() {
    let pki = Pki::new();
    let files = [
        pki.issue("first", &["first.test", "127.0.0.1"]),
        pki.issue("wild", &["*.models.test"]),
        pki.issue("exact", &["one.models.test"]),
    ];
    let edge = edge_over(Pki::listener(files.to_vec()), &[]);
    let leaf = |number: usize| chain(&files[number].certificate)[0].clone();
    for (name, number) in
        [("first.test", 0), ("one.models.test", 2), ("two.models.test", 1), ("ONE.models.test", 2), ("127.0.0.1", 0)]
    {
        assert_eq!(shown(&pki, &edge, name).await, Some(leaf(number)), "{name}");
    }
    assert_eq!(shown(&pki, &edge, "unknown.test").await, None, "the client does not take the first for another");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_dropping_a_connection() {
    let (pki, v1) = (Pki::new(), FakeModel::start("v1").await.unwrap());
    let files = pki.issue("edge", &["model.test"]);
    let edge = edge_over(Pki::listener(vec![files.clone()]), &[v1.addr()]);
    let standing =
        [Speaks::Http1Tls.connect(&pki, edge.address).await, Speaks::Http2Tls.connect(&pki, edge.address).await];
    let before = shown(&pki, &edge, "model.test").await.unwrap();

    // Half of a renewal: the old pair stays in force.
    let (certificate, key) = pki.pair(&["model.test"]);
    fs::write(&files.certificate, &certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(shown(&pki, &edge, "model.test").await, Some(before.clone()));

    fs::write(&files.private_key, key).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while shown(&pki, &edge, "model.test").await.unwrap() == before {
        assert!(Instant::now() < deadline, "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for client in standing {
        assert_eq!(client.ask("POST", "/v1/predict", &[], whole("x")).await.status, 200);
    }
}

#[tokio::test]
async fn clients_must_prove_themselves_where_that_is_asked() {
    let (pki, strangers, v1) = (Pki::new(), Pki::new(), FakeModel::start("v1").await.unwrap());
    let listener = ListenerTls { client_ca: Some(pki.ca()), ..Pki::listener(vec![pki.issue("edge", &["model.test"])]) };
    let edge = edge_over(listener, &[v1.addr()]);
    let (known, unknown) = (pki.issue("client", &["client.test"]), strangers.issue("client", &["client.test"]));
    for (identity, expected) in [(Some(&known), true), (Some(&unknown), false), (None, false)] {
        // With TLS 1.3 the client hears of a refusal only when it reads.
        let welcome = async {
            let mut stream = tls(pki.client(&["http/1.1"], identity), "model.test", edge.address).await.ok()?;
            stream.write_all(get("/").as_bytes()).await.ok()?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.ok()?;
            (&answer == b"HTTP/1.1 200").then_some(())
        };
        assert_eq!(welcome.await.is_some(), expected, "{identity:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_handshake_is_cut_off() {
    let pki = Pki::new();
    let listener = Pki::listener(vec![pki.issue("edge", &["model.test"])]);
    let patience = Patience { head: Duration::from_millis(300), ..Patience::default() };
    let edge = TestEdge::listening(Some(listener), patience, route(), &[], &[]);
    for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = tcp(edge.address).await;
        client.write_all(first).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{first:?}: still open");
        assert!(!rest.starts_with(b"HTTP"), "no HTTP in the clear on a TLS port");
    }
    // After the handshake, the head has its own deadline.
    let mut silent = tls(pki.client(&["http/1.1"], None), "model.test", edge.address).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_shook_hands_and_asks_nothing_does_not_hold_up_a_drain() {
    let pki = Pki::new();
    let listener = Pki::listener(vec![pki.issue("edge", &["model.test"])]);
    let patience = Patience { head: Duration::from_mins(5), ..Patience::default() };
    let mut edge = TestEdge::listening(Some(listener), patience, route(), &[], &[]);
    let mut silent = Vec::new();
    for protocol in ["http/1.1", "h2"] {
        silent.push(tls(pki.client(&[protocol], None), "model.test", edge.address).await.unwrap());
    }
    let drain = edge.serving.take().unwrap().drain(Duration::from_mins(5));
    let drained = tokio::time::timeout(PATIENCE, drain).await.expect("it does not wait for a first request");
    assert_eq!(drained.cut_off, 0);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_keep_the_edge_from_starting() {
    let pki = Pki::new();
    let files = pki.issue("edge", &["model.test"]);
    fs::write(&files.private_key, pki.pair(&["model.test"]).1).unwrap();
    let listener = Listener { address: SocketAddr::from(([127, 0, 0, 1], 0)), tls: Some(Pki::listener(vec![files])) };
    let error = Listeners::bind(&[listener], 1).unwrap_err();
    let ListenError::Tls { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("edge.key") && source.to_string().contains("does not belong"), "{source}");
}

#[tokio::test]
async fn tls_carries_many_small_and_large_answers_to_a_slow_reader() {
    let pki = Pki::new();
    let body = "y".repeat(2 << 20);
    let answer: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_boxed_str());
    let v1 = RawServer::answering(answer).await;
    let edge = edge_over(Pki::listener(vec![pki.issue("edge", &["model.test"])]), &[v1.address]);
    let mut client = tls(pki.client(&["http/1.1"], None), "model.test", edge.address).await.unwrap();
    client.write_all(get("/").as_bytes()).await.unwrap();
    // Lets every buffer on the way run full first.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut received, mut piece) = (Vec::new(), vec![0; 40_000]);
    while !received.ends_with(b"yyyy") || received.len() < body.len() {
        let read = tokio::time::timeout(PATIENCE, client.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "{} bytes", received.len());
        received.extend_from_slice(&piece[..read]);
    }
    edge.expect_outcomes("v1", &[(Outcome::Success, 1)]).await;
}

/// A version that speaks TLS and tells with which protocol it was asked, over how many connections.
async fn secure_version(config: Arc<rustls::ServerConfig>) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, count) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    let said = format!("{:?} {}", request.version(), request.uri().scheme_str().unwrap_or("-"));
                    Ok::<_, std::io::Error>(hyper::Response::new(whole(said)))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                drop(server.serve_connection(io, service).await);
            });
        }
    });
    (address, connections)
}

async fn asked_over(upstream: UpstreamTls, protocol: Protocol, version: SocketAddr) -> (u16, String, TestEdge) {
    let mut secure = route();
    secure.upstream_tls = Some(upstream);
    secure.protocol = protocol;
    let edge = TestEdge::with(secure, &[version], &[]);
    let client = Talk::over(tcp(edge.address).await, false).await;
    let told = client.ask("POST", "/", &[], whole("x")).await;
    let said = if told.status == 200 { String::from_utf8(told.body.to_vec()).unwrap() } else { told.problem() };
    (told.status, said, edge)
}

#[tokio::test]
async fn versions_are_spoken_to_over_tls_and_verified() {
    let (pki, strangers) = (Pki::new(), Pki::new());
    let files = pki.issue("version", &["127.0.0.1", "model.internal"]);
    let (address, _) = secure_version(pki.server(&["h2", "http/1.1"], &files, false)).await;
    let trusted = UpstreamTls { ca: Some(pki.ca()), ..UpstreamTls::default() };
    let named = |name: &str| UpstreamTls { server_name: Some(name.to_owned()), ..trusted.clone() };
    for (upstream, protocol, said) in [
        (trusted.clone(), Protocol::Http1, "HTTP/1.1 -"),
        (trusted.clone(), Protocol::H2, "HTTP/2.0 https"),
        (named("model.internal"), Protocol::H2, "HTTP/2.0 https"),
    ] {
        let (status, heard, _edge) = asked_over(upstream, protocol, address).await;
        assert_eq!((status, heard.as_str()), (200, said));
    }
    let stranger = UpstreamTls { ca: Some(strangers.ca()), ..UpstreamTls::default() };
    for upstream in [stranger, named("other.internal"), UpstreamTls::default()] {
        let (status, code, edge) = asked_over(upstream.clone(), Protocol::H2, address).await;
        assert_eq!((status, code.as_str()), (502, "upstream_connect"), "{upstream:?}");
        edge.expect_outcomes("v1", &[(Outcome::Connect, 1)]).await;
    }
}

#[tokio::test]
async fn the_edge_proves_itself_to_versions_that_ask_and_with_the_newest_certificate() {
    let pki = Pki::new();
    let (address, connections) =
        secure_version(pki.server(&["h2", "http/1.1"], &pki.issue("version", &["127.0.0.1"]), true)).await;
    let without = UpstreamTls { ca: Some(pki.ca()), ..UpstreamTls::default() };
    let identity = pki.issue("edge", &["edge.test"]);
    let with = UpstreamTls { identity: Some(identity.clone()), ..without.clone() };
    let (status, _, _edge) = asked_over(without, Protocol::Http1, address).await;
    assert_eq!(status, 502);
    for protocol in [Protocol::Http1, Protocol::H2] {
        let (status, _, edge) = asked_over(with.clone(), protocol, address).await;
        assert_eq!(status, 200, "{protocol:?}");
        let count = || connections.load(std::sync::atomic::Ordering::SeqCst);
        let ask = async || {
            let client = Talk::over(tcp(edge.address).await, false).await;
            assert_eq!(client.ask("POST", "/", &[], whole("x")).await.status, 200, "{protocol:?}");
        };
        // Each worker of the edge keeps connections of its own.
        let before = count();
        pki.issue("edge", &["edge.test"]);
        let deadline = Instant::now() + PATIENCE;
        while count() < before + crate::harness::WORKERS + 1 {
            assert!(Instant::now() < deadline, "{protocol:?}: the old connections are still used");
            ask().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn h2c_and_http1_versions_do_not_share_connections() {
    let v1 = FakeModel::start("v1").await.unwrap();
    let mut h2c = route();
    h2c.protocol = Protocol::H2c;
    let edge = TestEdge::with(h2c, &[v1.addr()], &[]);
    let client = Talk::over(tcp(edge.address).await, false).await;
    // A version that knows no HTTP/2 fails, and is what is blamed.
    let told = client.ask("GET", "/", &[], whole("")).await;
    assert_eq!(told.status, 502, "{told:?}");
    assert!(eventually(|| edge.outcomes("v1").iter().map(|(_, count)| count).sum::<u64>() == 1).await);
    let blamed = edge.outcomes("v1");
    assert!(matches!(blamed[..], [(Outcome::Reset | Outcome::Connect, 1)]), "{blamed:?}");
}
