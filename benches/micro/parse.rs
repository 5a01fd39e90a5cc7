//! Reading a config file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench fails by panicking")]

mod common;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman_config::Config;

fn parse(criterion: &mut Criterion) {
    for routes in [1, 1000] {
        let text = common::config_text(routes);
        criterion.bench_function(&format!("parse/{routes} routes"), |bencher| {
            bencher.iter(|| Config::parse(black_box(&text), "bench.yaml").unwrap());
        });
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
