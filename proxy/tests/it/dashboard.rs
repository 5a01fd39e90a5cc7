//! The dashboard in a real browser, on the real program; its stories are in `dashboard/tests`. And: what is committed and
//! embedded is what the sources build.
//!
//! Needs node, what `npm ci` installs in `dashboard`, and chromium. Where one of them is missing a line says so; with
//! `REQUIRE_CHROMIUM=1` that is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pointsman_rollout::Verdict;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard")
}

/// Whether what a test needs is there; says what is missing otherwise.
fn is_there(what: &str, found: bool) -> bool {
    let required = std::env::var("REQUIRE_CHROMIUM").is_ok_and(|value| value == "1");
    assert!(found || !required, "{what}, and REQUIRE_CHROMIUM=1 says that it must");
    if !found {
        eprintln!("skipped: {what}");
    }
    found
}

/// Node and what `npm ci` installs.
fn has_tools() -> bool {
    let node = Command::new("node").arg("--version").output().is_ok_and(|said| said.status.success());
    is_there("node is not here", node)
        && is_there(
            "the dashboard's packages are not here: run `npm ci` in proxy/dashboard",
            folder().join("node_modules/.package-lock.json").is_file(),
        )
}

/// The one that `CHROMIUM` names, or one that the path knows.
fn chromium() -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("CHROMIUM") {
        return Some(PathBuf::from(chosen)).filter(|file| file.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| programs.map(|program| folder.join(program)))
        .find(|file| file.is_file())
}

fn node(arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.current_dir(folder()).args(arguments);
    command
}

#[track_caller]
fn succeeds(said: &Output, what: &str) {
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    eprintln!("{out}");
    assert!(said.status.success(), "{what}\n{out}\n{err}");
}

#[test]
fn every_verdict_and_every_test_has_words_on_the_page() {
    let words = fs::read_to_string(folder().join("src/words.ts")).unwrap();
    for verdict in Verdict::ALL {
        let (name, reason) = (verdict.as_str(), verdict.reason());
        let (exact, whole) = (format!("\"{name} {reason}\": ["), format!("analysis.verdict === \"{name}\""));
        assert!(words.contains(&exact) || words.contains(&whole), "{name} {reason} would be shown as it is");
    }
    for (test, _) in crate::fixture::regression().tests() {
        assert!(words.contains(&format!("    {test}: ")), "{test} would be shown as it is");
    }
}

#[test]
fn what_is_embedded_is_what_the_sources_build() {
    if !has_tools() {
        return;
    }
    succeeds(&node(&["node_modules/typescript/bin/tsc", "--noEmit"]).output().unwrap(), "the sources have their types");
    let built = tempfile::tempdir().unwrap();
    let into = built.path().to_str().unwrap();
    succeeds(&node(&["build.mjs", into]).output().unwrap(), "the sources can be built");
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let dist = folder().join("dist");
    assert_eq!(names(built.path()), ["app.css", "app.js", "icon.svg", "index.html"]);
    assert_eq!(names(&dist), names(built.path()), "nothing else is committed");
    for name in names(built.path()) {
        let [fresh, committed] = [built.path(), &dist].map(|at| fs::read(at.join(&name)).unwrap());
        assert!(
            fresh == committed,
            "dist/{} is not what the sources build: run `npm run build` in proxy/dashboard",
            name.display()
        );
    }
}

#[test]
fn the_stories_of_the_dashboard_in_a_real_browser() {
    if !has_tools() {
        return;
    }
    let Some(chromium) = chromium() else {
        is_there("chromium is not here", false);
        return;
    };
    let mut stories = node(&["node_modules/@playwright/test/cli.js", "test"]);
    stories.env("POINTSMAN", env!("CARGO_BIN_EXE_pointsman")).env("CHROMIUM", chromium);
    stories.env("MODEL_SERVER", crate::models::model_server());
    succeeds(&stories.output().unwrap(), "every story ends well");
}
