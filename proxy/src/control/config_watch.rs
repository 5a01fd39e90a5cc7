//! Sees every change of the config file, whichever way it is written, and hands the loop what it means.
//!
//! Line: file ► **`config_watch`** ► config ► phase. Watched is the *folder*: editors and `ConfigMap`s replace the file, and
//! a watch on the file itself hears of that once and never again. Events only say that it is time to look; what counts
//! is the content. File systems without events are covered by looking every two seconds.
//!
//! The thread reads and parses, so that neither a slow file system nor a large file holds up the loop.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use pointsman_config::{Config, Parsed, Problem};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tracing::warn;

use super::state::in_words;
use crate::upstream;
use crate::user_cookie::{SecretFiles, read_secrets};

/// The file must have been left alone for this long before it is read.
const SETTLED: Duration = Duration::from_millis(150);
/// A file that is never left alone is read after this long.
const SETTLE_AT_MOST: Duration = Duration::from_millis(400);
/// A file that was put in place whole, by a rename, is read after this long, if the last one was read long enough ago.
const SETTLED_WHOLE: Duration = Duration::from_millis(20);
/// Edits that follow each other faster than this are taken together.
const RESTED: Duration = Duration::from_millis(500);
/// Between two looks at the file while it settles.
const LOOK: Duration = Duration::from_millis(25);
/// Between two looks at the content without any event.
const POLL: Duration = Duration::from_secs(2);
/// The largest config file; thousands of routes stay far below it.
const LARGEST: u64 = 1 << 20;
/// Links that are followed from the file's name to the file.
const MOST_LINKS: usize = 16;

/// What a look at the file came to.
#[derive(Debug)]
pub(crate) enum Reload {
    /// A new text that can be used.
    Accepted(Box<Edit>),
    /// A text that cannot be used, or none at all; told once for each text.
    Refused(Refusal),
    /// After a refusal the file is again what is in force.
    Restored,
}

/// A new text that can be used.
#[derive(Debug)]
pub(crate) struct Edit {
    /// What it says.
    pub(crate) config: Config,
    /// What someone should look at.
    pub(crate) warnings: Vec<Problem>,
    /// SHA-256 of the text, in hexadecimal.
    pub(crate) hash: String,
    /// What stands in the files that it names secrets by.
    pub(crate) secrets: SecretFiles,
}

/// Why the file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// SHA-256 of the text, in hexadecimal; empty if there is none.
    pub(crate) hash: String,
    /// Every problem and its way out.
    pub(crate) problems: Vec<String>,
}

/// The bytes of the config file at `path`. Never waits for a writer, as a FIFO would have it, and never takes in more than
/// 1 MiB, whatever stands at the path.
///
/// # Errors
/// If it cannot be read, is no regular file or is larger than 1 MiB.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    must_be_regular(&fs::metadata(path)?)?;
    let file = fs::File::options().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    // Another one may stand there by now.
    must_be_regular(&file.metadata()?)?;
    read_bounded(file)
}

/// As [`read_file`], for text.
///
/// # Errors
/// As [`read_file`], and if it is no UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    text_of(read_file(path)?)
}

/// As [`read_text`], from what is open already.
///
/// # Errors
/// If it cannot be read, is larger than 1 MiB or no UTF-8.
pub(crate) fn read_text_from(source: impl io::Read) -> io::Result<String> {
    text_of(read_bounded(source)?)
}

fn read_bounded(source: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if u64::try_from(source.take(LARGEST + 1).read_to_end(&mut bytes)?).is_ok_and(|read| read <= LARGEST) {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"))
    }
}

fn text_of(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("this is no UTF-8 text: {}", error.utf8_error()))
    })
}

fn must_be_regular(found: &fs::Metadata) -> io::Result<()> {
    if found.is_file() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")) }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hash_of(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Relative paths in a config file start from the file's folder, wherever the process was started.
pub(crate) fn with_whole_paths(mut config: Config, file: &Path) -> Config {
    let folder = folder_of(file);
    for path in config.paths_mut() {
        *path = folder.join(&*path);
    }
    config
}

/// Time to look at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nudge {
    /// Something happened in its folder.
    Event,
    /// The file, or a link on the way to it, was replaced by a rename: what stands there is whole.
    Replaced,
    /// An operator wants it read, changed or not.
    Forced,
}

/// The running watch; dropped, it ends.
#[derive(Debug)]
pub(crate) struct ConfigWatch {
    nudges: SyncSender<Nudge>,
}

impl ConfigWatch {
    /// Watches the file at `path`, whose text with the hash `in_force` is in force.
    ///
    /// # Errors
    /// If no thread can be started. A folder that cannot be watched is no error: the file is looked at every two seconds.
    pub(crate) fn start(path: PathBuf, in_force: String, reloads: mpsc::UnboundedSender<Reload>) -> io::Result<Self> {
        let (nudges, waiting) = sync_channel(16);
        let watched = Watched::new(nudges.clone(), path.clone());
        let reader = Reader::new(path, in_force);
        thread::Builder::new()
            .name("control-config".to_owned())
            .spawn(move || watch(reader, watched, &waiting, &reloads))?;
        Ok(Self { nudges })
    }

    /// Has the file read now, changed or not.
    pub(crate) fn reload(&self) {
        // A full queue holds nudges enough.
        _ = self.nudges.try_send(Nudge::Forced);
    }
}

fn watch(mut reader: Reader, mut watched: Watched, nudged: &Receiver<Nudge>, reloads: &mpsc::UnboundedSender<Reload>) {
    let mut why = Look::AtContent;
    let mut replaced = false;
    loop {
        watched.follow(&reader.path);
        let mut forced = why == Look::Forced;
        if forced || reader.has_changed(why) {
            forced |= settle(&reader, nudged, replaced);
            let news = reader.read(forced);
            if news.is_some_and(|news| reloads.send(news).is_err()) {
                return;
            }
        }
        let nudge = nudged.recv_timeout(reader.until_poll());
        replaced = nudge == Ok(Nudge::Replaced);
        why = match nudge {
            Ok(Nudge::Forced) => Look::Forced,
            Ok(Nudge::Event | Nudge::Replaced) => Look::AtSignature,
            Err(RecvTimeoutError::Timeout) => Look::AtContent,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if reloads.is_closed() {
            return;
        }
    }
}

/// How closely the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Something happened in the folder, in which others may write all the time: size and times tell whether to read.
    AtSignature,
    /// It is time to look for what events and times did not tell.
    AtContent,
    /// An operator wants it read, changed or not.
    Forced,
}

/// Waits until the file has been left alone for a while; true if an operator asked for it to be read meanwhile.
///
/// What counts is the file and not the folder, in which others may write all the time. One that was `replaced` by a rename
/// is whole already; only edits in quick succession are worth waiting for then.
fn settle(reader: &Reader, nudged: &Receiver<Nudge>, replaced: bool) -> bool {
    let start = Instant::now();
    let (mut seen, mut since) = (Signature::of(&reader.path), start);
    let rested = reader.was_read_before(RESTED);
    let mut heard = Heard { replaced, forced: false };
    loop {
        let patience = if heard.replaced && rested { SETTLED_WHOLE } else { SETTLED };
        if since.elapsed() >= patience || start.elapsed() >= SETTLE_AT_MOST {
            return heard.forced;
        }
        heard.listen(nudged, LOOK.min(patience));
        let now = Signature::of(&reader.path);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

/// What came in while the file settled.
#[derive(Debug, Clone, Copy)]
struct Heard {
    replaced: bool,
    forced: bool,
}

impl Heard {
    /// Takes nudges for the time of `span`.
    fn listen(&mut self, nudged: &Receiver<Nudge>, span: Duration) {
        let until = Instant::now() + span;
        loop {
            match nudged.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Nudge::Forced) => self.forced = true,
                Ok(Nudge::Replaced) => self.replaced = true,
                Ok(Nudge::Event) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// What tells two states of a file apart without reading it; none while there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature(Option<(u64, u64, u64, i64, i64)>);

impl Signature {
    fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec())))
    }
}

/// Reads the file and knows what it said before.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    in_force: String,
    /// The hash of the last text, or why there was none.
    last: String,
    /// How the file was when it was last read.
    signature: Signature,
    polled: Instant,
    /// When a text was last taken in.
    read: Option<Instant>,
}

impl Reader {
    fn new(path: PathBuf, in_force: String) -> Self {
        Self { path, last: in_force.clone(), in_force, signature: Signature(None), polled: Instant::now(), read: None }
    }

    /// How long until the content is looked at without any event.
    fn until_poll(&self) -> Duration {
        POLL.saturating_sub(self.polled.elapsed())
    }

    /// Whether the last text was taken in at least `span` ago.
    fn was_read_before(&self, span: Duration) -> bool {
        self.read.is_none_or(|read| read.elapsed() >= span)
    }

    /// Whether the file says something else than at the last look.
    fn has_changed(&mut self, look: Look) -> bool {
        let signature = Signature::of(&self.path);
        if look == Look::AtSignature && signature == self.signature {
            return false;
        }
        self.signature = signature;
        self.polled = Instant::now();
        let now = match read_file(&self.path) {
            Ok(text) => hash_of(&text),
            Err(error) => unreadable(&error),
        };
        now != self.last
    }

    fn read(&mut self, forced: bool) -> Option<Reload> {
        self.signature = Signature::of(&self.path);
        self.read = Some(Instant::now());
        let text = read_file(&self.path);
        self.judge(text, forced)
    }

    /// What `text` means after what was there before; nothing if it says nothing new.
    fn judge(&mut self, text: io::Result<Vec<u8>>, forced: bool) -> Option<Reload> {
        let now = text.as_ref().map_or_else(unreadable, |text| hash_of(text));
        let before = std::mem::replace(&mut self.last, now.clone());
        if now == self.in_force {
            return (before != now).then_some(Reload::Restored);
        }
        (before != now || forced).then(|| self.parse(text, now))
    }

    fn parse(&mut self, text: io::Result<Vec<u8>>, hash: String) -> Reload {
        let origin = self.path.display().to_string();
        let text = match text.map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                return refused(hash, format!("{origin}: this is no text: {}; write it as UTF-8", error.utf8_error()));
            }
            Err(error) => {
                return refused(
                    String::new(),
                    format!(
                        "{origin}: the file cannot be read: {error}; put it back, the last good one stays in force"
                    ),
                );
            }
        };
        match Config::parse(&text, &origin) {
            Ok(parsed) => self.with_secrets(parsed, hash),
            Err(errors) => {
                Reload::Refused(Refusal { hash, problems: errors.problems().iter().map(ToString::to_string).collect() })
            }
        }
    }

    /// The config is good; what it names beside itself must be as well.
    fn with_secrets(&mut self, parsed: Parsed, hash: String) -> Reload {
        let config = with_whole_paths(parsed.config, &self.path);
        if let Err(error) = upstream::check(&config) {
            return refused(hash, in_words(&error));
        }
        match read_secrets(&config) {
            Ok(secrets) => {
                self.in_force.clone_from(&hash);
                Reload::Accepted(Box::new(Edit { config, warnings: parsed.warnings, hash, secrets }))
            }
            Err(error) => refused(hash, in_words(&error)),
        }
    }
}

/// Stands for the hash of a file that cannot be read.
fn unreadable(error: &io::Error) -> String {
    format!("unreadable: {:?}", error.kind())
}

fn refused(hash: String, problem: String) -> Reload {
    Reload::Refused(Refusal { hash, problems: vec![problem] })
}

/// The folders whose events are heard.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    /// With device and number: a folder that was replaced has to be watched anew.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Folders that cannot be watched, so that this is told once.
    deaf: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watched {
    /// Nudges whenever something happens on the way to `file`.
    fn new(nudges: SyncSender<Nudge>, file: PathBuf) -> Self {
        let told = move |event: notify::Result<notify::Event>| {
            // Reading the file makes events of its own; to heed those would never end. An error may hide events.
            let ours = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if !ours {
                let replaced = event.is_ok_and(|event| puts_in_place(&event, &file));
                _ = nudges.try_send(if replaced { Nudge::Replaced } else { Nudge::Event });
            }
        };
        let watcher = notify::recommended_watcher(told);
        if let Err(error) = &watcher {
            warn!(%error, "file events cannot be heard; the config file is looked at every two seconds");
        }
        Self { watcher: watcher.ok(), folders: BTreeMap::new(), deaf: BTreeMap::new() }
    }

    /// Watches the folders on the way to the file as it is now.
    fn follow(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = folders_to(path);
        self.folders.retain(|folder, identity| {
            let stays = wanted.get(folder) == Some(identity);
            if !stays {
                // A folder that is gone has lost its watch already.
                drop(watcher.unwatch(folder));
            }
            stays
        });
        for (folder, identity) in wanted {
            if self.folders.contains_key(&folder) || self.deaf.get(&folder) == Some(&identity) {
                continue;
            }
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder, identity)),
                Err(error) => {
                    warn!(folder = %folder.display(), %error, "folder cannot be watched; the config file is looked at every two seconds");
                    self.deaf.insert(folder, identity);
                }
            }
        }
    }
}

/// Whether `event` tells that a rename put the file, or, where it is a link, something on its way, in place.
fn puts_in_place(event: &notify::Event, file: &Path) -> bool {
    let is_rename = matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)));
    let target = event.paths.last().and_then(|path| path.file_name());
    is_rename && (target == file.file_name() || file.is_symlink())
}

/// Every folder on the way from `path` through its links to the file, as far as it exists.
fn folders_to(path: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut folders = BTreeMap::new();
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let folder = folder_of(&path);
        if let Ok(found) = fs::metadata(&folder) {
            folders.insert(folder.clone(), (found.dev(), found.ino()));
        }
        match fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => break,
        }
    }
    folders
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "listeners: [{ address: 127.0.0.1:0 }]\nroutes: [{ name: r, stable: v1, versions: { v1: { endpoints: [127.0.0.1:9001] } } }]\n";

    fn reader() -> Reader {
        Reader::new(PathBuf::from("pointsman.yaml"), hash_of(b"in force"))
    }

    fn gone() -> io::Result<Vec<u8>> {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    #[expect(clippy::unnecessary_wraps, reason = "stands beside `gone`")]
    fn text(text: &str) -> io::Result<Vec<u8>> {
        Ok(text.as_bytes().to_vec())
    }

    /// How long a file at rest is waited for after `nudge`, if one was read `ago`.
    fn settles_after(nudge: Option<Nudge>, ago: Option<Duration>) -> Duration {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(folder.path().join("pointsman.yaml"), String::new());
        reader.read = ago.and_then(|ago| Instant::now().checked_sub(ago));
        let (tell, nudged) = sync_channel(1);
        if let Some(nudge) = nudge {
            tell.send(nudge).unwrap();
        }
        let began = Instant::now();
        assert_eq!(settle(&reader, &nudged, false), nudge == Some(Nudge::Forced));
        began.elapsed()
    }

    #[test]
    fn only_a_whole_file_after_a_rest_is_not_waited_for() {
        // The quickest of several, since other tests keep the machine busy.
        let quickest = |ago| (0..5).map(|_| settles_after(Some(Nudge::Replaced), ago)).min().unwrap();
        assert!(quickest(None) < SETTLED);
        assert!(quickest(Some(RESTED)) < SETTLED);
        assert!(quickest(Some(Duration::ZERO)) >= SETTLED);
        assert!(settles_after(Some(Nudge::Event), None) >= SETTLED);
        assert!(settles_after(Some(Nudge::Forced), None) >= SETTLED);
    }

    #[test]
    fn a_rename_onto_the_file_puts_it_in_place_and_one_beside_it_does_not() {
        let event = |mode, to: &str| {
            notify::Event::new(EventKind::Modify(ModifyKind::Name(mode))).add_path(PathBuf::from("/etc").join(to))
        };
        let file = Path::new("/etc/pointsman.yaml");
        assert!(puts_in_place(&event(RenameMode::To, "pointsman.yaml"), file));
        assert!(!puts_in_place(&event(RenameMode::From, "pointsman.yaml"), file));
        assert!(!puts_in_place(&event(RenameMode::To, "pointsman.yaml~"), file), "an editor's backup");
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("pointsman.yaml");
        std::os::unix::fs::symlink("..data/pointsman.yaml", &link).unwrap();
        assert!(puts_in_place(&event(RenameMode::To, "..data"), &link), "as the kubelet does it");
    }

    #[test]
    fn a_hash_is_sha256_in_hexadecimal() {
        assert_eq!(hash_of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_touched_file_is_no_news() {
        assert!(reader().judge(text("in force"), false).is_none());
        assert!(reader().judge(text("in force"), true).is_none());
    }

    #[test]
    fn a_good_text_is_accepted_once() {
        let mut reader = reader();
        assert!(
            matches!(reader.judge(text(GOOD), false), Some(Reload::Accepted(edit)) if edit.hash == hash_of(GOOD.as_bytes()))
        );
        assert!(reader.judge(text(GOOD), false).is_none());
        assert!(matches!(reader.judge(text("in force"), false), Some(Reload::Refused(_))), "it is no longer in force");
    }

    #[test]
    fn a_bad_text_is_told_once_unless_it_is_asked_for_and_its_end_is_told() {
        let mut reader = reader();
        for bad in [text("routes: ["), text(""), Ok(vec![0xff, 0xfe]), gone()] {
            let again = bad.as_ref().map_or_else(|_| gone(), |bad| Ok(bad.clone()));
            let forced = bad.as_ref().map_or_else(|_| gone(), |bad| Ok(bad.clone()));
            let Some(Reload::Refused(refusal)) = reader.judge(bad, false) else { panic!("it is bad") };
            assert!(!refusal.problems.is_empty());
            assert!(reader.judge(again, false).is_none());
            assert!(matches!(reader.judge(forced, true), Some(Reload::Refused(_))));
        }
        assert!(matches!(reader.judge(text("in force"), false), Some(Reload::Restored)));
        assert!(reader.judge(text("in force"), false).is_none());
    }

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        for odd in [at("fifo"), PathBuf::from("/dev/zero"), folder.path().to_owned()] {
            assert!(read_text(&odd).unwrap_err().to_string().contains("is no regular file"), "{}", odd.display());
        }
        let file = fs::File::create(at("sparse")).unwrap();
        file.set_len(20_000_000_000).unwrap();
        assert!(read_file(&at("sparse")).unwrap_err().to_string().contains("larger than 1 MiB"));
        file.set_len(LARGEST).unwrap();
        assert!(read_file(&at("sparse")).is_ok());
    }

    #[test]
    fn every_folder_on_the_way_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/real.yaml"), "x").unwrap();
        fs::create_dir(at("mount")).unwrap();
        std::os::unix::fs::symlink("..data/config.yaml", at("mount/config.yaml")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", at("mount/..data")).unwrap();
        std::os::unix::fs::symlink("real.yaml", at("elsewhere/config.yaml")).unwrap();
        let folders: Vec<_> = folders_to(&at("mount/config.yaml")).into_keys().collect();
        assert_eq!(folders, [at("mount"), at("mount/..data")]);
    }
}
