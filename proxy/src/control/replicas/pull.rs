//! The leader's side of the exchange: one task for each other edge, so that none waits for another.
//!
//! Line: control ► **pull** ► (other edges) ► control. Whenever the control loop says something, every edge is told and
//! asked at once; an edge that is still busy with the last question hears the newest word next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_config::RouteName;
use pointsman_rollout::{Saved, Trip, WayBack};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use super::Message;
use super::client::{AskError, Client};
use super::members::Addresses;
use super::rows::Taken;
use super::wire::{Answer, Ask, EXCHANGE, Leader};
use crate::view::DecisionLine;

/// Longest that one edge may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the leader says.
#[derive(Debug)]
pub(super) struct Word {
    /// Who.
    pub(super) leader: Leader,
    /// How many edges serve.
    pub(super) edges: usize,
    /// Where each route stands.
    pub(super) routes: BTreeMap<RouteName, Saved>,
    /// Whether each that is under way could go back.
    pub(super) ways_back: BTreeMap<RouteName, WayBack>,
    /// The newest decision of each.
    pub(super) newest: BTreeMap<RouteName, DecisionLine>,
    /// What is for one of them only.
    pub(super) to: BTreeMap<SocketAddr, ToOne>,
}

/// What is for one edge only.
#[derive(Debug, Clone, Default)]
pub(super) struct ToOne {
    /// What was taken of it.
    pub(super) taken: Option<Taken>,
    /// What was heard of its trips.
    pub(super) heard: BTreeMap<RouteName, Trip>,
}

/// The last word; none while another edge leads.
pub(super) type LastWord = Option<Arc<Word>>;

/// A task that ends with this value.
#[derive(Debug)]
struct Pulling(JoinHandle<()>);

impl Drop for Pulling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all tasks share.
#[derive(Debug, Clone)]
pub(super) struct Pullers {
    /// Asks.
    pub(super) client: Client,
    /// What to say.
    pub(super) word: watch::Receiver<LastWord>,
    /// Where answers go.
    pub(super) messages: mpsc::UnboundedSender<Message>,
}

impl Pullers {
    /// Has a task for each of the `addresses`, as they come and go; the control loop hears of them first.
    pub(super) async fn follow(self, mut addresses: watch::Receiver<Addresses>) {
        let mut pulling: BTreeMap<SocketAddr, Pulling> = BTreeMap::new();
        loop {
            let now = addresses.borrow_and_update().clone();
            if self.messages.send(Message::Members(now.clone())).is_err() {
                return;
            }
            if let Some(now) = now {
                pulling.retain(|address, _| now.contains_key(address));
                for address in now.into_keys() {
                    let pull = || Pulling(tokio::spawn(self.clone().pull(address)));
                    pulling.entry(address).or_insert_with(pull);
                }
            }
            if addresses.changed().await.is_err() {
                // The list is what it is from now on; the tasks go on with it.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn pull(mut self, address: SocketAddr) {
        let mut is_silent = false;
        while self.word.changed().await.is_ok() {
            let Some(word) = self.word.borrow_and_update().clone() else { continue };
            let began = Instant::now();
            let asked = self.client.ask::<Answer>((address, EXCHANGE), &question(&word, address), ANSWER_WITHIN).await;
            note(address, &asked, &mut is_silent);
            let message = match asked {
                Ok(answer) => Message::Answered { address, took: began.elapsed(), answer: Box::new(answer) },
                Err(AskError::Stale { stale, .. }) => Message::Stale(stale),
                Err(error) => Message::Silent { address, refuses: error.is_refusal_to_connect() },
            };
            if self.messages.send(message).is_err() {
                return;
            }
        }
    }
}

fn question(word: &Word, address: SocketAddr) -> Ask {
    let ToOne { taken, heard } = word.to.get(&address).cloned().unwrap_or_default();
    Ask {
        leader: word.leader.clone(),
        edges: word.edges,
        taken,
        routes: word.routes.clone(),
        ways_back: word.ways_back.clone(),
        newest: word.newest.clone(),
        heard,
    }
}

/// Once for each change.
fn note(address: SocketAddr, asked: &Result<Answer, AskError>, is_silent: &mut bool) {
    match asked {
        Ok(answer) if *is_silent => {
            *is_silent = false;
            info!(%address, name = answer.name, "this edge answers again");
        }
        Err(error) if !*is_silent => {
            *is_silent = true;
            warn!(%address, %error, "an edge does not answer; it goes on with what it was told last, and nothing is promoted without it");
        }
        Ok(_) | Err(_) => {}
    }
}

/// Tells every edge at `addresses` the same, all at once; gives when all were told or did not answer in time.
pub(super) async fn tell_all(
    client: Client,
    addresses: Vec<SocketAddr>,
    path: &'static str,
    told: impl serde::Serialize + Clone + Send + Sync + 'static,
) {
    let mut telling = JoinSet::new();
    for address in addresses {
        let (client, told) = (client.clone(), told.clone());
        telling.spawn(async move { client.tell((address, path), &told, ANSWER_WITHIN).await });
    }
    while let Some(done) = telling.join_next().await {
        if let Ok(Err(error)) = done {
            warn!(%error, "an edge was not told");
        }
    }
}
