//! What goes wrong when a test says so: requests that meet a rule are delayed, refused, left without an answer, or
//! done after all when nobody waits for it any more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::call::{Call, Verb};
use super::refusal::Refusal;
use super::resource::{Part, Resource};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It is answered later.
    Delay(Duration),
    /// 409, as if somebody else had written meanwhile.
    Conflict,
    /// It is refused in these words.
    Refuse(Refusal),
    /// It is never answered and never done.
    Hang,
    /// Its connection is reset.
    Reset,
    /// It is done after all, when its client has long given up.
    Late {
        /// When; `None` for when [`ApiServer::land`](super::ApiServer::land) says so.
        after: Option<Duration>,
        /// What the client is told; `None` for nothing, ever.
        answer: Option<Refusal>,
    },
}

/// Which requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    verb: Option<Verb>,
    resource: Option<Resource>,
    part: Option<Part>,
    name: Option<String>,
    labels: Option<String>,
    user: Option<String>,
    dry_run: Option<bool>,
    times: Option<u32>,
}

impl Rule {
    /// Every request.
    pub fn everything() -> Self {
        Self::default()
    }

    /// This verb on this kind.
    pub fn on(verb: Verb, resource: Resource) -> Self {
        Self { verb: Some(verb), resource: Some(resource), ..Self::default() }
    }

    /// Every verb on this kind.
    pub fn on_every(resource: Resource) -> Self {
        Self { resource: Some(resource), ..Self::default() }
    }

    /// Only of this part of objects.
    #[must_use]
    pub fn part(self, part: Part) -> Self {
        Self { part: Some(part), ..self }
    }

    /// Only of the object with this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Only those whose label selector reads like this.
    #[must_use]
    pub fn labelled(self, selector: &str) -> Self {
        Self { labels: Some(selector.to_owned()), ..self }
    }

    /// Only from this user.
    #[must_use]
    pub fn by(self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self }
    }

    /// Only those that try (`true`), or only those in earnest.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run: Some(dry_run), ..self }
    }

    /// Only this many of them.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    fn meets(&self, call: &Call) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        is(self.verb.as_ref(), &call.verb)
            && is(self.resource.as_ref(), &call.target.resource)
            && is(self.part.as_ref(), &call.target.part)
            && self.name.as_ref().is_none_or(|name| Some(name) == call.target.name.as_ref())
            && self.labels.as_deref().is_none_or(|labels| Some(labels) == call.asked("labelSelector"))
            && is(self.user.as_ref(), &call.user)
            && is(self.dry_run.as_ref(), &call.dry_run)
    }
}

/// A rule in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

#[derive(Debug)]
struct Entry {
    id: RuleId,
    rule: Rule,
    effect: Effect,
    met: u32,
}

/// The rules in force, in the order in which they were added: a request meets the first that is for it.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    entries: Vec<Entry>,
    added: u64,
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a rule in force.
    pub fn add(&self, rule: Rule, effect: Effect) -> RuleId {
        let mut rules = self.rules();
        rules.added += 1;
        let id = RuleId(rules.added);
        rules.entries.push(Entry { id, rule, effect, met: 0 });
        id
    }

    /// Takes a rule out of force.
    pub fn remove(&self, id: RuleId) {
        self.rules().entries.retain(|entry| entry.id != id);
    }

    /// Takes every rule out of force.
    pub fn clear(&self) {
        self.rules().entries.clear();
    }

    /// How many requests met this rule; 0 for one that is out of force.
    pub fn met(&self, id: RuleId) -> u32 {
        self.rules().entries.iter().find(|entry| entry.id == id).map_or(0, |entry| entry.met)
    }

    pub(super) fn meet(&self, call: &Call) -> Option<Effect> {
        let mut rules = self.rules();
        let is_open = |entry: &Entry| entry.rule.times.is_none_or(|times| entry.met < times);
        let entry = rules.entries.iter_mut().find(|entry| is_open(entry) && entry.rule.meets(call))?;
        entry.met += 1;
        Some(entry.effect.clone())
    }
}
