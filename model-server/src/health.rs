//! Where the server stands: what `/ready` answers, and whether predictions are given.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// A stage of the server's life. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the bundle.
    Loading,
    /// Comparing the golden examples.
    Checking,
    /// Predicting.
    Ready,
    /// The model panics again and again: what is under way is finished, then the server ends, to be started anew.
    Failing,
    /// Asked to end: new clients should go elsewhere, those who come are still answered.
    Draining,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Loading, Self::Checking, Self::Ready, Self::Failing, Self::Draining];

    /// In one word, for machines.
    pub fn status(self) -> &'static str {
        match self {
            Self::Loading | Self::Checking => "starting",
            Self::Ready => "ready",
            Self::Failing => "failing",
            Self::Draining => "draining",
        }
    }

    /// Whether the server ends once what is under way is finished.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Failing | Self::Draining)
    }

    /// Why the server is not ready, in words; nothing when it is.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Loading => Some("the model is being loaded"),
            Self::Checking => Some("the golden examples are being checked"),
            Self::Ready => None,
            Self::Failing => {
                Some("the model panicked too often within a minute, so the server ends; the log says over what")
            }
            Self::Draining => Some("the server was asked to stop and finishes what is under way"),
        }
    }
}

/// The present stage, shared by all threads.
#[derive(Debug)]
pub struct Health {
    stage: AtomicU8,
    failing: Notify,
}

impl Health {
    /// Loading.
    pub fn new() -> Self {
        Self { stage: AtomicU8::new(0), failing: Notify::new() }
    }

    /// The present stage.
    pub fn stage(&self) -> Stage {
        Stage::ALL.get(usize::from(self.stage.load(Ordering::Acquire))).copied().unwrap_or(Stage::Draining)
    }

    /// Moves to a later stage; an earlier one changes nothing, so that a model that is loaded while the server
    /// drains does not make it ready. Gives whether it moved.
    pub fn advance(&self, to: Stage) -> bool {
        let number = Stage::ALL.iter().zip(0_u8..).find_map(|(stage, number)| (*stage == to).then_some(number));
        let number = number.unwrap_or_default();
        let moved = self.stage.fetch_max(number, Ordering::AcqRel) < number;
        if moved && to == Stage::Failing {
            self.failing.notify_one();
        }
        moved
    }

    /// Resolves once the server is failing; for the one who ends it.
    pub async fn failing(&self) {
        self.failing.notified().await;
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_never_goes_back() {
        let health = Health::new();
        assert_eq!(health.stage(), Stage::Loading);
        for stage in Stage::ALL {
            health.advance(stage);
            assert_eq!(health.stage(), stage);
        }
        health.advance(Stage::Ready);
        assert_eq!(health.stage(), Stage::Draining);
    }

    #[test]
    fn only_a_ready_server_has_no_reason() {
        for stage in Stage::ALL {
            assert_eq!(stage.reason().is_none(), stage == Stage::Ready);
        }
    }
}
