//! One JSON line for a request that has ended.
//!
//! Line: observe ► **`access_log`** ► file. The file is looked at before each write and opened anew if it is not the one
//! that stands at its path, so that whatever moves it away (logrotate) need not tell anybody. It is only ever appended to,
//! so that truncating it in place works as well, and so do two processes during an upgrade.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::Version;
use pointsman_config::{AccessLog as Settings, RouteName, VersionId};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{Counts, Record};
use crate::outcome::Outcome;
use crate::recorder::AssignedBy;

/// Lines that wait to be written: a second of a busy edge.
const QUEUE: usize = 16_384;
/// Lines that are written at once.
const BATCH: usize = 1_024;
/// Between two words about lines that were dropped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The data path's end of the log.
#[derive(Debug, Clone)]
pub(super) struct AccessLog {
    settings: Arc<Settings>,
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Line(Arc<Record>),
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Starts the writer; it ends when the last clone of this is gone.
    ///
    /// # Errors
    /// If no thread can be started. A file that cannot be written is no error: it is told, and tried again.
    pub(super) fn start(settings: Settings, counts: Arc<Counts>) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let mut writer =
            Writer { sink: Sink::new(settings.file.clone()), counts: Arc::clone(&counts), told: (0, Instant::now()) };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { settings: Arc::new(settings), queue, counts })
    }

    /// Whether this is the log that `wanted` asks for.
    pub(super) fn is(&self, wanted: &Settings) -> bool {
        *self.settings == *wanted
    }

    /// Whether a request with this outcome is written: what went wrong always, the rest as sampled.
    pub(super) fn takes(&self, outcome: Outcome) -> bool {
        outcome != Outcome::Success || rand::random::<f64>() < self.settings.sample
    }

    pub(super) fn put(&self, record: Arc<Record>) {
        if self.queue.try_send(Message::Line(record)).is_err() {
            self.counts.lines.dropped(1);
        }
    }

    /// Hears when everything that was put is written; none if too much waits.
    pub(super) fn flushed(&self) -> Option<oneshot::Receiver<()>> {
        let (done, flushed) = oneshot::channel();
        self.queue.try_send(Message::Flush(done)).ok().map(|()| flushed)
    }
}

/// The thread that owns the file.
struct Writer {
    sink: Sink,
    counts: Arc<Counts>,
    /// How many dropped lines were told of, and when.
    told: (u64, Instant),
}

impl Writer {
    fn run(&mut self, waiting: &Receiver<Message>) {
        while let Ok(first) = waiting.recv() {
            let (mut text, mut lines, mut flushed) = (Vec::new(), 0, Vec::new());
            for message in std::iter::once(first).chain(waiting.try_iter().take(BATCH)) {
                match message {
                    Message::Line(record) => lines += usize::from(append(&mut text, &record)),
                    Message::Flush(done) => flushed.push(done),
                }
            }
            self.write(&text, lines);
            for done in flushed {
                // Whoever waited may have given up.
                _ = done.send(());
            }
        }
    }

    fn write(&mut self, text: &[u8], lines: usize) {
        let counts = &self.counts.lines;
        if lines > 0 {
            if self.sink.write(text) { counts.sent(lines) } else { counts.dropped(lines) }
        }
        self.tell_of_dropped();
    }

    fn tell_of_dropped(&mut self) {
        let (dropped, (told, when)) = (self.counts.lines.dropped.load(Relaxed), self.told);
        if dropped > told && (told == 0 || when.elapsed() > TELL_EVERY) {
            warn!(lines = dropped - told, "access log lines dropped; its disk is too slow, or cannot be written");
            self.told = (dropped, Instant::now());
        }
    }
}

/// Where lines go.
struct Sink {
    path: Option<PathBuf>,
    /// The open file, and device and number of it.
    file: Option<(File, (u64, u64))>,
    problem: Option<String>,
}

impl Sink {
    fn new(path: Option<PathBuf>) -> Self {
        Self { path, file: None, problem: None }
    }

    /// Whether it could be written; the first of a row of failures is told, and their end.
    fn write(&mut self, text: &[u8]) -> bool {
        let written = match self.path.clone() {
            None => to_stdout(text),
            Some(path) => self.file_at(&path).and_then(|file| file.write_all(text)),
        };
        let place = self.path.as_deref().map_or("standard output".into(), Path::to_string_lossy).into_owned();
        match (&written, self.problem.is_some()) {
            (Ok(()), true) => {
                self.problem = None;
                info!(place, "access log is written again");
            }
            (Err(problem), false) => {
                error!(place, %problem, "access log cannot be written; let this user write there, or name another `access_log.file`");
                self.problem = Some(problem.to_string());
            }
            (Ok(()), false) | (Err(_), true) => {}
        }
        if written.is_err() {
            self.file = None;
        }
        written.is_ok()
    }

    /// The file that stands at the path now.
    fn file_at(&mut self, path: &Path) -> io::Result<&mut File> {
        let in_place = identity(path);
        let open = self.file.take().filter(|(_, identity)| in_place == Some(*identity));
        let open = match open {
            Some(open) => open,
            None => open_at(path)?,
        };
        Ok(&mut self.file.insert(open).0)
    }
}

fn open_at(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = File::options().create(true).append(true).open(path)?;
    let found = file.metadata()?;
    Ok((file, (found.dev(), found.ino())))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn to_stdout(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// A request as its line tells it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    route: Option<&'a str>,
    version: Option<&'a str>,
    assigned: Option<&'static str>,
    client: &'a str,
    method: &'a str,
    host: Option<&'a str>,
    path: &'a str,
    protocol: &'static str,
    status: Option<u16>,
    outcome: &'static str,
    request_bytes: u64,
    response_bytes: u64,
    duration_ms: f64,
    upstream_head_ms: Option<f64>,
    attempts: u32,
    request_id: &'a str,
    trace_id: String,
}

/// Adds a record's line; false if it has none, which a value that is no JSON would be needed for.
fn append(text: &mut Vec<u8>, record: &Record) -> bool {
    let before = text.len();
    let written = serde_json::to_writer(&mut *text, &line(record)).is_ok();
    if written {
        text.push(b'\n');
    } else {
        text.truncate(before);
    }
    written
}

fn line(record: &Record) -> Line<'_> {
    let Record { seen, took, ended } = record;
    Line {
        time: in_words(seen.at),
        route: ended.route.as_ref().map(RouteName::as_str),
        version: ended.version.as_ref().map(VersionId::as_str),
        assigned: ended.assigned_by.map(assigned),
        client: seen.client.to_str().unwrap_or_default(),
        method: &seen.method,
        host: seen.host.as_deref(),
        path: &seen.path,
        protocol: protocol(seen.protocol),
        status: ended.status,
        outcome: ended.outcome.as_str(),
        request_bytes: ended.request_bytes,
        response_bytes: ended.response_bytes,
        duration_ms: milliseconds(*took),
        upstream_head_ms: ended.upstream_head.map(milliseconds),
        attempts: ended.attempts,
        request_id: ended.request_id.to_str().unwrap_or_default(),
        trace_id: format!("{:032x}", ended.trace.id),
    }
}

/// RFC 3339 in UTC.
fn in_words(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

const fn assigned(by: AssignedBy) -> &'static str {
    match by {
        AssignedBy::Chance => "chance",
        AssignedBy::User(_) => "user",
        AssignedBy::Override => "override",
        AssignedBy::Repeat => "repeat",
    }
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn a_disk_that_hangs_costs_lines_and_nobodys_time() {
        let folder = tempfile::tempdir().unwrap();
        // Nobody reads it, so to open it waits for ever.
        let path = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let counts = Arc::<Counts>::default();
        let log = AccessLog::start(Settings { file: Some(path), sample: 1.0 }, Arc::clone(&counts)).unwrap();
        let record = record("/");
        let mut put = 0;
        let mut accepted = || {
            log.put(Arc::clone(&record));
            put += 1;
            put - usize::try_from(counts.lines.dropped.load(Relaxed)).unwrap()
        };
        // The writer hangs with the first line that it took, and may have taken a batch behind it.
        let patience = Instant::now() + Duration::from_mins(1);
        while accepted() <= QUEUE || log.flushed().is_some() {
            assert!(Instant::now() < patience, "the writer takes whatever comes, or nothing");
        }
        for _ in 0..=BATCH {
            assert!(accepted() <= QUEUE + BATCH + 1);
        }
        assert!(counts.lines.dropped.load(Relaxed) > 0);
        assert_eq!(counts.lines.sent.load(Relaxed), 0);
    }

    #[test]
    fn a_line_is_json_whatever_the_path_holds() {
        let mut text = Vec::new();
        let record = record("/a%22b");
        assert!(append(&mut text, &record));
        let line: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&line["path"], &line["status"], &line["version"]), (&"/a%22b".into(), &().into(), &().into()));
        assert_eq!((&line["assigned"], &line["duration_ms"]), (&"user".into(), &1.5.into()));
        assert_eq!(text.split_inclusive(|byte| *byte == b'\n').count(), 1);
    }

    #[test]
    fn what_went_wrong_is_written_whatever_the_sample() {
        let settings = Settings { file: None, sample: 0.0 };
        let (queue, _waiting) = sync_channel(1);
        let log = AccessLog { settings: Arc::new(settings), queue, counts: Arc::default() };
        for outcome in Outcome::ALL {
            assert_eq!(log.takes(outcome), outcome != Outcome::Success);
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_and_one_that_was_cut_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut sink = Sink::new(Some(path.clone()));
        assert!(sink.write(b"1\n") && sink.write(b"2\n"));
        fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        assert!(sink.write(b"3\n"));
        assert_eq!(fs::read_to_string(folder.path().join("access.log.1")).unwrap(), "1\n2\n");
        File::options().write(true).truncate(true).open(&path).unwrap();
        assert!(sink.write(b"4\n"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "4\n");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/access.log");
        let mut sink = Sink::new(Some(path.clone()));
        assert!(!sink.write(b"1\n") && sink.problem.is_some());
        fs::create_dir(folder.path().join("logs")).unwrap();
        assert!(sink.write(b"2\n") && sink.problem.is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "2\n");
    }
}
