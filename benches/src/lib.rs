//! How fast Pointsman is: micro-benches (`cargo bench -p pointsman-benches`), and under the same load as nginx, `HAProxy`
//! and a minimal pingora proxy (`make bench`, `src/bin/compare.rs`).
//!
//! Line: **rig** (load and versions on one thread) ► contender (a proxy between them) ► course (what is measured in a
//! round) ► figures (medians, ratios) ► report and plot.

pub mod contender;
pub mod course;
pub mod figures;
pub mod plot;
pub mod process;
pub mod report;
pub mod rig;
