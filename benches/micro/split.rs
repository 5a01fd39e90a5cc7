//! Deciding the version of a request: by chance, and by what a user drew.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::ticket::{Draw, Salt, Ticket};
use pointsman_config::Share;

fn split(criterion: &mut Criterion) {
    let weight = Share::from_ppm(50_000).unwrap();
    criterion.bench_function("split/by chance", |bencher| bencher.iter(|| Ticket::by_chance().wins(black_box(weight))));
    let (route, stable, canary) = ("delivery-time".parse().unwrap(), "v1".parse().unwrap(), "v2".parse().unwrap());
    let salt = Salt::of(Draw { route: &route, stable: &stable, canary: &canary, revision: Some("r7") });
    let user = b"3f1c2a90-user";
    criterion.bench_function("split/by user", |bencher| {
        bencher.iter(|| salt.draw(black_box(user)).ticket.wins(black_box(weight)));
    });
}

criterion_group!(benches, split);
criterion_main!(benches);
