//! The load of a live world, on a thread of its own so that nothing else makes it late.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::LiveError;
use super::models::real_bodies;
use crate::load::{Load, Running, Told, Total};
use crate::scenario::{Models, Scenario};

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
    load.connections = scenario.live.connections;
    load.users.clone_from(&scenario.users);
    load.timeout = scenario.patience();
    match scenario.live.models {
        Models::Fake => {
            load.bodies = LENGTHS.iter().map(|length| Bytes::from(vec![b'x'; *length])).collect();
            load.expected = LENGTHS.iter().map(|length| Bytes::from(format!("\"prediction\":{length},"))).collect();
        }
        Models::ModelServer => load.bodies = real_bodies().into_iter().map(Bytes::from).collect(),
    }
    Ok(load)
}

/// One load, from the first rate on that is more than nothing; its rate is what was wanted last, until nobody wants any.
async fn play(load: Load, mut wanted: mpsc::UnboundedReceiver<f64>) -> Sums {
    let mut running: Option<Running> = None;
    let mut problem = None;
    while let Some(rate) = wanted.recv().await {
        let rate = whole(rate.round());
        let set = match &running {
            Some(running) => running.set_rate(rate),
            None if rate == 0 => Ok(()),
            None => Load { rate, ..load.clone() }.start().map(|started| running = Some(started)),
        };
        if let Err(error) = set {
            problem = Some(format!("a load of {rate} requests a second cannot be sent: {error}"));
        }
    }
    let total: Option<Total> = match running {
        Some(running) => {
            running.stop();
            running.finish().await
        }
        None => None,
    };
    let of = |of: fn(&Total) -> u64| total.as_ref().map_or(0, of);
    Sums { due: of(|total| total.figures.intended), sent: of(|total| total.figures.sent), problem }
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
        assert!(problem.contains("cannot be sent: the rate is 1000000000"), "{problem}");

        let (rates, wanted) = mpsc::unbounded_channel();
        rates.send(0.0).unwrap();
        drop(rates);
        assert_eq!(play(load, wanted).await, Sums::default());
    }
}
