//! Whether a route could go back at once: the old version carries all traffic, it was checked of late, and the write that
//! goes back was rehearsed. Pure but for the age of a rehearsal.
//!
//! Line: (endpoints, actuator) ► **way back** ► phase: nothing is promoted without one.

use std::collections::BTreeMap;
use std::time::Duration;

use pointsman_config::{Route, VersionId};
use pointsman_rollout::{Ready, WayBack};

use super::actuator::{Rehearsed, Report};

/// How old a check or a rehearsal may be.
const FRESH: Duration = Duration::from_secs(30);
/// Endpoints carry that much more than their part of a load without loss, as with a canary's weight: 7 of 5.
const MORE: (usize, usize) = (7, 5);

/// Whether `route` could go back to `stable`, as `ready` and the `report` of its live Service say.
pub(crate) fn judge(
    stable: &VersionId,
    route: &Route,
    ready: &BTreeMap<VersionId, Ready>,
    report: Option<&Report>,
) -> WayBack {
    let carries = capacity_doubt(stable, ready.get(stable).copied().unwrap_or_default());
    let doubt = carries.or_else(|| check_doubt(stable, route));
    match (doubt, rehearsed(stable, report)) {
        (None, Ok(took)) => WayBack::Proven { took },
        (Some(why), _) | (None, Err(why)) => WayBack::Unproven { why },
    }
}

fn capacity_doubt(stable: &VersionId, ready: Ready) -> Option<String> {
    let Ready { up, total } = ready;
    if up == 0 {
        return Some(format!("{stable} has no ready endpoint"));
    }
    (up * MORE.0 < total * MORE.1)
        .then(|| format!("{up} of {total} endpoints of {stable} are ready, too few for all requests"))
}

/// An endpoint that is ready passed its last check, unless checks are rare.
fn check_doubt(stable: &VersionId, route: &Route) -> Option<String> {
    let interval = route.health_check.interval;
    (interval > FRESH).then(|| {
        format!(
            "{stable} is checked every {} s only; write a `health_check.interval` of 30 s or less",
            interval.as_secs()
        )
    })
}

fn rehearsed(stable: &VersionId, report: Option<&Report>) -> Result<Duration, String> {
    let report = report.ok_or("the live Service was not seen yet")?;
    let Some(Rehearsed { at, came, .. }) = report.rehearsed.as_ref().filter(|last| last.to == *stable) else {
        let why = report.problem.clone().unwrap_or_else(|| "the leader has not tried it yet".to_owned());
        return Err(format!("going back was not rehearsed: {why}"));
    };
    let took = came.as_ref().map_err(|why| format!("going back was rehearsed and failed: {why}"))?;
    if at.elapsed() > FRESH {
        return Err(format!("going back was rehearsed {} s ago, and not since", at.elapsed().as_secs()));
    }
    Ok(*took)
}

#[cfg(test)]
mod tests {
    use pointsman_config::Version;
    use tokio::time::Instant;

    use super::*;

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn route(interval: Duration) -> Route {
        let versions = ["v1", "v2"].map(|name| (version(name), Version::at(Vec::new())));
        let mut route = Route::new("shop".parse().unwrap(), version("v1"), versions.into());
        route.health_check.interval = interval;
        route
    }

    fn rehearsed(came: Result<Duration, &str>) -> Report {
        let came = came.map_err(str::to_owned);
        Report { rehearsed: Some(Rehearsed { to: version("v1"), at: Instant::now(), came }), ..Report::default() }
    }

    #[track_caller]
    fn check(up: usize, interval: Duration, report: Option<&Report>, expected: Result<u64, &str>) {
        let ready = [(version("v1"), Ready { up, total: 5 })].into();
        let found = judge(&version("v1"), &route(interval), &ready, report);
        match (found, expected) {
            (WayBack::Proven { took }, Ok(millis)) => assert_eq!(took, Duration::from_millis(millis)),
            (WayBack::Unproven { why }, Err(words)) => assert!(why.contains(words), "{why}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn it_is_proven_by_endpoints_enough_fresh_checks_and_a_fresh_rehearsal() {
        let second = Duration::from_secs(1);
        let took = Ok(Duration::from_millis(12));
        check(5, second, Some(&rehearsed(took)), Ok(12));
        check(4, second, Some(&rehearsed(took)), Ok(12));
        check(3, second, Some(&rehearsed(took)), Err("3 of 5 endpoints of v1"));
        check(0, second, Some(&rehearsed(took)), Err("no ready endpoint"));
        check(5, second * 31, Some(&rehearsed(took)), Err("`health_check.interval`"));
        check(5, second, Some(&rehearsed(Err("forbidden"))), Err("failed: forbidden"));
        check(5, second, Some(&Report::default()), Err("not rehearsed"));
        check(5, second, None, Err("not seen yet"));
        let problem = Some("the API server cannot be reached".to_owned());
        check(5, second, Some(&Report { problem, ..Report::default() }), Err("cannot be reached"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rehearsal_grows_old() {
        let report = rehearsed(Ok(Duration::from_millis(12)));
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        check(5, Duration::from_secs(1), Some(&report), Err("31 s ago"));
    }

    #[test]
    fn a_rehearsal_of_another_way_proves_nothing() {
        let mut report = rehearsed(Ok(Duration::from_millis(12)));
        if let Some(rehearsed) = &mut report.rehearsed {
            rehearsed.to = version("v9");
        }
        check(5, Duration::from_secs(1), Some(&report), Err("not rehearsed"));
    }
}
