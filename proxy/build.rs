//! What this build is made from, for `pointsman --version`: the commit, and whether the files differ from it. Without git, as
//! from a source archive, `POINTSMAN_COMMIT` may name it; else the version stands alone. Nothing of the build machine and no
//! time enters, so the same sources give the same words; `SOURCE_DATE_EPOCH` dates them where it is set. A debug build does
//! not ask git, so that a commit alone rebuilds nothing.

use std::process::Command;

fn main() {
    for input in ["POINTSMAN_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo:rerun-if-env-changed={input}");
    }
    let is_debug = set("PROFILE").is_some_and(|profile| profile == "debug");
    watch(is_debug);
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let built = || if is_debug { Some("debug build".to_owned()) } else { committed() };
    let commit = set("POINTSMAN_COMMIT").or_else(built);
    let date = set("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok()).map(date);
    let details: Vec<String> = commit.into_iter().chain(date).collect();
    let words = if details.is_empty() { version } else { format!("{version} ({})", details.join(", ")) };
    println!("cargo:rustc-env=POINTSMAN_VERSION={words}");
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// The commit that is checked out, `-dirty` behind it where tracked files differ; none unless it is this repository that git
/// finds (a source archive may lie inside another one).
fn committed() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    Some(if is_dirty { format!("{commit}-dirty") } else { commit })
}

/// Runs again when another commit is checked out or something is added to the next one, and with every change of the crate.
fn watch(is_debug: bool) {
    println!("cargo:rerun-if-changed=build.rs");
    if is_debug {
        return;
    }
    println!("cargo:rerun-if-changed=src");
    for file in ["HEAD", "logs/HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// `2026-01-31` of seconds since the Unix epoch (Howard Hinnant, `civil_from_days`).
fn date(epoch_seconds: i64) -> String {
    let days = epoch_seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
