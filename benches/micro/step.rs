//! Deciding: one tick of one route, slices included, and the summary that people see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman_config::{Config, Share};
use pointsman_rollout::{Drawn, Input, Observed, Ready, Rollout, Row, Seen, Tally, Time};

fn step(criterion: &mut Criterion) {
    let route = Arc::new(Config::parse(&common::config_text(1), "bench.yaml").unwrap().config.routes.remove(0));
    let (mut rollout, _) = Rollout::start(Arc::clone(&route), Time::default());
    let canary = Tally { requests: 5, errors: 0, slow: 0 };
    let stable = Tally { requests: 95, errors: 1, slow: 0 };
    let row = Row { weight: Share::from_ppm(50_000).unwrap(), canary, stable };
    let drawn = Drawn { canary: 5, stable: 95 };
    let trial = rollout.trial();
    let rows = [Observed {
        stable: "v1".parse().unwrap(),
        canary: Some("v2".parse().unwrap()),
        trial,
        row,
        requests: None,
        drawn,
    }];
    let ready: BTreeMap<_, _> =
        route.versions.keys().map(|version| (version.clone(), Ready { up: 1, total: 1 })).collect();
    let applied = rollout.desired().granted;
    let mut now = Time::default();
    criterion.bench_function("step/a tick, slices included", |bencher| {
        bencher.iter(|| {
            now = now.plus(Duration::from_millis(100));
            rollout.step(Input::Tick(&Seen::alone(&rows, &ready, &applied, &[])), now).unwrap().len()
        });
    });
    criterion.bench_function("step/the summary for people", |bencher| bencher.iter(|| rollout.summary()));
}

criterion_group!(benches, step);
criterion_main!(benches);
