//! Whether a route could go back at once: the old version carries all traffic, it was checked of late and gave its golden
//! answers, every edge hears of it, and the write that goes back was rehearsed. Pure but for the age of a rehearsal.
//!
//! Line: (endpoints, replicas, actuator) ► **way back** ► phase: nothing is promoted without one.

use std::time::Duration;

use pointsman_config::VersionId;
use pointsman_rollout::{Ready, WayBack};

use super::actuator::{Rehearsed, Report};
use super::endpoints::Checked;
use super::health::Golden;

/// How old a check, golden answers or a rehearsal may be.
const FRESH: Duration = Duration::from_secs(30);
/// Endpoints carry that much more than their part of a load without loss, as with a canary's weight: 7 of 5.
const MORE: (usize, usize) = (7, 5);

/// What the judgement rests on.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// How many endpoints of the old version take requests, and how many it has.
    pub(crate) ready: Ready,
    /// How many endpoints carried the requests of this rollout.
    pub(crate) carried: usize,
    /// What was last found out about each that does.
    pub(crate) checked: &'a [Checked],
    /// How long the slowest of the other edges took to put in force what it was told last, or why one did not.
    pub(crate) pushed: Result<Duration, String>,
    /// Of the live Service.
    pub(crate) report: Option<&'a Report>,
}

/// Whether one could go back to `stable`.
pub(crate) fn judge(stable: &VersionId, evidence: &Evidence<'_>) -> WayBack {
    match proven(stable, evidence) {
        Ok(took) => WayBack::Proven { took },
        Err(why) => WayBack::Unproven { why },
    }
}

/// How long it takes: first every edge is told, then the Service is written. Or why it is not proven.
fn proven(stable: &VersionId, evidence: &Evidence<'_>) -> Result<Duration, String> {
    carries(stable, evidence)?;
    let written = rehearsed(stable, evidence.report)?;
    answers_rightly(stable, evidence)?;
    let pushed = evidence.pushed.clone()?;
    Ok(pushed + written)
}

fn carries(stable: &VersionId, evidence: &Evidence<'_>) -> Result<(), String> {
    let (Ready { up, total }, carried) = (evidence.ready, evidence.carried);
    if up == 0 {
        return Err(format!("{stable} has no ready endpoint"));
    }
    if !is_enough(up, total) {
        return Err(format!("{up} of {total} endpoints of {stable} are ready, too few for all requests"));
    }
    if !is_enough(up, carried) {
        return Err(format!(
            "{up} endpoints of {stable} are ready, and it took {carried} to carry the requests of this rollout; scale {stable} up"
        ));
    }
    Ok(())
}

fn is_enough(up: usize, total: usize) -> bool {
    up * MORE.0 >= total * MORE.1
}

/// Enough of them did of late what is expected of them.
fn answers_rightly(stable: &VersionId, evidence: &Evidence<'_>) -> Result<(), String> {
    let doubts: Vec<String> = evidence.checked.iter().filter_map(doubt).collect();
    let proven = evidence.checked.len() - doubts.len();
    match doubts.into_iter().next() {
        Some(doubt) if !is_enough(proven, evidence.ready.total.max(evidence.carried)) => {
            Err(format!("{stable} at {doubt}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn doubt(Checked { address, passed, golden }: &Checked) -> Option<String> {
    let Some(passed) = passed else { return Some(format!("{address} has passed no check yet")) };
    if *passed > FRESH {
        let (age, limit) = (passed.as_secs(), FRESH.as_secs());
        return Some(format!(
            "{address} passed its last check {age} s ago; with a `health_check.interval` of 10 s it is never more than {limit} s"
        ));
    }
    match golden {
        Golden::None => None,
        Golden::Awaited => Some(format!("{address} has given no golden answers yet")),
        Golden::Right(age) if *age <= FRESH => None,
        Golden::Right(age) => Some(format!("{address} gave its golden answers {} s ago, and not since", age.as_secs())),
        Golden::Wrong(why) => Some(format!("{address} does not give its golden answers; {why}")),
    }
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
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn version(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn rehearsed(came: Result<Duration, &str>) -> Report {
        let came = came.map_err(str::to_owned);
        Report { rehearsed: Some(Rehearsed { to: version("v1"), at: Instant::now(), came }), ..Report::default() }
    }

    /// That the write took 12 ms.
    fn written() -> Report {
        rehearsed(Ok(Duration::from_millis(12)))
    }

    fn checked(passed: Duration, golden: Golden) -> Checked {
        Checked { address: "10.0.0.7:8080".parse().unwrap(), passed: Some(passed), golden }
    }

    /// Five endpoints, of which `up` take requests and pass their checks.
    fn check(up: usize, report: Option<&Report>, expected: Result<u64, &str>) {
        let checked = vec![checked(SECOND, Golden::None); up];
        let ready = Ready { up, total: 5 };
        let evidence = Evidence { ready, carried: 5, checked: &checked, pushed: Ok(Duration::ZERO), report };
        check_evidence(&evidence, expected);
    }

    #[track_caller]
    fn check_evidence(evidence: &Evidence<'_>, expected: Result<u64, &str>) {
        match (judge(&version("v1"), evidence), expected) {
            (WayBack::Proven { took }, Ok(millis)) => assert_eq!(took, Duration::from_millis(millis)),
            (WayBack::Unproven { why }, Err(words)) => assert!(why.contains(words), "{why}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn it_is_proven_by_endpoints_enough_and_a_fresh_rehearsal() {
        let went = written();
        check(5, Some(&went), Ok(12));
        check(4, Some(&went), Ok(12));
        check(3, Some(&went), Err("3 of 5 endpoints of v1"));
        check(0, Some(&went), Err("no ready endpoint"));
        check(5, Some(&rehearsed(Err("forbidden"))), Err("failed: forbidden"));
        check(5, Some(&Report::default()), Err("not rehearsed"));
        check(5, None, Err("not seen yet"));
        let problem = Some("the API server cannot be reached".to_owned());
        check(5, Some(&Report { problem, ..Report::default() }), Err("cannot be reached"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rehearsal_grows_old() {
        let report = written();
        tokio::time::advance(FRESH + SECOND).await;
        check(5, Some(&report), Err("31 s ago"));
    }

    #[test]
    fn a_rehearsal_of_another_way_proves_nothing() {
        let mut report = written();
        if let Some(rehearsed) = &mut report.rehearsed {
            rehearsed.to = version("v9");
        }
        check(5, Some(&report), Err("not rehearsed"));
    }

    /// Of ten endpoints all take requests, and `doubtful` of them are as this one.
    #[track_caller]
    fn check_doubtful(doubtful: usize, one: &Checked, expected: Result<u64, &str>) {
        let mut all = vec![checked(SECOND, Golden::Right(SECOND)); 10 - doubtful];
        all.extend(vec![one.clone(); doubtful]);
        let report = written();
        let ready = Ready { up: 10, total: 10 };
        let evidence =
            Evidence { ready, carried: 10, checked: &all, pushed: Ok(Duration::ZERO), report: Some(&report) };
        check_evidence(&evidence, expected);
    }

    #[test]
    fn endpoints_that_were_not_checked_of_late_or_answer_wrongly_do_not_count() {
        let old = FRESH + SECOND;
        let unchecked = Checked { passed: None, ..checked(SECOND, Golden::None) };
        let cases = [
            (unchecked, "v1 at 10.0.0.7:8080 has passed no check yet"),
            (checked(old, Golden::None), "passed its last check 31 s ago"),
            (checked(SECOND, Golden::Awaited), "has given no golden answers yet"),
            (checked(SECOND, Golden::Right(old)), "golden answers 31 s ago"),
            (checked(SECOND, Golden::Wrong("gave 31.7".to_owned())), "does not give its golden answers; gave 31.7"),
        ];
        for (one, why) in cases {
            check_doubtful(2, &one, Ok(12));
            check_doubtful(3, &one, Err(why));
        }
        check_doubtful(10, &checked(FRESH, Golden::Right(FRESH)), Ok(12));
    }

    #[test]
    fn every_edge_must_be_reached_and_the_slowest_counts() {
        let (checked, report) = ([checked(SECOND, Golden::None)], written());
        for (pushed, expected) in
            [(Ok(Duration::from_millis(3)), Ok(15)), (Err("one is silent".to_owned()), Err("one is silent"))]
        {
            let ready = Ready { up: 1, total: 1 };
            let evidence = Evidence { ready, carried: 1, checked: &checked, pushed, report: Some(&report) };
            check_evidence(&evidence, expected);
        }
    }

    #[test]
    fn an_old_version_that_was_scaled_down_meanwhile_is_measured_by_what_carried_the_requests() {
        let report = written();
        for (up, expected) in [(10, Ok(12)), (8, Ok(12)), (7, Err("it took 10 to carry")), (2, Err("scale v1 up"))] {
            let checked = vec![checked(SECOND, Golden::None); up];
            let ready = Ready { up, total: up };
            let pushed = Ok(Duration::ZERO);
            let evidence = Evidence { ready, carried: 10, checked: &checked, pushed, report: Some(&report) };
            check_evidence(&evidence, expected);
        }
    }
}
