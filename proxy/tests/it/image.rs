//! The edge in the root file system of its image: nothing but what `.ci/rootfs` puts there, and a user without rights.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use pointsman_chaos::fakes::FakeModel;

use crate::process::Edge;

/// What libraries, certificates and names of users may have beside the program, in bytes.
const BESIDE_THE_PROGRAM: u64 = 6_000_000;
/// The user of the image.
const NOBODY: &str = "65532";

/// Runs one of the scripts that make images.
fn script(name: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci").join(name);
    let output = Command::new(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    eprint!("{said}");
}

fn entered(root: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(format!("--userspec={NOBODY}:{NOBODY}")).arg(root).env_clear().env("NO_COLOR", "1");
    command.args(["/usr/bin/pointsman", "run", "--config", "/etc/pointsman/pointsman.yaml", "--drain-delay", "0s"]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_serves_in_its_image_as_a_user_without_rights() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("image");
    script("rootfs", &[env!("CARGO_BIN_EXE_pointsman"), root.to_str().unwrap()]);
    let program = fs::metadata(root.join("usr/bin/pointsman")).unwrap().len();
    script("image-check", &[root.to_str().unwrap(), "pointsman", &(program + BESIDE_THE_PROGRAM).to_string()]);
    // Nobody else may enter; the script has said so.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    // What whoever runs a container puts into it.
    fs::create_dir(root.join("dev")).unwrap();
    let null = root.join("dev/null");
    let made =
        Command::new("/usr/bin/mknod").args(["-m", "666", null.to_str().unwrap(), "c", "1", "3"]).status().unwrap();
    assert!(made.success());
    let v1 = FakeModel::start("v1").await.unwrap();
    let config = root.join("etc/pointsman/pointsman.yaml");
    let text = format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]
admin: {{ address: 127.0.0.1:0 }}
routes: [{{ name: model, stable: v1, versions: {{ v1: {{ endpoints: [{}] }} }} }}]
",
        v1.addr()
    );
    fs::write(&config, text).unwrap();
    let mut edge = Edge::started_by(entered(&root), &config).await;
    assert_eq!(edge.version_for("").await, "v1");
    let status = fs::read_to_string(format!("/proc/{}/status", edge.pid())).unwrap();
    assert!(status.contains(&format!("\nUid:\t{NOBODY}\t{NOBODY}\t")), "{status}");
    edge.signal(Signal::SIGTERM);
    assert!(edge.ended().await.success(), "{}", edge.log());
    assert!(root.join("var/lib/pointsman/state.db").exists(), "state has a place where the user may write");
}
