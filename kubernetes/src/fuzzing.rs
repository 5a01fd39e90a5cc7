//! What holds for every text that somebody may have written into the annotations of a live Service. `fuzz/` looks for one
//! for which it does not.

#![expect(clippy::panic, reason = "what does not hold is told by a panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pointsman_config::{Plan, Promotion, Route, Share, Split, Step, Strategy, Version, VersionId};
use pointsman_rollout::{Input, Ready, Rollout, Saved, Seen, Time};
use serde::Serialize;
use serde_json::{Value, json};

use crate::annotation::{FENCE, Fence, MAX_TERM, STATE, State};
use crate::live_service::{Document, Found, Observed, Obstacle, Wanted, claim};

/// A text is a fence or a state that is read back as it was written, or it is refused in words; a leader that finds it
/// goes on from it, or leaves it alone, and never writes over a later one.
///
/// # Panics
/// If that does not hold.
pub fn annotation(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let fence = text.parse::<Fence>();
    match &fence {
        Ok(fence) => check_fence(fence),
        Err(error) => assert!(error.to_string().contains("is no fence")),
    }
    match State::decode(text) {
        Ok(state) => check_state(&state, text),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let found = observed(text, text, &BTreeMap::new());
    assert_eq!(found.fence.read(), fence.as_ref().ok());
}

fn check_fence(fence: &Fence) {
    assert!(fence.term <= MAX_TERM && !fence.holder.is_empty());
    assert_eq!(fence.to_string().parse().as_ref(), Ok(fence));
    let later = Fence { term: fence.term + 1, ..fence.clone() };
    assert!(fence.may_replace(fence) && later.may_replace(fence) && !fence.may_replace(&later));
}

fn check_state(state: &State, text: &str) {
    match state.encode() {
        Ok(written) => check_written(state, &written),
        Err(error) => assert!(error.bytes > text.len() / 8, "{error}, of a text of {} bytes", text.len()),
    }
    check_claim(state, text);
    check_resumed(state);
}

/// What is written says the same, but for decisions that had to make room.
fn check_written(state: &State, written: &str) {
    let again = State::decode(written).unwrap_or_else(|error| panic!("{error}: {written}"));
    let dropped = state.decisions.len() - again.decisions.len();
    assert_eq!(again.cut, state.cut + u64::try_from(dropped).unwrap_or(u64::MAX));
    for (kept, full) in again.decisions.iter().zip(state.decisions.iter().skip(dropped)) {
        let mut wanted = full.clone();
        wanted.change.evidence = wanted.change.evidence.filter(|_| kept.change.evidence.is_some());
        check_alike(kept, &wanted);
    }
    let without = |state: &State| State { decisions: Vec::new(), cut: 0, ..state.clone() };
    check_alike(&without(&again), &without(state));
    let twice = again.encode().map(|text| State::decode(&text));
    check_alike(&twice.ok().and_then(Result::ok), &Some(again));
}

/// Both say the same, but for the last digit of a fraction: `serde_json` reads that only about right.
fn check_alike(one: &impl Serialize, other: &impl Serialize) {
    let (one, other) = (json!(one), json!(other));
    assert!(are_alike(&one, &other), "{one} is not {other}");
}

fn are_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_there = |(key, one): (&String, &Value)| other.get(key).is_some_and(|other| are_alike(one, other));
            one.len() == other.len() && one.iter().all(is_there)
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(1.0));
            (one - other).abs() <= one.abs() * 1e-15
        }
        (one, other) => one == other,
    }
}

/// A Service with these annotations.
fn observed(fence: &str, state: &str, selector: &BTreeMap<String, String>) -> Observed {
    let annotations = [(FENCE, fence), (STATE, state)].map(|(name, text)| (name.to_owned(), text.to_owned()));
    Observed::of(&Service {
        metadata: ObjectMeta { annotations: Some(annotations.into()), ..ObjectMeta::default() },
        spec: Some(ServiceSpec { selector: Some(selector.clone()), ..ServiceSpec::default() }),
        ..Service::default()
    })
}

/// A new leader takes over what stands there, and an old one does not.
fn check_claim(state: &State, text: &str) {
    let found = observed("7/a", text, &state.selector);
    assert_eq!(found.state, Found::Read(state.clone()));
    assert_eq!(found.foreign(&state.route), None);
    let fence = |term| Fence { term, holder: "b".to_owned() };
    let claimed = claim(&found, &Wanted::of(&state.route, &fence(8), &state.saved));
    match claimed {
        Ok(Some(patch)) => {
            let written = written_state(&patch);
            assert_eq!(written.serial, state.serial + 1);
            check_alike(&written.saved, &state.saved);
        }
        Ok(None) => panic!("a new leader writes nothing"),
        Err(error) => assert!(matches!(error, Obstacle::TooLarge(_)), "{error}"),
    }
    let outdated = claim(&found, &Wanted::of(&state.route, &fence(7), &state.saved));
    assert!(matches!(outdated, Err(Obstacle::Superseded { .. })), "{outdated:?}");
}

fn written_state(patch: &Document) -> State {
    let place = format!("/metadata/annotations/{}", STATE.replace('/', "~1"));
    let set = patch.operations().iter().find(|operation| operation["op"] == "add" && operation["path"] == *place);
    let text = set.and_then(|operation| operation["value"].as_str()).unwrap_or_default();
    State::decode(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A rollout goes on from it, gives nothing to what is barred, and is saved as what is resumed the same.
fn check_resumed(state: &State) {
    let now = Time::after_start(Duration::from_hours(1));
    let route = Arc::new(route_of(state));
    let (rollout, _) = Rollout::resume(Arc::clone(&route), state.saved.clone(), now);
    let saved = rollout.saved(now);
    let (again, changes) = Rollout::resume(Arc::clone(&route), saved.clone(), now);
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(again.saved(now), saved);
    check_written_saved(&saved);
    check_tick(rollout, now);
}

fn check_written_saved(saved: &Saved) {
    let text = json!(saved).to_string();
    check_alike(&serde_json::from_str::<Saved>(&text).ok(), &Some(saved));
}

fn check_tick(mut rollout: Rollout, now: Time) {
    let applied = rollout.desired().granted;
    let ready: BTreeMap<VersionId, Ready> = BTreeMap::new();
    for seconds in [1, 3600] {
        let seen = Seen::alone(&[], &ready, &applied, &[]);
        let stepped = rollout.step(Input::Tick(&seen), now.plus(Duration::from_secs(seconds)));
        assert!(stepped.is_ok(), "{stepped:?}");
    }
}

/// A route that asks for the rollout of which the state is, so that this goes on from it.
fn route_of(state: &State) -> Route {
    let identity = state.saved.identity();
    let canary = identity.canary.clone().filter(|canary| *canary != identity.stable);
    let names = std::iter::once(&identity.stable).chain(&canary);
    let versions = names.map(|name| {
        let revision = identity.revision.clone().filter(|_| Some(name) == canary.as_ref());
        (name.clone(), Version { revision, ..Version::at(Vec::new()) })
    });
    let mut route = Route::new(state.route.clone(), identity.stable.clone(), versions.collect());
    if let Some(canary) = canary {
        route.plan = if identity.by_plan { by_itself(canary) } else { Plan::Weights(Split::Whole(canary)) };
    }
    route
}

fn by_itself(canary: VersionId) -> Plan {
    let step = |percent: u32| {
        let weight = Share::from_ppm(percent * 10_000).unwrap_or(Share::ZERO);
        Step { weight, hold: Duration::from_mins(1) }
    };
    Plan::Rollout(pointsman_config::Rollout {
        canary,
        strategy: Strategy::Canary([5, 50, 100].map(step).to_vec()),
        promotion: Promotion::Automatic,
        bake: Duration::from_mins(10),
        step_deadline: Duration::from_hours(1),
    })
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_target_annotation_holds() {
        replay::kept_inputs("annotation", annotation);
    }
}
