//! Orders at an edge that follows: carried out by the leader, whoever was asked.
//!
//! Line: (operator) ► admin ► control ► **orders** ► (leader). Whoever is woken at night reaches some edge behind a
//! Service, and should not have to find the right one. A rollback is the exception: every edge obeys it by itself, at once,
//! and tells the others.

use std::net::SocketAddr;
use std::time::Duration;

use pointsman_rollout::OrderKind;
use tokio::sync::oneshot;

use super::client::Client;
use super::wire::{Carried, ORDER, PassedOn};
use crate::control::Control;
use crate::control::handle::{Done, OrderError, OrderMessage};

/// Longest that the leader may take.
const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(8);

impl Control {
    /// The order, if this edge is to carry it out itself; else it is on its way to the leader.
    pub(in crate::control) fn here_or_passed_on(&mut self, message: OrderMessage) -> Option<OrderMessage> {
        let Some(replication) = self.replication.as_ref().filter(|replication| !replication.leads()) else {
            return Some(message);
        };
        if message.order.kind == OrderKind::Rollback {
            return Some(message);
        }
        let leader =
            replication.following.leader.as_ref().and_then(|leader| Some((leader.name.clone(), leader.address?)));
        let exchange = &replication.exchange;
        if let Some(leader) = leader {
            exchange.runtime.spawn(pass_on(exchange.client.clone(), leader, message));
        } else {
            let leader = replication.leader_name().map(str::to_owned);
            // Whoever asked may be gone.
            drop(message.answer.send(Err(OrderError::NotLeader { leader })));
        }
        None
    }

    /// Another edge passed an order on, taking this one for the leader.
    pub(super) async fn carry_out_for_another(&mut self, passed: PassedOn, answer: oneshot::Sender<Carried>) {
        let (done, outcome) = oneshot::channel();
        let PassedOn { route, order, seen } = passed;
        self.obey_here(OrderMessage { route, order, seen, answer: done }).await;
        // Sent by now, since the loop obeys one order after the other.
        let outcome = outcome.await.unwrap_or(Err(OrderError::Stopping));
        drop(answer.send(carried(outcome)));
    }
}

fn carried(outcome: Result<Done, OrderError>) -> Carried {
    match outcome {
        Ok(done) => Carried::Done(Box::new(done)),
        Err(error) => Carried::Refused { code: error.code().to_owned(), why: error.to_string() },
    }
}

async fn pass_on(client: Client, (leader, address): (String, SocketAddr), message: OrderMessage) {
    let OrderMessage { route, order, seen, answer } = message;
    let passed = PassedOn { route, order, seen };
    let outcome = match client.ask::<Carried>((address, ORDER), &passed, CARRIED_OUT_WITHIN).await {
        Ok(Carried::Done(done)) => Ok(*done),
        Ok(Carried::Refused { code, why }) => Err(OrderError::RefusedByLeader { leader, code, why }),
        Err(error) => Err(OrderError::LeaderUnreachable { leader, why: error.to_string() }),
    };
    // Whoever asked may be gone.
    drop(answer.send(outcome));
}
