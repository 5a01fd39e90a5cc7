//! Micro-benches (`cargo bench -p pointsman-benches`) and, in `src/bin`, Pointsman beside a minimal pingora proxy under
//! the same load in the same run.
