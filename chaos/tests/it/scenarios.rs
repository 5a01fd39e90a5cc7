//! What each scenario says holds, with fixed seeds; and that the same seed is the same story.

use std::fs;
use std::path::Path;

use pointsman_chaos::report::{markdown, measure, svg};
use pointsman_chaos::scenario::{Scenario, World};
use pointsman_chaos::sim::{Chosen, play};

const SEEDS: u64 = 10;

fn scenarios() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &Path| {
        Scenario::parse(&fs::read_to_string(path).unwrap(), path.file_stem().unwrap().to_str().unwrap()).unwrap()
    };
    files.iter().map(|path| read(path)).collect()
}

fn named(name: &str) -> Scenario {
    scenarios().into_iter().find(|scenario| scenario.name == name).unwrap()
}

#[test]
fn every_scenario_holds_with_fixed_seeds() {
    let mut scenarios = scenarios();
    scenarios.retain(|scenario| scenario.is_for(World::Sim).is_ok());
    assert!(scenarios.len() >= 40);
    assert!(scenarios.iter().filter(|scenario| scenario.edges > 1).count() >= 14);
    let mut broken = Vec::new();
    for scenario in &scenarios {
        for seed in 1..=SEEDS {
            let played = play(scenario, seed, Chosen::Pointsman);
            broken.extend(played.broken.iter().map(|what| format!("{} with seed {seed}: {what}", scenario.name)));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_story_and_another_one_is_not() {
    let scenario = named("operator");
    let (one, again, other) = (
        play(&scenario, 7, Chosen::Pointsman),
        play(&scenario, 7, Chosen::Pointsman),
        play(&scenario, 8, Chosen::Pointsman),
    );
    assert_eq!(one.trace, again.trace);
    assert_eq!(one.books, again.books);
    assert_ne!(one.books, other.books);
}

#[test]
fn a_promise_that_is_not_kept_is_told() {
    let mut scenario = named("error-spike");
    scenario.holds.bad_answers_at_most = Some(0);
    scenario.holds.never_taken_back = true;
    let broken = play(&scenario, 1, Chosen::Pointsman).broken;
    assert_eq!(broken.len(), 2, "{broken:?}");
}

#[test]
fn what_hits_both_versions_alike_is_no_harm_of_the_canary() {
    for (name, harm) in [("outage-of-both", None), ("correlated-bursts", None), ("error-spike", Some(50))] {
        let scenario = named(name);
        let found = scenario.first_harm(scenario.canary().unwrap()).map(|at| at.as_secs());
        assert_eq!(found, harm, "{name}");
    }
}

#[test]
fn peers_decide_by_their_thresholds() {
    let bad = named("broken-from-the-start");
    let flagger = play(&bad, 1, Chosen::Flagger);
    // The first step after a minute, then five bad checks.
    assert_eq!(flagger.taken_back.unwrap().as_secs(), 360);
    let quick = play(&bad, 1, Chosen::ArgoQuick);
    assert!(quick.taken_back.unwrap().as_secs() <= 60, "{:?}", quick.taken_back);
    // It measures at 10, 15, 20 and 25 minutes, and lets three failures pass.
    let own = play(&bad, 1, Chosen::ArgoPlan);
    assert_eq!(own.taken_back.unwrap().as_secs(), 1500);
    let argo = play(&named("healthy"), 1, Chosen::Argo);
    assert_eq!((argo.promoted.unwrap().as_secs(), argo.taken_back), (300, None));
}

#[test]
fn a_report_has_a_row_for_everyone_and_a_picture_of_what_users_got() {
    let scenario = named("error-spike");
    let lines: Vec<_> = Chosen::ALL.iter().map(|chosen| measure(&scenario, *chosen, 1..4)).collect();
    let table = markdown(&lines);
    assert_eq!(table.lines().count(), 2 + Chosen::ALL.len(), "{table}");
    assert_eq!(lines[0].taken_back, 3);
    let (pointsman, flagger) = (&lines[0], lines.last().unwrap());
    assert!(pointsman.bad_answers.p95 < flagger.bad_answers.median);
    assert_eq!(svg(&lines).matches("<rect").count(), 1 + Chosen::ALL.len());
}
