//! The worlds that a scenario can be played in, and how the live one plays it.

use std::fmt;

use serde::Deserialize;

use super::event::{EdgeFault, Event, StateFault, What};

/// Where a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// In virtual time, against the edge's decisions.
    Sim,
    /// On real processes, in real time.
    Live,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sim => "sim",
            Self::Live => "live",
        })
    }
}

/// How the live world plays a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Live {
    /// So many seconds of the scenario in each real one. Plan, events and their limits go faster, and so does the load:
    /// a step sees as many requests. What is real stays as it is: latencies, timeouts, health checks, restarts.
    pub speed: f64,
    /// Connections that the load holds at most.
    pub connections: usize,
    /// File descriptors that the edge may have; as many as this process, if none.
    pub descriptors: Option<u64>,
    /// What answers.
    pub models: Models,
    /// Whether the edge's state lies on a disk of its own of one MiB, which can be filled up. Needs root.
    pub small_disk: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self { speed: 1.0, connections: 64, descriptors: None, models: Models::Fake, small_disk: false }
    }
}

/// What answers in the live world, each endpoint a process of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Models {
    /// A model server without a model, which can be told to answer worse.
    #[default]
    Fake,
    /// `model-server` with the models of the demo.
    ModelServer,
}

impl Event {
    /// Whether `world` has what it takes.
    pub fn is_played_by(&self, world: World) -> bool {
        match world {
            World::Sim => self.is_played_by_sim(),
            World::Live => true,
        }
    }

    /// What the model of the world has: no disk, no sockets, one file of config.
    fn is_played_by_sim(&self) -> bool {
        match &self.what {
            What::Edge { fault: EdgeFault::Killed, state, .. } => *state != Some(StateFault::ReadOnly),
            What::Edge { fault: EdgeFault::Frozen | EdgeFault::CutOff | EdgeFault::Clock { .. }, .. }
            | What::Fault(_)
            | What::Down(_)
            | What::Traffic(_)
            | What::Order(..)
            | What::Edit(_)
            | What::Api(_) => true,
            What::Edge { fault: EdgeFault::Upgraded, .. }
            | What::State(_)
            | What::Config(_)
            | What::Clients(_)
            | What::Names => false,
        }
    }
}
