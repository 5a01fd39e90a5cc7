//! Choosing an endpoint, and reading the snapshot.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::endpoint::Endpoint;
use pointsman::pool::Pool;
use pointsman::snapshot::{Snapshot, Snapshots};

fn pick(criterion: &mut Criterion) {
    for count in [1_u16, 3, 30] {
        let endpoints =
            (0..count).map(|number| Arc::new(Endpoint::new(([127, 0, 0, 1], 9000 + number).into()))).collect();
        let pool = Pool::new("v1".parse().unwrap(), endpoints);
        criterion.bench_function(&format!("pick/of {count} endpoints, and enter"), |bencher| {
            bencher.iter(|| black_box(&pool).pick(&[], Instant::now()).map(|(_, endpoint)| endpoint.enter()));
        });
    }
    let snapshots = Snapshots::new(Snapshot { generation: 1, ..Snapshot::default() });
    criterion.bench_function("pick/load the snapshot", |bencher| bencher.iter(|| black_box(&snapshots).load()));
}

criterion_group!(benches, pick);
criterion_main!(benches);
