//! Where rollout state lives: an SQLite file, written by a thread of its own, so that a hung disk never holds up a
//! rollback.
//!
//! Line: phase ► **state** ► (next start). The loop puts what shall be kept into an outbox and may wait a moment for it;
//! the writer empties the outbox in one transaction. While the file cannot be written everything stays in the outbox
//! (states coalesce, decisions are bounded) and is tried again every few seconds.

pub(crate) mod database;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{error, io};

use pointsman_config::RouteName;
use pointsman_rollout::Saved;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use self::database::{Batch, Contents, Database, DatabaseError};
use crate::user_cookie::Secret;
use crate::view::{DecisionRow, StateView};

/// How long a decision waits for the disk before it is put in force all the same.
pub(crate) const COMMIT_PATIENCE: Duration = Duration::from_millis(50);
/// Between two tries at a file that cannot be written.
const RETRY: Duration = Duration::from_secs(5);
/// Decisions that wait for the disk before the oldest are given up.
const OUTBOX_DECISIONS: usize = 10_000;
/// Decisions of each route that are read at the start.
const RECENT: usize = 64;
/// A write that takes longer than this is told as a problem.
const HUNG: Duration = Duration::from_secs(2);

/// What a start found in the file.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The saved state of every route.
    pub(crate) routes: BTreeMap<RouteName, Saved>,
    /// The newest decisions of every route, oldest first.
    pub(crate) recent: Vec<DecisionRow>,
    /// The largest id in the decision log; 0 if there is none.
    pub(crate) last_id: u64,
    /// What users' cookies are signed with; a new one if the file had none or could not be read.
    pub(crate) cookie_secret: Secret,
}

/// The file can be written again after it could not be.
#[derive(Debug)]
pub(crate) struct Reopened {
    /// Routes whose state in the file was never read, or was changed since: it has to be weighed against ours.
    pub(crate) unknown: BTreeMap<RouteName, Saved>,
    /// The largest id in the decision log, waiting rows included.
    pub(crate) last_id: u64,
    /// Whether rows that waited were given other ids, because the file had theirs already.
    pub(crate) renumbered: bool,
    /// What users' cookies are signed with from now on: what the file held goes before what was made without it.
    pub(crate) cookie_secret: Secret,
}

/// How far the writer has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The last put that was tried.
    tried: u64,
    /// The last put that is on disk, and every one before it.
    committed: u64,
    /// What is wrong, for people.
    problem: Option<String>,
    /// Why what the file holds is not known; none if it is, or if there is no file.
    unread: Option<String>,
    /// What happened to damaged files since the start; it stays to be read after the file works again.
    damage: Option<String>,
    /// Whether the file was let go of, because another process is to write it.
    released: bool,
}

impl Progress {
    /// What is wrong now, for people.
    fn present(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        match &self.unread {
            None => Some(problem.clone()),
            Some(unread) if unread == problem => Some(format!("{problem}; {UNREAD}")),
            Some(unread) => Some(format!("{problem}; {UNREAD}: {unread}")),
        }
    }
}

/// What it means that the file cannot be read.
const UNREAD: &str = "nor could it be read, so versions that were taken back before this start may get traffic";

/// What waits for the disk.
#[derive(Debug, Default)]
struct Outbox {
    routes: BTreeMap<RouteName, Saved>,
    decisions: VecDeque<Arc<DecisionRow>>,
    given_up: u64,
    last_put: u64,
    writing_since: Option<Instant>,
    /// Another process is to write the file: what is put waits.
    lent: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    filled: Condvar,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop's end of the state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl StateFile {
    /// Reads the file and starts its writer. A file that cannot be used is no error: what is wrong stands in
    /// [`StateFile::view`], and the file is tried again every few seconds; `reopened` hears when it works.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn open(path: PathBuf, reopened: mpsc::UnboundedSender<Reopened>) -> io::Result<(Self, Opened)> {
        Self::open_with(path, reopened, RETRY)
    }

    fn open_with(
        path: PathBuf,
        reopened: mpsc::UnboundedSender<Reopened>,
        retry: Duration,
    ) -> io::Result<(Self, Opened)> {
        let shared = Arc::<Shared>::default();
        let (progress, seen) = watch::channel(Progress::default());
        let mut writer = Writer {
            path: path.clone(),
            shared: Arc::clone(&shared),
            database: None,
            seqs: BTreeMap::new(),
            was_read: false,
            cookie_secret: Secret::random(),
            progress,
            reopened,
            retry,
        };
        let opened = writer.start();
        thread::Builder::new().name("control-state".to_owned()).spawn(move || writer.run())?;
        Ok((Self { path, shared, progress: seen }, opened))
    }

    /// Hands over what shall be kept; never waits. The number is for [`StateFile::written`].
    pub(crate) fn put(
        &self,
        routes: impl IntoIterator<Item = (RouteName, Saved)>,
        decisions: impl IntoIterator<Item = Arc<DecisionRow>>,
    ) -> u64 {
        let mut outbox = self.shared.outbox();
        outbox.routes.extend(routes);
        outbox.decisions.extend(decisions);
        outbox.give_up_oldest();
        outbox.last_put += 1;
        self.shared.filled.notify_one();
        outbox.last_put
    }

    /// Waits until put number `put` is on disk or has failed, for [`COMMIT_PATIENCE`] at most, and not at all while an
    /// earlier write hangs. Whether it is on disk; either way what was decided goes into force, as weights come first.
    pub(crate) async fn written(&self, put: u64) -> bool {
        let mut progress = self.progress.clone();
        let hangs = self.shared.outbox().writing_since.is_some_and(|since| since.elapsed() > COMMIT_PATIENCE);
        if !hangs {
            let tried = progress.wait_for(|progress| progress.tried >= put);
            drop(tokio::time::timeout(COMMIT_PATIENCE, tried).await);
        }
        self.progress.borrow().committed >= put
    }

    /// Where state is kept and what is wrong with it.
    pub(crate) fn view(&self) -> StateView {
        let hung = self.shared.outbox().writing_since.is_some_and(|since| since.elapsed() > HUNG);
        let progress = self.progress.borrow();
        let problem = if hung {
            Some(format!(
                "writing the state file {} hangs; look at its disk. Decisions take effect and wait to be written",
                self.path.display()
            ))
        } else {
            progress.present()
        };
        StateView { file: self.path.display().to_string(), problem, note: progress.damage.clone() }
    }

    /// Writes what is left and lets go of the file, so that another process can take it; never waits, see
    /// [`StateFile::is_released`]. What is put from then on waits for [`StateFile::reclaim`].
    pub(crate) fn release(&self) {
        self.shared.outbox().lent = true;
        self.shared.filled.notify_one();
    }

    /// Whether the file was let go of.
    pub(crate) fn is_released(&self) -> bool {
        self.progress.borrow().released
    }

    /// Takes back everything that was put and is not in the file.
    pub(crate) fn take_waiting(&self) -> Batch {
        self.shared.outbox().take().0
    }

    /// Takes the file back that was let go of.
    pub(crate) fn reclaim(&self) {
        self.shared.outbox().lent = false;
        self.shared.filled.notify_one();
    }

    /// Writes what is left, for `patience` at most, and lets go of the file.
    pub(crate) async fn close(&self, patience: Duration) {
        self.shared.outbox().closed = true;
        self.shared.filled.notify_one();
        let mut progress = self.progress.clone();
        let gone = async { while progress.changed().await.is_ok() {} };
        drop(tokio::time::timeout(patience, gone).await);
    }
}

impl Outbox {
    fn give_up_oldest(&mut self) {
        while self.decisions.len() > OUTBOX_DECISIONS {
            self.decisions.pop_front();
            self.given_up += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.decisions.is_empty()
    }

    /// Everything that waits, and the number of the last put in it.
    fn take(&mut self) -> (Batch, u64) {
        let batch =
            Batch { routes: std::mem::take(&mut self.routes), decisions: std::mem::take(&mut self.decisions).into() };
        self.writing_since = (!batch.is_empty()).then(Instant::now);
        (batch, self.last_put)
    }

    /// Puts back what could not be written; a state that was put since is newer.
    fn put_back(&mut self, batch: Batch) {
        for (route, saved) in batch.routes {
            self.routes.entry(route).or_insert(saved);
        }
        let newer = std::mem::replace(&mut self.decisions, batch.decisions.into());
        self.decisions.extend(newer);
        self.give_up_oldest();
    }
}

/// The thread that owns the file.
struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    database: Option<Database>,
    /// The seq that each route must have in the file.
    seqs: BTreeMap<RouteName, i64>,
    /// Whether all that the file held was known once: from then on the loop knows it.
    was_read: bool,
    /// What users' cookies are signed with.
    cookie_secret: Secret,
    progress: watch::Sender<Progress>,
    reopened: mpsc::UnboundedSender<Reopened>,
    retry: Duration,
}

impl Writer {
    /// The first try: what can be read is read, even if the file cannot be written.
    fn start(&mut self) -> Opened {
        let contents = match self.open() {
            Ok(contents) => contents,
            Err(problem) => {
                self.fail(&problem);
                self.read_only()
            }
        };
        self.was_read = self.progress.borrow().unread.is_none();
        self.seqs = known_seqs(&contents);
        let routes = contents.routes.into_iter().map(|(name, stored)| (name, stored.saved)).collect();
        self.cookie_secret = contents.cookie_secret.unwrap_or(self.cookie_secret);
        Opened { routes, recent: contents.recent, last_id: contents.last_id, cookie_secret: self.cookie_secret }
    }

    /// What the file holds, if it can at least be read: a quarantine must not end with the right to write.
    fn read_only(&self) -> Contents {
        if matches!(self.path.try_exists(), Ok(false)) {
            return Contents::default();
        }
        database::read_contents_only(&self.path, RECENT).unwrap_or_else(|unread| {
            let unread = in_words(&unread);
            error!(
                problem = unread,
                "state file cannot be read; versions that were taken back before this start may get traffic"
            );
            self.progress.send_modify(|progress| progress.unread = Some(unread));
            Contents::default()
        })
    }

    fn run(mut self) {
        while let Some(put) = self.wait() {
            let written = if self.is_usable() {
                self.write()
            } else if self.reopen() {
                // States that the loop has to weigh first were taken out of the outbox, so nobody is told that all is kept.
                self.write().and(None)
            } else {
                None
            };
            self.progress.send_modify(|progress| {
                progress.tried = written.unwrap_or(put).max(put);
                progress.committed = written.unwrap_or(progress.committed);
            });
            self.lend();
        }
    }

    /// Lets go of the file if another process is to have it.
    fn lend(&mut self) {
        let lent = self.shared.outbox().lent;
        if lent {
            self.database = None;
        }
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.released, lent) != lent);
    }

    /// Whether the open file is still the one that stands at its path: what is written to a removed file is lost.
    fn is_usable(&mut self) -> bool {
        let usable = self.database.as_ref().is_some_and(Database::is_in_place);
        if !usable && self.database.take().is_some() {
            error!(file = %self.path.display(), "state file was removed or replaced while in use; it is opened anew");
        }
        usable
    }

    /// Waits for something to do, or for the time to look at the file again; gives the number of the last put, or none
    /// when all is done. A file that cannot be written is left alone for the time of a retry, whatever is put.
    fn wait(&self) -> Option<u64> {
        let until = Instant::now() + self.retry;
        let mut outbox = self.shared.outbox();
        loop {
            let released = self.progress.borrow().released;
            let left = if released { self.retry } else { until.saturating_duration_since(Instant::now()) };
            let due = left.is_zero() || outbox.lent != released || (self.database.is_some() && !outbox.is_empty());
            match (outbox.closed, due) {
                (_, true) => return Some(outbox.last_put),
                (true, false) => return None,
                (false, false) => {}
            }
            if self.database.is_none() {
                let put = outbox.last_put;
                self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.tried, put) != put);
            }
            outbox = self.shared.filled.wait_timeout(outbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Opens the file and reads it; a damaged one is moved aside first.
    fn open(&mut self) -> Result<Contents, DatabaseError> {
        let opened = match open_and_read(&self.path) {
            Err(DatabaseError::Damaged { path, source }) => self.begin_anew(DatabaseError::Damaged { path, source }),
            other => other,
        };
        let (database, contents) = opened?;
        for (route, (_, why)) in &contents.unreadable {
            error!(%route, why, "saved state cannot be read; the rollout starts anew");
        }
        match contents.cookie_secret {
            Some(kept) => self.cookie_secret = kept,
            None => database.keep_cookie_secret(self.cookie_secret)?,
        }
        self.database = Some(database);
        Ok(contents)
    }

    /// Moves a damaged file aside and makes another, with the state of the routes as far as it can still be read: a bad
    /// page in the history must not end a quarantine.
    fn begin_anew(&self, problem: DatabaseError) -> Result<(Database, Contents), DatabaseError> {
        let (routes, whole) = if self.was_read {
            (BTreeMap::new(), true)
        } else {
            database::salvage_routes(&self.path).unwrap_or_default()
        };
        let aside = self.move_aside(problem)?;
        let anew = self.with_routes(routes);
        self.tell_damage(&aside, whole && anew.is_ok());
        anew
    }

    fn with_routes(&self, routes: BTreeMap<RouteName, Saved>) -> Result<(Database, Contents), DatabaseError> {
        let mut database = Database::open(&self.path)?;
        database.commit(&Batch { routes, decisions: Vec::new() }, &mut BTreeMap::new())?;
        let contents = database.contents(RECENT)?;
        Ok((database, contents))
    }

    /// Keeps telling what became of a damaged file; `known` says whether what was taken back is known all the same.
    fn tell_damage(&self, aside: &Path, known: bool) {
        let lost = if known {
            "what was taken back is known, the history is not"
        } else {
            "what was taken back before, and the history, are not known; check `pointsman status` and take back again what must not serve"
        };
        let damage = format!("the state file was damaged and moved aside to {}; {lost}", aside.display());
        self.progress.send_modify(|progress| {
            let before = progress.damage.take();
            progress.damage = Some(before.map_or_else(|| damage.clone(), |before| format!("{before}; {damage}")));
        });
    }

    fn move_aside(&self, problem: DatabaseError) -> Result<PathBuf, DatabaseError> {
        match database::move_aside(&self.path) {
            Ok(aside) => {
                error!(
                    problem = in_words(&problem),
                    moved_to = %aside.display(),
                    "state file was damaged and moved aside; what only it knew is lost"
                );
                Ok(aside)
            }
            Err(failure) => {
                error!(
                    problem = in_words(&problem),
                    failure = in_words(&failure),
                    "state file is damaged and cannot be moved aside"
                );
                Err(problem)
            }
        }
    }

    /// Tries the file again, and tells the loop what it holds that we did not know.
    fn reopen(&mut self) -> bool {
        match self.open() {
            Ok(contents) => {
                self.was_read = true;
                self.catch_up(contents);
                self.progress.send_modify(|progress| progress.unread = None);
                true
            }
            Err(problem) => {
                self.fail(&problem);
                false
            }
        }
    }

    fn catch_up(&mut self, contents: Contents) {
        let found = known_seqs(&contents);
        let foreign = |route: &RouteName| found.get(route) != self.seqs.get(route);
        let unknown: BTreeMap<_, _> = contents
            .routes
            .into_iter()
            .filter(|(route, _)| foreign(route))
            .map(|(route, stored)| (route, stored.saved))
            .collect();
        let mut outbox = self.shared.outbox();
        outbox.routes.retain(|route, _| !unknown.contains_key(route));
        let renumbered = outbox.renumber_after(contents.last_id);
        let last_waiting = outbox.decisions.back().map_or(0, |row| row.id);
        drop(outbox);
        self.seqs = found;
        let last_id = contents.last_id.max(last_waiting);
        // The loop answers by putting the state of every route; if it is gone, so are we soon.
        let cookie_secret = self.cookie_secret;
        drop(self.reopened.send(Reopened { unknown, last_id, renumbered, cookie_secret }));
    }

    /// Writes what waits; the number of the last put that is on disk then, or none if it cannot be written.
    fn write(&mut self) -> Option<u64> {
        let database = self.database.as_mut()?;
        let (batch, put) = self.shared.outbox().take();
        let written = if batch.is_empty() { Ok(()) } else { database.commit(&batch, &mut self.seqs) };
        let mut outbox = self.shared.outbox();
        outbox.writing_since = None;
        match written {
            Ok(()) => {
                let given_up = std::mem::take(&mut outbox.given_up);
                drop(outbox);
                self.recover(given_up);
                Some(put)
            }
            Err(problem) => {
                outbox.put_back(batch);
                drop(outbox);
                self.database = None;
                self.fail(&problem);
                None
            }
        }
    }

    /// Says what is wrong, in the log once for each problem.
    fn fail(&self, problem: &DatabaseError) {
        let words = in_words(problem);
        self.progress.send_if_modified(|progress| {
            let news = progress.problem.as_ref() != Some(&words);
            if news {
                error!(problem = words, "state file cannot be used; traffic goes on, decisions are kept in memory");
                progress.problem = Some(words);
            }
            news
        });
    }

    fn recover(&self, given_up: u64) {
        self.progress.send_if_modified(|progress| {
            let news = progress.problem.take().is_some();
            if news {
                info!(file = %self.path.display(), decisions_lost = given_up, "state file works again; everything current is written");
            }
            news
        });
    }
}

impl Outbox {
    /// Gives the waiting decisions ids after `last`, if theirs are taken.
    fn renumber_after(&mut self, last: u64) -> bool {
        let taken = self.decisions.front().is_some_and(|first| first.id <= last);
        if taken {
            for (id, row) in (last + 1..).zip(&mut self.decisions) {
                *row = Arc::new(DecisionRow { id, ..row.as_ref().clone() });
            }
        }
        taken
    }
}

fn open_and_read(path: &Path) -> Result<(Database, Contents), DatabaseError> {
    let database = Database::open(path)?;
    let contents = database.contents(RECENT)?;
    Ok((database, contents))
}

fn known_seqs(contents: &Contents) -> BTreeMap<RouteName, i64> {
    let readable = contents.routes.iter().map(|(name, stored)| (name.clone(), stored.seq));
    let unreadable = contents.unreadable.iter().map(|(name, (seq, _))| (name.clone(), *seq));
    readable.chain(unreadable).collect()
}

/// An error and its causes, in one line.
pub(crate) fn in_words(error: &dyn error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        words = format!("{words}: {deeper}");
        cause = deeper.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pointsman_config::{Config, Route, RouteName};
    use pointsman_rollout::{Change, Input, Rollout, Time};
    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const AGAIN: Duration = Duration::from_millis(20);

    fn name() -> RouteName {
        "r".parse().unwrap()
    }

    /// A saved state and a change that an edit to this share of v2 gives.
    fn rollout(percent: u32) -> (Saved, Change) {
        let (mut rollout, _) = Rollout::start(route(percent + 1), Time::default());
        let changes = rollout.step(Input::Edit(route(percent)), Time::default()).unwrap();
        (rollout.saved(Time::default()), changes.into_iter().next().unwrap())
    }

    fn route(percent: u32) -> Arc<Route> {
        let text = format!(
            "listeners: [{{ address: 127.0.0.1:0 }}]
routes:
  - name: r
    stable: v1
    versions: {{ v1: {{ endpoints: [127.0.0.1:1] }}, v2: {{ endpoints: [127.0.0.1:2] }} }}
    weights: {{ v1: {}%, v2: {percent}% }}
",
            100 - percent
        );
        Arc::new(Config::parse(&text, "test").unwrap().config.routes.remove(0))
    }

    fn row(id: u64) -> Arc<DecisionRow> {
        let (_, change) = rollout(10);
        Arc::new(DecisionRow {
            id,
            at: format!("row {id}"),
            route: name(),
            sentence: change.sentence(),
            change,
            failures: Vec::new(),
        })
    }

    struct Opening {
        state: StateFile,
        opened: Opened,
        reopened: mpsc::UnboundedReceiver<Reopened>,
    }

    fn open(path: &Path) -> Opening {
        let (tell, reopened) = mpsc::unbounded_channel();
        let (state, opened) = StateFile::open_with(path.to_owned(), tell, AGAIN).unwrap();
        Opening { state, opened, reopened }
    }

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        (folder, path)
    }

    /// Waits until the problem is as wanted; gives it.
    async fn problem(state: &StateFile, wanted: bool) -> String {
        let start = Instant::now();
        loop {
            let problem = state.view().problem;
            if problem.is_some() == wanted {
                return problem.unwrap_or_default();
            }
            assert!(start.elapsed() < SOON, "{problem:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn put(state: &StateFile, percent: u32, ids: &[u64]) {
        let put = state.put([(name(), rollout(percent).0)], ids.iter().map(|id| row(*id)));
        let mut progress = state.progress.clone();
        tokio::time::timeout(SOON, progress.wait_for(|progress| progress.tried >= put)).await.unwrap().unwrap();
    }

    fn ids(opened: &Opened) -> Vec<u64> {
        opened.recent.iter().map(|row| row.id).collect()
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_restart() {
        let (_folder, path) = folder();
        let first = open(&path);
        assert!(first.opened.routes.is_empty());
        put(&first.state, 10, &[1, 2]).await;
        put(&first.state, 20, &[3]).await;
        first.state.close(SOON).await;
        let second = open(&path);
        assert_eq!(second.opened.routes[&name()], rollout(20).0);
        assert_eq!((ids(&second.opened), second.opened.last_id), (vec![1, 2, 3], 3));
        assert_eq!(second.state.view().problem, None);
        let older = database::read_decisions(&path, &name(), 2, Some(3)).unwrap();
        assert_eq!(older.iter().map(|row| row.id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(database::read_decision(&path, 2).unwrap().unwrap(), *row(2));
        assert!(database::read_decision(&path, 9).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_cookies_are_signed_with_is_made_once_and_read_even_from_a_file_in_use() {
        let (_folder, path) = folder();
        let first = open(&path);
        let secret = first.opened.cookie_secret;
        first.state.close(SOON).await;
        let second = open(&path);
        assert_eq!(second.opened.cookie_secret, secret);
        let beside = open(&path);
        assert!(beside.state.view().problem.is_some());
        assert_eq!(beside.opened.cookie_secret, secret);
        let (_another, elsewhere) = folder();
        assert_ne!(open(&elsewhere).opened.cookie_secret, secret);
    }

    #[tokio::test]
    async fn closing_writes_what_still_waits() {
        let (_folder, path) = folder();
        let opening = open(&path);
        for id in 1..=200 {
            opening.state.put([], [row(id)]);
        }
        opening.state.close(SOON).await;
        assert_eq!(open(&path).opened.last_id, 200);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart_and_leaves_nothing_half_written() {
        let (_folder, path) = folder();
        {
            let database = Database::open(&path).unwrap();
            // As a full disk does: SQLite says the same.
            database.connection().pragma_update(None, "max_page_count", 1).unwrap();
            let mut database = database;
            let batch = Batch { routes: BTreeMap::new(), decisions: (1..200).map(row).collect() };
            let refused = database.commit(&batch, &mut BTreeMap::new()).unwrap_err();
            assert!(matches!(refused, DatabaseError::Full { .. }), "{refused:?}");
            assert!(in_words(&refused).contains("free some space"));
        }
        let opening = open(&path);
        put(&opening.state, 10, &[1]).await;
        opening.state.close(SOON).await;
        assert_eq!(ids(&open(&path).opened), [1], "the transaction that failed left nothing behind");
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_and_the_newest_state_wins() {
        let (folder, _) = folder();
        let path = folder.path().join("file/state.db");
        fs::write(folder.path().join("file"), "in the way").unwrap();
        let mut opening = open(&path);
        let words = problem(&opening.state, true).await;
        assert!(words.contains("file/state.db") && words.contains("name another `state.file`"), "{words}");
        put(&opening.state, 10, &[1]).await;
        put(&opening.state, 20, &[2]).await;
        fs::remove_file(folder.path().join("file")).unwrap();
        problem(&opening.state, false).await;
        let reopened = opening.reopened.recv().await.unwrap();
        assert!(reopened.unknown.is_empty() && !reopened.renumbered);
        opening.state.close(SOON).await;
        let again = open(&path);
        assert_eq!(again.opened.routes[&name()], rollout(20).0);
        assert_eq!(ids(&again.opened), [1, 2]);
    }

    #[tokio::test]
    async fn decisions_that_wait_too_long_are_given_up_oldest_first() {
        let mut outbox = Outbox::default();
        let most = u64::try_from(OUTBOX_DECISIONS).unwrap();
        outbox.decisions.extend((1..=most + 5).map(row));
        outbox.give_up_oldest();
        assert_eq!((outbox.decisions.len(), outbox.given_up, outbox.decisions[0].id), (OUTBOX_DECISIONS, 5, 6));
    }

    #[tokio::test]
    async fn a_file_in_use_is_read_and_taken_over_with_what_its_owner_did_meanwhile() {
        let (_folder, path) = folder();
        let first = open(&path);
        put(&first.state, 10, &[1]).await;
        let mut second = open(&path);
        assert!(problem(&second.state, true).await.contains("another running edge"));
        assert_eq!((second.opened.routes[&name()].clone(), second.opened.last_id), (rollout(10).0, 1));
        put(&first.state, 30, &[2]).await;
        put(&second.state, 20, &[2]).await;
        first.state.close(SOON).await;
        let reopened = tokio::time::timeout(SOON, second.reopened.recv()).await.unwrap().unwrap();
        assert_eq!(reopened.unknown[&name()], rollout(30).0, "the loop weighs it against its own");
        assert!(reopened.renumbered && reopened.last_id == 3, "{reopened:?}");
        put(&second.state, 40, &[4]).await;
        problem(&second.state, false).await;
        second.state.close(SOON).await;
        let third = open(&path);
        assert_eq!((third.opened.routes[&name()].clone(), ids(&third.opened)), (rollout(40).0, vec![1, 2, 3, 4]));
    }

    #[tokio::test]
    async fn a_state_that_somebody_else_changed_is_not_overwritten_blindly() {
        let (_folder, path) = folder();
        let mut opening = open(&path);
        put(&opening.state, 10, &[1]).await;
        let other = rusqlite::Connection::open(&path).unwrap();
        let theirs = serde_json::to_string(&rollout(50).0).unwrap();
        other.execute("UPDATE route SET seq = seq + 1, saved = ?1", [theirs]).unwrap();
        drop(other);
        put(&opening.state, 20, &[2]).await;
        let reopened = tokio::time::timeout(SOON, opening.reopened.recv()).await.unwrap().unwrap();
        assert_eq!(reopened.unknown[&name()], rollout(50).0);
    }

    #[test]
    fn a_state_that_somebody_else_changed_is_told_as_such() {
        let (_folder, path) = folder();
        let mut database = Database::open(&path).unwrap();
        let batch = Batch { routes: [(name(), rollout(10).0)].into(), decisions: Vec::new() };
        let mut seqs = BTreeMap::new();
        database.commit(&batch, &mut seqs).unwrap();
        database.connection().execute("UPDATE route SET seq = seq + 1", []).unwrap();
        let refused = database.commit(&batch, &mut seqs).unwrap_err();
        assert!(in_words(&refused).contains("changed by somebody else"), "{refused:?}");
    }

    /// As in a folder that is read-only, but for root too: neither the lock nor what SQLite keeps beside the file can be
    /// made, since links to nowhere stand in their place.
    fn bar(path: &Path) {
        fs::remove_file(path.with_file_name("state.db.lock")).unwrap();
        for beside in ["state.db.lock", "state.db-shm"] {
            std::os::unix::fs::symlink("nowhere/at-all", path.with_file_name(beside)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_in_a_folder_that_cannot_be_written_is_read_all_the_same() {
        let (_folder, path) = folder();
        let first = open(&path);
        put(&first.state, 10, &[1]).await;
        first.state.close(SOON).await;
        assert!(!path.with_file_name("state.db-wal").exists(), "a clean stop leaves the file alone behind");
        bar(&path);
        let second = open(&path);
        assert_eq!((second.opened.routes[&name()].clone(), ids(&second.opened)), (rollout(10).0, vec![1]));
        let words = problem(&second.state, true).await;
        assert!(words.contains("cannot be locked") && !words.contains(UNREAD), "{words}");
        assert_eq!(database::read_decision(&path, 1).unwrap().unwrap(), *row(1));
    }

    #[tokio::test]
    async fn a_file_that_can_neither_be_written_nor_read_is_told_as_such_until_it_can() {
        let (_folder, path) = folder();
        let first = open(&path);
        put(&first.state, 10, &[1]).await;
        first.state.close(SOON).await;
        bar(&path);
        // What is said beside the file may be newer than the file, so the file alone must not be believed.
        fs::write(path.with_file_name("state.db-wal"), "not empty").unwrap();
        let mut second = open(&path);
        assert!(second.opened.routes.is_empty());
        let words = problem(&second.state, true).await;
        assert!(words.contains("cannot be locked") && words.contains(UNREAD), "{words}");
        fs::remove_file(path.with_file_name("state.db-wal")).unwrap();
        for beside in ["state.db.lock", "state.db-shm"] {
            fs::remove_file(path.with_file_name(beside)).unwrap();
        }
        let reopened = tokio::time::timeout(SOON, second.reopened.recv()).await.unwrap().unwrap();
        assert_eq!(reopened.unknown[&name()], rollout(10).0);
        problem(&second.state, false).await;
    }

    #[tokio::test]
    async fn what_is_said_to_be_on_disk_is_there() {
        let (_folder, path) = folder();
        let opening = open(&path);
        let hung = rusqlite::Connection::open(&path).unwrap();
        hung.busy_timeout(SOON).unwrap();
        let mut all = Vec::new();
        for id in 1..=100 {
            let hangs = id % 25 == 0;
            if hangs {
                hung.execute_batch("BEGIN IMMEDIATE").unwrap();
            }
            let put = opening.state.put([(name(), rollout(10).0)], [row(id)]);
            let said = opening.state.written(put).await;
            assert!(!(said && hangs), "nobody else could write");
            if said {
                assert!(database::read_decision(&path, id).unwrap().is_some(), "{id}");
            }
            if hangs {
                hung.execute_batch("ROLLBACK").unwrap();
            }
            all.push(said);
        }
        assert!(all.contains(&true), "a disk that works is fast enough now and then");
    }

    #[tokio::test]
    async fn a_removed_file_is_made_anew() {
        let (_folder, path) = folder();
        let mut opening = open(&path);
        put(&opening.state, 10, &[1]).await;
        for file in ["state.db", "state.db-wal", "state.db-shm"] {
            fs::remove_file(path.with_file_name(file)).unwrap();
        }
        tokio::time::timeout(SOON, opening.reopened.recv()).await.unwrap().unwrap();
        put(&opening.state, 20, &[2]).await;
        opening.state.close(SOON).await;
        assert_eq!(open(&path).opened.routes[&name()], rollout(20).0);
    }

    #[tokio::test]
    async fn a_damaged_file_is_told_of_until_the_restart_though_its_successor_works() {
        let (_folder, path) = folder();
        fs::write(&path, "no database at all, but long enough to have a header of a hundred bytes ".repeat(20))
            .unwrap();
        let first = open(&path);
        put(&first.state, 10, &[1]).await;
        let words = first.state.view().note.unwrap();
        assert_eq!(first.state.view().problem, None, "decisions are written again");
        assert!(words.contains("moved aside to") && words.contains("state.db.corrupt-1"), "{words}");
        assert!(words.contains("are not known; check `pointsman status`"), "{words}");
        let now = first.state.put([], [row(2)]);
        first.state.progress.clone().wait_for(|progress| progress.committed >= now).await.unwrap();
        first.state.close(SOON).await;
        let second = open(&path);
        let view = second.state.view();
        assert_eq!((view.problem, view.note, ids(&second.opened)), (None, None, vec![1, 2]));
    }

    #[tokio::test]
    async fn nobody_but_its_owner_may_read_the_file_and_the_secret_in_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_folder, path) = folder();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let first = open(&path);
        put(&first.state, 10, &[1]).await;
        assert_eq!(mode(), 0o600);
        first.state.close(SOON).await;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let second = open(&path);
        assert_eq!((mode(), second.opened.routes.len()), (0o600, 1), "one that an earlier edge made");
    }

    #[tokio::test]
    async fn a_damaged_history_does_not_end_a_quarantine() {
        let (_folder, path) = folder();
        let first = open(&path);
        put(&first.state, 10, &(1..=50).collect::<Vec<_>>()).await;
        first.state.close(SOON).await;
        let file = rusqlite::Connection::open(&path).unwrap();
        let page: u32 =
            file.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'decision'", [], |row| row.get(0)).unwrap();
        let size: u32 = file.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
        drop(file);
        let bytes = fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&bytes, &[0xff; 512], u64::from((page - 1) * size)).unwrap();
        drop(bytes);
        let second = open(&path);
        assert_eq!(second.opened.routes[&name()], rollout(10).0);
        let words = second.state.view().note.unwrap();
        assert!(words.contains("what was taken back is known, the history is not"), "{words}");
        put(&second.state, 20, &[1]).await;
        second.state.close(SOON).await;
        assert_eq!(open(&path).opened.routes[&name()], rollout(20).0);
    }

    #[tokio::test]
    async fn a_bad_byte_in_one_decision_costs_just_that_decision() {
        let (_folder, path) = folder();
        let first = open(&path);
        put(&first.state, 10, &[1, 3]).await;
        first.state.close(SOON).await;
        let file = rusqlite::Connection::open(&path).unwrap();
        file.execute("INSERT INTO decision (id, at, route, json) VALUES (2, '', 'r', CAST(x'7bff7d' AS TEXT))", [])
            .unwrap();
        drop(file);
        let second = open(&path);
        assert_eq!((second.opened.routes[&name()].clone(), ids(&second.opened)), (rollout(10).0, vec![1, 3]));
        assert_eq!((second.state.view().problem, second.opened.last_id), (None, 3));
        assert!(database::read_decision(&path, 2).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_fifo_and_a_device_are_refused_at_once() {
        let (_folder, path) = folder();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for odd in [path.as_path(), Path::new("/dev/null")] {
            assert!(matches!(Database::open(odd), Err(DatabaseError::NotRegular { .. })));
            assert!(matches!(database::read_decision(odd, 1), Err(DatabaseError::NotRegular { .. })));
        }
        let opening = open(&path);
        assert!(problem(&opening.state, true).await.contains("is no regular file"));
    }

    #[test]
    fn a_damaged_file_is_told_from_from_a_foreign_one() {
        let (_folder, path) = folder();
        fs::write(&path, "no database at all, but long enough to have a header of a hundred bytes ".repeat(20))
            .unwrap();
        assert!(matches!(Database::open(&path), Err(DatabaseError::Damaged { .. })));
        fs::remove_file(&path).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(Database::open(&path), Err(DatabaseError::Foreign { .. })));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(Database::open(&path).is_ok(), "an empty file is a fresh one");
        assert!(matches!(Database::open(path.parent().unwrap()), Err(DatabaseError::IsFolder { .. })));
    }

    #[test]
    fn nothing_in_the_log_can_be_changed_or_deleted() {
        let (_folder, path) = folder();
        let mut database = Database::open(&path).unwrap();
        let batch = Batch { routes: BTreeMap::new(), decisions: vec![row(1)] };
        database.commit(&batch, &mut BTreeMap::new()).unwrap();
        for statement in ["UPDATE decision SET at = ''", "DELETE FROM decision"] {
            let refused = database.connection().execute(statement, []).unwrap_err();
            assert!(refused.to_string().contains("append-only"), "{refused}");
        }
    }
}
