//! The server in the root file system of its image: nothing but what `.ci/rootfs` puts there, and a user without rights.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::server::{Server, bundle, row};

/// What libraries, certificates and names of users may have beside the program, in bytes.
const BESIDE_THE_PROGRAM: u64 = 6_000_000;

/// Runs one of the scripts that make images.
fn script(name: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci").join(name);
    let output = Command::new(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    eprint!("{said}");
}

#[test]
fn the_server_predicts_in_its_image_as_a_user_without_rights() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("image");
    script("rootfs", &[env!("CARGO_BIN_EXE_model-server"), root.to_str().unwrap()]);
    let program = fs::metadata(root.join("usr/bin/model-server")).unwrap().len();
    script("image-check", &[root.to_str().unwrap(), "model-server", &(program + BESIDE_THE_PROGRAM).to_string()]);
    // Nobody else may enter; the script has said so.
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    // As the target `examples` leaves it.
    let inside = root.join("models/delivery-time/v1");
    fs::create_dir_all(&inside).unwrap();
    for file in ["model.json", "model.safetensors"] {
        fs::copy(bundle("v1").join(file), inside.join(file)).unwrap();
    }
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg("--userspec=65532:65532").arg(&root).arg("/usr/bin/model-server").env_clear();
    command.env("MODEL_PATH", "/models/delivery-time/v1").env("HOST", "127.0.0.1").env("PORT", "0");
    // As in the image. Without them the server starts itself anew, which takes a /proc.
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1");
    let server = Server::start(&mut command);
    assert_eq!(server.post("/v1/predict", &row().to_string()).json()["version"], "v1");
    server.signal(Signal::SIGTERM);
    assert!(server.ended(Duration::from_secs(20)).success());
}
