//! Edits of the config file while the edge runs, written in every way that files are written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman_chaos::load::Load;

use crate::process::{Edge, Site};

/// The promise: from the write to its effect.
const EFFECT_WITHIN: Duration = Duration::from_millis(500);

/// Writes by `write` for some weights in turn; each must come into force, and the quickest within the promise: others
/// may be slow because other tests keep the machine busy.
async fn check_edits(edge: &Edge, mut write: impl FnMut(u32)) {
    let mut quickest = Duration::MAX;
    for percent in [40, 20, 60] {
        write(percent);
        let written = Instant::now();
        edge.wait_for_weight(f64::from(percent)).await;
        quickest = quickest.min(written.elapsed());
    }
    assert!(quickest < EFFECT_WITHIN, "{quickest:?}");
    let config = edge.config().await;
    assert_eq!(
        (&config["generation"], &config["reloads_ok"], &config["reloads_failed"]),
        (&4.into(), &3.into(), &0.into()),
        "{config:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_in_place_comes_into_force() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    check_edits(&edge, |percent| site.write(&site.weights(percent))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_by_renaming_over_the_file_comes_into_force() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    check_edits(&edge, |percent| {
        fs::write(site.at(".pointsman.yaml.swp"), site.weights(percent)).unwrap();
        fs::rename(site.at(".pointsman.yaml.swp"), site.config()).unwrap();
    })
    .await;
}

/// A mounted ConfigMap: the file is a link through `..data`, which is swapped for another folder.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_a_config_map_comes_into_force() {
    let site = Site::new().await;
    fs::create_dir(site.at("..0")).unwrap();
    fs::write(site.at("..0/pointsman.yaml"), site.weights(10)).unwrap();
    symlink("..0", site.at("..data")).unwrap();
    symlink("..data/pointsman.yaml", site.config()).unwrap();
    let edge = site.start().await;
    let mut generation = 0;
    check_edits(&edge, |percent| {
        let before = site.at(&format!("..{generation}"));
        generation += 1;
        let folder = format!("..{generation}");
        fs::create_dir(site.at(&folder)).unwrap();
        fs::write(site.at(&folder).join("pointsman.yaml"), site.weights(percent)).unwrap();
        symlink(&folder, site.at("..data_tmp")).unwrap();
        fs::rename(site.at("..data_tmp"), site.at("..data")).unwrap();
        fs::remove_dir_all(before).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_file_behind_a_link_comes_into_force() {
    let site = Site::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.yaml");
    fs::write(&real, site.weights(10)).unwrap();
    symlink(&real, site.config()).unwrap();
    let edge = site.start().await;
    check_edits(&edge, |percent| fs::write(&real, site.weights(percent)).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_in_two_halves_is_never_refused() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    for percent in [40, 20] {
        let text = site.weights(percent);
        let (first, _) = text.split_at(text.len() / 2);
        site.write(first);
        tokio::time::sleep(Duration::from_millis(100)).await;
        site.write(&text);
        edge.wait_for_weight(f64::from(percent)).await;
    }
    assert_eq!(edge.config().await["reloads_failed"], 0, "{}", edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_is_told_once_and_is_forgotten_when_it_is_good_again() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    let mut refused = 0;
    for bad in
        [Some("routes: [\n".to_owned()), Some(String::new()), Some(site.text("weights: { v1: 50%, v2: 60% }")), None]
    {
        match &bad {
            Some(text) => site.write(text),
            None => fs::remove_file(site.config()).unwrap(),
        }
        refused += 1;
        let config = edge.wait_for_config("refused", |config| config["reloads_failed"] == refused).await;
        assert!(!config["last_error"]["problems"].as_array().unwrap().is_empty(), "{config:#}");
        // The same text again, by another event, is no news.
        fs::write(site.at("neighbour"), refused.to_string()).unwrap();
    }
    assert!(std::process::Command::new("mkfifo").arg(site.config()).status().unwrap().success());
    refused += 1;
    let config = edge.wait_for_config("a FIFO", |config| config["reloads_failed"] == refused).await;
    assert!(config["last_error"].to_string().contains("is no regular file"), "{config:#}");
    fs::remove_file(site.config()).unwrap();
    fs::File::create(site.config()).unwrap().set_len(20_000_000_000).unwrap();
    // Between the two there may have been a look at no file at all.
    let config = edge
        .wait_for_config("a large file", |config| config["last_error"].to_string().contains("larger than 1 MiB"))
        .await;
    let refused = config["reloads_failed"].as_u64().unwrap();
    assert!(refused == 6 || refused == 7, "{config:#}");
    assert_eq!(edge.weight().await, 10.0);
    assert_eq!(edge.predict().await.status, 200);
    site.write(&site.weights(10));
    let config = edge.wait_for_config("good again", |config| config["last_error"].is_null()).await;
    assert_eq!((&config["generation"], &config["reloads_failed"]), (&1.into(), &refused.into()), "nothing was new");
    assert_eq!(edge.log().matches("config file refused").count().to_string(), refused.to_string(), "{}", edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touched_file_is_no_reload_and_sighup_reads_at_once() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    site.write(&site.weights(10));
    edge.signal(Signal::SIGHUP);
    site.write(&site.weights(30));
    edge.signal(Signal::SIGHUP);
    edge.wait_for_weight(30.0).await;
    assert_eq!(edge.config().await["generation"], 2);
    site.write("routes: [");
    edge.wait_for_config("refused", |config| config["reloads_failed"] == 1).await;
    edge.signal(Signal::SIGHUP);
    edge.wait_for_config("refused again, because it was asked for", |config| config["reloads_failed"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_and_go_and_what_needs_a_restart_is_said() {
    let site = Site::new().await;
    site.write(&site.weights(10));
    let edge = site.start().await;
    let other = format!(
        "  - {{ name: other, match: {{ path_prefix: /other }}, stable: v9, versions: {{ v9: {{ endpoints: [{}] }} }} }}\n",
        site.v2.addr()
    );
    site.write(&format!("{}{other}", site.weights(10)).replace("file: state.db", "file: else.db"));
    let config = edge.wait_for_config("reloaded", |config| config["generation"] == 2).await;
    assert!(config["needs_restart"][0].as_str().unwrap().contains("`state` changed"), "{config:#}");
    assert_eq!(edge.get("/api/v1/routes/other").await["stable"], "v9");
    assert!(!site.at("else.db").exists());
    site.write(&site.weights(10));
    let config = edge.wait_for_config("reloaded", |config| config["generation"] == 3).await;
    assert_eq!(config["needs_restart"].as_array().unwrap().len(), 0);
    assert_eq!(edge.get("/api/v1/routes").await["routes"].as_array().unwrap().len(), 1);
}

/// Requests that each weight is in force for, at least.
const ENOUGH: u64 = 50;
const TOO_LONG: Duration = Duration::from_mins(2);

/// 10,000 requests and more while the weights are rewritten 100 times: none fails, and in each period the split is the
/// file's within sampling error.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_and_every_split_is_exact_while_weights_are_rewritten() {
    let site = Site::new().await;
    site.write(&site.weights(50));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let mut load = Load::new(&format!("http://{}/v1/predict", edge.address)).unwrap();
    load.rate = 700;
    load.bodies = vec![bytes::Bytes::from_static(b"12345")];
    let load = load.start().unwrap();
    let started = Instant::now();
    let counted = || (site.v1.predictions(), site.v2.predictions());
    let mut periods = BTreeMap::new();
    let mut begin = counted();
    for edit in 0..100_u32 {
        let percent = |edit: u32| if edit == 0 { 50 } else { 5 + edit * 37 % 91 };
        // However slow the machine is, each period sees enough requests to say something.
        let mut end = begin;
        while end.0 + end.1 < begin.0 + begin.1 + ENOUGH {
            tokio::time::sleep(Duration::from_millis(2)).await;
            end = counted();
            assert!(started.elapsed() < TOO_LONG, "the load stands still");
        }
        site.write(&site.weights(percent(edit + 1)));
        // Counts that were read before the old weight was still seen in force belong to it.
        loop {
            let now = counted();
            let weight = edge.weight().await;
            if weight == f64::from(percent(edit + 1)) {
                break;
            }
            assert_eq!(weight, f64::from(percent(edit)));
            end = now;
        }
        periods.insert(edit, (percent(edit), end.0 - begin.0, end.1 - begin.1));
        begin = counted();
    }
    load.stop();
    let total = load.finish().await.unwrap().figures;
    assert!(total.intended >= 10_000, "{total:?}");
    assert_eq!((total.status.success, total.errors.sum()), (total.intended, 0), "{total:?}");
    for (edit, (percent, v1, v2)) in periods {
        assert!(v1 + v2 >= ENOUGH, "edit {edit}: {} requests say little", v1 + v2);
        let (all, share) = ((v1 + v2) as f64, f64::from(percent) / 100.0);
        // Five standard deviations, and a few requests that were under way at the edges.
        let tolerance = 5.0 * (all * share * (1.0 - share)).sqrt() + 4.0;
        assert!((v2 as f64 - all * share).abs() <= tolerance, "edit {edit}: {v2} of {all} at {percent} %");
    }
}
