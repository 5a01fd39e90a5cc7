//! What every server of ours must agree on: how it logs, which latency buckets it counts in, how its metrics
//! are written out, how drift is counted and compared, and how it stops. Stands beside the line of a request: everybody uses it, it knows nobody.

pub mod buckets;
pub mod drift;
pub mod exposition;
pub mod logs;
pub mod shutdown;
