//! One live Service in hand: looked at, written, rehearsed, told of.
//!
//! Every call has a deadline, and nothing is kept between two rounds but what was seen: each round begins from what stands
//! on the Service now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pointsman_config::{LiveService as LiveServiceConfig, Retire, Route, RouteName, VersionId, VersionService};
use pointsman_kubernetes::annotation::{Fence, Scaled, State};
use pointsman_kubernetes::{
    Cluster, Discovered, Discovery, Document, EventSink, Followed, Leadership, Link, LiveService, Observed, Obstacle,
    Picture, PortChoice, Retired, ServiceName, WriteError, scale_down, service_seen,
};
use pointsman_rollout::{Saved, ServiceSeen};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::wish::{Whose, Wish};

/// Between two rehearsals of the way back.
const REHEARSE_EVERY: Duration = Duration::from_secs(10);
/// The first pause after something went wrong; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the first look found.
#[derive(Debug)]
pub(super) struct FirstLook {
    pub(super) route: RouteName,
    /// None where Pointsman never wrote, or where it cannot be read.
    pub(super) state: Option<State>,
}

/// What stood on a live Service when this edge took the lead.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// The number of the last decision that it tells of.
    pub(crate) last_id: u64,
    /// Where the rollout stood; none where Pointsman never wrote, or where it cannot be read.
    pub(crate) saved: Option<Saved>,
}

/// What came of a rehearsal of the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rehearsed {
    /// To which version.
    pub(crate) to: VersionId,
    pub(crate) at: Instant,
    /// How long it took, or why it failed.
    pub(crate) came: Result<Duration, String>,
}

/// How things stand with a live Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    /// Whether a state of the route stood there when it was first looked at; none before that. The loop hears of that state
    /// by itself.
    pub(crate) was_kept: Option<bool>,
    /// As it was last seen; none before the first time.
    pub(crate) seen: Option<ServiceSeen>,
    /// The number of the last put that stands there, and every one before it.
    pub(crate) written: u64,
    /// What is wrong, for people.
    pub(crate) problem: Option<String>,
    /// Why it is not watched at present: what is known of it may have changed since.
    pub(crate) lost: Option<String>,
    /// The last rehearsal.
    pub(crate) rehearsed: Option<Rehearsed>,
    /// The term of a later claim although this process leads.
    pub(crate) superseded_by: Option<u64>,
    /// What stood there when this process took the lead, and under which term.
    pub(crate) found: Option<(u64, Found)>,
    /// Where the rollout stands as it was last written there, and under which term.
    pub(crate) kept: Option<(u64, Arc<Saved>)>,
}

impl Report {
    /// Whether nothing can be written at present: who waits for a write need not.
    pub(super) fn is_down(&self) -> bool {
        self.problem.is_some()
    }
}

/// What hands share.
#[derive(Debug)]
pub(super) struct Near {
    pub(super) cluster: Cluster,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) events: Arc<EventSink>,
}

/// When to go on.
enum Next {
    /// When something has changed.
    News,
    /// Then at the latest.
    At(Instant),
}

/// The hand of one live Service.
pub(super) struct Hand {
    near: Near,
    route: Route,
    config: LiveServiceConfig,
    live: LiveService,
    /// Whom the live Service reaches.
    reaches: Discovery,
    /// Who is of which version.
    members: BTreeMap<VersionId, Discovery>,
    wish: watch::Sender<Wish>,
    wishes: watch::Receiver<Wish>,
    tell: watch::Sender<Report>,
    found: mpsc::UnboundedSender<FirstLook>,
    /// The last put at the first look: what is put after it knows what was found. None before that look.
    looked_at_put: Option<u64>,
    /// Which writing of the state that look found.
    looked_at_serial: Option<u64>,
    /// The last decision that an Event tells of.
    told: u64,
    /// What this process scaled down last, to be noted in the state.
    scaled: Option<Scaled>,
    /// Whether the Service was not there when it was looked for last.
    is_missing: bool,
    /// What the log was told is wrong.
    told_problem: Option<String>,
    pause: Duration,
}

impl Hand {
    /// Takes a live Service in hand. Must run on a tokio runtime.
    pub(super) fn new(
        near: Near,
        (route, config): (&Route, &LiveServiceConfig),
        (wish, wishes): (watch::Sender<Wish>, watch::Receiver<Wish>),
        (tell, found): (watch::Sender<Report>, mpsc::UnboundedSender<FirstLook>),
    ) -> Self {
        let named = |namespace: &Option<String>, name: &str| ServiceName {
            namespace: namespace.clone().unwrap_or_else(|| near.cluster.namespace().to_owned()),
            name: name.to_owned(),
        };
        let name = named(&config.namespace, &config.service);
        let services = route.versions.iter().filter_map(|(id, version)| Some((id, version.service()?)));
        let member = |service: &VersionService| {
            Discovery::start(&near.cluster, &named(&service.namespace, &service.service), PortChoice::Any)
        };
        Self {
            reaches: Discovery::start(&near.cluster, &name, PortChoice::Any),
            members: services.map(|(id, service)| (id.clone(), member(service))).collect(),
            live: LiveService::start(&near.cluster, name),
            near,
            route: route.clone(),
            config: config.clone(),
            wish,
            wishes,
            tell,
            found,
            looked_at_put: None,
            looked_at_serial: None,
            told: 0,
            scaled: None,
            is_missing: false,
            told_problem: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Works without end.
    pub(super) async fn work(mut self) {
        let mut known = self.live.known();
        let mut reaches = self.reaches.seen();
        let mut members: Vec<_> = self.members.values().map(Discovery::seen).collect();
        let mut leadership = self.near.leadership.clone();
        let mut wishes = self.wishes.clone();
        loop {
            leadership.mark_unchanged();
            wishes.mark_unchanged();
            reaches.mark_unchanged();
            members.iter_mut().for_each(watch::Receiver::mark_unchanged);
            let followed = known.borrow_and_update().clone();
            self.look(&followed);
            let next = match &followed.service {
                Some(observed) => self.reconcile(observed).await,
                None => self.nothing_there(&followed),
            };
            let moved = async {
                let mut any_member: FuturesUnordered<_> = members.iter_mut().map(watch::Receiver::changed).collect();
                // Whoever says nothing more is not heard any more.
                tokio::select! {
                    Ok(()) = known.changed() => {}
                    Ok(()) = leadership.changed() => {}
                    Ok(()) = wishes.changed() => {}
                    Ok(()) = reaches.changed() => {}
                    Some(Ok(())) = any_member.next() => {}
                    else => std::future::pending().await,
                }
            };
            match next {
                Next::News => moved.await,
                Next::At(then) => tokio::select! {
                    () = moved => {}
                    () = sleep_until(then) => {}
                },
            }
        }
    }

    // ---- what is seen ----

    fn look(&mut self, followed: &Followed) {
        let lost = match &followed.link {
            Link::Connecting | Link::Live => None,
            Link::Lost { why, .. } => Some(why.clone()),
        };
        self.report(|report| report.lost = lost);
        let Some(observed) = &followed.service else { return };
        if std::mem::take(&mut self.is_missing) {
            self.report(|report| report.problem = None);
        }
        if self.looked_at_put.is_none() {
            self.look_first(observed);
        }
        let (seen, kept) = (self.seen(observed), self.kept(observed));
        self.report(|report| (report.seen, report.kept) = (seen, kept));
    }

    /// What stands there from before this process goes to the loop, which knows what to make of it.
    fn look_first(&mut self, observed: &Observed) {
        let state = observed.state.read().filter(|state| state.route == self.route.name).cloned();
        let mut put = 0;
        self.wish.send_if_modified(|wish| {
            if let Some(state) = &state {
                wish.go_on_after(state);
            }
            put = wish.put;
            false
        });
        self.looked_at_put = Some(put);
        self.looked_at_serial = state.as_ref().map(|state| state.serial);
        self.told = state.as_ref().and_then(|state| state.decisions.last()).map_or(0, |decided| decided.id);
        let was_kept = state.is_some();
        // Nobody listens any more only at the end of the process.
        drop(self.found.send(FirstLook { route: self.route.name.clone(), state }));
        self.report(|report| report.was_kept = report.was_kept.or(Some(was_kept)));
    }

    fn seen(&self, observed: &Observed) -> Option<ServiceSeen> {
        let live = self.reaches.seen().borrow().clone();
        let members = self.members.iter().map(|(version, members)| (version.clone(), picture_of(members)));
        let seen = service_seen(&self.route, observed, reached(&live).as_deref(), &members.collect())?;
        Some(ServiceSeen { heard: is_heard(&live), ..seen })
    }

    /// What a leader wrote there, and nobody has edited since.
    fn kept(&self, observed: &Observed) -> Option<(u64, Arc<Saved>)> {
        if observed.foreign(&self.route.name).is_some_and(|foreign| !foreign.is_of_selector) {
            return None;
        }
        let state = observed.state.read().filter(|state| state.route == self.route.name)?;
        Some((observed.fence.read()?.term, Arc::new(state.saved.clone())))
    }

    fn report(&self, change: impl FnOnce(&mut Report)) {
        self.tell.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            *report != before
        });
    }

    fn nothing_there(&mut self, followed: &Followed) -> Next {
        self.is_missing = true;
        let name = self.live.name();
        match &followed.link {
            Link::Connecting => {}
            Link::Live => {
                let problem = format!("there is no Service {name}; create it, or correct its name in the config file");
                self.report(|report| {
                    report.problem = Some(problem);
                    report.was_kept = report.was_kept.or(Some(false));
                });
            }
            Link::Lost { why, .. } => {
                let problem = format!("the Service {name} was never seen: {why}");
                self.report(|report| report.problem = Some(problem));
            }
        }
        Next::News
    }

    // ---- what is done ----

    /// One round: at most one write.
    async fn reconcile(&mut self, observed: &Observed) -> Next {
        let wish = self.wish.borrow().clone();
        if self.looked_at_put.is_none_or(|looked| wish.put <= looked) {
            // The loop does not know yet what was found.
            return Next::News;
        }
        let fence = self.near.leadership.borrow().fence().cloned();
        let Some(fence) = fence else { return self.follows(&wish) };
        if self.tell.borrow().found.as_ref().map(|(term, _)| *term) != Some(fence.term) {
            return self.look_as_leader(fence.term).await;
        }
        if !wish.aim.mandate.covers(fence.term) {
            // Nothing of it was decided under this term.
            return Next::News;
        }
        if self.was_overtaken(observed, &fence) {
            self.look_first(observed);
            return Next::News;
        }
        self.tell_events(observed, &wish);
        let decisions = wish.decisions();
        let due = self.to_be_scaled(&wish);
        let scaled = self.scaled.clone().filter(|scaled| due.as_ref() == Some(scaled));
        let whose = Whose {
            route: &self.route.name,
            selector_key: &self.config.selector_key,
            fence: &fence,
            decisions: &decisions,
            scaled: scaled.as_ref(),
        };
        let document = wish.document(&whose, observed);
        let rehearsal = self.is_rehearsal_due(&wish).then(|| wish.rehearsal(&whose, observed));
        match document {
            Ok(Some(document)) => self.write(&document).await,
            Ok(None) => {
                self.report(|report| (report.written, report.superseded_by) = (wish.put, None));
                let noted = observed.state.read().and_then(|state| state.scaled.clone());
                let is_left = |due: &Scaled| scaled.as_ref() != Some(due) && noted.as_ref() != Some(due);
                self.after_all_stands(&wish, due.filter(is_left), rehearsal).await
            }
            Err(obstacle) => self.obstructed(&obstacle),
        }
    }

    /// What stands there now, from the API server itself: what a watch told last may be old.
    async fn look_as_leader(&mut self, term: u64) -> Next {
        let observed = match self.live.read().await {
            Ok(observed) => observed,
            Err(error) => {
                self.fails(error.to_string());
                return self.later();
            }
        };
        let state = observed.state.read().filter(|state| state.route == self.route.name);
        if state.map(|state| state.serial) > self.looked_at_serial {
            self.look_first(&observed);
        }
        let last_id = state.and_then(|state| state.decisions.last()).map_or(0, |decided| decided.id);
        let found = Found { last_id, saved: state.map(|state| state.saved.clone()) };
        self.report(|report| report.found = Some((term, found)));
        Next::At(Instant::now())
    }

    /// Whether another process wrote since this one looked: what it wrote last is weighed before it is written over.
    fn was_overtaken(&self, observed: &Observed, fence: &Fence) -> bool {
        let state = observed.state.read().filter(|state| state.route == self.route.name);
        let serial = state.map(|state| state.serial);
        observed.fence.read() != Some(fence) && serial > self.looked_at_serial
    }

    /// Another one writes, or nobody: what this one could not write is not its problem any more.
    fn follows(&mut self, wish: &Wish) -> Next {
        let leader = match &*self.near.leadership.borrow() {
            Leadership::Following { leader } => leader.clone(),
            Leadership::Leading { .. } => None,
        };
        (self.pause, self.told_problem) = (FIRST_PAUSE, None);
        self.report(|report| report.problem = None);
        if leader.is_some() {
            // Who leads tells of what it decided.
            self.told = wish.decided_after(self.told).map(|decided| decided.id).max().unwrap_or(self.told);
        }
        Next::News
    }

    fn tell_events(&mut self, observed: &Observed, wish: &Wish) {
        for decided in wish.decided_after(self.told) {
            self.near.events.tell(observed.reference(), &decided.change);
        }
        self.told = wish.decided_after(self.told).map(|decided| decided.id).max().unwrap_or(self.told);
    }

    async fn write(&mut self, document: &Document) -> Next {
        match self.live.write(document).await {
            Ok(_) | Err(WriteError::Moved) => {
                self.pause = FIRST_PAUSE;
                // What stands there now is looked at once more.
                Next::At(Instant::now())
            }
            Err(WriteError::Call(error)) => {
                self.fails(error.to_string());
                // Whether it landed shows when it is looked at.
                drop(self.live.read().await);
                self.later()
            }
        }
    }

    fn obstructed(&mut self, obstacle: &Obstacle) -> Next {
        match obstacle {
            // The phase machine sees it and asks.
            Obstacle::Foreign(_) => {}
            Obstacle::Superseded { by } => self.report(|report| report.superseded_by = Some(by.term)),
            Obstacle::Unclaimed | Obstacle::NoSelector | Obstacle::TooLarge(_) => self.fails(obstacle.to_string()),
        }
        Next::News
    }

    /// Told once for each problem, however often it is met until all stands as wished.
    fn fails(&mut self, problem: String) {
        if self.told_problem.as_ref() != Some(&problem) {
            warn!(route = %self.route.name, service = %self.live.name(), problem, "the live Service does not follow yet; it is tried again");
            self.told_problem = Some(problem.clone());
        }
        self.report(|report| report.problem = Some(problem));
    }

    fn later(&mut self) -> Next {
        let then = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Next::At(then)
    }

    // ---- what has time until all stands as wished ----

    async fn after_all_stands(
        &mut self,
        wish: &Wish,
        due: Option<Scaled>,
        rehearsal: Option<Result<Option<Document>, Obstacle>>,
    ) -> Next {
        if let Some(due) = due {
            if !self.scale_down(&due).await {
                return self.later();
            }
            self.scaled = Some(due);
            // Noted before anything else: somebody may scale it up again, and whoever leads next is to leave it so.
            return Next::At(Instant::now());
        }
        (self.pause, self.told_problem) = (FIRST_PAUSE, None);
        self.report(|report| report.problem = None);
        if let (Some(to), Some(document)) = (&wish.aim.way_back, rehearsal) {
            self.rehearse(to, document).await;
        }
        match (&wish.aim.way_back, &self.tell.borrow().rehearsed) {
            (Some(_), Some(rehearsed)) => Next::At(rehearsed.at + REHEARSE_EVERY),
            (Some(_), None) => Next::At(Instant::now()),
            (None, _) => Next::News,
        }
    }

    fn is_rehearsal_due(&self, wish: &Wish) -> bool {
        let report = self.tell.borrow();
        let last = report.rehearsed.as_ref().filter(|last| Some(&last.to) == wish.aim.way_back.as_ref());
        wish.aim.way_back.is_some() && last.is_none_or(|last| last.at.elapsed() >= REHEARSE_EVERY)
    }

    async fn rehearse(&self, to: &VersionId, document: Result<Option<Document>, Obstacle>) {
        let came = match document {
            Ok(Some(document)) => match self.live.rehearse(&document).await {
                // Of the way back it says nothing; it is tried again from what stands there now.
                Err(WriteError::Moved) => return,
                came => came.map_err(|error| error.to_string()),
            },
            Ok(None) => return,
            Err(obstacle) => Err(obstacle.to_string()),
        };
        let rehearsed = Rehearsed { to: to.clone(), at: Instant::now(), came };
        self.report(|report| report.rehearsed = Some(rehearsed));
    }

    /// The old version as it is to be scaled down; none while it is not free, or is only marked.
    fn to_be_scaled(&self, wish: &Wish) -> Option<Scaled> {
        match self.config.retire {
            Retire::ScaleTo(to) => Some(Scaled { version: wish.aim.retired.clone()?, trial: wish.trial(), to }),
            Retire::None => None,
        }
    }

    fn service_of(&self, version: &VersionId) -> Option<&VersionService> {
        self.route.versions.get(version)?.service()
    }

    /// Whether the old version has the size that it shall keep.
    async fn scale_down(&mut self, Scaled { version, to, .. }: &Scaled) -> bool {
        let Some(service) = self.service_of(version) else { return true };
        let namespace = service.namespace.clone().unwrap_or_else(|| self.near.cluster.namespace().to_owned());
        let size = i32::try_from(*to).unwrap_or(i32::MAX);
        match scale_down(&self.near.cluster, &namespace, &service.workload, size).await {
            Ok(came) => {
                if let Retired::From(before) = came {
                    info!(route = %self.route.name, %version, deployment = service.workload, before, after = size, "old version scaled down");
                }
                true
            }
            Err(error) => {
                self.fails(error.to_string());
                false
            }
        }
    }
}

/// Whom the live Service reaches, as far as that is known. While its slices are not heard, those who were there count as
/// they were; that nobody was there may have changed since, and a version that serves must not be taken back for it.
fn reached(seen: &Discovered) -> Option<Arc<Picture>> {
    seen.picture.clone().filter(|picture| is_heard(seen) || picture.ready() > 0)
}

fn is_heard(seen: &Discovered) -> bool {
    match seen.link {
        Link::Live => true,
        Link::Connecting | Link::Lost { .. } => false,
    }
}

/// What is known of endpoints; nothing is known as long as nothing was heard.
fn picture_of(discovery: &Discovery) -> Arc<Picture> {
    discovery.seen().borrow().picture.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pointsman_kubernetes::{Condition, Endpoint};

    use super::*;

    #[test]
    fn that_nobody_is_reached_is_known_only_while_the_slices_are_heard() {
        let with = |condition| {
            let endpoint = Endpoint { condition, serving: true, pod: None };
            Some(Arc::new(Picture { endpoints: [("10.0.0.1:80".parse().unwrap(), endpoint)].into(), problem: None }))
        };
        let (one, nobody) = (with(Condition::Ready), with(Condition::NotReady));
        let lost = Link::Lost { since: Instant::now(), why: "refused".to_owned() };
        let seen = |picture: &Option<Arc<Picture>>, link: &Link| {
            reached(&Discovered { picture: picture.clone(), link: link.clone() })
        };
        assert_eq!(seen(&None, &Link::Connecting), None);
        assert_eq!((seen(&one, &Link::Live), seen(&nobody, &Link::Live)), (one.clone(), nobody.clone()));
        assert_eq!((seen(&one, &lost), seen(&nobody, &lost)), (one.clone(), None));
        let is_heard = |link: Link| is_heard(&Discovered { picture: one.clone(), link });
        assert!(
            is_heard(Link::Live) && !is_heard(lost) && !is_heard(Link::Connecting),
            "what was there once is not heard now"
        );
    }
}
