//! The state file itself: an SQLite database with the present state of every route and the append-only decision log.
//!
//! Line: state ► **database**. Everything here blocks, so only the state thread and readers on threads of their own
//! call it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use pointsman_config::RouteName;
use pointsman_rollout::Saved;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use thiserror::Error;
use tracing::{error, warn};

use crate::user_cookie::Secret;
use crate::view::DecisionRow;

/// The format that this program writes and reads.
const FORMAT: i64 = 1;
/// How long a statement waits for another process that holds the database.
const BUSY: Duration = Duration::from_millis(100);

/// What a mode lets everybody do but the owner.
const OTHERS: u32 = 0o077;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE route (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, saved TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE decision (id INTEGER PRIMARY KEY, at TEXT NOT NULL, route TEXT NOT NULL, json TEXT NOT NULL) STRICT;
    CREATE INDEX decision_by_route ON decision (route, id);
    CREATE TRIGGER decision_is_never_changed BEFORE UPDATE ON decision
        BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;
    CREATE TRIGGER decision_is_never_deleted BEFORE DELETE ON decision
        BEGIN SELECT RAISE(ABORT, 'the decision log is append-only'); END;
    INSERT INTO meta (key, value) VALUES ('format', '1');
";

/// Why the state file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DatabaseError {
    /// Its folder cannot be made.
    #[error("the folder of the state file {} cannot be created; create it and let this user write in it, or name another `state.file`", path.display())]
    Folder {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a folder where the file should be.
    #[error("the state file {} is a folder; name a file in `state.file`", path.display())]
    IsFolder {
        /// The state file.
        path: PathBuf,
    },
    /// There is a FIFO, a device or a socket where the file should be.
    #[error("the state file {} is no regular file; name another `state.file`", path.display())]
    NotRegular {
        /// The state file.
        path: PathBuf,
    },
    /// The lock beside it cannot be opened.
    #[error("the state file {} cannot be locked; let this user write in its folder, or name another `state.file`", path.display())]
    Lock {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("another running edge keeps its state in {}; stop it, or give each edge a `state.file` of its own", path.display())]
    InUse {
        /// The state file.
        path: PathBuf,
    },
    /// It is an SQLite database, but not ours.
    #[error("the state file {} belongs to another program; name another `state.file`", path.display())]
    Foreign {
        /// The state file.
        path: PathBuf,
    },
    /// A newer Pointsman wrote it.
    #[error("the state file {} has format {found}, and this edge knows up to {FORMAT}; run the newer edge that wrote it, or name another `state.file`. It is left untouched", path.display())]
    Newer {
        /// The state file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// It is no database, or a damaged one: SQLite is certain.
    #[error("the state file {} is damaged", path.display())]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The device is full.
    #[error("there is no room to write the state file {}; free some space on its disk", path.display())]
    Full {
        /// The state file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Someone else wrote a route's state, lock or no lock.
    #[error("the state of route `{route}` in {} was changed by somebody else; let one edge only write this file", path.display())]
    Overtaken {
        /// The state file.
        path: PathBuf,
        /// The route.
        route: RouteName,
    },
    /// Anything else.
    #[error("the state file {} cannot be used; see that this user may read and write it and its folder, or name another `state.file`", path.display())]
    Sqlite {
        /// The state file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A value that cannot be written as JSON.
    #[error("a value cannot be written to the state file {} as JSON", path.display())]
    Json {
        /// The state file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Sorts what SQLite said by what an operator has to do about it.
fn refusal(path: &Path) -> impl Fn(rusqlite::Error) -> DatabaseError {
    let path = path.to_owned();
    move |source| {
        let path = path.clone();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => DatabaseError::Damaged { path, source },
            Some(ErrorCode::DiskFull) => DatabaseError::Full { path, source },
            _ => DatabaseError::Sqlite { path, source },
        }
    }
}

/// The state of one route as the file has it.
#[derive(Debug, Clone)]
pub(crate) struct StoredRoute {
    /// Counts up by one with every write.
    pub(crate) seq: i64,
    /// What the rollout is made from again.
    pub(crate) saved: Saved,
}

/// Everything that a start needs from the file.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Every route that was ever kept, and readable.
    pub(crate) routes: BTreeMap<RouteName, StoredRoute>,
    /// Routes whose state cannot be understood, with their seq and why.
    pub(crate) unreadable: BTreeMap<RouteName, (i64, String)>,
    /// The newest decisions of every route, oldest first.
    pub(crate) recent: Vec<DecisionRow>,
    /// The largest id in the decision log; 0 if it is empty.
    pub(crate) last_id: u64,
    /// What users' cookies are signed with; none before there was any.
    pub(crate) cookie_secret: Option<Secret>,
}

/// What is written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The present state of the routes that changed.
    pub(crate) routes: BTreeMap<RouteName, Saved>,
    /// New rows of the decision log, in the order of their ids.
    pub(crate) decisions: Vec<Arc<DecisionRow>>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.decisions.is_empty()
    }
}

/// The open file; this process holds its lock.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    connection: Connection,
    identity: Option<(u64, u64)>,
    _lock: File,
}

impl Database {
    /// Opens the file for writing; makes it and its folder if they are not there.
    ///
    /// # Errors
    /// If it cannot be written, is in use by another edge, or holds something that is not ours to change.
    pub(crate) fn open(path: &Path) -> Result<Self, DatabaseError> {
        make_folder(path)?;
        must_be_regular(path)?;
        let lock = lock(path)?;
        keep_private(path);
        let mut connection = Connection::open_with_flags(path, write_flags()).map_err(refusal(path))?;
        prepare(&mut connection, path)?;
        Ok(Self { path: path.to_owned(), connection, identity: identity(path), _lock: lock })
    }

    /// Whether the file at the path is still the one that is open.
    pub(crate) fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    /// Reads what a start needs, with up to `recent` decisions of each route.
    pub(crate) fn contents(&self, recent: usize) -> Result<Contents, DatabaseError> {
        read_contents(&self.connection, recent).map_err(refusal(&self.path))
    }

    /// Keeps what users' cookies are signed with.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn keep_cookie_secret(&self, secret: Secret) -> Result<(), DatabaseError> {
        let kept = self.connection.execute(
            "INSERT INTO meta (key, value) VALUES ('cookie_secret', ?1) ON CONFLICT DO UPDATE SET value = ?1",
            params![secret.to_text()],
        );
        kept.map(drop).map_err(refusal(&self.path))
    }

    /// Writes `batch` in one transaction; `seqs` holds what each route's seq must be, and is counted up.
    ///
    /// # Errors
    /// If the file cannot be written or a route was changed by somebody else; nothing is written then.
    pub(crate) fn commit(&mut self, batch: &Batch, seqs: &mut BTreeMap<RouteName, i64>) -> Result<(), DatabaseError> {
        let refused = refusal(&self.path);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&refused)?;
        let written = write_routes(&transaction, &self.path, &batch.routes, seqs)?;
        write_decisions(&transaction, &self.path, &batch.decisions)?;
        transaction.commit().map_err(&refused)?;
        seqs.extend(written);
        Ok(())
    }

    /// The connection, for tests that make the disk fail.
    #[cfg(test)]
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Device and number of the file at `path`.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn write_routes(
    transaction: &Transaction<'_>,
    path: &Path,
    routes: &BTreeMap<RouteName, Saved>,
    seqs: &BTreeMap<RouteName, i64>,
) -> Result<BTreeMap<RouteName, i64>, DatabaseError> {
    let mut written = BTreeMap::new();
    for (route, saved) in routes {
        let json = to_json(saved, path)?;
        let seq = seqs.get(route).copied().unwrap_or(0);
        let changed = if seq == 0 {
            transaction.execute(
                "INSERT INTO route (name, seq, saved) VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING",
                params![route.as_str(), json],
            )
        } else {
            transaction.execute(
                "UPDATE route SET seq = seq + 1, saved = ?2 WHERE name = ?1 AND seq = ?3",
                params![route.as_str(), json, seq],
            )
        };
        if changed.map_err(refusal(path))? != 1 {
            return Err(DatabaseError::Overtaken { path: path.to_owned(), route: route.clone() });
        }
        written.insert(route.clone(), seq + 1);
    }
    Ok(written)
}

fn write_decisions(transaction: &Transaction<'_>, path: &Path, rows: &[Arc<DecisionRow>]) -> Result<(), DatabaseError> {
    for row in rows {
        let json = to_json(row.as_ref(), path)?;
        transaction
            .execute(
                "INSERT INTO decision (id, at, route, json) VALUES (?1, ?2, ?3, ?4)",
                params![to_sql(row.id), row.at, row.route.as_str(), json],
            )
            .map_err(refusal(path))?;
    }
    Ok(())
}

fn to_json(value: &impl serde::Serialize, path: &Path) -> Result<String, DatabaseError> {
    serde_json::to_string(value).map_err(|source| DatabaseError::Json { path: path.to_owned(), source })
}

/// A count as SQLite keeps it; ours stay far below 2^63.
fn to_sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn from_sql(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn write_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// To open a FIFO would wait for ever.
fn must_be_regular(path: &Path) -> Result<(), DatabaseError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(DatabaseError::NotRegular { path: path.to_owned() }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The file holds what users' cookies are signed with, so nobody but its owner may read it; what SQLite puts beside it gets
/// the same mode. A file system without modes is no reason not to keep state.
fn keep_private(path: &Path) {
    let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if created.is_err() && mode & OTHERS != 0 {
        let private = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700));
        if let Err(error) = private {
            warn!(file = %path.display(), %error, "others can read the state file, and with it what users' cookies are signed with");
        }
    }
}

fn make_folder(path: &Path) -> Result<(), DatabaseError> {
    if path.is_dir() {
        return Err(DatabaseError::IsFolder { path: path.to_owned() });
    }
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|source| DatabaseError::Folder { path: path.to_owned(), source })
        }
        None => Ok(()),
    }
}

/// Takes the lock beside the file. Not on the file itself: closing any descriptor of it would drop SQLite's own locks.
fn lock(path: &Path) -> Result<File, DatabaseError> {
    let refused = |source| DatabaseError::Lock { path: path.to_owned(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(beside(path, ".lock"))
        .map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DatabaseError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

/// `state.db` and `.lock` to `state.db.lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Sets the connection up and brings an empty file into our format; refuses every other format unchanged.
fn prepare(connection: &mut Connection, path: &Path) -> Result<(), DatabaseError> {
    let refused = refusal(path);
    connection.busy_timeout(BUSY).map_err(&refused)?;
    let empty = format_of(connection, path)?.is_none();
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&refused)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&refused)?;
    if empty {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&refused)?;
        transaction.execute_batch(SCHEMA).map_err(&refused)?;
        transaction.commit().map_err(&refused)?;
    }
    Ok(())
}

/// The format of the file; none if it is empty.
fn format_of(connection: &Connection, path: &Path) -> Result<Option<i64>, DatabaseError> {
    let refused = refusal(path);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(&refused)?;
    if tables == 0 {
        return Ok(None);
    }
    let ours: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'route', 'decision')",
            [],
            |row| row.get(0),
        )
        .map_err(&refused)?;
    if ours == 0 {
        return Err(DatabaseError::Foreign { path: path.to_owned() });
    }
    let found: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))
        .optional()
        .map_err(&refused)?;
    match found.as_deref().map(str::parse::<i64>) {
        Some(Ok(FORMAT)) => Ok(Some(FORMAT)),
        Some(_) => Err(DatabaseError::Newer { path: path.to_owned(), found: found.unwrap_or_default() }),
        None => Err(DatabaseError::Foreign { path: path.to_owned() }),
    }
}

/// Reads what a start needs from a file that cannot be written, so that a quarantine holds even then.
///
/// # Errors
/// If it cannot be read either.
pub(crate) fn read_contents_only(path: &Path, recent: usize) -> Result<Contents, DatabaseError> {
    let connection = open_for_reading(path)?;
    read_contents(&connection, recent).map_err(refusal(path))
}

/// The state of every route that a damaged file still gives, for its successor, and whether that is all of them.
///
/// # Errors
/// If it gives none.
pub(crate) fn salvage_routes(path: &Path) -> Result<(BTreeMap<RouteName, Saved>, bool), DatabaseError> {
    let connection = open_for_reading(path)?;
    let mut contents = Contents::default();
    read_routes(&connection, &mut contents).map_err(refusal(path))?;
    let routes = contents.routes.into_iter().map(|(name, stored)| (name, stored.saved)).collect();
    Ok((routes, contents.unreadable.is_empty()))
}

/// Up to `limit` decisions of `route` with an id below `below`, newest first.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read_decisions(
    path: &Path,
    route: &RouteName,
    limit: usize,
    below: Option<u64>,
) -> Result<Vec<DecisionRow>, DatabaseError> {
    let connection = open_for_reading(path)?;
    let refused = refusal(path);
    let mut statement = connection
        .prepare("SELECT json FROM decision WHERE route = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3")
        .map_err(&refused)?;
    let (below, limit) = (below.map_or(i64::MAX, to_sql), i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = statement.query_map(params![route.as_str(), below, limit], |row| bytes(row, 0)).map_err(&refused)?;
    Ok(rows.filter_map(Result::ok).filter_map(|json| decision(&json).ok()).collect())
}

/// The decision with this number, of whatever route; none if there is no such one.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn read_decision(path: &Path, id: u64) -> Result<Option<DecisionRow>, DatabaseError> {
    let connection = open_for_reading(path)?;
    let json: Option<Vec<u8>> = connection
        .query_row("SELECT json FROM decision WHERE id = ?1", params![to_sql(id)], |row| bytes(row, 0))
        .optional()
        .map_err(refusal(path))?;
    Ok(json.as_deref().and_then(|json| decision(json).ok()))
}

/// Opens the file for reading, even in a folder where nothing can be written: SQLite reads a WAL database only with an
/// index beside it, which it would have to make. Where nothing stands beside the file, everything stands in it, and it
/// can be read as one that does not change.
fn open_for_reading(path: &Path) -> Result<Connection, DatabaseError> {
    must_be_regular(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match opened(path, path, flags) {
        Err(DatabaseError::Sqlite { .. }) if is_whole(path) => {
            opened(path, &unchanging(path), flags | OpenFlags::SQLITE_OPEN_URI)
        }
        other => other,
    }
}

fn opened(path: &Path, name: &Path, flags: OpenFlags) -> Result<Connection, DatabaseError> {
    let connection = Connection::open_with_flags(name, flags).map_err(refusal(path))?;
    connection.busy_timeout(BUSY).map_err(refusal(path))?;
    format_of(&connection, path)?;
    Ok(connection)
}

/// Whether nothing was written beside the file that is not in it yet.
fn is_whole(path: &Path) -> bool {
    match fs::metadata(beside(path, "-wal")) {
        Ok(wal) => wal.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The URI under which SQLite neither locks the file nor looks beside it (<https://www.sqlite.org/uri.html>).
fn unchanging(path: &Path) -> PathBuf {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?mode=ro&immutable=1");
    PathBuf::from(uri)
}

fn read_contents(connection: &Connection, recent: usize) -> Result<Contents, rusqlite::Error> {
    let (last_id, cookie_secret) = (last_id(connection)?, cookie_secret(connection)?);
    let mut contents = Contents { last_id, cookie_secret, ..Contents::default() };
    read_routes(connection, &mut contents)?;
    for name in contents.routes.keys() {
        contents.recent.extend(newest(connection, name, recent)?);
    }
    contents.recent.sort_by_key(|row| row.id);
    Ok(contents)
}

fn read_routes(connection: &Connection, contents: &mut Contents) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare("SELECT name, seq, saved FROM route")?;
    let stored = statement.query_map([], |row| Ok((bytes(row, 0)?, row.get::<_, i64>(1)?, bytes(row, 2)?)))?;
    for route in stored {
        let (name, seq, saved) = route?;
        let name = String::from_utf8_lossy(&name);
        let Ok(name) = name.parse::<RouteName>() else {
            error!(%name, "saved state of what is no route name is left out");
            continue;
        };
        match serde_json::from_slice(&saved) {
            Ok(saved) => {
                contents.routes.insert(name, StoredRoute { seq, saved });
            }
            Err(error) => {
                contents.unreadable.insert(name, (seq, error.to_string()));
            }
        }
    }
    Ok(())
}

/// Text as it stands in the file: one bad byte makes SQLite's text unreadable, and with it everything that is read along.
fn bytes(row: &Row<'_>, column: usize) -> Result<Vec<u8>, rusqlite::Error> {
    Ok(row.get_ref(column)?.as_bytes()?.to_vec())
}

fn cookie_secret(connection: &Connection) -> Result<Option<Secret>, rusqlite::Error> {
    let found = connection
        .query_row("SELECT value FROM meta WHERE key = 'cookie_secret'", [], |row| bytes(row, 0))
        .optional()?;
    Ok(found.and_then(|text| Secret::from_text(str::from_utf8(&text).ok()?)))
}

fn last_id(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM decision", [], |row| row.get(0)).map(from_sql)
}

fn newest(connection: &Connection, route: &RouteName, limit: usize) -> Result<Vec<DecisionRow>, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached("SELECT id, json FROM decision WHERE route = ?1 ORDER BY id DESC LIMIT ?2")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        statement.query_map(params![route.as_str(), limit], |row| Ok((row.get::<_, i64>(0)?, bytes(row, 1)?)))?;
    let mut decisions = Vec::new();
    for row in rows {
        let (id, json) = row?;
        match decision(&json) {
            Ok(decision) => decisions.push(decision),
            Err(error) => error!(id, %route, %error, "decision cannot be read; it is left out of the history"),
        }
    }
    Ok(decisions)
}

/// A row as it was written; one that this program cannot read any more is left out, it still stands in the file.
fn decision(json: &[u8]) -> Result<DecisionRow, serde_json::Error> {
    serde_json::from_slice(json)
}

/// Moves a damaged file, and what SQLite keeps beside it, to the first free `.corrupt-N`.
///
/// # Errors
/// If it cannot be moved.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let mut free =
        (1..=u16::MAX).map(|number| beside(path, &format!(".corrupt-{number}"))).filter(|aside| !aside.exists());
    let aside = free.next().ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_name_can_be_read_as_one_that_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?mode=rw#%41\u{e9}.db");
        drop(Database::open(&path).unwrap());
        std::os::unix::fs::symlink("nowhere/at-all", beside(&path, "-shm")).unwrap();
        let contents = read_contents_only(&path, 1).unwrap();
        assert_eq!((contents.routes.len(), contents.last_id), (0, 0));
    }
}
