//! Who may do what: a user who was never given anything may do everything, as a test mostly wants it; one who was
//! given something may do that and nothing else.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::call::{Call, Verb};
use super::refusal::Refusal;
use super::resource::{Part, Resource};

/// A rule as in a Role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub verbs: Vec<Verb>,
    /// On objects of this kind.
    pub resource: Resource,
    /// On this part of them.
    pub part: Part,
    /// On the objects with these names; with none, on all. A list, a watch or a creation names no object, and is
    /// granted only without names (but for a list or watch that selects one by `metadata.name`).
    pub names: Vec<String>,
}

impl Grant {
    /// These verbs on all objects of a kind.
    pub fn on(resource: Resource, verbs: &[Verb]) -> Self {
        Self { verbs: verbs.to_vec(), resource, part: Part::Whole, names: Vec::new() }
    }

    /// Only on the object with this name, beside those named before.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// On a part of objects instead.
    #[must_use]
    pub fn part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    fn allows(&self, call: &Call) -> bool {
        let selected = call.asked("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="));
        let name = call.target.name.as_deref().or(selected);
        self.verbs.contains(&call.verb)
            && self.resource == call.target.resource
            && self.part == call.target.part
            && (self.names.is_empty() || name.is_some_and(|name| self.names.iter().any(|known| known == name)))
    }
}

/// What each user was given.
#[derive(Debug, Default)]
pub struct Access {
    grants: Mutex<BTreeMap<String, Vec<Grant>>>,
}

impl Access {
    /// Gives a user just these, in the place of what was given before.
    pub fn restrict(&self, user: &str, grants: Vec<Grant>) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), grants);
    }

    /// Lets a user do everything again.
    pub fn lift(&self, user: &str) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    pub(super) fn check(&self, call: &Call) -> Result<(), Refusal> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        match grants.get(&call.user) {
            Some(grants) if !grants.iter().any(|grant| grant.allows(call)) => {
                Err(Refusal::forbidden(&call.user, call.verb.name(), &call.key(), call.target.part.name()))
            }
            _ => Ok(()),
        }
    }
}
