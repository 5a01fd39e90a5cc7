//! The words that tables and verdicts have for what is done to an edge and its endpoints.

use crate::fault::Strike;
use crate::scenario::{ApiFault, Clients, ConfigFault, Down, EdgeFault, Fault, StateFault, What};

pub(super) const TRAFFIC: &str = "traffic changed";
pub(super) const NAMES: &str = "names not found";

/// All that an event does; orders and edits are no faults.
pub(super) fn of(what: &What) -> Vec<&'static str> {
    match what {
        What::Fault(fault) => of_fault(fault).map(|(kind, _)| kind).collect(),
        What::Down(down) => vec![of_down(down)],
        What::Edge { fault, state, .. } => [of_edge(*fault)].into_iter().chain(state.map(of_state)).collect(),
        What::State(fault) => vec![of_state(*fault)],
        What::Config(fault) => vec![of_config(*fault)],
        What::Clients(clients) => vec![of_clients(*clients)],
        What::Names => vec![NAMES],
        What::Traffic(_) => vec![TRAFFIC],
        What::Api(fault) => vec![of_api(*fault)],
        What::Order(..) | What::Edit(_) => Vec::new(),
    }
}

/// Each kind of a fault, and by which of their counts endpoints say that it struck.
pub(super) fn of_fault(fault: &Fault) -> impl Iterator<Item = (&'static str, Strike)> + use<> {
    let parts = [
        (fault.errors > 0.0, "errors", Strike::Failed),
        (fault.slow > 0.0, "slow answers", Strike::Delayed),
        (fault.latency.is_some(), "latency distribution", Strike::Delayed),
        (fault.hang > 0.0, "hanging answers", Strike::Hung),
        (fault.reset > 0.0, "resets", Strike::Reset),
        (fault.torn > 0.0, "torn bodies", Strike::Reset),
        (fault.trickle > 0.0, "slow bodies", Strike::Trickled),
        (fault.garbage > 0.0, "garbage answers", Strike::Garbage),
        (fault.wrong > 0.0, "wrong numbers", Strike::Wrong),
    ];
    parts.into_iter().filter(|(is_there, ..)| *is_there).map(|(_, kind, strike)| (kind, strike))
}

pub(super) fn of_down(down: &Down) -> &'static str {
    if down.every.is_some() { "flapping endpoints" } else { "endpoints gone" }
}

pub(super) fn of_edge(fault: EdgeFault) -> &'static str {
    match fault {
        EdgeFault::Killed => "edge killed",
        EdgeFault::Frozen => "edge frozen",
        EdgeFault::Upgraded => "upgrade",
        EdgeFault::CutOff => "edge cut off",
        EdgeFault::Clock { .. } => "clock off",
    }
}

pub(super) fn of_config(fault: ConfigFault) -> &'static str {
    match fault {
        ConfigFault::Flapping => "config changed 100 times a second",
        ConfigFault::HalfWritten | ConfigFault::Garbage | ConfigFault::Deleted | ConfigFault::Unreadable => {
            "config file broken"
        }
    }
}

pub(super) fn of_clients(clients: Clients) -> &'static str {
    match clients {
        Clients::Idle(_) => "idle clients",
        Clients::SlowLoris(_) => "slow clients",
        Clients::Garbage(_) => "clients without HTTP",
    }
}

pub(super) fn of_api(fault: ApiFault) -> &'static str {
    match fault {
        ApiFault::Slow => "API server slow",
        ApiFault::Conflict => "API server answers 409",
        ApiFault::TooMany => "API server answers 429",
        ApiFault::Failing => "API server answers 503",
        ApiFault::Hanging => "API server hanging",
        ApiFault::WatchCut => "watches cut",
        ApiFault::Late => "writes landing late",
        ApiFault::ForeignEdit => "edit by somebody else",
    }
}

pub(super) fn of_state(fault: StateFault) -> &'static str {
    match fault {
        StateFault::Full => "disk full",
        StateFault::ReadOnly => "disk read-only",
        StateFault::CorruptByte | StateFault::CutOff => "state file damaged",
        StateFault::Deleted => "state file deleted",
        StateFault::Newer => "state file of a newer version",
    }
}
