//! The decision log as people read it: the newest rows from memory, older ones from the state file.
//!
//! Line: events ► **history** ► (admin API). Reading never waits for the writer, and a state file that cannot be read
//! costs old rows only.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pointsman_config::RouteName;

use super::state::database::{self, DatabaseError};
use super::state::in_words;
use crate::admin::{DecisionLog, DecisionLogError};
use crate::view::DecisionRow;

/// Rows that are kept in memory for each route.
const KEPT: usize = 64;
/// How long a reader waits for the state file.
const PATIENCE: Duration = Duration::from_secs(2);

type Tails = BTreeMap<RouteName, VecDeque<Arc<DecisionRow>>>;

/// The decision log; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// None where no file keeps it, but a cluster, which keeps the newest rows only.
    file: Option<Arc<Path>>,
    tails: Arc<Mutex<Tails>>,
}

impl History {
    /// The log that the state file `file` keeps; nothing in memory yet.
    pub(crate) fn of_file(file: PathBuf) -> Self {
        Self { file: Some(file.into()), tails: Arc::default() }
    }

    /// The log of an edge that has no file.
    pub(crate) fn without_file() -> Self {
        Self { file: None, tails: Arc::default() }
    }

    /// Adds a row to what is kept in memory.
    pub(crate) fn remember(&self, row: Arc<DecisionRow>) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = tails.entry(row.route.clone()).or_default();
        if tail.len() == KEPT {
            tail.pop_front();
        }
        tail.push_back(row);
    }

    /// Forgets what is kept in memory.
    pub(crate) fn forget(&self) {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The newest row of `route`.
    pub(crate) fn newest(&self, route: &RouteName) -> Option<Arc<DecisionRow>> {
        let tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.get(route).and_then(|tail| tail.back()).cloned()
    }

    /// The rows in memory, newest first, and the smallest id among all that are kept there.
    fn recent(&self, route: &RouteName, limit: usize, before: Option<u64>) -> (Vec<DecisionRow>, Option<u64>) {
        let tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tail) = tails.get(route) else {
            return (Vec::new(), None);
        };
        let wanted = |row: &&Arc<DecisionRow>| before.is_none_or(|before| row.id < before);
        let rows = tail.iter().rev().filter(wanted).take(limit).map(|row| row.as_ref().clone()).collect();
        (rows, tail.front().map(|row| row.id))
    }

    fn in_memory(&self, id: u64) -> Option<DecisionRow> {
        let tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.values().flatten().find(|row| row.id == id).map(|row| row.as_ref().clone())
    }
}

#[async_trait]
impl DecisionLog for History {
    /// Rows that only the file has are left out while it cannot be read; what is wrong with it stands in the state view.
    async fn decisions(
        &self,
        route: &RouteName,
        limit: usize,
        before: Option<u64>,
    ) -> Result<Vec<DecisionRow>, DecisionLogError> {
        let (mut rows, oldest_in_memory) = self.recent(route, limit, before);
        if rows.len() < limit {
            let (name, left) = (route.clone(), limit - rows.len());
            let below = oldest_in_memory.into_iter().chain(before).min();
            let older = self.read(move |file| database::read_decisions(file, &name, left, below)).await;
            rows.extend(older.unwrap_or_default());
        }
        Ok(rows)
    }

    async fn decision(&self, id: u64) -> Result<Option<DecisionRow>, DecisionLogError> {
        match self.in_memory(id) {
            Some(row) => Ok(Some(row)),
            None => self.read(move |file| database::read_decision(file, id)).await,
        }
    }
}

impl History {
    /// Reads from the file on a thread of its own, so that a hung disk holds up nobody else.
    async fn read<T: Default + Send + 'static>(
        &self,
        read: impl FnOnce(&Path) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DecisionLogError> {
        let Some(path) = self.file.clone() else { return Ok(T::default()) };
        let file = Arc::clone(&path);
        let reading = tokio::task::spawn_blocking(move || read(&file).map_err(|error| in_words(&error)));
        let problem = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(problem))) => problem,
            Ok(Err(panicked)) => panicked.to_string(),
            Err(_) => format!("reading the state file {} hangs; look at its disk", path.display()),
        };
        Err(DecisionLogError { problem })
    }
}
