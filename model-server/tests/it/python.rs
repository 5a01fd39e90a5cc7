//! A Python of the tests' own, with packages from `PyPI`. Installing them takes minutes and a network, so it happens only
//! where `REQUIRE_PYTHON` is set; elsewhere a test says that it is skipped.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// The release of Triton's clients that is tried.
pub(crate) const TRITON_CLIENTS: &[&str] = &["tritonclient[http,grpc]==2.73.0"];

/// One at a time: tests may ask for the same packages.
static INSTALLING: Mutex<()> = Mutex::new(());

/// An interpreter that has the packages which were asked for.
pub(crate) struct Python {
    program: PathBuf,
}

/// The interpreter of an environment that is kept beside the build, made when it is not there.
pub(crate) fn with(environment: &str, packages: &[&str]) -> Option<Python> {
    if env::var_os("REQUIRE_PYTHON").is_none() {
        eprintln!("skipped: takes {} from PyPI; REQUIRE_PYTHON=1 installs them and runs this", packages.join(", "));
        return None;
    }
    let one_at_a_time = INSTALLING.lock().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python").join(environment);
    let program = folder.join("bin/python");
    let done = folder.join("installed");
    if !done.is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        // `--no-deps` holds for the packages behind it.
        let (whole, alone) = split(packages);
        install(&program, &[], whole);
        install(&program, &["--no-deps"], alone);
        std::fs::write(done, "").unwrap();
    }
    drop(one_at_a_time);
    Some(Python { program })
}

fn split<'p>(packages: &'p [&'p str]) -> (&'p [&'p str], &'p [&'p str]) {
    match packages.iter().position(|package| *package == "--no-deps") {
        Some(at) => (&packages[..at], &packages[at + 1..]),
        None => (packages, &[]),
    }
}

fn install(program: &Path, options: &[&str], packages: &[&str]) {
    if !packages.is_empty() {
        run(Command::new(program).args(["-m", "pip", "install", "--quiet"]).args(options).args(packages));
    }
}

impl Python {
    /// The interpreter's own path.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs one of the scripts of `tests/python`.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        run(Command::new(self.program()).arg(script).args(arguments));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
