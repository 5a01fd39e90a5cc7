//! Several edges that decide as one, over one API server: the rollouts, elections and patches are the edge's own code; who
//! speaks to whom and when, and how long a call takes, is a model of `pointsman`'s control loop.
//!
//! Line of a tick: Lease ► who leads ► what each edge saw ► decisions ► words to the others ► a write on the live Service.

mod exchange;
mod hand;
mod knowledge;
mod member;
mod seat;
mod takeover;
#[cfg(test)]
mod tests;
mod witness;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pointsman_config::{LiveService, Route, Split, VersionId};
use pointsman_rollout::{Decision, Input, Observed, Order, OrderKind, PhaseName, Role, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use self::exchange::summed;
use self::member::{ClockOff, HEARD_WITHIN, Member, Standing};
use self::witness::{Witness, Write};
use super::cluster::{Call, Cluster, Fate};
use super::fleet::Fleet;
use super::policy::{Policy, ReadyMap, Seen, Told};
use crate::invariant::Broken;
use crate::scenario::{EdgeFault, Edit, Event, Scenario, StateFault, What, Who};

/// Slices say so long after an edge has gone that it does not serve any more.
const SLICES_FOLLOW: Duration = Duration::from_secs(1);
/// An edit reaches one edge after the other, so long apart.
const EDITS_APART: Duration = Duration::from_secs(2);
/// An operator whose order finds no leader tries again for so long.
const OPERATOR_TRIES: Duration = Duration::from_mins(1);
/// Where there is an edge that reaches the API server, somebody leads again after a Lease, one round of looking at it, the
/// questions to the others, and a call of each that is slow.
const LEADS_WITHIN: Duration = Duration::from_secs(10 + 2 + 2 + 3);
/// After so long without trouble all edges are to agree.
const RESTS_AFTER: Duration = Duration::from_secs(25);
/// Beside the stream that draws requests.
const STREAM: u64 = 1;

/// What is around every edge.
struct Around {
    now: Duration,
    cluster: Cluster,
    witness: Witness,
    told: Vec<Told>,
    /// Writes on their way.
    under_way: Vec<Write>,
    chance: ChaCha8Rng,
}

impl Around {
    /// A write arrives; nothing happens if it was made from an earlier writing.
    fn land(&mut self, write: &Write) {
        let Some(landed) = self.cluster.land(&write.document) else { return };
        if landed.before.selector != landed.after.selector {
            let labels: Vec<&str> = landed.after.selector.values().map(String::as_str).collect();
            self.told.push(Told::line(format!("the live Service selects {}, by {}", labels.join(", "), write.by)));
        }
        self.witness.landed(write, &landed, self.now);
    }
}

/// An order that was given.
struct Given {
    kind: OrderKind,
    /// To which edge; none: to whoever takes it.
    to: Option<usize>,
    /// Until when it is tried.
    until: Duration,
}

/// Several edges, and what they share.
pub(super) struct Group {
    members: Vec<Member>,
    around: Around,
    /// The file as it is now, and where it is still on its way to.
    route: Arc<Route>,
    edits: Vec<(Duration, usize, Arc<Route>)>,
    /// Orders that nobody has carried out yet.
    orders: VecDeque<Given>,
    /// Since when each edge could have led and nobody did.
    led_at: Vec<Duration>,
    /// When something was wrong last.
    troubled_at: Duration,
}

impl Group {
    pub(super) fn start(scenario: &Scenario, service: &LiveService, seed: u64) -> Self {
        let route = &scenario.route;
        let fleet = Fleet::new(scenario);
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        chance.set_stream(STREAM);
        let around = Around {
            now: Duration::ZERO,
            cluster: Cluster::new(route, service, &fleet),
            witness: Witness::new(route, service),
            told: Vec::new(),
            under_way: Vec::new(),
            chance,
        };
        let members = (0..scenario.edges).map(|edge| Member::start(edge, 0, route, Duration::ZERO));
        Self {
            members: members.collect(),
            around,
            route: Arc::clone(route),
            edits: Vec::new(),
            orders: VecDeque::new(),
            led_at: vec![Duration::ZERO; scenario.edges],
            troubled_at: Duration::ZERO,
        }
    }

    fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.is_up() && member.leads())
    }

    /// The other edges that serve, as slices say.
    fn serving_beside(&self, edge: usize) -> Vec<usize> {
        let now = self.around.now;
        let serves = |member: &&Member| {
            member.edge != edge && member.down_since.is_none_or(|since| now.saturating_sub(since) < SLICES_FOLLOW)
        };
        self.members.iter().filter(serves).map(|member| member.edge).collect()
    }

    fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.around.told)
    }

    // ---- a tick ----

    fn land_what_is_due(&mut self) {
        let now = self.around.now;
        let due: Vec<Write> = self.around.under_way.extract_if(.., |write| write.lands <= now).collect();
        for write in due {
            self.around.land(&write);
            let Some(member) = self.members.get_mut(write.edge) else { continue };
            if write.is_awaited && member.name == write.by && member.is_up() {
                member.hear_of_write(&mut self.around);
            }
        }
    }

    /// Edges look at what watches show, and at the Lease.
    fn look_at_cluster(&mut self) {
        let around = &mut self.around;
        let (now, are_open) = (around.now, around.cluster.are_watches_open());
        let shown = around.cluster.shown();
        for member in self.members.iter_mut().filter(|member| member.is_up()) {
            let has_way = member.is_reached(now);
            if has_way && are_open {
                member.sight.take_in(&shown, now);
                member.place_first(around);
            }
            let clock = member.lease_clock(now);
            member.seat.stand(&mut around.cluster, has_way, (now, clock));
        }
    }

    fn settle_who_leads(&mut self) {
        for edge in 0..self.members.len() {
            let others: Vec<(usize, bool)> = self
                .serving_beside(edge)
                .into_iter()
                .map(|other| (other, self.members.get(other).is_some_and(|member| member.down_since.is_none())))
                .collect();
            if let Some(member) = self.members.get_mut(edge).filter(|member| member.is_up()) {
                member.take_or_leave_the_lead(&others, &mut self.around);
            }
        }
    }

    fn deliver_edits(&mut self) {
        let now = self.around.now;
        // Who stands still reads it when it goes on.
        let frozen: Vec<usize> =
            self.members.iter().filter(|member| member.is_frozen).map(|member| member.edge).collect();
        for (_, edge, route) in self.edits.extract_if(.., |(at, edge, _)| *at <= now && !frozen.contains(edge)) {
            if let Some(member) = self.members.get_mut(edge).filter(|member| member.is_up()) {
                member.edit(&route, &mut self.around);
            }
        }
    }

    /// Each is carried out by whoever carries it out for the edge that it was given to.
    fn carry_out_orders(&mut self) {
        let now = self.around.now;
        while let Some(given) = self.orders.pop_front() {
            let by = self.who_obeys(&given).and_then(|edge| self.members.get_mut(edge));
            match by {
                Some(member) => member.obey(&given.kind, &mut self.around),
                None if now < given.until => {
                    self.orders.push_front(given);
                    return;
                }
                None => {}
            }
        }
    }

    /// Orders are passed on to the leader, where it can be reached; a rollback is obeyed by every edge. Where the edge that was
    /// asked does not answer, another one is.
    fn who_obeys(&self, given: &Given) -> Option<usize> {
        let now = self.around.now;
        let up = || self.members.iter().filter(|member| member.is_up());
        let asked = given.to.and_then(|edge| up().find(|member| member.edge == edge));
        let is_in_reach = |leader: &&Member| {
            asked.is_none_or(|asked| asked.edge == leader.edge || (asked.is_reached(now) && leader.is_reached(now)))
        };
        let leader = up().filter(|member| member.leads()).find(is_in_reach);
        let own = || asked.or_else(|| up().next()).filter(|_| given.kind == OrderKind::Rollback);
        leader.or_else(own).map(|member| member.edge)
    }

    fn step_all(&mut self, seen: &[Option<Seen<'_>>]) {
        for (edge, seen) in seen.iter().enumerate() {
            let Some(seen) = seen else { continue };
            let others = self.serving_beside(edge);
            let Some(member) = self.members.get_mut(edge) else { continue };
            let is_flip = member.step(seen, &others, &mut self.around);
            if let Some(to) = is_flip {
                let now = self.around.now;
                // One that has just come is not waited for by a leader that has not met it.
                let serves = |member: &&Member| {
                    member.down_since.is_none() && now.saturating_sub(member.born) >= HEARD_WITHIN * 2
                };
                self.around.witness.flip_is_decided(&to, self.members.iter().filter(serves), now);
            }
        }
    }

    fn reconcile(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.is_up()) {
            member.reconcile(&mut self.around);
        }
    }

    // ---- what must hold ----

    fn hold(&mut self) {
        let now = self.around.now;
        let versions: Vec<VersionId> = self.route.versions.keys().cloned().collect();
        let around = &mut self.around;
        around.witness.look(&mut around.cluster, &versions, now);
        self.members.iter().filter(|member| member.is_up()).for_each(|member| around.witness.stands(member, now));
        self.hold_lead();
        let is_calm = self.around.cluster.is_well()
            && self.around.under_way.is_empty()
            && self.edits.is_empty()
            && self.members.iter().all(|member| member.is_reached(now));
        if !is_calm {
            self.troubled_at = now;
        }
    }

    /// At most one leads at a time; and somebody does, where anybody can.
    fn hold_lead(&mut self) {
        let now = self.around.now;
        let holds = |member: &&Member| member.is_up() && member.seat.fence(member.lease_clock(now)).is_some();
        let leaders: Vec<&str> = self.members.iter().filter(holds).map(|member| member.name.as_str()).collect();
        if leaders.len() > 1 {
            let what = format!("{} hold the Lease at once", leaders.join(" and "));
            self.around.witness.found("one leader", now, &what);
        }
        let is_led = self.leader().is_some();
        let is_well = self.around.cluster.is_well();
        for (member, led_at) in self.members.iter().zip(&mut self.led_at) {
            if is_led || !is_well || !member.is_reached(now) {
                *led_at = now;
            } else if now.saturating_sub((*led_at).max(member.born)) > LEADS_WITHIN {
                let what = format!("nobody has led for {LEADS_WITHIN:?}, and {} could", member.name);
                self.around.witness.found("a leader in time", now, &what);
            }
        }
    }

    /// With nothing wrong any more: one leader, one truth, one selection, everywhere.
    fn hold_at_rest(&mut self) {
        let now = self.around.now;
        if now.saturating_sub(self.troubled_at) < RESTS_AFTER {
            return;
        }
        for what in self.disagreements() {
            self.around.witness.found("at rest all agree", now, &what);
        }
    }

    fn disagreements(&mut self) -> Vec<String> {
        let observed = Arc::clone(&self.around.cluster.shown().observed);
        let Some(leader) = self.leader() else { return vec!["nobody leads".to_owned()] };
        let clock = leader.lease_clock(self.around.now);
        let stands = |member: &Member| (member.phase(), member.rollout.serial(), member.applied());
        let mut wrong = Vec::new();
        for member in self.members.iter().filter(|member| stands(member) != stands(leader)) {
            wrong.push(format!("{} stands at {:?}, the leader at {:?}", member.name, stands(member), stands(leader)));
        }
        wrong.extend(
            self.members
                .iter()
                .filter(|member| member.rollout.trip().is_some())
                .map(|member| format!("nobody has heard of what {} took back", member.name)),
        );
        if observed.fence.read() != leader.seat.fence(clock).as_ref() {
            wrong.push(format!("{} leads and has not claimed the Service", leader.name));
        }
        let selected = leader.route.live_service.as_ref().and_then(|live| observed.selector.get(&live.selector_key));
        let wanted = leader.rollout.desired().selected;
        if wanted.as_ref().is_some_and(|wanted| Some(wanted.as_str()) != selected.map(String::as_str)) {
            wrong.push(format!("the Service selects {selected:?}, and {wanted:?} is wanted"));
        }
        wrong.extend(self.around.witness.lost_order(leader.phase()));
        let kept = observed.state.read().map(|state| state.saved.phase());
        if kept != Some(leader.phase()) {
            wrong.push(format!("the Service tells of {kept:?}, and the rollout is {}", leader.phase()));
        }
        wrong
    }
}

impl Member {
    /// Where the route stands is heard from what watches show first.
    fn place_first(&mut self, around: &mut Around) {
        if self.is_placed {
            return;
        }
        self.is_placed = true;
        let clock = self.clock(around.now);
        let Some(saved) = self.kept().map(|(_, saved)| saved.clone()) else { return };
        self.knows.learn(around.witness.on_service());
        if saved.depth() > self.rollout.depth() {
            self.rollout.follow(saved, clock);
        } else {
            self.rollout.adopt_quarantine(&saved);
        }
    }

    fn edit(&mut self, route: &Arc<Route>, around: &mut Around) {
        self.route = Arc::clone(route);
        self.trust_stable();
        let clock = self.clock(around.now);
        // Only an order can be refused.
        let changes = self.rollout.step(Input::Edit(Arc::clone(route)), clock).unwrap_or_default();
        self.note(&changes, around);
        self.hand.put(self.rollout.kept(clock), around.now);
        self.has_news = true;
    }

    fn obey(&mut self, kind: &OrderKind, around: &mut Around) {
        let order = Order { kind: kind.clone(), actor: "operator".to_owned(), reason: "the scenario".to_owned() };
        let clock = self.clock(around.now);
        match self.rollout.step(Input::Order(&order), clock) {
            Ok(changes) => {
                if matches!(kind, OrderKind::Retry(_)) {
                    around.witness.begin_anew(&self.route.stable);
                }
                let is_kept = self.is_reached(around.now)
                    && self.leads()
                    && around.cluster.fate(Call::Patch) == Fate::After(Duration::ZERO);
                around.witness.obeyed(kind, is_kept);
                self.note(&changes, around);
            }
            Err(refusal) => around.told.push(Told::line(format!("{}: refused: {refusal}", self.name))),
        }
    }

    /// A tick of its rollout; gives whom the live Service is to select, if that was decided.
    fn step(&mut self, seen: &Seen<'_>, others: &[usize], around: &mut Around) -> Option<VersionId> {
        let (now, clock) = (around.now, self.clock(around.now));
        self.ready = seen.ready.clone();
        if self.rollout.role() == Role::Leader && self.rollout.trip().is_some() && self.hand.is_written() {
            // Whoever leads next reads it.
            self.rollout.trip_was_heard();
        }
        let rows = self.rows(seen.rows);
        let (service, way_back) = (self.service_seen(now), self.judge_way_back(others, now));
        let seen = pointsman_rollout::Seen {
            service: service.as_ref(),
            acknowledged: self.is_acknowledged(others, now),
            way_back: &way_back,
            edges: if self.leads() { 1 + others.len() } else { self.following.edges.max(1 + others.len()) },
            ..pointsman_rollout::Seen::alone(&rows, seen.ready, seen.applied, &[])
        };
        let changes = self.rollout.step(Input::Tick(&seen), clock).unwrap_or_default();
        self.note(&changes, around);
        let flip = changes.into_iter().find(|change| change.decision == Decision::Flip);
        flip.and_then(|change| change.canary)
    }

    /// What there is to judge: of the leader, what all edges counted; of a follower, what it counted itself, which the leader
    /// will ask for.
    fn rows(&mut self, own: &[Observed]) -> Vec<Observed> {
        if self.leads() {
            let pulled = std::mem::take(&mut self.pulled);
            return summed(own.iter().cloned().chain(pulled).collect());
        }
        self.waiting.extend_from_slice(own);
        self.waiting = summed(std::mem::take(&mut self.waiting));
        own.to_vec()
    }

    /// Whether every edge that serves has answered of late that it applies what is granted.
    fn is_acknowledged(&self, others: &[usize], now: Duration) -> bool {
        let (serial, granted) = (self.rollout.serial(), self.rollout.desired().granted);
        let applies = |edge: &usize| {
            let heard = self.heard.get(edge).filter(|heard| now.saturating_sub(heard.at) < HEARD_WITHIN);
            heard.and_then(|heard| heard.applied.as_ref()).is_some_and(|applied| *applied == (serial, granted.clone()))
        };
        matches!(self.standing, Standing::Leads { .. }) && others.iter().all(applies)
    }
}

impl Policy for Group {
    fn edges(&self) -> usize {
        self.members.len()
    }

    fn move_on(&mut self, fleet: &Fleet, now: Duration) {
        self.around.now = now;
        self.around.cluster.move_on(fleet, now);
        self.land_what_is_due();
        self.look_at_cluster();
    }

    fn ready<'a>(&self, edge: usize, checks: &'a ReadyMap) -> Cow<'a, ReadyMap> {
        self.members.get(edge).map_or(Cow::Borrowed(checks), |member| member.ready_among(checks))
    }

    fn takes_requests(&self, edge: usize) -> bool {
        self.members.get(edge).is_some_and(|member| member.takes_requests(self.around.now))
    }

    fn split(&self, edge: usize, ready: &ReadyMap) -> Split {
        let whole = || Split::Whole(self.route.stable.clone());
        self.members.get(edge).map_or_else(whole, |member| member.rollout.desired().effective(ready))
    }

    fn tick(&mut self, seen: &[Option<Seen<'_>>], _now: Time) -> Vec<Told> {
        self.deliver_edits();
        self.settle_who_leads();
        self.carry_out_orders();
        self.read_what_is_kept();
        self.step_all(seen);
        self.talk();
        self.tell_of_trips();
        self.reconcile();
        self.hold();
        self.take_told()
    }

    fn trial(&self, edge: usize) -> u64 {
        self.members.get(edge).map_or(0, |member| member.rollout.trial())
    }

    fn phase(&self) -> Option<PhaseName> {
        let up = || self.members.iter().filter(|member| member.is_up());
        let known = self.leader().or_else(|| up().max_by_key(|member| member.rollout.depth()));
        known.or(self.members.first()).map(Member::phase)
    }

    fn order(&mut self, kind: &OrderKind, who: Who, _now: Time) -> Vec<Told> {
        let to = if who == Who::All { None } else { self.who(who).first().copied() };
        self.orders.push_back(Given { kind: kind.clone(), to, until: self.around.now + OPERATOR_TRIES });
        Vec::new()
    }

    fn edit(&mut self, Edit { route, late, .. }: &Edit, now: Time) -> Vec<Told> {
        let now = now.since(Time::default());
        let late = late.and_then(|(who, by)| Some((*self.who(who).first()?, by)));
        self.route = Arc::clone(route);
        self.around.witness.edited(&route.stable);
        for (member, nth) in self.members.iter().zip(0_u32..) {
            let after = match late {
                None => EDITS_APART * nth,
                Some((edge, by)) if edge == member.edge => by,
                Some(_) => Duration::ZERO,
            };
            self.edits.push((now + after, member.edge, Arc::clone(route)));
        }
        Vec::new()
    }

    fn who(&self, who: Who) -> Vec<usize> {
        let up = || self.members.iter().filter(|member| member.is_up());
        let leader = self.leader().map(|member| member.edge);
        match who {
            Who::All => up().map(|member| member.edge).collect(),
            Who::Leader => leader.or_else(|| up().next().map(|member| member.edge)).into_iter().collect(),
            Who::Follower => up().map(|member| member.edge).find(|edge| Some(*edge) != leader).into_iter().collect(),
        }
    }

    fn trouble(&mut self, event: &Event) {
        match &event.what {
            What::Api(fault) => self.around.cluster.trouble(*fault, event.until),
            What::Edge { fault, who, .. } => {
                for edge in self.who(*who) {
                    let Some(member) = self.members.get_mut(edge) else { continue };
                    match fault {
                        EdgeFault::CutOff => member.cut_off_until = Some(event.until.unwrap_or(Duration::MAX)),
                        EdgeFault::Clock { is_behind, by } => {
                            member.clock_off = Some(ClockOff { is_behind: *is_behind, by: *by, until: event.until });
                        }
                        EdgeFault::Killed | EdgeFault::Frozen | EdgeFault::Upgraded => {}
                    }
                }
            }
            What::Fault(_)
            | What::Down(_)
            | What::Traffic(_)
            | What::State(_)
            | What::Config(_)
            | What::Clients(_)
            | What::Names
            | What::Order(..)
            | What::Edit(_) => {}
        }
    }

    fn kill(&mut self, edge: usize, _state: Option<StateFault>, now: Time) {
        if let Some(member) = self.members.get_mut(edge) {
            member.down_since = Some(now.since(Time::default()));
        }
    }

    fn freeze(&mut self, edge: usize) {
        if let Some(member) = self.members.get_mut(edge) {
            member.is_frozen = true;
        }
    }

    fn go_on(&mut self, edge: usize, stood_still: Duration, _now: Time) -> Vec<Told> {
        if let Some(member) = self.members.get_mut(edge) {
            member.is_frozen = false;
            member.stood_still += stood_still;
        }
        Vec::new()
    }

    /// An edge that starts reads the live Service first.
    fn start_again(&mut self, edge: usize, now: Time) -> Vec<Told> {
        let now = now.since(Time::default());
        let route = Arc::clone(&self.route);
        self.edits.retain(|(_, to, _)| *to != edge);
        if let Some(member) = self.members.get_mut(edge) {
            *member = member.successor(&route, now);
            let is_read = member.is_reached(now) && matches!(self.around.cluster.fate(Call::Read), Fate::After(_));
            if is_read {
                member.sight.take_in(&self.around.cluster.shown(), now);
                member.place_first(&mut self.around);
            }
        }
        self.take_told()
    }

    fn barred(&self, edge: usize) -> Option<Vec<VersionId>> {
        self.members.get(edge).map(Member::barred)
    }

    fn at_end(&mut self) -> Vec<Broken> {
        self.hold_at_rest();
        self.around.witness.take_broken()
    }
}
