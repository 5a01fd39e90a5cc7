//! Bundles that are no folder here: archives, and stores that break off, refuse, lie, or speak S3.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use model_server::artifact::Sha256;

use crate::python;
use crate::server::{PATIENCE, Server, bundle, program, row};
use crate::store::{Fault, Store};

const FILES: [&str; 2] = ["model.json", "model.safetensors"];
const WEIGHTS: &str = "/models/v1/model.safetensors";

/// A cache of the test's own, and what is served through it.
struct Cache(tempfile::TempDir);

impl Cache {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn program(&self, address: &str) -> Command {
        let mut command = program(Path::new(address));
        command.env("MODEL_CACHE", self.0.path().join("models"));
        command
    }

    /// Served, and predicting.
    fn check(&self, address: &str) {
        self.check_command(&mut self.program(address));
    }

    fn check_command(&self, command: &mut Command) {
        let server = Server::start(command);
        assert_eq!(server.post("/v1/predict", &row().to_string()).json()["version"], "v1");
        assert_eq!(self.whole(), 1, "one whole bundle is kept");
    }

    /// Not served: exit code 1, and one error that says this.
    fn check_refused(&self, address: &str, wanted: &str) {
        refused(&self.program(address).output().unwrap(), wanted);
        assert_eq!(self.whole(), 0, "nothing that was refused is kept");
    }

    /// How many whole bundles are kept.
    fn whole(&self) -> usize {
        self.folders().len()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join("models")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir() && path.extension().is_none()).collect()
    }
}

fn refused(ended: &Output, wanted: &str) {
    let said = String::from_utf8(ended.stderr.clone()).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(wanted), "`{wanted}` not in: {said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
}

fn content(file: &str) -> Vec<u8> {
    fs::read(bundle("v1").join(file)).unwrap()
}

/// What `MODEL_SHA256` is for the bundle that the tests fetch.
fn digest() -> String {
    Sha256::of(&content("model.json")).to_string()
}

fn stored() -> Store {
    let store = Store::start();
    for file in FILES {
        store.put(&format!("/models/v1/{file}"), content(file));
    }
    store
}

/// An archive of some files under these names.
fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn packed(folder: &str) -> Vec<u8> {
    let files = FILES.map(|file| (format!("{folder}{file}"), content(file)));
    tar(&files.each_ref().map(|(name, content)| (name.as_str(), content.clone())))
}

/// A file of the test's own.
fn written(name: &str, content: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, content).unwrap();
    (folder, file.to_str().unwrap().to_owned())
}

#[test]
fn archives_are_served_flat_or_with_their_folder() {
    for (name, archive) in
        [("v1.tar.gz", compressed(&packed("v1/"))), ("v1.tgz", compressed(&packed(""))), ("v1.tar", packed("./"))]
    {
        let (_folder, file) = written(name, &archive);
        Cache::new().check(&file);
        Cache::new().check(&format!("file://{file}"));
    }
}

#[test]
fn archives_that_hold_no_whole_bundle_are_refused() {
    let whole = compressed(&packed("v1/"));
    let of = |name: &str, archive: &[u8], wanted: &str| {
        let (_folder, file) = written(name, archive);
        Cache::new().check_refused(&file, wanted);
    };
    of("cut.tar.gz", &whole[..whole.len() / 2], "cut.tar.gz cannot be unpacked");
    of("none.tar.gz", b"no archive", "none.tar.gz cannot be unpacked");
    of("empty.tar", &tar(&[("readme", b"nothing".to_vec())]), "empty.tar holds no model.json");
    of("deep.tar", &packed("some/where/"), "deep.tar holds no model.json");
    of("half.tar", &tar(&[("model.json", content("model.json"))]), "model.safetensors cannot be read");
    let other = [("model.json", content("model.json")), ("model.safetensors", b"other weights".to_vec())];
    of("other.tar", &tar(&other), "has the SHA-256");
    Cache::new().check_refused("/nowhere/v1.tar.gz", "/nowhere/v1.tar.gz cannot be read");
}

#[test]
fn nothing_is_written_beside_the_cache() {
    let mut archive = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    // The builder itself would refuse such a name.
    header.as_old_mut().name[..14].copy_from_slice(b"../../escaped\0");
    header.set_cksum();
    archive.append(&header, &b"evil"[..]).unwrap();
    let mut bytes = archive.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(packed(""));
    let (_folder, file) = written("v1.tar", &bytes);
    let cache = Cache::new();
    cache.check(&file);
    assert!(!cache.0.path().join("escaped").exists());
}

/// Without a home the cache lies where everybody can make a folder of its name first.
#[test]
fn a_cache_among_temporary_files_is_used_only_when_nobody_else_may_write_there() {
    let store = stored();
    let address = store.url("/models/v1");
    let temporary = tempfile::tempdir().unwrap();
    let cache = temporary.path().join("model-server");
    let start = || {
        let mut command = program(Path::new(&address));
        command.env("TMPDIR", temporary.path());
        command
    };
    fs::create_dir(&cache).unwrap();
    for mode in [0o777, 0o755, 0o770] {
        fs::set_permissions(&cache, Permissions::from_mode(mode)).unwrap();
        refused(&start().output().unwrap(), "others may look or write in it; set MODEL_CACHE");
    }
    fs::remove_dir(&cache).unwrap();
    let elsewhere = temporary.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &cache).unwrap();
    refused(&start().output().unwrap(), "was made by somebody else");
    fs::remove_file(&cache).unwrap();
    for _ in 0..2 {
        Server::start(&mut start());
        assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_fetch_that_breaks_off_goes_on_where_it_was() {
    let store = stored();
    store.break_off(WEIGHTS, &[Fault::CutAfter(10_000), Fault::Status(503), Fault::CutAfter(5_000)]);
    let cache = Cache::new();
    cache.check(&store.url("/models/v1"));
    let ranges: Vec<_> = store.asked(WEIGHTS).into_iter().map(|asked| asked.range).collect();
    let from = |byte: &str| Some(format!("bytes={byte}-"));
    assert_eq!(ranges, [None, from("10000"), from("10000"), from("15000")]);
    let kept = fs::read(cache.folders()[0].join("model.safetensors")).unwrap();
    assert_eq!(kept, content("model.safetensors"));
    assert_eq!(fs::read_dir(&cache.folders()[0]).unwrap().count(), FILES.len(), "nothing else is left");
}

#[test]
fn a_store_without_ranges_is_asked_for_the_whole_file() {
    let store = stored();
    store.forget_ranges();
    store.break_off(WEIGHTS, &[Fault::CutAfter(10_000)]);
    Cache::new().check(&store.url("/models/v1/"));
    assert_eq!(store.asked(WEIGHTS).last().unwrap().range, None);
}

#[test]
fn a_file_that_changes_meanwhile_is_fetched_anew() {
    let store = stored();
    store.put(WEIGHTS, vec![7; 40_000]);
    let cache = Cache::new();
    // What broke off at the end of one start is gone on with by the next, unless it is another file by then.
    store.break_off(WEIGHTS, &[[Fault::CutAfter(30_000)].as_slice(), &[Fault::CutAfter(0); 9]].concat());
    let ended = cache.program(&store.url("/models/v1")).output().unwrap();
    refused(&ended, "cannot be fetched, 6 attempts failed; start again to go on from 30000 bytes");
    store.break_off(WEIGHTS, &[]);
    store.put(WEIGHTS, content("model.safetensors"));
    cache.check(&store.url("/models/v1"));
}

#[test]
fn what_a_store_does_not_have_is_said_at_once() {
    let store = stored();
    Cache::new().check_refused(&store.url("/models/v9"), "/models/v9/model.json cannot be fetched; check the address");
    assert_eq!(store.asked("/models/v9/model.json").len(), 1, "asked once");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Cache::new().check_refused(&format!("http://{nobody}/v1"), "6 attempts failed");
}

#[test]
fn files_that_are_not_what_their_digests_say_are_never_kept() {
    let store = stored();
    let mut wrong = content("model.safetensors");
    wrong.truncate(20_000);
    store.put(WEIGHTS, wrong);
    let cache = Cache::new();
    cache.check_refused(&store.url("/models/v1"), "has the SHA-256");
    store.put(WEIGHTS, content("model.safetensors"));
    cache.check(&store.url("/models/v1"));
    let promised = "0".repeat(64);
    let ended = cache.program(&store.url("/models/v1")).env("MODEL_SHA256", &promised).output().unwrap();
    refused(&ended, "MODEL_SHA256 promises 0000");
    store.put("/models/v1/model.json", b"{ not json".to_vec());
    Cache::new().check_refused(&store.url("/models/v1"), "/models/v1/model.json cannot be understood");
    store.put("/models/v1/model.json", br#"{"digests": {"../../x": "00"}}"#.to_vec());
    Cache::new().check_refused(&store.url("/models/v1"), "is no plain file name");
}

#[test]
fn a_promised_bundle_in_the_cache_needs_no_store() {
    let store = stored();
    let cache = Cache::new();
    cache.check(&store.url("/models/v1"));
    let nowhere = "http://127.0.0.1:9/models/v1";
    cache.check_command(cache.program(nowhere).env("MODEL_SHA256", digest()));
    // One that was spoilt is fetched again.
    fs::write(cache.folders()[0].join("model.safetensors"), b"spoilt").unwrap();
    cache.check(&store.url("/models/v1"));
    assert_eq!(store.asked(WEIGHTS).len(), 2);
}

#[test]
fn an_archive_in_a_store_is_fetched_and_unpacked() {
    let store = Store::start();
    store.put("/v1.tar.gz", compressed(&packed("v1/")));
    store.break_off("/v1.tar.gz", &[Fault::CutAfter(10_000)]);
    Cache::new().check(&store.url("/v1.tar.gz"));
    assert_eq!(store.asked("/v1.tar.gz").len(), 2);
}

#[test]
fn what_is_fetched_is_verified_and_described_too() {
    let store = stored();
    let cache = Cache::new();
    let asked = |order: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_model-server"));
        let command = command.env_clear().arg(order).arg(store.url("/models/v1"));
        let output = command.arg("--model-cache").arg(cache.0.path().join("models")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(asked("verify").contains("would be served"));
    assert!(asked("describe").contains("delivery-time v1"));
}

#[test]
fn a_bucket_behind_gs_is_read_by_its_name_and_path() {
    let store = Store::start();
    for file in FILES {
        store.put(&format!("/bucket/models/v1/{file}"), content(file));
    }
    store.break_off("/bucket/models/v1/model.safetensors", &[Fault::CutAfter(10_000)]);
    let cache = Cache::new();
    let mut command = cache.program("gs://bucket/models/v1");
    command.env("GOOGLE_BASE_URL", store.url("")).env("GOOGLE_SKIP_SIGNATURE", "true");
    cache.check_command(&mut command);
    let ranges: Vec<_> = store.asked("/bucket/models/v1/model.safetensors").into_iter().map(|a| a.range).collect();
    assert_eq!(ranges, [None, Some("bytes=10000-".to_owned())]);
}

/// Who asks: moto wants a name, and believes every signature.
const ANYBODY: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";

/// A server that speaks S3.
struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    fn start(python: &python::Python) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python.program().with_file_name("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moto = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        let start = std::time::Instant::now();
        while moto.put("/models", &[]).is_err() {
            assert!(start.elapsed() < 3 * PATIENCE, "moto does not answer");
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        moto
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), ureq::Error> {
        let request = ureq::put(format!("{}{path}", self.endpoint)).header("authorization", ANYBODY);
        request.send(content).map(drop)
    }

    /// The tag that the store gave a file.
    fn tag(&self, path: &str) -> Vec<u8> {
        let request = ureq::head(format!("{}{path}", self.endpoint)).header("authorization", ANYBODY);
        request.call().unwrap().headers()["etag"].as_bytes().to_vec()
    }

    fn program(&self, cache: &Cache, address: &str) -> Command {
        let mut command = cache.program(address);
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn bundles_come_from_a_store_that_speaks_s3() {
    let Some(python) = python::with("s3", &["moto[server,s3]"]) else {
        return;
    };
    let moto = Moto::start(&python);
    for file in FILES {
        moto.put(&format!("/models/delivery/v1/{file}"), &content(file)).unwrap();
    }
    moto.put("/models/v1.tar.gz", &compressed(&packed("v1/"))).unwrap();
    moto.put("/models/cut.tar.gz", &compressed(&packed("v1/"))[..9_000]).unwrap();
    let cache = Cache::new();
    cache.check_command(&mut moto.program(&cache, "s3://models/delivery/v1"));
    let cache = Cache::new();
    cache.check_command(&mut moto.program(&cache, "s3://models/v1.tar.gz"));
    for (address, wanted) in [
        ("s3://models/delivery/v9", "s3://models/delivery/v9/model.json cannot be fetched; check the address"),
        ("s3://nobucket/v1", "s3://nobucket/v1/model.json cannot be fetched; check the address"),
        ("s3://models/cut.tar.gz", "cut.tar.gz cannot be unpacked"),
    ] {
        refused(&moto.program(&Cache::new(), address).output().unwrap(), wanted);
    }
}

#[test]
fn a_half_file_in_a_store_that_speaks_s3_is_gone_on_with() {
    let Some(python) = python::with("s3", &["moto[server,s3]"]) else {
        return;
    };
    let moto = Moto::start(&python);
    let cache = Cache::new();
    // Half of the weights under the store's own tag are what a start leaves that was killed.
    for file in FILES {
        moto.put(&format!("/models/v1/{file}"), &content(file)).unwrap();
    }
    let arriving = cache.0.path().join("models").join(format!("{}.arriving", digest()));
    fs::create_dir_all(&arriving).unwrap();
    fs::write(arriving.join("model.safetensors.part"), &content("model.safetensors")[..20_000]).unwrap();
    fs::write(arriving.join("model.safetensors.tag"), moto.tag(WEIGHTS)).unwrap();
    cache.check_command(&mut moto.program(&cache, "s3://models/v1"));
}

/// The same bundle under another name, and so another bundle: its weights, its digest, its folder in the cache.
fn renamed(store: &Store, path: &str, version: &str) {
    let mut model: serde_json::Value = serde_json::from_slice(&content("model.json")).unwrap();
    model["version"] = version.into();
    store.put(&format!("{path}/model.json"), model.to_string().into_bytes());
    store.put(&format!("{path}/model.safetensors"), content("model.safetensors"));
}

#[test]
fn the_cache_keeps_the_bundles_that_were_used_last_and_every_one_in_use() {
    let store = Store::start();
    for version in ["a", "b", "c", "d"] {
        renamed(&store, &format!("/{version}"), version);
    }
    let cache = Cache::new();
    let serve = |version: &str| {
        let server = Server::start(cache.program(&store.url(&format!("/{version}"))).env("MODEL_CACHE_KEEP", "2"));
        assert_eq!(server.post("/v1/predict", &row().to_string()).json()["version"], version);
        server
    };
    let fetched = |version: &str| store.asked(&format!("/{version}/model.safetensors")).len();
    let long_lived = serve("a");
    drop(serve("b"));
    drop(serve("c"));
    assert_eq!(cache.whole(), 2, "the one in use, and the last");
    drop(serve("d"));
    assert_eq!((cache.whole(), fetched("b"), fetched("c")), (2, 1, 1));
    drop(serve("a"));
    assert_eq!(fetched("a"), 1, "it was in use, so it is still there");
    drop(long_lived);
    drop(serve("c"));
    assert_eq!(fetched("c"), 2, "it was removed");
    drop(serve("b"));
    drop(serve("a"));
    assert_eq!(fetched("a"), 2, "nobody used it any more");
    let left = fs::read_dir(cache.0.path().join("models")).unwrap().count();
    assert_eq!(left, 2 * 2, "each with the file that says who uses it, and nothing else");
}

/// Three servers that are started at once, all of which serve in the end.
fn check_at_once(commands: [Command; 3]) {
    std::thread::scope(|scope| {
        let servers: Vec<_> =
            commands.into_iter().map(|mut command| scope.spawn(move || Server::start(&mut command))).collect();
        for server in servers {
            assert_eq!(server.join().unwrap().post("/v1/predict", &row().to_string()).status, 200);
        }
    });
}

#[test]
fn servers_that_start_at_once_on_one_cache_fetch_a_bundle_once() {
    let store = stored();
    store.break_off(WEIGHTS, &[Fault::CutAfter(10_000), Fault::Status(503)]);
    let cache = Cache::new();
    check_at_once([(); 3].map(|()| cache.program(&store.url("/models/v1"))));
    assert_eq!(store.asked(WEIGHTS).len(), 3, "twice in vain, once whole");
    assert_eq!(cache.whole(), 1);
}

#[test]
fn servers_that_start_at_once_fetch_an_archive_with_a_promised_bundle_once() {
    const ARCHIVE: &str = "/models/v1.tar.gz";
    let (store, cache) = (Store::start(), Cache::new());
    store.put(ARCHIVE, compressed(&packed("v1/")));
    store.break_off(ARCHIVE, &[Fault::CutAfter(10_000), Fault::Status(503)]);
    let promising = |()| {
        let mut command = cache.program(&store.url(ARCHIVE));
        command.env("MODEL_SHA256", digest());
        command
    };
    check_at_once([(); 3].map(promising));
    assert_eq!(store.asked(ARCHIVE).len(), 3, "twice in vain, once whole");
    let left = fs::read_dir(cache.0.path().join("models")).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<PathBuf> = left.filter(|path| path.extension().is_none_or(|end| end != "used")).collect();
    assert_eq!(left, cache.folders(), "nothing but the bundle is left");
    assert_eq!(left.len(), 1);
}

#[test]
fn servers_that_start_at_once_fetch_an_archive_one_after_the_other_without_a_digest() {
    const ARCHIVE: &str = "/models/v1.tar";
    let (store, cache) = (Store::start(), Cache::new());
    store.put(ARCHIVE, packed("v1/"));
    check_at_once([(); 3].map(|()| cache.program(&store.url(ARCHIVE))));
    assert_eq!(cache.whole(), 1);
}

/// A file system of its own, as small as it is told, for as long as the test runs.
struct Tiny(tempfile::TempDir);

impl Tiny {
    /// Nothing where file systems may not be mounted.
    fn mounted(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tiny"])
            .arg(folder.path())
            .output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Self(folder))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok();
    }
}

#[test]
fn a_full_disk_is_one_clear_error_and_leaves_no_half_a_model() {
    let Some(disk) = Tiny::mounted("40k") else {
        eprintln!("skipped: only root may mount a small disk");
        return;
    };
    let store = stored();
    store.put("/v1.tar.gz", compressed(&packed("v1/")));
    let (_folder, archive) = written("v1.tar", &packed("v1/"));
    for address in [store.url("/models/v1"), store.url("/v1.tar.gz"), archive] {
        let mut command = program(Path::new(&address));
        let ended = command.env("MODEL_CACHE", disk.0.path().join("models")).output().unwrap();
        refused(&ended, "the disk is full; make room in MODEL_CACHE");
        let entries: Vec<_> = fs::read_dir(disk.0.path().join("models")).into_iter().flatten().flatten().collect();
        let whole = entries.iter().filter(|entry| entry.file_name().to_str().unwrap().len() == 64).count();
        assert_eq!(whole, 0, "{entries:?}");
        fs::remove_dir_all(disk.0.path().join("models")).unwrap();
    }
    // With room it goes.
    drop(disk);
    Cache::new().check(&store.url("/models/v1"));
}

#[test]
fn on_a_terminal_a_bar_says_how_far_a_fetch_is() {
    let store = stored();
    let cache = Cache::new();
    let folder = cache.0.path().join("models");
    let describe = format!(
        "{} describe {} --model-cache {}",
        env!("CARGO_BIN_EXE_model-server"),
        store.url("/models/v1"),
        folder.display()
    );
    // A terminal of its own, which only shows what is written to it.
    let shown =
        Command::new("script").args(["--quiet", "--return", "--command", &describe, "/dev/null"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let whole = format!("model.safetensors [{}] 100% ", "#".repeat(30));
    assert!(shown.split('\r').any(|line| line.starts_with(&whole) && line.trim_end().ends_with("MB/s")), "{shown}");
    assert!(shown.contains("delivery-time v1"), "{shown}");
    assert!(!shown.contains("percent="), "a bar in place of lines");
}
