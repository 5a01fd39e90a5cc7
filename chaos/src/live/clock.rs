//! A clock that is off, for one process: Debian's `libfaketime` answers for the system when the process asks for the date. What
//! it answers stands in a file and may change while the process runs. How fast time goes is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::LiveError;

/// Where the library is, as its packages have it.
const FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
];
/// For programs with threads.
const LIBRARY: &str = "libfaketimeMT.so.1";

/// Where the library is, if it is installed.
pub(super) fn library() -> Option<PathBuf> {
    FOLDERS.into_iter().map(|folder| Path::new(folder).join(LIBRARY)).find(|path| path.is_file())
}

/// The clock of one process.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// One that is right.
    pub(super) fn new(library: PathBuf, folder: &Path) -> Result<Self, LiveError> {
        let clock = Self { library, file: folder.join("clock") };
        clock.set(false, Duration::ZERO)?;
        Ok(clock)
    }

    /// It is off by so much from now on.
    pub(super) fn set(&self, is_behind: bool, by: Duration) -> Result<(), LiveError> {
        let sign = if is_behind { '-' } else { '+' };
        // In place of the file at once: half a number would be another one.
        let draft = self.file.with_extension("draft");
        fs::write(&draft, format!("{sign}{}\n", by.as_secs()))
            .and_then(|()| fs::rename(&draft, &self.file))
            .map_err(LiveError::Folder)
    }

    /// A process started by this command has this clock.
    pub(super) fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        // The file is read with each question, and timers are not touched.
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("DONT_FAKE_MONOTONIC", "1");
    }
}

/// What to say where it is not installed.
pub(super) fn missing() -> LiveError {
    LiveError::Start { what: "a clock that is off", source: io::Error::new(io::ErrorKind::NotFound, MISSING) }
}

/// The way out.
pub(super) const MISSING: &str = "a clock that is off needs libfaketime; install Debian's package `faketime`";
