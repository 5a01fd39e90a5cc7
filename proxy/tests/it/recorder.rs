//! The books balance: every request in exactly one outcome, one bucket, and one judgement, whoever writes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use pointsman::outcome::{ErrorPolicy, Outcome};
use pointsman::recorder::{Arm, AssignedBy, Assignment, Epoch, Ledger, Taken, Terms, Users};
use pointsman_config::{ErrorKind, Share};
use pointsman_rollout::Tally;
use proptest::prelude::*;

use crate::harness::id;

fn terms(ppm: u32) -> Terms {
    Terms {
        weight: Share::from_ppm(ppm).unwrap(),
        trial: 0,
        stable: id("v1"),
        canary: Some(id("v2")),
        others: Vec::new(),
        errors: ErrorPolicy::new(
            &[ErrorKind::Status5xx, ErrorKind::Timeout, ErrorKind::Connect, ErrorKind::Reset].into(),
        ),
        slow_after: Duration::from_millis(50),
        unanswered_after: Duration::from_millis(200),
        users: None,
    }
}

/// What one request does: side, outcome, latency in milliseconds.
type Request = (bool, usize, u64);

fn arm(is_canary: bool) -> Arm {
    if is_canary { Arm::Canary } else { Arm::Stable }
}

proptest! {
    #[test]
    fn counts_are_what_was_booked(requests in proptest::collection::vec((any::<bool>(), 0..Outcome::ALL.len(), 0..200_u64), 0..200)) {
        let epoch = Epoch::new(terms(1), 2);
        for (is_canary, outcome, ms) in &requests {
            let mut entry = epoch.begin(Assignment::by_chance(arm(*is_canary)), Instant::now());
            let started = entry.started();
            epoch.asked(&mut entry, started);
            epoch.finish(entry, Outcome::ALL[*outcome], Duration::from_millis(*ms));
        }
        for is_canary in [false, true] {
            let mine: Vec<&Request> = requests.iter().filter(|request| request.0 == is_canary).collect();
            let counts = epoch.read(arm(is_canary));
            for outcome in Outcome::ALL {
                let expected = mine.iter().filter(|request| request.1 == outcome.index()).count() as u64;
                prop_assert_eq!(counts.outcomes[outcome.index()], expected);
            }
            prop_assert_eq!(counts.histogram.iter().sum::<u64>(), mine.len() as u64);
            prop_assert_eq!(counts.sum_us, mine.iter().map(|request| request.2 * 1_000).sum::<u64>());
            let judged: Vec<_> = mine.iter().filter(|request| !matches!(Outcome::ALL[request.1], Outcome::ClientAbort | Outcome::Rejected)).collect();
            let errors = judged.iter().filter(|request| Outcome::ALL[request.1].blames_version()).count() as u64;
            let slow = judged.iter().filter(|request| request.2 > 50).count() as u64;
            prop_assert_eq!(counts.judged, Tally { requests: judged.len() as u64, errors, slow });
        }
    }
}

#[test]
fn rows_add_up_to_the_requests_while_threads_write_and_weights_change() {
    const PER_THREAD: u64 = 30_000;
    let mut ledger = Ledger::new(2);
    let current = Arc::new(arc_swap::ArcSwap::from(ledger.open(terms(0))));
    let done = AtomicBool::new(false);
    let (mut rows, mut weights) = (Tally::default(), 0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|thread: u64| {
                let current = Arc::clone(&current);
                scope.spawn(move || {
                    for number in 0..PER_THREAD {
                        let epoch = current.load_full();
                        let mut entry = epoch
                            .begin(Assignment::by_chance(arm((number + thread).is_multiple_of(3))), Instant::now());
                        let started = entry.started();
                        epoch.asked(&mut entry, started);
                        if number.is_multiple_of(2) {
                            epoch.answered(&mut entry, started);
                        }
                        let outcome = if number.is_multiple_of(10) { Outcome::Error } else { Outcome::Success };
                        epoch.finish(entry, outcome, Duration::from_micros(number));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            weights += 1;
            current.store(ledger.open(terms(weights % 1_000_000)));
            for Taken { row, .. } in ledger.take(Instant::now()) {
                rows += row.stable;
                rows += row.canary;
            }
        }
    });
    drop(current);
    for Taken { row, .. } in ledger.take(Instant::now() + Duration::from_secs(10)) {
        rows += row.stable;
        rows += row.canary;
    }
    assert!(weights > 10, "the weights did change");
    assert_eq!((rows.requests, rows.errors), (4 * PER_THREAD, 4 * PER_THREAD / 10));
    let totals = ledger.totals();
    let counted: u64 = totals.values().flat_map(|counts| counts.outcomes).sum();
    let bucketed: u64 = totals.values().flat_map(|counts| counts.histogram).sum();
    assert_eq!((counted, bucketed), (4 * PER_THREAD, 4 * PER_THREAD));
}

#[test]
fn a_request_belongs_to_the_weight_it_was_assigned_under() {
    let mut ledger = Ledger::new(1);
    let old = ledger.open(terms(10));
    let entry = old.begin(Assignment::by_chance(Arm::Canary), Instant::now());
    let new = ledger.open(terms(20));
    new.finish(new.begin(Assignment::by_chance(Arm::Canary), Instant::now()), Outcome::Success, Duration::ZERO);
    old.finish(entry, Outcome::Error, Duration::ZERO);
    let rows: Vec<_> = ledger
        .take(Instant::now())
        .into_iter()
        .map(|Taken { row, .. }| (row.weight.ppm(), row.canary.requests, row.canary.errors))
        .collect();
    assert_eq!(rows, [(10, 1, 1), (20, 1, 0)]);
}

#[test]
fn a_version_is_judged_by_its_own_time_not_by_its_clients() {
    let ms = Duration::from_millis;
    // Whole and answered, counted from the beginning, and how long it took in all.
    for (asked, answered, latency, slow) in [
        (Some(ms(0)), Some(ms(60)), ms(60), 1),
        (Some(ms(0)), Some(ms(40)), ms(5_000), 0),
        (Some(ms(5_000)), Some(ms(5_040)), ms(5_050), 0),
        (Some(ms(5_000)), Some(ms(5_060)), ms(5_070), 1),
        (Some(ms(5_000)), None, ms(5_060), 1),
        (None, Some(ms(5_000)), ms(5_000), 0),
        (None, None, ms(5_000), 0),
    ] {
        let (epoch, start) = (Epoch::new(terms(1), 1), Instant::now());
        let mut entry = epoch.begin(Assignment::by_chance(Arm::Canary), start);
        if let Some(asked) = asked {
            epoch.asked(&mut entry, start + asked);
        }
        if let Some(answered) = answered {
            epoch.answered(&mut entry, start + answered);
        }
        epoch.finish(entry, Outcome::Success, latency);
        let counts = epoch.read(Arm::Canary);
        assert_eq!(counts.judged, Tally { requests: 1, errors: 0, slow }, "{asked:?} {answered:?} {latency:?}");
        assert_eq!(u128::from(counts.sum_us), latency.as_micros(), "the histogram has whole durations");
    }
}

#[test]
fn only_whole_requests_are_judged_unanswered_and_as_errors_only_where_timeouts_are() {
    for (kinds, errors) in [(vec![ErrorKind::Timeout], 1), (vec![ErrorKind::Status5xx], 0)] {
        let errors_counted = ErrorPolicy::new(&kinds.into_iter().collect());
        let (epoch, start) = (Epoch::new(Terms { errors: errors_counted, ..terms(1) }, 1), Instant::now());
        let uploading = epoch.begin(Assignment::by_chance(Arm::Canary), start);
        let mut waiting = epoch.begin(Assignment::by_chance(Arm::Canary), start);
        epoch.asked(&mut waiting, start);
        epoch.close_unanswered(start + Duration::from_millis(500));
        assert_eq!(epoch.read(Arm::Canary).judged, Tally { requests: 1, errors, slow: 1 });
        epoch.finish(waiting, Outcome::Timeout, Duration::from_secs(11));
        assert_eq!(epoch.read(Arm::Canary).judged, Tally { requests: 1, errors, slow: 1 }, "once");
        epoch.finish(uploading, Outcome::Success, Duration::from_secs(11));
        assert_eq!(epoch.read(Arm::Canary).judged, Tally { requests: 2, errors, slow: 1 });
    }
}

/// An epoch whose unit is the user.
fn with_users(users: &Arc<Users>) -> Terms {
    Terms { users: Some(Arc::clone(users)), ..terms(50_000) }
}

fn by(arm: Arm, by: AssignedBy) -> Assignment {
    Assignment { arm, by }
}

/// One request that is whole at once and ends with `outcome` after so many milliseconds.
fn book(epoch: &Epoch, assignment: Assignment, outcome: Outcome, ms: u64) {
    let mut entry = epoch.begin(assignment, Instant::now());
    let started = entry.started();
    epoch.asked(&mut entry, started);
    epoch.finish(entry, outcome, Duration::from_millis(ms));
}

fn judged(epoch: &Epoch, arm: Arm) -> (u64, u64, u64) {
    let Tally { requests, errors, slow } = epoch.read(arm).judged;
    (requests, errors, slow)
}

#[test]
fn every_error_of_a_user_counts_by_request() {
    let users = Arc::<Users>::default();
    let mut ledger = Ledger::new(1);
    let epoch = ledger.open(with_users(&users));
    let start = Instant::now();
    let one = Assignment { arm: Arm::Canary, by: AssignedBy::User(7) };
    for outcome in [Outcome::Error, Outcome::Error, Outcome::Success, Outcome::Error] {
        epoch.finish(epoch.begin(one, start), outcome, Duration::from_millis(1));
    }
    let taken = ledger.take(start).remove(0);
    assert_eq!(taken.row.canary, Tally { requests: 2, errors: 1, slow: 0 });
    assert_eq!(taken.requests.unwrap().canary, Tally { requests: 4, errors: 3, slow: 0 });
    epoch.finish(epoch.begin(one, start), Outcome::Error, Duration::from_millis(1));
    let taken = ledger.take(start).remove(0);
    assert_eq!(taken.row.canary, Tally::default());
    assert_eq!(
        taken.requests.unwrap().canary,
        Tally { requests: 1, errors: 1, slow: 0 },
        "an error told by nothing else"
    );
}

#[test]
fn of_a_users_errors_only_the_first_counts_and_the_others_are_no_requests_either() {
    let users = Arc::new(Users::default());
    let epoch = Epoch::new(with_users(&users), 2);
    let (ada, bob) = (by(Arm::Canary, AssignedBy::User(1)), by(Arm::Stable, AssignedBy::User(2)));
    for _ in 0..10 {
        book(&epoch, ada, Outcome::Error, 1);
        book(&epoch, ada, Outcome::Success, 1);
        book(&epoch, bob, Outcome::Connect, 1);
        book(&epoch, bob, Outcome::ClientAbort, 1);
    }
    assert_eq!(judged(&epoch, Arm::Canary), (11, 1, 0));
    assert_eq!(judged(&epoch, Arm::Stable), (1, 1, 0));
    assert_eq!(epoch.read(Arm::Canary).outcomes[Outcome::Error.index()], 10, "people see them all");
}

#[test]
fn a_users_first_error_is_the_first_over_both_versions_and_all_weights_of_a_trial() {
    let users = Arc::new(Users::default());
    let mut ledger = Ledger::new(1);
    let low = ledger.open(with_users(&users));
    book(&low, by(Arm::Stable, AssignedBy::User(7)), Outcome::Error, 1);
    let high = ledger.open(Terms { weight: Share::from_ppm(250_000).unwrap(), ..with_users(&users) });
    book(&high, by(Arm::Canary, AssignedBy::User(7)), Outcome::Error, 1);
    let errors: u64 =
        ledger.take(Instant::now()).iter().map(|taken| taken.row.stable.errors + taken.row.canary.errors).sum();
    assert_eq!(errors, 1);
    let next_trial = ledger.open(with_users(&Arc::default()));
    book(&next_trial, by(Arm::Canary, AssignedBy::User(7)), Outcome::Error, 1);
    assert_eq!(judged(&next_trial, Arm::Canary), (1, 1, 0));
}

#[test]
fn of_a_users_slow_answers_only_the_first_is_slow_and_the_others_are_requests() {
    let users = Arc::new(Users::default());
    let epoch = Epoch::new(with_users(&users), 1);
    for _ in 0..5 {
        book(&epoch, by(Arm::Canary, AssignedBy::User(3)), Outcome::Success, 60);
    }
    assert_eq!(judged(&epoch, Arm::Canary), (5, 0, 1));
}

#[test]
fn a_user_who_hangs_in_many_requests_is_one_error() {
    let users = Arc::new(Users::default());
    let (epoch, start) = (Epoch::new(with_users(&users), 1), Instant::now());
    let waiting: Vec<_> = [1_u64, 1, 1, 2]
        .into_iter()
        .map(|user| {
            let mut entry = epoch.begin(by(Arm::Canary, AssignedBy::User(user)), start);
            epoch.asked(&mut entry, start);
            entry
        })
        .collect();
    epoch.close_unanswered(start + Duration::from_millis(150));
    assert_eq!(judged(&epoch, Arm::Canary), (0, 0, 0), "too early");
    epoch.close_unanswered(start + Duration::from_millis(500));
    assert_eq!(judged(&epoch, Arm::Canary), (2, 2, 2));
    for entry in waiting {
        epoch.finish(entry, Outcome::Timeout, Duration::from_secs(11));
    }
    assert_eq!(judged(&epoch, Arm::Canary), (2, 2, 2), "once");
}

#[test]
fn overrides_and_repeats_are_counted_and_are_no_evidence() {
    for none in [AssignedBy::Override, AssignedBy::Repeat] {
        let (epoch, start) = (Epoch::new(terms(50_000), 1), Instant::now());
        book(&epoch, by(Arm::Canary, none), Outcome::Error, 60);
        let mut hangs = epoch.begin(by(Arm::Canary, none), start);
        epoch.asked(&mut hangs, start);
        epoch.close_unanswered(start + Duration::from_secs(1));
        epoch.finish(hangs, Outcome::Timeout, Duration::from_secs(2));
        let counts = epoch.read(Arm::Canary);
        assert_eq!(counts.outcomes.iter().sum::<u64>(), 2, "{none:?}");
        assert_eq!((counts.judged, counts.drawn, counts.split), (Tally::default(), 0, 0), "{none:?}");
    }
}

#[test]
fn a_repeat_of_an_override_stays_one_and_every_other_repeat_is_no_evidence() {
    let repeated = |by| Assignment { arm: Arm::Canary, by }.as_repeat().by;
    assert_eq!([AssignedBy::Chance, AssignedBy::User(1)].map(repeated), [AssignedBy::Repeat; 2]);
    assert_eq!(repeated(AssignedBy::Override), AssignedBy::Override);
}

#[test]
fn draws_are_counted_when_they_are_made_and_a_user_is_drawn_once() {
    let users = Arc::new(Users::default());
    let mut ledger = Ledger::new(2);
    let epoch = ledger.open(with_users(&users));
    for user in [1, 1, 2, 2, 2] {
        epoch.begin(by(Arm::Canary, AssignedBy::User(user)), Instant::now());
    }
    for _ in 0..4 {
        epoch.begin(Assignment::by_chance(Arm::Stable), Instant::now());
    }
    let drawn: Vec<_> =
        ledger.take(Instant::now()).iter().map(|taken| (taken.drawn.canary, taken.drawn.stable)).collect();
    assert_eq!(drawn, [(2, 4)], "nobody has an answer yet");
    assert_eq!((epoch.read(Arm::Canary).split, epoch.read(Arm::Stable).split), (5, 4));
    assert!(ledger.take(Instant::now()).is_empty());
}

#[test]
#[ignore = "prints figures; run optimised: cargo test -p pointsman --release --test it -- --ignored --nocapture cost_of_recording"]
fn cost_of_recording_a_request() {
    const ROUNDS: u32 = 2_000_000;
    let epoch = Epoch::new(terms(50_000), 2);
    let cost = |canary: bool| {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let mut entry = epoch.begin(Assignment::by_chance(arm(canary)), std::hint::black_box(began));
            epoch.asked(&mut entry, began);
            epoch.answered(&mut entry, began);
            epoch.finish(
                entry,
                std::hint::black_box(Outcome::Success),
                std::hint::black_box(Duration::from_micros(900)),
            );
        }
        began.elapsed() / ROUNDS
    };
    println!("begin + answered + finish, one thread: {:?}", cost(false));
    let mut both = [Duration::ZERO; 2];
    std::thread::scope(|scope| {
        let threads = [false, true].map(|canary| scope.spawn(move || cost(canary)));
        both = threads.map(|thread| thread.join().unwrap());
    });
    println!("begin + answered + finish, two threads at once: {both:?}");
}
