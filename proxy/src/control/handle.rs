//! The only way into the control loop: orders go in, the view and the events come out.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pointsman_config::{RouteName, Split};
use pointsman_rollout::{Order, Refusal};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::view::{DecisionRow, Event, RouteView, View};

/// Why an order was not carried out.
#[derive(Debug, Error)]
pub enum OrderError {
    /// No such route.
    #[error("there is no route `{route}`; routes: {known}")]
    NoRoute {
        /// What was asked for.
        route: String,
        /// Every route, separated by commas.
        known: String,
    },
    /// The route's state forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The calendar says that nothing goes forward.
    #[error(
        "`{route}` is frozen by `{name}` until {until}; wait for that, or say `pointsman promote {route} --force --reason TEXT`"
    )]
    Frozen {
        /// The route.
        route: String,
        /// The freeze.
        name: String,
        /// When it ends.
        until: String,
    },
    /// The edge is stopping.
    #[error("the edge is stopping and takes no orders")]
    Stopping,
    /// Another process is taking over.
    #[error("the edge is being replaced by another process; nothing has changed, try again in a second")]
    HandingOver,
    /// Something was decided that its giver had not seen.
    #[error(
        "the route has moved on since you looked: {what} (decision {newest}); look at `{route}` again, and give the order again if it is still right"
    )]
    Overtaken {
        /// Which route.
        route: String,
        /// The newest decision.
        newest: u64,
        /// It, in one sentence.
        what: String,
    },
    /// Another edge decides, and there is no way to it from here.
    #[error(
        "this edge follows {}, which decides; give the order there, or `pointsman rollback`, which every edge obeys",
        .leader.as_deref().unwrap_or("another one, and none leads that it knows of")
    )]
    NotLeader {
        /// Its name, as far as it is known.
        leader: Option<String>,
    },
    /// The edge that decides refused the order.
    #[error("{why} (said {leader}, which leads)")]
    RefusedByLeader {
        /// Its name.
        leader: String,
        /// A fixed word for programs.
        code: String,
        /// Why, and the way out.
        why: String,
    },
    /// The edge that decides did not answer.
    #[error(
        "the order was passed on to {leader}, which leads, and was not confirmed: {why}; look at the route before giving it again, or use `pointsman rollback`, which every edge obeys"
    )]
    LeaderUnreachable {
        /// Its name.
        leader: String,
        /// What went wrong.
        why: String,
    },
}

impl OrderError {
    /// A fixed word for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::NoRoute { .. } => "unknown_route",
            Self::Refused(refusal) => refusal.code(),
            Self::Frozen { .. } => "frozen",
            Self::Stopping => "stopping",
            Self::HandingOver => "handing_over",
            Self::Overtaken { .. } => "overtaken",
            Self::NotLeader { .. } => "not_leader",
            Self::RefusedByLeader { code, .. } => code,
            Self::LeaderUnreachable { .. } => "leader_unreachable",
        }
    }
}

/// What an order does to which route; the answer goes back through `answer`.
#[derive(Debug)]
pub struct OrderMessage {
    /// Which route.
    pub route: RouteName,
    /// What to do.
    pub order: Order,
    /// The newest decision that its giver had seen; none if nobody says.
    pub seen: Option<u64>,
    /// Where the decisions it led to, or the refusal, go; sent after they are in force.
    pub answer: oneshot::Sender<Result<Done, OrderError>>,
}

/// What an order led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// The rows it added to the decision log.
    pub decisions: Vec<DecisionRow>,
    /// The route afterwards.
    pub route: RouteView,
    /// What the edge applies afterwards.
    pub effective: Split,
    /// Whether the state file had all of it before this answer; if not, it waits for the disk.
    pub persisted: bool,
}

/// Handed to the admin API; cheap to clone.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    orders: mpsc::Sender<OrderMessage>,
    view: Arc<ArcSwap<View>>,
    events: broadcast::Sender<Event>,
}

impl ControlHandle {
    /// A handle over the loop's ends.
    pub fn new(orders: mpsc::Sender<OrderMessage>, view: Arc<ArcSwap<View>>, events: broadcast::Sender<Event>) -> Self {
        Self { orders, view, events }
    }

    /// The edge as of the last tick.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Carries out an order.
    ///
    /// # Errors
    /// If there is no such route, its state forbids the order, or the edge is stopping; nothing has changed then.
    pub async fn order(&self, route: RouteName, order: Order) -> Result<Done, OrderError> {
        self.order_having_seen(route, order, None).await
    }

    /// Carries out an order whose giver knows of decisions up to number `seen`; none if nobody says.
    ///
    /// # Errors
    /// As [`ControlHandle::order`], and if something was decided since, unless the order is a rollback.
    pub async fn order_having_seen(
        &self,
        route: RouteName,
        order: Order,
        seen: Option<u64>,
    ) -> Result<Done, OrderError> {
        let (answer, outcome) = oneshot::channel();
        let message = OrderMessage { route, order, seen, answer };
        if self.orders.send(message).await.is_err() {
            return Err(OrderError::Stopping);
        }
        outcome.await.unwrap_or(Err(OrderError::Stopping))
    }
}
