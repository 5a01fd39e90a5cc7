//! Recording what came of a request, and reading it at a tick. Goal: 150 ns a request at most.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a bench fails by panicking")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::outcome::{ErrorPolicy, Outcome};
use pointsman::recorder::{Arm, Assignment, Epoch, Ledger, Terms};
use pointsman_config::{ErrorKind, Share};

fn terms() -> Terms {
    Terms {
        weight: Share::from_ppm(50_000).unwrap(),
        trial: 0,
        stable: "v1".parse().unwrap(),
        canary: Some("v2".parse().unwrap()),
        others: Vec::new(),
        errors: ErrorPolicy::new(&BTreeSet::from([
            ErrorKind::Status5xx,
            ErrorKind::Timeout,
            ErrorKind::Connect,
            ErrorKind::Reset,
        ])),
        slow_after: Duration::from_millis(500),
        unanswered_after: Duration::from_secs(2),
        users: None,
    }
}

fn record(criterion: &mut Criterion) {
    let epoch = Epoch::new(terms(), 2);
    criterion.bench_function("record/one request, clock included", |bencher| {
        bencher.iter(|| {
            let mut entry = epoch.begin(Assignment::by_chance(black_box(Arm::Canary)), Instant::now());
            let started = entry.started();
            epoch.asked(&mut entry, started);
            epoch.answered(&mut entry, started);
            epoch.finish(entry, Outcome::Success, entry.started().elapsed());
        });
    });
    criterion.bench_function("record/clock alone", |bencher| bencher.iter(|| Instant::now().elapsed()));
    let mut ledger = Ledger::new(2);
    let epoch = ledger.open(terms());
    criterion.bench_function("record/a tick's rows of one route", |bencher| {
        bencher.iter(|| {
            let entry = epoch.begin(Assignment::by_chance(Arm::Stable), Instant::now());
            epoch.finish(entry, Outcome::Success, Duration::from_millis(3));
            ledger.take(Instant::now())
        });
    });
}

criterion_group!(benches, record);
criterion_main!(benches);
