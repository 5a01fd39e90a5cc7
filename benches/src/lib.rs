//! How fast Pointsman is: micro-benches (`cargo bench -p pointsman-benches`), under the same load as nginx, `HAProxy` and a
//! minimal pingora proxy (`make bench`, `src/bin/compare.rs`), and its model server beside what Python teams use (`make
//! bench-model`, `src/bin/compare_models.rs`).
//!
//! Line: **rig** (load and versions on one thread) ► contender (a proxy between them) ► course (what is measured in a
//! round) ► figures (medians, ratios) ► report and plot. For model servers, models stands in place of contender and course.

pub mod contender;
pub mod course;
pub mod figures;
pub mod models;
pub mod plot;
pub mod process;
pub mod report;
pub mod rig;
pub mod subject;
