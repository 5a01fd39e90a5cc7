//! What the live Service has selected, held against what the edges decided and what clients got: one move behind traffic going
//! forward, never ahead.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, Readiness, Selected};
use super::verdict::{Outage, is_told_apart};
use super::watch::Watcher;
use crate::load::Told;
use crate::scenario::{ApiFault, Scenario, What};

/// Who has no ready endpoint is found by health checks within so long.
const FOUND_WITHIN: Duration = Duration::from_secs(3);
/// What was decided is seen within so long.
const SEEN_WITHIN: Duration = Duration::from_millis(500);
/// What an edge that stands still had said before may be so old.
const SAID_WITHIN: Duration = Duration::from_secs(1);
/// An edge that says nothing is waited for so long.
const WAITED_FOR: Duration = Duration::from_secs(30);
/// A request that was due this shortly before was assigned before.
const ON_THE_WAY: Duration = Duration::from_millis(50);
/// Traffic is looked at for so long after the selector has moved.
const LOOKED_AT_FOR: Duration = Duration::from_secs(1);

/// Holds every selection by an edge against the rest of the story.
pub(super) fn check(
    scenario: &Scenario,
    cluster: &Cluster,
    watcher: &mut Watcher,
    (requests, frozen): (&[Told], &[Outage]),
) {
    let selections = cluster.selections();
    let mut broken = Vec::new();
    for (number, one) in selections.iter().enumerate().skip(1).filter(|(_, one)| !one.is_foreign) {
        let next = selections.get(number + 1).map(|next| next.at);
        // Who is not there gets nothing, whatever is selected: the edge finds out sooner than probes do.
        let gone = gone_from(one, cluster.readiness()).and_then(|at| at.checked_sub(FOUND_WITHIN));
        let until = [next, gone].into_iter().flatten().min();
        if !is_put_back(&selections, number) {
            broken.extend(ahead_of_traffic(one, until, watcher, requests));
        }
        broken.extend(nobody_there(one, cluster.readiness()));
        if !has_late_writes(scenario) {
            broken.extend(taken_back(one, watcher));
        }
    }
    broken.extend(moved_too_often(scenario, &selections));
    broken.extend(unheard(scenario, &selections, frozen));
    broken.extend(cluster.backwards());
    for (rule, said) in broken {
        watcher.broke(rule, &said);
    }
}

/// Whether an edge only puts back what somebody else changed: traffic has not moved, and does not.
fn is_put_back(selections: &[Selected], number: usize) -> bool {
    let before = |many: usize| number.checked_sub(many).and_then(|number| selections.get(number));
    let (Some(own), Some(theirs), Some(former)) = (selections.get(number), before(1), before(2)) else { return false };
    theirs.is_foreign && own.version == former.version
}

/// What was given up may land, and is put right then.
fn has_late_writes(scenario: &Scenario) -> bool {
    scenario.events.iter().any(|event| event.what == What::Api(ApiFault::Late))
}

/// From when on, since shortly before it was selected, a version had no ready endpoint.
fn gone_from(one: &Selected, readiness: &[Readiness]) -> Option<Instant> {
    let own = readiness.iter().filter(|known| known.version.as_str() == one.version && !known.is_ready);
    own.map(|known| known.at).filter(|at| *at + FOUND_WITHIN > one.at).min()
}

/// Traffic is where the selector has moved to, until something else may move it.
fn ahead_of_traffic(
    one: &Selected,
    until: Option<Instant>,
    watcher: &Watcher,
    requests: &[Told],
) -> Option<(&'static str, String)> {
    // A rollback moves traffic first as well.
    let decided = watcher
        .rollbacks
        .iter()
        .filter(|at| **at + SEEN_WITHIN > one.at)
        .min()
        .and_then(|at| at.checked_sub(SEEN_WITHIN));
    let until = [Some(one.at + LOOKED_AT_FOR), until, decided].into_iter().flatten().min()?;
    let is_elsewhere = |told: &&Told| {
        told.due > one.at + ON_THE_WAY
            && told.due < until
            && told.version.as_deref().is_some_and(|version| version != one.version)
            && !is_told_apart(&watcher.eyes, told)
    };
    let elsewhere = requests.iter().filter(is_elsewhere).count();
    (elsewhere > 0).then(|| {
        let said = format!("the live Service selects {}, and {elsewhere} later requests went elsewhere", one.version);
        ("traffic before the selector", said)
    })
}

fn nobody_there(one: &Selected, readiness: &[Readiness]) -> Option<(&'static str, String)> {
    let own = readiness.iter().filter(|known| known.version.as_str() == one.version && known.at <= one.at);
    let newest = own.max_by_key(|known| known.at)?;
    (!newest.is_ready && newest.at + FOUND_WITHIN < one.at).then(|| {
        ("a selector with endpoints", format!("the live Service selects {}, which has no ready endpoint", one.version))
    })
}

fn taken_back(one: &Selected, watcher: &Watcher) -> Option<(&'static str, String)> {
    let is_barred = watcher.banned.iter().any(|(version, since, until)| {
        version.as_str() == one.version && *since + SEEN_WITHIN < one.at && until.is_none_or(|until| one.at < until)
    });
    is_barred.then(|| {
        (
            "a selector that was not taken back",
            format!("the live Service selects {}, which was taken back", one.version),
        )
    })
}

/// Once forward for each beginning that somebody asked for.
fn moved_too_often(scenario: &Scenario, selections: &[Selected]) -> Option<(&'static str, String)> {
    let begins = scenario.events.iter().filter(|event| matches!(event.what, What::Order(..) | What::Edit(_))).count();
    let moves = selections.iter().skip(1).filter(|one| !one.is_foreign);
    let forward = moves.filter(|one| one.version != scenario.route.stable.as_str()).count();
    (forward > begins + 1 && !has_late_writes(scenario))
        .then(|| ("one promotion", format!("the live Service was moved forward {forward} times")))
}

/// Nothing goes forward while an edge stands still that serves: nobody knows what it sends where.
fn unheard(scenario: &Scenario, selections: &[Selected], frozen: &[Outage]) -> Option<(&'static str, String)> {
    let moves = selections.iter().skip(1).filter(|one| !one.is_foreign);
    let mut forward = moves.filter(|one| one.version != scenario.route.stable.as_str());
    let is_unheard = |one: &&Selected, still: &Outage| {
        let waited_for = still.since + SAID_WITHIN..still.since + WAITED_FOR;
        waited_for.contains(&one.at) && still.until.is_none_or(|until| one.at < until)
    };
    let one = forward.find(|one| frozen.iter().any(|still| is_unheard(one, still)))?;
    let said =
        format!("the live Service selects {} while an edge stands still that had all but that to say", one.version);
    Some(("an edge that is not heard is waited for", said))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::load::Ended;

    const TEXT: &str = "
about: a route
route: { stable: v1, rollout: { canary: v2, steps: [ { weight: 50%, hold: 1m } ] } }
versions: { v1: {}, v2: {} }
rate: 1
end: 1m
";

    fn scenario() -> Scenario {
        Scenario::parse(TEXT, "small").unwrap()
    }

    fn edges() -> [SocketAddr; 2] {
        [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn watcher(began: Instant) -> Watcher {
        Watcher::new(&edges().map(|edge| (edge, edge)), &scenario().route, began)
    }

    fn told(due: Instant, to: SocketAddr, version: &str) -> Told {
        Told {
            due,
            ended: due,
            end: Ended::Good,
            to: Some(to),
            connected: Some(due),
            user: None,
            version: Some(version.into()),
        }
    }

    fn selected(at: Instant, version: &str) -> Selected {
        Selected { at, version: version.to_owned(), is_foreign: false }
    }

    #[test]
    fn what_somebody_else_changed_may_be_put_back_while_traffic_stays() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let by_hand = |seconds, version| Selected { is_foreign: true, ..selected(at(seconds), version) };
        let back = [selected(at(0), "v1"), by_hand(5, "v2"), selected(at(9), "v1")];
        assert_eq!([0, 1, 2].map(|number| is_put_back(&back, number)), [false, false, true]);
        let forward = [selected(at(0), "v1"), by_hand(5, "v3"), selected(at(9), "v2")];
        assert!(!is_put_back(&forward, 2), "it moves on");
        let flipped = [selected(at(0), "v2"), selected(at(5), "v1"), selected(at(9), "v2")];
        assert!(!is_put_back(&flipped, 2), "nobody else was there");
    }

    #[test]
    fn a_selector_that_moves_before_traffic_is_found_and_what_an_edge_apart_does_is_not() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut watcher = watcher(began);
        let flip = selected(at(1_000), "v2");
        let [one, other] = edges();
        let before = [told(at(900), one, "v1"), told(at(1_020), one, "v1"), told(at(1_500), one, "v2")];
        assert_eq!(ahead_of_traffic(&flip, None, &watcher, &before), None);
        let late = [told(at(1_200), one, "v1"), told(at(1_300), other, "v1")];
        let (rule, said) = ahead_of_traffic(&flip, None, &watcher, &late).unwrap();
        assert!(rule == "traffic before the selector" && said.contains("2 later requests"), "{said}");
        assert_eq!(ahead_of_traffic(&flip, Some(at(1_100)), &watcher, &late), None, "it has moved again");
        watcher.rollbacks.push(at(1_600));
        assert_eq!(ahead_of_traffic(&flip, None, &watcher, &late), None, "it was taken back");
        watcher.rollbacks.clear();
        watcher.eyes[1].apart.push((began, None));
        assert!(ahead_of_traffic(&flip, None, &watcher, &late[..1]).is_some());
        assert_eq!(ahead_of_traffic(&flip, None, &watcher, &late[1..]), None);
    }

    #[test]
    fn a_selector_never_names_who_is_not_there_or_was_taken_back_and_goes_forward_once() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let version: pointsman_config::VersionId = "v2".parse().unwrap();
        let ready = |seconds, is_ready| Readiness { at: at(seconds), version: version.clone(), is_ready };
        let flip = selected(at(10), "v2");
        assert_eq!(nobody_there(&flip, &[ready(0, true), ready(9, false)]), None, "nobody can know yet");
        assert!(nobody_there(&flip, &[ready(0, true), ready(5, false)]).is_some());
        assert_eq!(nobody_there(&flip, &[ready(5, false), ready(8, true)]), None);
        assert_eq!(gone_from(&flip, &[ready(0, true), ready(11, false)]), Some(at(11)));
        assert_eq!(gone_from(&flip, &[ready(5, false), ready(8, true)]), None);

        let mut watcher = watcher(began);
        watcher.banned.push((version.clone(), at(5), Some(at(20))));
        assert!(taken_back(&flip, &watcher).is_some());
        assert_eq!(taken_back(&selected(at(30), "v2"), &watcher), None);
        assert_eq!(taken_back(&selected(at(10), "v1"), &watcher), None);

        let still = |since, until| Outage {
            edge: edges()[1],
            since: at(since),
            gone: at(since),
            planned: Duration::from_secs(9),
            until,
        };
        let moves = [selected(at(0), "v1"), flip.clone()];
        assert!(unheard(&scenario(), &moves, &[still(5, None)]).is_some());
        assert_eq!(unheard(&scenario(), &moves, &[still(5, Some(at(9))), still(11, None)]), None);

        let [start, back] = [selected(at(0), "v1"), selected(at(12), "v1")];
        let once = [start.clone(), flip.clone(), back.clone()];
        assert_eq!(moved_too_often(&scenario(), &once), None);
        let by_hand = Selected { is_foreign: true, ..selected(at(14), "v2") };
        assert_eq!(moved_too_often(&scenario(), &[&once[..], &[by_hand, back.clone()]].concat()), None);
        assert!(moved_too_often(&scenario(), &[&once[..], &[selected(at(14), "v2"), back]].concat()).is_some());
    }
}
