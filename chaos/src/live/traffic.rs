//! The load of a live world, on a thread of its own so that nothing else makes it late.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::LiveError;
use super::models::real_bodies;
use crate::load::{Load, LoadError, Running, Told, Total};
use crate::scenario::{CLIENTS_WAIT, Models, Scenario};

/// Lengths of the bodies that fakes are sent.
const LENGTHS: [usize; 5] = [2, 17, 64, 230, 1_000];

/// Load under way.
#[derive(Debug)]
pub(super) struct Traffic {
    rates: Option<mpsc::UnboundedSender<f64>>,
    told: mpsc::UnboundedReceiver<Told>,
    sums: oneshot::Receiver<Sums>,
    /// Every request so far, as it ended.
    pub(super) requests: Vec<Told>,
}

/// All its parts together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) due: u64,
    pub(super) sent: u64,
    /// Why some of it was never sent, or is not known.
    pub(super) problem: Option<String>,
}

impl Traffic {
    /// Sends nothing yet.
    pub(super) fn new(scenario: &Scenario, edges: &[SocketAddr]) -> Result<Self, LiveError> {
        let (rates, wanted) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let (hand_in, sums) = oneshot::channel();
        let load = Load { told: Some(tell), ..load(scenario, edges)? };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| LiveError::Start { what: "the load", source })?;
        thread::spawn(move || {
            let sums = runtime.block_on(play(load, wanted));
            // Nobody waits for it where the world was given up.
            hand_in.send(sums).ok();
        });
        Ok(Self { rates: Some(rates), told, sums, requests: Vec::new() })
    }

    /// Sends so many requests a second from now on.
    pub(super) fn set(&self, rate: f64) {
        if let Some(rates) = &self.rates {
            rates.send(rate).ok();
        }
    }

    /// Takes in what has ended.
    pub(super) fn look(&mut self) {
        while let Ok(told) = self.told.try_recv() {
            self.requests.push(told);
        }
    }

    /// Sends no more, and waits for what is under way.
    pub(super) async fn end(&mut self) -> Sums {
        self.rates = None;
        let sums = (&mut self.sums).await.unwrap_or_else(|_gone| Sums {
            problem: Some("the load ended by itself, and its books with it".to_owned()),
            ..Sums::default()
        });
        self.look();
        sums
    }
}

/// To each of these edges in turn.
fn load(scenario: &Scenario, edges: &[SocketAddr]) -> Result<Load, LiveError> {
    let (first, others) = edges.split_first().ok_or(LiveError::NoPort)?;
    let mut load = Load::new(&format!("http://{first}/v1/predict")).map_err(LiveError::Load)?;
    load.others = others.to_vec();
    let timeouts = &scenario.route.timeouts;
    load.connections = scenario.live.connections;
    load.timeout = timeouts.total.min(timeouts.read * 3) + CLIENTS_WAIT;
    match scenario.live.models {
        Models::Fake => {
            load.bodies = LENGTHS.iter().map(|length| Bytes::from(vec![b'x'; *length])).collect();
            load.expected = LENGTHS.iter().map(|length| Bytes::from(format!("\"prediction\":{length},"))).collect();
        }
        Models::ModelServer => load.bodies = real_bodies().into_iter().map(Bytes::from).collect(),
    }
    Ok(load)
}

/// One load after the other, each with its rate, until nobody wants another.
async fn play(load: Load, mut wanted: mpsc::UnboundedReceiver<f64>) -> Sums {
    let mut loads = JoinSet::new();
    let mut present: Option<Running> = None;
    let mut problem = None;
    while let Some(rate) = wanted.recv().await {
        if let Some(former) = present.take() {
            former.stop();
            loads.spawn(former.finish());
        }
        present = start(&load, rate).unwrap_or_else(|error| {
            problem = Some(format!("a load of {rate:.0} requests a second could not be started: {error}"));
            None
        });
    }
    if let Some(last) = present {
        last.stop();
        loads.spawn(last.finish());
    }
    let totals: Vec<Total> = loads.join_all().await.into_iter().flatten().collect();
    let sum = |of: fn(&Total) -> u64| totals.iter().map(of).sum();
    Sums { due: sum(|total| total.figures.intended), sent: sum(|total| total.figures.sent), problem }
}

/// None where nothing is to be sent.
fn start(load: &Load, rate: f64) -> Result<Option<Running>, LoadError> {
    let rate = whole(rate.round());
    if rate == 0 {
        return Ok(None);
    }
    Load { rate, ..load.clone() }.start().map(Some)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate that was checked when it was read; saturates"
)]
fn whole(rate: f64) -> u32 {
    rate as u32
}

/// Whether a request fell due in one of these spans.
pub(super) fn is_within(spans: &[(Instant, Option<Instant>)], at: Instant) -> bool {
    spans.iter().any(|(from, until)| *from <= at && until.is_none_or(|until| at <= until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_cannot_start_is_told_and_none_at_all_is_no_problem() {
        let (rates, wanted) = mpsc::unbounded_channel();
        rates.send(0.0).unwrap();
        rates.send(1e9).unwrap();
        drop(rates);
        let load = Load::new("http://127.0.0.1:1/").unwrap();
        let problem = play(load.clone(), wanted).await.problem.unwrap();
        assert!(problem.contains("could not be started: the rate is 1000000000"), "{problem}");

        let (rates, wanted) = mpsc::unbounded_channel();
        rates.send(0.0).unwrap();
        drop(rates);
        assert_eq!(play(load, wanted).await, Sums::default());
    }
}
