//! `.ci/dist`: what is in a release archive, and that the same program makes the same archive, wherever and by whom it is packed;
//! and what a build calls itself. The build itself is left out: a `cargo` that hands over the program of this test stands in
//! its place, and the build script is compiled alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of what the packing needs, in a folder of its own.
fn sources() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    for name in [".ci/dist", "Cargo.toml", "LICENSE", "README.md", "CHANGELOG.md"] {
        let to = folder.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(root.join(name), to).unwrap();
    }
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    let cargo = format!(
        "#!/bin/bash\nset -e\necho \"$@\" > asked\nmkdir -p target/$TARGET/debug\ncp {} target/$TARGET/debug/pointsman\n",
        env!("CARGO_BIN_EXE_pointsman")
    );
    for (name, script) in [("cargo", cargo.as_str()), ("rustc", "#!/bin/bash\necho host: made-up\n")] {
        fs::write(tools.join(name), script).unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The packing in `folder`, by somebody whose files are for `mask`.
fn packing(folder: &Path, mask: &str) -> Command {
    let path = format!("{}:{}", folder.join("tools").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", &format!("umask {mask}; .ci/dist")]).current_dir(folder).env("PATH", path);
    command.env("PROFILE", "dev").env("TARGET", "made-up").env("SOURCE_DATE_EPOCH", "1769828680");
    command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env_remove("STATIC");
    command
}

fn pack(folder: &Path, mask: &str) -> PathBuf {
    let said = out(&packing(folder, mask).output().unwrap());
    assert!(said.contains(concat!("pointsman ", env!("CARGO_PKG_VERSION"))), "{said}");
    let asked = fs::read_to_string(folder.join("asked")).unwrap();
    assert!(asked.starts_with("build --locked "), "{asked}");
    folder.join("target/dist-archives").join(format!("{}.tar.gz", name()))
}

fn name() -> String {
    format!("pointsman-{}-made-up", env!("CARGO_PKG_VERSION"))
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_same_program_makes_the_same_archive_with_all_that_belongs_to_it() {
    let (here, there) = (sources(), sources());
    let archive = pack(here.path(), "022");
    let bytes = fs::read(&archive).unwrap();
    assert!(bytes == fs::read(pack(there.path(), "077")).unwrap(), "another folder, another hand: other bytes");

    let mut checking = Command::new("sha256sum");
    checking.args(["--check", "--strict"]).arg(format!("{}.tar.gz.sha256", name()));
    out(&checking.current_dir(archive.parent().unwrap()).output().unwrap());

    let unpacked = tempfile::tempdir().unwrap();
    out(&Command::new("tar").args(["-xzf", archive.to_str().unwrap()]).current_dir(&unpacked).output().unwrap());
    let root = unpacked.path().join(name());
    let program = root.join("bin/pointsman");
    let version = |program: &Path| out(&Command::new(program).arg("--version").output().unwrap());
    assert_eq!(version(&program), version(Path::new(env!("CARGO_BIN_EXE_pointsman"))));
    let plugin = out(&Command::new(root.join("bin/kubectl-pointsman")).args(["status", "--help"]).output().unwrap());
    assert!(plugin.contains("Usage: kubectl pointsman status"), "{plugin}");
    let files = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    };
    let shells = ["bash", "elvish", "fish", "powershell", "zsh"].map(|shell| format!("pointsman.{shell}"));
    assert_eq!(files("completions"), shells.into());
    assert!(files("man/man1").is_superset(&["pointsman.1".to_owned(), "pointsman-rollback.1".to_owned()].into()));
    let top = ["CHANGELOG.md", "LICENSE", "README.md", "bin", "completions", "man"].map(str::to_owned);
    assert_eq!(files(""), top.into());
    let mode = |file: &str| fs::metadata(root.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/pointsman"), mode("README.md"), mode("man")), (0o755, 0o644, 0o755));
}

#[test]
fn a_program_that_asks_for_a_dynamic_linker_is_not_packed_as_a_static_one() {
    let sources = sources();
    let compiler = sources.path().join("tools/musl-gcc");
    fs::write(&compiler, "#!/bin/bash\n").unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, value) in [("TARGET", "made-unknown-linux-musl"), ("STATIC", "glibc")] {
        let refused = packing(sources.path(), "022").env(name, value).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("is not static"), "{name}={value}: {said}");
    }
}

/// The build script, alone.
struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let mut compile = Command::new("rustc");
        compile.args(["--edition", "2024", "-o"]).arg(folder.path().join("build")).arg(source);
        out(&compile.output().unwrap());
        Self { folder }
    }

    /// What a release build in `folder` calls itself.
    fn version(&self, folder: &Path, environment: &[(&str, &str)]) -> String {
        let mut command = Command::new(self.folder.path().join("build"));
        command.current_dir(folder).env("CARGO_PKG_VERSION", "1.2.3").env("PROFILE", "release");
        command.env_remove("POINTSMAN_COMMIT").env_remove("SOURCE_DATE_EPOCH").envs(environment.iter().copied());
        let told = out(&command.output().unwrap());
        told.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=POINTSMAN_VERSION=")).unwrap().to_owned()
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(arguments).current_dir(folder);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    out(&command.output().unwrap()).trim().to_owned()
}

#[test]
fn a_release_build_names_its_commit_and_a_copy_of_the_sources_names_none_that_is_not_its_own() {
    let script = Script::new();
    let checkout = tempfile::tempdir().unwrap();
    let root = checkout.path();
    fs::write(root.join("build.rs"), "// as it was committed").unwrap();
    assert_eq!(script.version(root, &[]), "1.2.3", "no git, no commit");
    let named = [("POINTSMAN_COMMIT", "0badcafe"), ("SOURCE_DATE_EPOCH", "1769828680")];
    assert_eq!(script.version(root, &named), "1.2.3 (0badcafe, 2026-01-31)", "who packs the sources may know it");

    git(root, &["init", "--quiet"]);
    git(root, &["add", "build.rs"]);
    git(root, &["commit", "--quiet", "--message", "first"]);
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"]);
    assert_eq!(script.version(root, &[]), format!("1.2.3 ({commit})"));
    // A source archive that was unpacked inside of some other repository.
    let inside = root.join("unpacked");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("build.rs"), "// the same sources").unwrap();
    assert_eq!(script.version(&inside, &[]), "1.2.3");
    fs::write(root.join("build.rs"), "// changed since").unwrap();
    assert_eq!(script.version(root, &[]), format!("1.2.3 ({commit}-dirty)"));
}
