//! Finding the route of a request: 1,000 routes should cost what 1 costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench fails by panicking")]

mod common;
mod edge;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

fn find(criterion: &mut Criterion) {
    for routes in [1, 1000] {
        let snapshot = edge::snapshot(routes);
        let number = routes / 2;
        let (host, path) = (format!("h{}.example.com", number % 50), format!("/models/m{number}/v1/predict"));
        criterion.bench_function(&format!("route/find in {routes}"), |bencher| {
            bencher.iter(|| snapshot.routes.find(Some(black_box(&host)), black_box(&path)).is_some());
        });
    }
}

criterion_group!(benches, find);
criterion_main!(benches);
