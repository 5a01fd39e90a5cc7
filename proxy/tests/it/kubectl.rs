//! `kubectl pointsman` with the real `kubectl`: the kubeconfig, the Lease, the Secret and the forwarded port are what that
//! makes of them. What it asks of an API server is answered by the fake one; Secrets and forwarded ports, which that does not
//! have, by a front before it, which does the part of the kubelet too.
//!
//! Needs `kubectl`. Where it is missing a line says so; with `REQUIRE_KUBECTL=1` that is a failure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pointsman_chaos::fakes::api_server::{ApiServer, Key, Part, Patch, Resource, Writer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::fixture::{Edge, shifting, view};

const NAMESPACE: &str = "models";
const POD: &str = "pointsman-7f3d";

// ---- what stands before the API server ----

/// What `kubectl` is answered that the fake API server cannot say.
#[derive(Clone)]
struct Facts {
    api: SocketAddr,
    edge: SocketAddr,
    /// None: its user may not read it.
    token: Option<String>,
}

struct Front {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Front {
    async fn start(facts: Facts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let facts = facts.clone();
                // Who breaks off has seen enough.
                tokio::spawn(async move { drop(answer(client, &facts).await) });
            }
        });
        Self { address, task }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut client: TcpStream, facts: &Facts) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split_whitespace().nth(1).unwrap().split('?').next().unwrap();
    if path == format!("/api/v1/namespaces/{NAMESPACE}/pods/{POD}/portforward") {
        forward(client, &head, facts.edge).await
    } else if path == "/api/v1" {
        let kind = |name: &str, kind: &str| json!({ "name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get", "list"] });
        let kinds = [kind("pods", "Pod"), kind("secrets", "Secret")];
        say(client, 200, &json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": kinds })).await
    } else if path.ends_with("/secrets/pointsman-tokens") {
        match &facts.token {
            Some(token) => {
                let (metadata, data) = (json!({ "name": "pointsman-tokens" }), json!({ "admin-token": STANDARD.encode(token) }));
                say(client, 200, &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data })).await
            }
            None => say(client, 403, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "message": "secrets is forbidden", "code": 403 })).await,
        }
    } else {
        let mut api = TcpStream::connect(facts.api).await?;
        let once = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        api.write_all(once.as_bytes()).await?;
        copy_bidirectional(&mut client, &mut api).await.map(drop)
    }
}

async fn say(mut client: TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    client.write_all(format!("{head}{body}").as_bytes()).await
}

// ---- a forwarded port, as a kubelet has it: SPDY/3.1, a stream for errors and one for data for each connection ----

/// Of control frames, their types.
const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const PING: u32 = 6;
/// The last frame of a side of a stream.
const FIN: u8 = 1;

/// The header block of an answer, which says nothing: zlib without its dictionary, four zero bytes as they are, and an empty
/// block behind them. It goes on as one stream, so it begins only once.
const NO_HEADERS: [u8; 16] = [0x78, 0x01, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

type ToKubectl = Arc<Mutex<OwnedWriteHalf>>;

/// `kubectl` asks for a WebSocket first, and takes SPDY where it gets none.
async fn forward(mut client: TcpStream, head: &str, edge: SocketAddr) -> std::io::Result<()> {
    if !head.to_ascii_lowercase().contains("upgrade: spdy/3.1") {
        return say(client, 400, &json!({})).await;
    }
    let upgraded = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: portforward.k8s.io\r\n\r\n";
    client.write_all(upgraded.as_bytes()).await?;
    let (mut frames, to_kubectl) = client.into_split();
    let to_kubectl = Arc::new(Mutex::new(to_kubectl));
    // Whoever sends data is a stream for data; that for errors is ended without any.
    let mut open: HashMap<u32, OwnedWriteHalf> = HashMap::new();
    let mut answered = 0;
    loop {
        let first = frames.read_u32().await?;
        let (flags, length) = (frames.read_u8().await?, read_u24(&mut frames).await?);
        let mut payload = vec![0; length];
        frames.read_exact(&mut payload).await?;
        if first >> 31 == 0 {
            data(first, flags, &payload, (&mut open, edge, &to_kubectl)).await?;
        } else if first & 0xffff == SYN_STREAM {
            let headers = &NO_HEADERS[if answered == 0 { 0 } else { 2 }..];
            answered += 1;
            control(&to_kubectl, SYN_REPLY, &[&payload[..4], headers].concat()).await?;
        } else if first & 0xffff == PING {
            control(&to_kubectl, PING, &payload).await?;
        }
    }
}

async fn read_u24(frames: &mut OwnedReadHalf) -> std::io::Result<usize> {
    Ok((usize::from(frames.read_u8().await?) << 16) | usize::from(frames.read_u16().await?))
}

type Streams<'a> = (&'a mut HashMap<u32, OwnedWriteHalf>, SocketAddr, &'a ToKubectl);

async fn data(stream: u32, flags: u8, bytes: &[u8], (open, edge, to_kubectl): Streams<'_>) -> std::io::Result<()> {
    if !bytes.is_empty() && !open.contains_key(&stream) {
        let (from_edge, to_edge) = TcpStream::connect(edge).await?.into_split();
        open.insert(stream, to_edge);
        tokio::spawn(give_back(stream, from_edge, Arc::clone(to_kubectl)));
    }
    match open.get_mut(&stream) {
        Some(to_edge) => to_edge.write_all(bytes).await?,
        None => frame(to_kubectl, stream, FIN, &[]).await?,
    }
    if flags & FIN != 0 {
        open.remove(&stream);
    }
    Ok(())
}

/// What the edge answers, to its end.
async fn give_back(stream: u32, mut from_edge: OwnedReadHalf, to_kubectl: ToKubectl) -> std::io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from_edge.read(&mut bytes).await?;
        frame(&to_kubectl, stream, if read == 0 { FIN } else { 0 }, &bytes[..read]).await?;
        if read == 0 {
            return Ok(());
        }
    }
}

async fn control(to_kubectl: &ToKubectl, kind: u32, payload: &[u8]) -> std::io::Result<()> {
    frame(to_kubectl, 0x8003_0000 | kind, 0, payload).await
}

async fn frame(to_kubectl: &ToKubectl, first: u32, flags: u8, payload: &[u8]) -> std::io::Result<()> {
    let rest = (u32::from(flags) << 24) | u32::try_from(payload.len()).unwrap();
    let whole = [&first.to_be_bytes()[..], &rest.to_be_bytes()[..], payload].concat();
    to_kubectl.lock().await.write_all(&whole).await
}

// ---- stories ----

/// Whether kubectl is there; says so if not.
fn has_kubectl() -> bool {
    let is_there =
        Command::new("kubectl").args(["version", "--client"]).output().is_ok_and(|said| said.status.success());
    assert!(is_there || std::env::var_os("REQUIRE_KUBECTL").is_none(), "kubectl is not here");
    if !is_there {
        eprintln!("skipped: kubectl is not here; REQUIRE_KUBECTL=1 makes this a failure");
    }
    is_there
}

/// A cluster in which an edge runs, and the plugin beside a kubeconfig.
struct Cluster {
    api: ApiServer,
    _front: Front,
    home: tempfile::TempDir,
}

impl Cluster {
    async fn of(edge: &Edge, token: Option<&str>) -> Self {
        let api = ApiServer::start().await.unwrap();
        let facts = Facts { api: api.addr(), edge: edge.address, token: token.map(str::to_owned) };
        let front = Front::start(facts).await;
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = api.kubeconfig("anna", NAMESPACE).replace(&api.url(), &format!("http://{}", front.address));
        std::fs::write(home.path().join("config"), kubeconfig).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pointsman"), home.path().join("kubectl-pointsman")).unwrap();
        let by = Writer::new("test", SystemTime::now());
        let labels = json!({ "app": "pointsman" });
        let container =
            json!({ "name": "edge", "image": "edge", "ports": [{ "name": "admin", "containerPort": 9900 }] });
        let spec = json!({ "containers": [container] });
        let objects = [
            (
                Resource::Namespace,
                "",
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
            ),
            (
                Resource::Pod,
                NAMESPACE,
                json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": POD, "labels": labels }, "spec": spec }),
            ),
            (
                Resource::Deployment,
                NAMESPACE,
                json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "pointsman" }, "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": spec } } }),
            ),
        ];
        for (resource, namespace, object) in objects {
            api.store().create(resource, namespace, object, &by).unwrap();
        }
        let running = Patch::Merge(
            json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } }),
        );
        api.store().patch(&Key::new(Resource::Pod, NAMESPACE, POD), Part::Status, &running, &by).unwrap();
        Self { api, _front: front, home }
    }

    /// The pod leads.
    fn lead(&self, holder: &str) {
        let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "pointsman" }, "spec": { "holderIdentity": holder } });
        self.api.store().create(Resource::Lease, NAMESPACE, lease, &Writer::new("test", SystemTime::now())).unwrap();
    }

    /// `kubectl pointsman ARGUMENTS`, found by kubectl on the path.
    async fn kubectl_pointsman(&self, arguments: &[&str]) -> Output {
        let home = self.home.path();
        let path = format!("{}:{}", home.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("kubectl");
        command.arg("pointsman").args(arguments).env("PATH", path).env("HOME", home).stdin(Stdio::null());
        command.env("KUBECONFIG", home.join("config")).env("NO_COLOR", "1");
        command.env_remove("POINTSMAN_ADMIN").env_remove("POINTSMAN_TOKEN_FILE");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An edge that asks for the token `session`.
fn locked() -> (Edge, tempfile::NamedTempFile) {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "session").unwrap();
    (Edge::with(view(vec![shifting()]), Vec::new(), Some(token.path().to_owned())), token)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_kubectl_finds_the_leader_forwards_its_port_and_reads_the_token() {
    if !has_kubectl() {
        return;
    }
    let (edge, _token) = tokio::task::spawn_blocking(locked).await.unwrap();
    let cluster = Cluster::of(&edge, Some("session")).await;
    cluster.lead(&format!("{POD}-0badcafe"));
    let told = out(&cluster.kubectl_pointsman(&["status", "delivery-time", "-n", NAMESPACE]).await);
    assert!(told.contains("delivery-time: shifting"), "{told}");
    // The namespace of the context is kubectl's to know.
    let told = out(&cluster.kubectl_pointsman(&["pause", "delivery-time", "--reason", "lunch"]).await);
    assert!(told.contains("decision 44"), "{told}");
    assert_eq!(edge.orders().len(), 1);
    tokio::task::spawn_blocking(move || drop(edge)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_it_asks_any_pod_and_what_is_missing_is_told() {
    if !has_kubectl() {
        return;
    }
    let (edge, _token) = tokio::task::spawn_blocking(locked).await.unwrap();
    let cluster = Cluster::of(&edge, None).await;
    // The way is there; the token is not, which the edge says.
    let refused = cluster.kubectl_pointsman(&["status"]).await;
    assert!(err(&refused).contains("pointsman-tokens"), "{}", err(&refused));
    assert!(err(&refused).contains("--token-file"), "{}", err(&refused));
    let elsewhere = cluster.kubectl_pointsman(&["status", "--edge", "other"]).await;
    let told = err(&elsewhere);
    assert!(told.contains("\"other\" not found") && told.contains("--namespace"), "{told}");
    tokio::task::spawn_blocking(move || drop(edge)).await.unwrap();
}
