//! What the operating system says about this process. A figure that it does not say is absent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

use super::read::number;
use super::{Sample, Scrape};

/// This process.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    started: SystemTime,
}

impl Process {
    /// To be called when the process starts.
    pub fn started_now() -> Self {
        Self { started: SystemTime::now() }
    }
}

fn single(value: Option<f64>) -> Vec<Sample> {
    value.map(|value| Sample::number([], value)).into_iter().collect()
}

pub(super) fn cpu_seconds(_: &Scrape<'_>) -> Vec<Sample> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    single(usage.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time())))
}

fn seconds(time: TimeVal) -> f64 {
    let whole = Duration::from_secs(u64::try_from(time.tv_sec()).unwrap_or_default());
    let rest = Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or_default());
    (whole + rest).as_secs_f64()
}

pub(super) fn resident_bytes(_: &Scrape<'_>) -> Vec<Sample> {
    single(status_field("VmRSS:").map(|kibibytes| number(kibibytes * 1024)))
}

pub(super) fn threads(_: &Scrape<'_>) -> Vec<Sample> {
    single(status_field("Threads:").map(number))
}

/// The first number behind `key` in Linux' `/proc/self/status`.
fn status_field(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

pub(super) fn open_fds(_: &Scrape<'_>) -> Vec<Sample> {
    let open = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    // Reading the folder opens one more.
    single(open.and_then(|count| u64::try_from(count.saturating_sub(1)).ok()).map(number))
}

pub(super) fn max_fds(_: &Scrape<'_>) -> Vec<Sample> {
    single(getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| number(soft)))
}

pub(super) fn start_time(scrape: &Scrape<'_>) -> Vec<Sample> {
    single(scrape.process.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()))
}
