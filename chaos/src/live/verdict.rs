//! What a scenario came to: every request in one book, times from the first harm, and what did not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pointsman_config::{Share, VersionId};

use super::draws::Draws;
use super::kinds;
use super::record::{EdgeFigures, Record};
use super::traffic::{Sums, is_within};
use super::watch::{Division, Eye, Watcher};
use crate::count::{as_u64, exact};
use crate::load::{Ended, Told};
use crate::promise::{ENDS, FOR_NOTHING, NEVER_PROMOTED, NEVER_TAKEN_BACK, PROMOTED_LATE, TAKEN_BACK_LATE};
use crate::scenario::{ApiFault, Clients, EdgeFault, Fault, Holds, Scenario, What};

/// A limit of time is for a machine that has nothing else to do; processes that share one get so much more.
const GRACE: Duration = Duration::from_secs(3);
/// Requests that were due so shortly before a version was taken back may still be on their way to it.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// An answer that was begun while answers were torn, or came drop by drop, may end so much later.
const LINGERS: Duration = Duration::from_secs(3);
/// An answer may be known so much later than it came.
const BARELY_AFTER: Duration = Duration::from_millis(50);
/// An edge that starts again listens within so long, on a machine that others use, and its aftermath is over.
const COMES_WITHIN: Duration = Duration::from_secs(10);
/// So long after the last thing that went wrong nothing of it is left.
const CALMS_WITHIN: Duration = Duration::from_secs(5);
/// More of them say no more.
const TOLD_OF_LOST: usize = 10;
/// Around a change of weight nobody knows to the millisecond what was in force.
const UNSURE: Duration = Duration::from_millis(500);
/// Answers are looked at in parts of so long when it is asked how long users were hurt.
const BUCKET: Duration = Duration::from_millis(200);
/// A part of time in which more of the answers were bad hurt; some versions always fail a little.
const HURTS: f64 = 0.03;

/// What was seen beside the edge itself.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the load began.
    pub(super) began: Option<Instant>,
    /// When the first thing went wrong.
    pub(super) harm: Option<Instant>,
    /// When each did.
    pub(super) harms: Vec<Instant>,
    pub(super) edge: EdgeFigures,
    /// How many edges there are.
    pub(super) edges: usize,
    /// How long clients wait.
    patience: Duration,
    /// When an edge was meant to be down.
    pub(super) down: Vec<Outage>,
    /// When an edge stood still.
    pub(super) frozen: Vec<Outage>,
    /// When whose answers were torn on purpose.
    torn: Vec<(VersionId, Instant, Option<Instant>)>,
    /// Faults that are over and of which endpoints are to be told; whose answers they tear.
    ending: Vec<Option<VersionId>>,
    /// When endpoints were gone: what is meant for them goes elsewhere.
    gone: Vec<(Instant, Option<Instant>)>,
    /// When anything was wrong with a version.
    worse: Vec<(Instant, Option<Instant>)>,
    pub(super) bad_inputs: u64,
    faults: BTreeMap<String, u64>,
    struck: BTreeMap<String, u64>,
    pub(super) was_upgraded: bool,
    pub(super) had_odd_clients: bool,
    /// When anything happened first, and until when anything did.
    first_stir: Option<Instant>,
    last_stir: Option<Instant>,
    /// Something went on until the end.
    stays_stirred: bool,
    pub(super) counted: Option<u64>,
    pub(super) settled_since: Option<Instant>,
    /// When the file was edited.
    pub(super) edited: Vec<Instant>,
    /// How traffic was to be divided before the edge was killed.
    pub(super) standing: Option<(BTreeMap<VersionId, u64>, u64)>,
}

/// One edge was meant to be down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// Where clients reach it.
    pub(super) edge: SocketAddr,
    pub(super) since: Instant,
    /// When its process was gone: until then it took requests.
    pub(super) gone: Instant,
    /// How long it was to be.
    pub(super) planned: Duration,
    /// None as long as it is.
    pub(super) until: Option<Instant>,
}

impl Outage {
    fn covers(&self, at: Instant) -> bool {
        self.since <= at && self.until.is_none_or(|until| at <= until)
    }
}

impl Seen {
    /// Nothing yet, of so many edges.
    pub(super) fn of(scenario: &Scenario, edges: usize) -> Self {
        Self { edges, patience: scenario.patience(), ..Self::default() }
    }

    /// An edge is there again, and what it left behind is known until then.
    pub(super) fn is_back(&mut self, edge: SocketAddr, until: Instant) {
        for outage in self.down.iter_mut().filter(|outage| outage.edge == edge && outage.until.is_none()) {
            outage.until = Some(until);
        }
    }

    /// An edge goes on from where it stood.
    pub(super) fn goes_on(&mut self, edge: SocketAddr) {
        for frozen in self.frozen.iter_mut().filter(|frozen| frozen.edge == edge && frozen.until.is_none()) {
            frozen.until = Some(Instant::now());
        }
    }

    /// Whether a client lost its patience with an edge that stood still at that moment.
    fn was_given_up(&self, told: &Told) -> bool {
        let by_client = told.end == Ended::Timeout;
        by_client && self.frozen.iter().any(|frozen| told.to == Some(frozen.edge) && frozen.covers(told.ended))
    }

    /// Whether a request was sent to a process that was killed: it went over a connection that was made before that was gone.
    /// A client that has no time to look finds out by sending.
    fn was_cut_off(&self, told: &Told) -> bool {
        self.down.iter().any(|outage| {
            told.to == Some(outage.edge)
                && told.connected.is_some_and(|connected| connected <= outage.gone)
                && outage.covers(told.ended)
        })
    }

    /// Whether the body of an answer was to be broken off.
    fn was_torn(&self, told: &Told) -> bool {
        let is_its = |version: &VersionId| told.version.as_deref() == Some(version.as_str());
        let own = self.torn.iter().filter(|(version, ..)| is_its(version));
        let spans: Vec<_> = own.map(|(_, since, until)| (*since, *until)).collect();
        told.end == Ended::Reset && (is_within(&spans, told.due) || is_within(&spans, told.ended))
    }

    /// Whether a request met an edge that was meant to be down; one that was sent nowhere, whether all of them were.
    fn met_outage(&self, told: &Told) -> bool {
        let down_at = |at: Instant| {
            let covering = self.down.iter().filter(|outage| outage.covers(at));
            let own = covering.filter(|outage| told.to.is_none_or(|to| to == outage.edge));
            own.map(|outage| outage.edge).collect::<BTreeSet<SocketAddr>>().len()
        };
        let wanted = if told.to.is_some() { 1 } else { self.edges.max(1) };
        down_at(told.due) >= wanted || down_at(told.ended) >= wanted
    }

    /// One more of its kind.
    pub(super) fn count(&mut self, what: &What) {
        for kind in kinds::of(what) {
            *self.faults.entry(kind.to_owned()).or_default() += 1;
        }
    }

    /// Something has begun, and lasts until then, or if it has no end of its own, to the end.
    pub(super) fn stirred(&mut self, what: &What, since: Instant, until: Option<Instant>) {
        self.first_stir.get_or_insert(since);
        self.settles(until.unwrap_or_else(Instant::now));
        self.stays_stirred |= until.is_none() && !is_moment(what);
    }

    /// Something is over.
    pub(super) fn settles(&mut self, at: Instant) {
        self.last_stir = Some(self.last_stir.map_or(at, |last| last.max(at)));
    }

    /// Whether nothing had happened yet when a request was due, or everything was long over.
    fn is_calm(&self, told: &Told) -> bool {
        let is_before = self.first_stir.is_none_or(|first| told.ended + BARELY_AFTER < first);
        let is_after = self.last_stir.is_some_and(|last| told.due > last + CALMS_WITHIN);
        is_before || (is_after && !self.stays_stirred)
    }

    /// So often it struck.
    pub(super) fn struck(&mut self, kind: &str, times: u64) {
        *self.struck.entry(kind.to_owned()).or_default() += times;
    }

    pub(super) fn fault_begins(&mut self, fault: &Fault, since: Instant) {
        self.worse.push((since, None));
        if fault.torn > 0.0 {
            self.torn.push((fault.version.clone(), since, None));
        }
    }

    pub(super) fn endpoints_go(&mut self, since: Instant) {
        self.gone.push((since, None));
    }

    /// They are back, and are found so a little later.
    pub(super) fn endpoints_are_back(&mut self) {
        close(&mut self.gone, Instant::now() + LINGERS);
    }

    /// It is over as soon as every endpoint has been told.
    pub(super) fn fault_ends(&mut self, fault: &Fault) {
        self.ending.push((fault.torn > 0.0).then(|| fault.version.clone()));
    }

    /// Every endpoint has been told; what was begun before that may last for a while.
    pub(super) fn endpoints_are_told(&mut self) {
        let until = Instant::now() + LINGERS;
        for torn in self.ending.drain(..) {
            close(&mut self.worse, until);
            let mut own = self
                .torn
                .iter_mut()
                .filter(|(version, _, end)| end.is_none() && torn.as_ref().is_some_and(|torn| version == torn));
            if let Some((.., end)) = own.next() {
                *end = Some(until);
            }
        }
    }

    /// Whether the edge's counters hold the load's requests and nothing else.
    pub(super) fn is_countable(&self) -> bool {
        // What its client gave up the edge may find too late to count.
        let may_be_given_up = self.frozen.iter().any(|frozen| frozen.planned >= self.patience);
        self.down.is_empty() && !may_be_given_up && !self.was_upgraded && !self.had_odd_clients
    }
}

/// Whether something without an end is over as soon as it has begun, or says itself when it is.
fn is_moment(what: &What) -> bool {
    matches!(
        what,
        What::Order(..)
            | What::Edit(_)
            | What::Api(ApiFault::ForeignEdit)
            | What::Edge { fault: EdgeFault::Upgraded, .. }
            | What::Clients(Clients::Garbage(_))
    )
}

/// Ends the first that has no end.
fn close(spans: &mut [(Instant, Option<Instant>)], until: Instant) {
    if let Some((_, end)) = spans.iter_mut().find(|(_, end)| end.is_none()) {
        *end = Some(until);
    }
}

/// Fills the record, and holds it against what the scenario and every world promise.
pub(super) fn reach(
    scenario: &Scenario,
    record: &mut Record,
    watcher: &mut Watcher,
    requests: &[Told],
    (seen, sums): (&Seen, &Sums),
) {
    figures(record, watcher, requests, (seen, sums));
    let since_harm = |at: Instant| seen.harm.map(|harm| at.saturating_duration_since(harm).as_secs_f64());
    record.notice_s = watcher.noticed.and_then(since_harm);
    record.rollback_s = watcher.taken_back.and_then(since_harm);
    let hurts = seen
        .harms
        .iter()
        .enumerate()
        .map(|(index, harm)| hurt_for(requests, *harm, seen.harms.get(index + 1).copied()).as_secs_f64());
    record.recover_s = hurts.max_by(f64::total_cmp);
    let at = Duration::from_secs_f64(record.seconds);
    if let Some(problem) = &sums.problem {
        watcher.broke("whole books", problem);
    }
    check_books(scenario, record, watcher, seen);
    check_calm(scenario, watcher, requests, seen);
    check_quarantine(watcher, requests, at);
    if scenario.users.is_some() {
        check_users(watcher, requests, seen, at);
    } else {
        check_split(watcher, requests, seen, at);
    }
    for (rule, said) in broken_promises(scenario, record, watcher, (requests, seen)) {
        watcher.broke(rule, &said);
    }
    tell(record, watcher);
}

/// What was seen, of a scenario that was not played to its end.
pub(super) fn set_down(record: &mut Record, watcher: &mut Watcher, requests: &[Told], (seen, sums): (&Seen, &Sums)) {
    figures(record, watcher, requests, (seen, sums));
    tell(record, watcher);
}

fn figures(record: &mut Record, watcher: &Watcher, requests: &[Told], (seen, sums): (&Seen, &Sums)) {
    book(record, requests, seen, sums);
    record.edge = seen.edge;
    record.faults.clone_from(&seen.faults);
    record.struck.clone_from(&seen.struck);
    record.bad_inputs = seen.bad_inputs;
    record.ends = watcher.phase().map(|phase| phase.to_string());
}

fn tell(record: &mut Record, watcher: &mut Watcher) {
    record.trace = std::mem::take(&mut watcher.trace);
    let broken = std::mem::take(&mut watcher.invariants).into_broken();
    record.broken = broken.iter().map(ToString::to_string).collect();
    record.rules = broken.iter().map(|broken| broken.rule.to_owned()).collect();
}

/// Nothing is lost, everything is taken, and both sides have the same books, which are whole.
fn check_books(scenario: &Scenario, record: &Record, watcher: &mut Watcher, seen: &Seen) {
    let at = Duration::from_secs_f64(record.seconds);
    let books = &record.requests;
    watcher.invariants.lost(at, books.lost);
    watcher.invariants.refused(at, books.not_sent.saturating_sub(books.not_sent_as_planned));
    match books.counted_by_edge {
        Some(counted) => watcher.invariants.counted(at, books.sent, counted),
        None if seen.is_countable() => watcher.broke("the same books", "the edge did not say what it counted"),
        None => {}
    }
    let told = books.good + books.bad + books.unanswered_as_planned + books.lost + books.not_sent;
    if books.due != told {
        watcher.broke("whole books", &format!("{} requests were due, and {told} are in the books", books.due));
    }
    if books.due == 0 && scenario.rate > 0.0 {
        watcher.broke("whole books", "there was no load");
    }
    for outage in &seen.down {
        let lasted = outage.until.map(|until| until.saturating_duration_since(outage.since));
        if lasted.is_none_or(|lasted| lasted > outage.planned + COMES_WITHIN) {
            watcher.broke(
                "it comes back",
                &format!("an edge that was to be down for {:?} was for {lasted:?}", outage.planned),
            );
        }
    }
}

/// Every request in one book.
fn book(record: &mut Record, requests: &[Told], seen: &Seen, sums: &Sums) {
    let books = &mut record.requests;
    (books.due, books.sent) = (sums.due, sums.sent);
    books.counted_by_edge = seen.counted.filter(|_| seen.is_countable());
    let mut latencies: Vec<Duration> = Vec::with_capacity(requests.len());
    let mut lost = Vec::new();
    for told in requests {
        let is_down = seen.met_outage(told);
        match told.end {
            Ended::Good => books.good += 1,
            Ended::Wrong | Ended::Bad(_) => {
                books.bad += 1;
                *books.bad_by.entry(blame(told)).or_default() += 1;
            }
            Ended::Unsent => {
                books.not_sent += 1;
                books.not_sent_as_planned += u64::from(is_down);
            }
            Ended::Reset | Ended::Timeout | Ended::Malformed => {
                if seen.was_cut_off(told) || seen.was_torn(told) || seen.was_given_up(told) {
                    books.unanswered_as_planned += 1;
                } else {
                    books.lost += 1;
                    lost.push(told);
                }
            }
        }
        if !told.end.is_unanswered() && told.end != Ended::Unsent {
            latencies.push(told.ended.saturating_duration_since(told.due));
        }
    }
    let seconds = |at: Instant| at.saturating_duration_since(seen.began.unwrap_or(at)).as_secs_f64();
    books.first_lost = lost
        .iter()
        .take(TOLD_OF_LOST)
        .map(|told| {
            let gone =
                seen.down.iter().filter(|outage| told.to == Some(outage.edge)).map(|outage| seconds(outage.gone));
            let gone: Vec<String> = gone.map(|gone| format!("{gone:.2} s")).collect();
            format!(
                "{:?}: due at {:.2} s, ended at {:.2} s, by {}, to {:?} (killed at [{}]) over a connection of {:.2} s",
                told.end,
                seconds(told.due),
                seconds(told.ended),
                blame(told),
                told.to,
                gone.join(", "),
                told.connected.map_or(0.0, seconds),
            )
        })
        .collect();
    latencies.sort_unstable();
    let at = |hundredths: usize| {
        let rank = (latencies.len() * hundredths).div_ceil(100).saturating_sub(1);
        latencies.get(rank).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    (books.p50_ms, books.p99_ms) = (at(50), at(99));
}

fn blame(told: &Told) -> String {
    let who = told.version.as_deref().unwrap_or("edge");
    match told.end {
        Ended::Bad(status) => format!("{who} {status}"),
        Ended::Wrong => format!("{who} wrong"),
        Ended::Good | Ended::Reset | Ended::Timeout | Ended::Malformed | Ended::Unsent => who.to_owned(),
    }
}

/// From `harm` to the end of the last stretch in which users were hurt, before something else went wrong.
fn hurt_for(requests: &[Told], harm: Instant, next: Option<Instant>) -> Duration {
    let mut buckets: BTreeMap<u128, (u64, u64)> = BTreeMap::new();
    // What ends after the next thing that goes wrong may be hurt by that.
    let is_its = |told: &&Told| told.due >= harm && next.is_none_or(|next| told.ended < next);
    for told in requests.iter().filter(is_its) {
        let bucket = told.due.duration_since(harm).as_millis() / BUCKET.as_millis();
        let (bad, all) = buckets.entry(bucket).or_default();
        *bad += u64::from(told.end != Ended::Good);
        *all += 1;
    }
    let hurts = |(bad, all): (u64, u64)| exact(bad) > HURTS * exact(all);
    let last = buckets.into_iter().filter(|(_, counts)| hurts(*counts)).map(|(bucket, _)| bucket).next_back();
    last.map_or(Duration::ZERO, |bucket| BUCKET * u32::try_from(bucket + 1).unwrap_or(u32::MAX))
}

/// While nothing goes wrong every answer is good, or is what its version is said to fail of itself.
fn check_calm(scenario: &Scenario, watcher: &mut Watcher, requests: &[Told], seen: &Seen) {
    let fails_itself = |told: &Told| {
        let own = told.version.as_deref().and_then(|name| {
            scenario.versions.iter().find(|(version, _)| version.as_str() == name).map(|(_, own)| own.errors)
        });
        matches!(told.end, Ended::Bad(500)) && own.is_some_and(|errors| errors > 0.0)
    };
    let calm = requests.iter().filter(|told| seen.is_calm(told));
    let bad: Vec<&Told> = calm.filter(|told| told.end != Ended::Good && !fails_itself(told)).collect();
    if let Some(first) = bad.first() {
        let due = first.due.saturating_duration_since(watcher.began()).as_secs_f64();
        let said = format!(
            "{} requests went wrong while nothing was, the first of them due at {due:.2} s: {} {:?}",
            bad.len(),
            blame(first),
            first.end
        );
        watcher.broke("calm", &said);
    }
}

fn check_quarantine(watcher: &mut Watcher, requests: &[Told], at: Duration) {
    for (version, since, until) in watcher.banned.clone() {
        let is_late = |told: &&Told| {
            told.version.as_deref() == Some(version.as_str())
                && told.due > since + ON_THE_WAY
                && until.is_none_or(|until| told.due < until)
                && !is_told_apart(&watcher.eyes, told)
        };
        let served = as_u64(requests.iter().filter(is_late).count());
        watcher.invariants.served(at, &version, served);
    }
}

/// Whether a request went to an edge that knew nothing of the others then.
pub(super) fn is_told_apart(eyes: &[Eye], told: &Told) -> bool {
    eyes.iter().any(|eye| told.to == Some(eye.clients) && is_within(&eye.apart, told.due))
}

/// A request that was answered while a share was in force, seen for sure, and nothing else was going on.
struct Divided<'a> {
    canary: &'a VersionId,
    share: Share,
    division: &'a Division,
    told: &'a Told,
}

fn divided<'a>(eyes: &'a [Eye], requests: &'a [Told], seen: &'a Seen) -> impl Iterator<Item = Divided<'a>> {
    let of_eye = |eye: &'a Eye| eye.divisions.iter().map(move |division| (eye.clients, division));
    let shared = |(edge, division): (SocketAddr, &'a Division)| Some((edge, division, division.canary.as_ref()?));
    eyes.iter().flat_map(of_eye).filter_map(shared).flat_map(move |(edge, division, (canary, share))| {
        let is_in = move |told: &&Told| {
            told.to == Some(edge)
                && told.due > division.from + UNSURE
                && told.ended + UNSURE < division.until
                && told.version.is_some()
                && !is_within(&seen.worse, told.due)
                && !is_within(&seen.gone, told.due)
                && !seen.met_outage(told)
        };
        requests.iter().filter(is_in).map(move |told| Divided { canary, share: *share, division, told })
    })
}

fn is_of(told: &Told, version: &VersionId) -> bool {
    told.version.as_deref() == Some(version.as_str())
}

/// Where a share was in force and nothing else was going on, so many requests went to the canary.
fn check_split(watcher: &mut Watcher, requests: &[Told], seen: &Seen, at: Duration) {
    let (mut expected, mut variance, mut got) = (0.0, 0.0, 0.0);
    for Divided { canary, share, told, .. } in divided(&watcher.eyes, requests, seen) {
        let share = share.ratio();
        expected += share;
        variance += share * (1.0 - share);
        got += f64::from(u8::from(is_of(told, canary)));
    }
    watcher.invariants.divided(at, "requests", (expected, variance), got);
}

/// Where users are drawn and not requests.
fn check_users(watcher: &mut Watcher, requests: &[Told], seen: &Seen, at: Duration) {
    let mut draws = Draws::default();
    for Divided { canary, share, division, told } in divided(&watcher.eyes, requests, seen) {
        let edits = seen.edited.iter().filter(|edited| **edited <= division.from).count();
        if let Some(user) = told.user {
            draws.note((canary, edits), share, user, is_of(told, canary));
        }
    }
    let (strays, divided): (_, Vec<_>) = (draws.strays(), draws.divided().collect());
    for of_share in divided {
        watcher.invariants.divided(at, "users", of_share.law(), exact(of_share.canary));
    }
    if let Some(first) = strays.first() {
        watcher.broke("users stay", &format!("{first}; {} did not stay in all", strays.len()));
    }
}

/// A rule that did not hold, and what was seen.
type Breach = (&'static str, String);

/// What the scenario says must hold, and does not.
fn broken_promises(
    scenario: &Scenario,
    record: &Record,
    watcher: &Watcher,
    (requests, seen): (&[Told], &Seen),
) -> Vec<Breach> {
    let Holds { ends, never_taken_back, .. } = scenario.holds;
    let mut broken = Vec::new();
    if let Some(wanted) = ends.filter(|wanted| watcher.phase() != Some(*wanted)) {
        let said = format!("it ends {}, and should end {wanted}", record.ends.as_deref().unwrap_or("unseen"));
        broken.push((ENDS, said));
    }
    if never_taken_back && watcher.taken_back.is_some() {
        let said = "the canary was taken back, and nothing was wrong with it".to_owned();
        broken.push((FOR_NOTHING, said));
    }
    broken.extend(late(scenario, record, watcher, seen.harm));
    broken.extend(bad_answers(scenario, record, requests));
    broken.extend(too_much(&scenario.holds, record));
    broken
}

/// A limit of the scenario, in real time.
fn real(scenario: &Scenario, limit: Duration) -> Duration {
    limit.div_f64(scenario.live.speed) + GRACE
}

fn late(scenario: &Scenario, record: &Record, watcher: &Watcher, harm: Option<Instant>) -> Vec<Breach> {
    let mut broken = Vec::new();
    let harm_at_start = scenario.canary().and_then(|canary| scenario.first_harm(canary)) == Some(Duration::ZERO);
    if scenario.holds.taken_back_within.is_some()
        && let (Some(back), Some(harm), false) = (watcher.taken_back, harm, harm_at_start)
        && back < harm
    {
        broken.push((FOR_NOTHING, "the canary was taken back before anything was wrong".to_owned()));
    }
    if let Some(limit) = scenario.holds.taken_back_within.map(|limit| real(scenario, limit)) {
        let since_start = watcher.taken_back.map(|at| at.saturating_duration_since(watcher.began()).as_secs_f64());
        let took = if harm_at_start { since_start } else { record.rollback_s };
        if took.is_none_or(|took| took > limit.as_secs_f64()) {
            let rule = if took.is_none() { NEVER_TAKEN_BACK } else { TAKEN_BACK_LATE };
            broken.push((rule, format!("the canary was to be taken back within {limit:?}: {}", said(took))));
        }
    }
    if let Some(limit) = scenario.holds.promoted_within.map(|limit| real(scenario, limit)) {
        let took = watcher.promoted.map(|at| at.saturating_duration_since(watcher.began()).as_secs_f64());
        if took.is_none_or(|took| took > limit.as_secs_f64()) {
            let rule = if took.is_none() { NEVER_PROMOTED } else { PROMOTED_LATE };
            broken.push((rule, format!("the canary was to be promoted within {limit:?}: {}", said(took))));
        }
    }
    broken
}

fn said(took: Option<f64>) -> String {
    took.map_or_else(|| "it never was".to_owned(), |took| format!("it took {took:.1} s"))
}

fn bad_answers(scenario: &Scenario, record: &Record, requests: &[Told]) -> Vec<Breach> {
    let canary = scenario.canary().map(VersionId::as_str);
    let is_bad = |told: &&Told| matches!(told.end, Ended::Bad(_) | Ended::Wrong);
    let (own, others): (Vec<&Told>, Vec<&Told>) =
        requests.iter().filter(is_bad).partition(|told| canary.is_some() && told.version.as_deref() == canary);
    let mut broken = Vec::new();
    // The edge looks every 100 ms of real time; while it does, a faster load is answered badly as fast.
    let allowed = |limit: u64| exact(limit) * scenario.live.speed.sqrt();
    let count = |all: &[&Told]| as_u64(all.len());
    if let Some(limit) = scenario.holds.bad_answers_at_most.filter(|limit| exact(count(&own)) > allowed(*limit)) {
        let said = format!("the canary gave {} bad answers, and should give {limit} at most", own.len());
        broken.push(("bad answers of the canary", said));
    }
    if let Some(limit) = scenario.holds.other_bad_answers_at_most.filter(|limit| count(&others) > *limit) {
        let said = format!("{} bad answers came from others than the canary, and {limit} at most should", others.len());
        broken.push(("bad answers of others", said));
    }
    let availability = record.requests.availability();
    if let Some(limit) = scenario.holds.availability_at_least.filter(|limit| availability < *limit) {
        let said = format!("{availability:.5} of all requests were answered well, and {limit} should be");
        broken.push(("availability", said));
    }
    broken
}

fn too_much(holds: &Holds, record: &Record) -> Vec<Breach> {
    let edge = &record.edge;
    let mut broken = Vec::new();
    if let Some(limit) = holds.memory_at_most.filter(|limit| edge.peak_resident_bytes > *limit) {
        let said = format!("the edge held {} bytes, and should hold {limit} at most", edge.peak_resident_bytes);
        broken.push(("memory", said));
    }
    if let Some(limit) = holds.descriptors_at_most.filter(|limit| edge.peak_descriptors > *limit) {
        let said = format!("the edge held {} descriptors, and should hold {limit} at most", edge.peak_descriptors);
        broken.push(("descriptors", said));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Shape, Swell, Who};

    fn told(due: Instant, end: Ended, version: Option<&str>) -> Told {
        Told {
            due,
            ended: due + Duration::from_millis(10),
            end,
            to: None,
            connected: None,
            user: None,
            version: version.map(Into::into),
        }
    }

    #[test]
    fn every_request_is_in_one_book_and_only_what_nobody_planned_is_lost() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let edge = SocketAddr::from(([127, 0, 0, 1], 1));
        let down =
            vec![Outage { edge, since: at(10), gone: at(10), planned: Duration::from_secs(9), until: Some(at(20)) }];
        let torn = vec![("v2".parse().unwrap(), at(30), None)];
        let seen = Seen { edges: 1, down, torn, ..Seen::default() };
        let requests = [
            told(at(1), Ended::Good, Some("v1")),
            told(at(2), Ended::Bad(503), None),
            told(at(3), Ended::Wrong, Some("v2")),
            told(at(4), Ended::Reset, None),
            Told { to: Some(edge), connected: Some(at(9)), ..told(at(10), Ended::Reset, None) },
            Told { to: Some(edge), connected: Some(at(19)), ..told(at(19), Ended::Reset, None) },
            told(at(16), Ended::Unsent, None),
            told(at(25), Ended::Unsent, None),
            told(at(31), Ended::Reset, Some("v2")),
            told(at(32), Ended::Reset, Some("v1")),
            told(at(33), Ended::Timeout, Some("v2")),
        ];
        let mut record = Record::default();
        book(&mut record, &requests, &seen, &Sums { due: 11, sent: 9, problem: None });
        let books = &record.requests;
        assert_eq!((books.good, books.bad, books.lost), (1, 2, 4));
        assert_eq!((books.unanswered_as_planned, books.not_sent, books.not_sent_as_planned), (2, 2, 1));
        assert_eq!(books.due, books.good + books.bad + books.lost + books.unanswered_as_planned + books.not_sent);
        assert_eq!(books.bad_by, [("edge 503".to_owned(), 1), ("v2 wrong".to_owned(), 1)].into());
        assert_eq!((books.p50_ms, books.counted_by_edge), (10.0, None));
    }

    #[test]
    fn only_before_anything_happens_and_long_after_is_it_calm() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let is_calm = |seen: &Seen, due| seen.is_calm(&told(at(due), Ended::Good, None));
        let mut seen = Seen::default();
        assert!(is_calm(&seen, 3));
        let burst = Swell { times: 2.0, shape: Shape::Step };
        seen.stirred(&What::Traffic(burst), at(10), Some(at(20)));
        seen.stirred(&What::Order(pointsman_rollout::OrderKind::Promote, Who::All), at(12), None);
        for (due, calm) in [(9, true), (11, false), (24, false), (26, true)] {
            assert_eq!(is_calm(&seen, due), calm, "{due}");
        }
        seen.stirred(&What::Names, at(15), None);
        assert_eq!((is_calm(&seen, 9), is_calm(&seen, 26)), (true, false));
    }

    #[test]
    fn users_are_hurt_until_the_last_stretch_with_more_than_a_few_bad_answers() {
        let harm = Instant::now();
        let requests: Vec<Told> = (0..4_000_u64)
            .map(|ms| {
                let is_bad = (500..1_100).contains(&ms) || ms == 3_500;
                let end = if is_bad { Ended::Bad(500) } else { Ended::Good };
                told(harm + Duration::from_millis(ms), end, None)
            })
            .collect();
        assert_eq!(hurt_for(&requests, harm, None), Duration::from_millis(1_200));
        let next = harm + Duration::from_millis(400);
        assert_eq!(hurt_for(&requests, harm, Some(next)), Duration::ZERO);
    }
}
