//! What to write on a live Service, and the JSON Patch that does it or does nothing. Pure.
//!
//! A patch lands only on the very writing of the Service that it was made from: it tests the resource version, the whole
//! selector and the fence. So a patch that was held up on its way changes nothing once anybody has written since, and
//! one of a leader that was replaced changes nothing once its successor has claimed the Service.

use std::collections::BTreeMap;

use pointsman_config::{RouteName, VersionId};
use pointsman_rollout::Saved;
use serde_json::{Value, json};
use thiserror::Error;

use crate::annotation::{Decided, FENCE, Fence, RETIRED, STATE, Scaled, State, TooLarge};
use crate::live_service::observed::{Foreign, Found, Observed};

/// How it shall be.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Of which route.
    pub route: &'a RouteName,
    /// The writer's proof of leadership.
    pub fence: &'a Fence,
    /// Whom the Service shall select: the label of the selector that says the version, and its value; none leaves the
    /// selector as it is found.
    pub selected: Option<Selected<'a>>,
    /// Where the rollout stands.
    pub saved: &'a Saved,
    /// The last decisions, oldest first.
    pub decisions: &'a [Decided],
    /// How many earlier ones are not among them.
    pub cut: u64,
    /// The version that is free to be scaled down.
    pub retired: Option<&'a VersionId>,
    /// What was scaled down; none leaves noted what is.
    pub scaled: Option<&'a Scaled>,
    /// What to do where somebody else changed what Pointsman left.
    pub on_foreign: OnForeign,
}

impl<'a> Wanted<'a> {
    /// A state without decisions: the selector is left as it is found, nothing is retired, and a foreign change is refused.
    pub fn of(route: &'a RouteName, fence: &'a Fence, saved: &'a Saved) -> Self {
        let on_foreign = OnForeign::Refuse;
        Self { route, fence, selected: None, saved, decisions: &[], cut: 0, retired: None, scaled: None, on_foreign }
    }

    /// Whether somebody said what counts, and it can be done. What was left is not put back before the rollout says which
    /// version may be selected now: the one that was left may be gone or taken back since.
    fn is_answered(&self) -> bool {
        match self.on_foreign {
            OnForeign::Adopt => true,
            OnForeign::Restore => self.selected.is_some(),
            OnForeign::Refuse | OnForeign::Leave => false,
        }
    }
}

/// What to do where somebody else changed what Pointsman left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnForeign {
    /// Write nothing.
    #[default]
    Refuse,
    /// Write the state, so that a quarantine is kept while somebody is asked, but leave the selector alone, and what was
    /// left: the change stays to be seen. Where the annotation is what was changed, write nothing.
    Leave,
    /// It counts: other labels of the selector stay as they are found.
    Adopt,
    /// It does not count: other labels of the selector go back to how they were left, as soon as a version is wanted; until
    /// then as [`OnForeign::Leave`].
    Restore,
}

/// One label of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected<'a> {
    /// Its key, such as `version`.
    pub key: &'a str,
    /// The version, which is its value.
    pub version: &'a VersionId,
}

/// Why nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Obstacle {
    /// Somebody else leads.
    #[error("the Service was claimed by {by}; whoever that is decides now")]
    Superseded {
        /// Whose fence stands there.
        by: Fence,
    },
    /// Nobody claimed the Service, or not for this leader.
    #[error("the Service is not claimed by this leader yet")]
    Unclaimed,
    /// Somebody else changed it.
    #[error("somebody else changed the Service: {0}; go on with `pointsman resume --adopt` or `--restore`")]
    Foreign(Foreign),
    /// A Service without a selector has endpoints that are written by hand.
    #[error("the Service has no selector, so there is nothing to flip; give it one that names the version")]
    NoSelector,
    /// The state is too long.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// A JSON Patch, made from one writing of the Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    made_from: String,
    operations: Vec<Value>,
}

impl Document {
    /// The resource version of the writing that it was made from.
    pub fn made_from(&self) -> &str {
        &self.made_from
    }

    /// Its operations, as RFC 6902 has them.
    pub fn operations(&self) -> &[Value] {
        &self.operations
    }
}

/// The patch that makes the Service as it is wanted; none if it is so already.
///
/// # Errors
/// If nothing may be written.
pub fn plan(observed: &Observed, wanted: &Wanted<'_>) -> Result<Option<Document>, Obstacle> {
    admitted(observed, wanted.fence)?;
    let foreign = observed.foreign(wanted.route);
    let is_answered = wanted.is_answered();
    let is_left = |foreign: &Foreign| wanted.on_foreign != OnForeign::Refuse && foreign.is_of_selector;
    match &foreign {
        Some(foreign) if !is_answered && !is_left(foreign) => return Err(Obstacle::Foreign(foreign.clone())),
        Some(_) | None => {}
    }
    if observed.fence.read() != Some(wanted.fence) && !(is_answered && foreign.is_some()) {
        return Err(Obstacle::Unclaimed);
    }
    let mut state = state_of(observed, wanted)?;
    let selector = if foreign.is_some() && !is_answered {
        state.selector = observed.state.read().map(|left| left.selector.clone()).unwrap_or_default();
        observed.selector.clone()
    } else {
        state.selector.clone()
    };
    let writing = Writing { state: &state, selector: &selector, fence: wanted.fence };
    if writing.is_done(observed) { Ok(None) } else { writing.document(observed).map(Some) }
}

/// The patch by which a new leader claims the Service: its fence, and `otherwise` where no state stands there. What an
/// earlier leader sent and has not landed yet never lands from then on. None if it is claimed already.
///
/// # Errors
/// If a later leader has claimed it, or somebody else changed what Pointsman wrote down there. A selector that somebody
/// else changed stays so, and stays to be seen.
pub fn claim(observed: &Observed, otherwise: &Wanted<'_>) -> Result<Option<Document>, Obstacle> {
    admitted(observed, otherwise.fence)?;
    if let Some(foreign) = observed.foreign(otherwise.route).filter(|foreign| !foreign.is_of_selector) {
        return Err(Obstacle::Foreign(foreign));
    }
    if observed.fence.read() == Some(otherwise.fence) {
        return Ok(None);
    }
    let state = match observed.state.read() {
        Some(state) => State { serial: state.serial + 1, ..state.clone() },
        None => state_of(observed, &Wanted { selected: None, ..otherwise.clone() })?,
    };
    let selector = &observed.selector;
    Writing { state: &state, selector, fence: otherwise.fence }.document(observed).map(Some)
}

/// No leader writes over a later one.
fn admitted(observed: &Observed, fence: &Fence) -> Result<(), Obstacle> {
    match &observed.fence {
        Found::Read(found) if !fence.may_replace(found) => Err(Obstacle::Superseded { by: found.clone() }),
        Found::Read(_) | Found::Nothing | Found::Unreadable(_) => Ok(()),
    }
}

/// The state to be written.
fn state_of(observed: &Observed, wanted: &Wanted<'_>) -> Result<State, Obstacle> {
    let found = observed.state.read();
    let noted = found.filter(|state| state.route == *wanted.route).and_then(|state| state.scaled.as_ref());
    let serial = found.map_or(0, |state| state.serial);
    Ok(State {
        route: wanted.route.clone(),
        serial: serial + 1,
        selector: selector_of(observed, wanted)?,
        retired: wanted.retired.cloned(),
        scaled: wanted.scaled.or(noted).cloned(),
        saved: wanted.saved.clone(),
        decisions: wanted.decisions.to_vec(),
        cut: wanted.cut,
    })
}

/// The whole selector: server-side apply treats it as one value, so it is never sent in part.
fn selector_of(observed: &Observed, wanted: &Wanted<'_>) -> Result<BTreeMap<String, String>, Obstacle> {
    let left = observed.state.read().filter(|state| state.route == *wanted.route).map(|state| &state.selector);
    let mut selector = match wanted.on_foreign {
        OnForeign::Restore if wanted.selected.is_some() => left.unwrap_or(&observed.selector).clone(),
        OnForeign::Restore | OnForeign::Refuse | OnForeign::Leave | OnForeign::Adopt => observed.selector.clone(),
    };
    let Some(selected) = wanted.selected else { return Ok(selector) };
    if selector.is_empty() {
        return Err(Obstacle::NoSelector);
    }
    selector.insert(selected.key.to_owned(), selected.version.as_str().to_owned());
    Ok(selector)
}

/// Everything that a patch sets.
struct Writing<'a> {
    state: &'a State,
    selector: &'a BTreeMap<String, String>,
    fence: &'a Fence,
}

impl Writing<'_> {
    fn is_done(&self, observed: &Observed) -> bool {
        let Some(found) = observed.state.read() else { return false };
        let is_marked = observed.retired.as_deref() == self.state.retired.as_ref().map(VersionId::as_str);
        let is_selected = observed.selector == *self.selector && observed.fence.read() == Some(self.fence);
        is_marked
            && is_selected
            && fitted(self.state).is_some_and(|state| State { serial: found.serial, ..state } == *found)
    }

    fn document(&self, observed: &Observed) -> Result<Document, Obstacle> {
        let mut operations = tests(observed);
        let mut set =
            |path: String, value: Value| operations.push(json!({ "op": "add", "path": path, "value": value }));
        if !observed.has_annotations {
            set("/metadata/annotations".to_owned(), json!({}));
        }
        if !self.selector.is_empty() {
            set("/spec/selector".to_owned(), json!(self.selector));
        }
        set(annotation(FENCE), json!(self.fence.to_string()));
        set(annotation(STATE), json!(self.state.encode()?));
        match &self.state.retired {
            Some(version) => set(annotation(RETIRED), json!(version)),
            None if observed.retired.is_some() => {
                operations.push(json!({ "op": "remove", "path": annotation(RETIRED) }));
            }
            None => {}
        }
        Ok(Document { made_from: observed.resource_version.clone(), operations })
    }
}

/// The state as it reads once it is written: what does not fit is gone.
fn fitted(state: &State) -> Option<State> {
    State::decode(&state.encode().ok()?).ok()
}

/// What must still be so when the patch arrives.
fn tests(observed: &Observed) -> Vec<Value> {
    let test = |path: &str, value: Value| json!({ "op": "test", "path": path, "value": value });
    let mut tests = vec![test("/metadata/resourceVersion", json!(observed.resource_version))];
    if !observed.selector.is_empty() {
        tests.push(test("/spec/selector", json!(observed.selector)));
    }
    if let Some(text) = &observed.fence_text {
        tests.push(test(&annotation(FENCE), json!(text)));
    }
    tests
}

/// Where JSON Patch finds an annotation.
fn annotation(name: &str) -> String {
    format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::annotation::tests::{decided, fence, saved};
    use crate::live_service::observed::tests::{left_by_us, observed};

    /// What the tests want, with room to change it.
    struct Case {
        route: RouteName,
        fence: Fence,
        version: VersionId,
        saved: Saved,
    }

    fn case(term: u64, holder: &str, version: &str) -> Case {
        Case {
            route: "shop".parse().unwrap(),
            fence: fence(term, holder),
            version: version.parse().unwrap(),
            saved: saved(),
        }
    }

    impl Case {
        fn wanted(&self) -> Wanted<'_> {
            let selected = Some(Selected { key: "version", version: &self.version });
            Wanted { selected, ..Wanted::of(&self.route, &self.fence, &self.saved) }
        }
    }

    /// The operations of a kind: `test /spec/selector`.
    fn said(document: &Document) -> Vec<String> {
        let word = |operation: &Value, key: &str| operation[key].as_str().unwrap().to_owned();
        document.operations().iter().map(|one| format!("{} {}", word(one, "op"), word(one, "path"))).collect()
    }

    fn value<'a>(document: &'a Document, operation: &str, path: &str) -> &'a Value {
        let found = document.operations().iter().find(|one| one["op"] == operation && one["path"] == path);
        &found.unwrap()["value"]
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Observed {
        let mut service = left_by_us();
        change(&mut service);
        observed(service)
    }

    #[test]
    fn a_flip_tests_version_selector_and_fence_and_sets_the_whole_selector_and_the_state_together() {
        let case = case(7, "a", "v2");
        let document = plan(&observed(left_by_us()), &case.wanted()).unwrap().unwrap();
        assert_eq!(
            said(&document),
            [
                "test /metadata/resourceVersion",
                "test /spec/selector",
                "test /metadata/annotations/pointsman.dev~1fence",
                "add /spec/selector",
                "add /metadata/annotations/pointsman.dev~1fence",
                "add /metadata/annotations/pointsman.dev~1state",
            ]
        );
        assert_eq!(document.made_from(), "10");
        assert_eq!(*value(&document, "test", "/spec/selector"), json!({ "app": "model", "version": "v1" }));
        let selector = json!({ "app": "model", "version": "v2" });
        assert_eq!(*value(&document, "add", "/spec/selector"), selector);
        let text = value(&document, "add", "/metadata/annotations/pointsman.dev~1state").as_str().unwrap();
        assert_eq!(json!(State::decode(text).unwrap().selector), selector);
    }

    #[test]
    fn what_is_so_already_is_not_written_again() {
        let case = case(7, "a", "v1");
        assert_eq!(plan(&observed(left_by_us()), &case.wanted()), Ok(None));
        let decisions = [decided(1, "why", None)];
        let more = Wanted { decisions: &decisions, ..case.wanted() };
        assert!(plan(&observed(left_by_us()), &more).unwrap().is_some());
        let retired = Wanted { retired: Some(&case.version), ..case.wanted() };
        assert!(said(&plan(&observed(left_by_us()), &retired).unwrap().unwrap()).last().unwrap().ends_with("retired"));
    }

    #[test]
    fn what_was_scaled_down_stays_noted_whoever_writes_next() {
        let case = case(7, "a", "v1");
        let scaled = Scaled { version: case.version.clone(), trial: 3, to: 0 };
        let note = Wanted { scaled: Some(&scaled), ..case.wanted() };
        let noted = |from: &Observed, wanted: &Wanted<'_>| {
            let document = plan(from, wanted).unwrap().unwrap();
            value(&document, "add", "/metadata/annotations/pointsman.dev~1state").as_str().unwrap().to_owned()
        };
        let text = noted(&observed(left_by_us()), &note);
        assert_eq!(State::decode(&text).unwrap().scaled, Some(scaled.clone()));
        let left = changed(|service| service["metadata"]["annotations"][STATE] = json!(text));
        assert_eq!(plan(&left, &note), Ok(None));
        let decisions = [decided(1, "why", None)];
        let next = noted(&left, &Wanted { decisions: &decisions, ..case.wanted() });
        assert_eq!(State::decode(&next).unwrap().scaled, Some(scaled));
    }

    #[test]
    fn a_stale_leader_writes_nothing() {
        let case = case(6, "b", "v2");
        let superseded = Obstacle::Superseded { by: fence(7, "a") };
        assert_eq!(plan(&observed(left_by_us()), &case.wanted()), Err(superseded.clone()));
        assert_eq!(claim(&observed(left_by_us()), &case.wanted()), Err(superseded));
    }

    #[test]
    fn a_new_leader_claims_before_it_writes_and_changes_nothing_else_by_that() {
        let case = case(8, "b", "v2");
        assert_eq!(plan(&observed(left_by_us()), &case.wanted()), Err(Obstacle::Unclaimed));
        let document = claim(&observed(left_by_us()), &case.wanted()).unwrap().unwrap();
        assert_eq!(*value(&document, "add", "/metadata/annotations/pointsman.dev~1fence"), json!("8/b"));
        assert_eq!(*value(&document, "add", "/spec/selector"), json!({ "app": "model", "version": "v1" }));
        let text = value(&document, "add", "/metadata/annotations/pointsman.dev~1state").as_str().unwrap();
        let before = observed(left_by_us());
        let state = State::decode(text).unwrap();
        assert_eq!(state, State { serial: 2, ..before.state.read().unwrap().clone() });
    }

    #[test]
    fn a_service_that_nobody_wrote_on_is_claimed_with_the_state_that_there_is() {
        let case = case(1, "a", "v2");
        let fresh = changed(|service| {
            service["metadata"]["annotations"] = Value::Null;
            service["metadata"]["managedFields"] = json!([]);
        });
        let document = claim(&fresh, &case.wanted()).unwrap().unwrap();
        assert_eq!(
            said(&document),
            [
                "test /metadata/resourceVersion",
                "test /spec/selector",
                "add /metadata/annotations",
                "add /spec/selector",
                "add /metadata/annotations/pointsman.dev~1fence",
                "add /metadata/annotations/pointsman.dev~1state",
            ]
        );
        assert_eq!(*value(&document, "add", "/spec/selector"), json!({ "app": "model", "version": "v1" }));
    }

    #[test]
    fn a_foreign_change_is_not_fought_but_adopted_or_restored_when_an_operator_says_so() {
        let case = case(7, "a", "v1");
        let edited = || changed(|service| service["spec"]["selector"] = json!({ "app": "other", "version": "v2" }));
        let Err(Obstacle::Foreign(foreign)) = plan(&edited(), &case.wanted()) else { panic!("not told") };
        assert!(foreign.what.contains("app=other,version=v2"), "{foreign}");
        let restore = Wanted { on_foreign: OnForeign::Restore, ..case.wanted() };
        let document = plan(&edited(), &restore).unwrap().unwrap();
        assert_eq!(*value(&document, "add", "/spec/selector"), json!({ "app": "model", "version": "v1" }));
        let adopt = Wanted { on_foreign: OnForeign::Adopt, selected: None, ..case.wanted() };
        let document = plan(&edited(), &adopt).unwrap().unwrap();
        let text = value(&document, "add", "/metadata/annotations/pointsman.dev~1state").as_str().unwrap();
        assert_eq!(json!(State::decode(text).unwrap().selector), json!({ "app": "other", "version": "v2" }));
    }

    #[test]
    fn while_somebody_is_asked_the_state_is_kept_and_the_change_stays_to_be_seen() {
        let case = case(7, "a", "v1");
        let edited = changed(|service| service["spec"]["selector"] = json!({ "app": "other", "version": "v2" }));
        let decisions = [decided(1, "asked", None)];
        let wanted = Wanted { on_foreign: OnForeign::Leave, decisions: &decisions, selected: None, ..case.wanted() };
        let document = plan(&edited, &wanted).unwrap().unwrap();
        assert_eq!(*value(&document, "add", "/spec/selector"), json!({ "app": "other", "version": "v2" }));
        let text = value(&document, "add", "/metadata/annotations/pointsman.dev~1state").as_str().unwrap();
        let state = State::decode(text).unwrap();
        assert_eq!((json!(state.selector), state.decisions.len()), (json!({ "app": "model", "version": "v1" }), 1));
        let waits = Wanted { on_foreign: OnForeign::Restore, ..wanted.clone() };
        assert_eq!(plan(&edited, &waits).unwrap().unwrap(), document);
        let damaged = changed(|service| service["metadata"]["annotations"][STATE] = json!("hello"));
        assert!(matches!(plan(&damaged, &wanted), Err(Obstacle::Foreign(_))));
    }

    #[test]
    fn a_service_without_a_selector_is_not_flipped() {
        let case = case(1, "a", "v2");
        let headless = changed(|service| {
            service["metadata"]["annotations"] = json!({ FENCE: "1/a", STATE: state_without_selector() });
            service["spec"]["selector"] = Value::Null;
        });
        assert_eq!(plan(&headless, &case.wanted()), Err(Obstacle::NoSelector));
    }

    fn state_without_selector() -> String {
        State { selector: BTreeMap::new(), ..crate::annotation::tests::state(Vec::new()) }.encode().unwrap()
    }
}
