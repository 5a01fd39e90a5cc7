//! Users who stay with their version: by header, by cookie, by address.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::Answer;
use crate::process::{Edge, Site, command};

/// Enough for some of them to be drawn at every weight below.
const USERS: usize = 150;

fn plan(v2_percent: u32, sticky: &str) -> String {
    format!("weights: {{ v1: {}%, v2: {v2_percent}% }}\n    sticky: {sticky}", 100 - v2_percent)
}

/// The users who get v2 when each of them asks with the header lines that `headers` gives.
async fn with_canary(edge: &Edge, headers: impl Fn(usize) -> String) -> BTreeSet<usize> {
    let mut canary = BTreeSet::new();
    for user in 0..USERS {
        if edge.version_for(&headers(user)).await == "v2" {
            canary.insert(user);
        }
    }
    canary
}

async fn by_header(edge: &Edge) -> BTreeSet<usize> {
    with_canary(edge, |user| format!("x-user: user-{user}\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_canary_keeps_it_while_it_grows_and_another_rollout_draws_others() {
    let site = Site::new().await;
    let plan = |percent| plan(percent, "{ header: X-User }");
    site.write(&site.text(&plan(10)));
    let edge = site.start().await;
    edge.wait_for_weight(10.0).await;
    let few = by_header(&edge).await;
    assert_eq!(by_header(&edge).await, few, "everybody stays");
    site.write(&site.text(&plan(50)));
    edge.wait_for_weight(50.0).await;
    let many = by_header(&edge).await;
    assert!(!few.is_empty() && few.is_subset(&many) && few != many && many.len() < USERS, "{few:?} {many:?}");
    edge.kill_9();
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    assert_eq!(by_header(&edge).await, many, "a restart moves nobody");
    site.write(&site.text(&plan(10)));
    edge.wait_for_weight(10.0).await;
    assert_eq!(by_header(&edge).await, few, "and back again");
    site.write(&site.text_with_revision("r2", &plan(50)));
    edge.wait_for_weight(50.0).await;
    let others = by_header(&edge).await;
    assert!(!others.is_subset(&many) && !many.is_subset(&others), "{many:?} {others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_who_it_is_draws_anew_each_time() {
    let site = Site::new().await;
    site.write(&site.text(&plan(50, "{ header: x-user }")));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let canary = with_canary(&edge, |_| String::new()).await;
    assert!((USERS / 5..USERS * 4 / 5).contains(&canary.len()), "{}", canary.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_behind_one_address_is_one_user() {
    let site = Site::new().await;
    site.write(&site.text(&plan(50, "{ client_ip: true }")));
    let edge = site.start().await;
    edge.wait_for_weight(50.0).await;
    let canary = with_canary(&edge, |user| format!("x-forwarded-for: 192.0.2.{user}\r\n")).await;
    assert!(canary.is_empty() || canary.len() == USERS, "{canary:?}");
}

/// The `name=value` that an answer sets, its attributes checked.
fn set_cookie(answer: &Answer) -> Option<String> {
    let cookie = answer.header("set-cookie")?;
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "one user's answer is not for others: {answer:?}");
    Some(pair.to_owned())
}

/// Users as browsers are: each asks once without a cookie and keeps what it gets.
async fn browsers(edge: &Edge, count: usize) -> Vec<String> {
    let mut cookies = Vec::new();
    for _ in 0..count {
        let answer = edge.predict_with("").await;
        let cookie = set_cookie(&answer).unwrap();
        let again = edge.predict_with(&format!("cookie: theme=dark; {cookie}\r\n")).await;
        assert_eq!(again.header("set-cookie"), None, "{again:?}");
        assert_eq!(again.header("cache-control"), None, "{again:?}");
        assert_eq!(again.header("x-pointsman-version"), answer.header("x-pointsman-version"), "stays from the first");
        cookies.push(cookie);
    }
    cookies
}

async fn by_cookie(edge: &Edge, cookies: &[String]) -> BTreeSet<usize> {
    with_canary(edge, |user| cookies.get(user).map(|cookie| format!("cookie: {cookie}\r\n")).unwrap_or_default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_makes_a_user_who_outlives_restarts_and_rollouts() {
    let site = Site::new().await;
    let plan = |percent| plan(percent, "{ cookie: who, max_age: 1h }");
    site.write(&site.text(&plan(30)));
    let edge = site.start().await;
    edge.wait_for_weight(30.0).await;
    let cookies = browsers(&edge, USERS).await;
    assert!(cookies.iter().all(|cookie| cookie.starts_with("who=")));
    let few = by_cookie(&edge, &cookies).await;
    edge.kill_9();
    let edge = site.start().await;
    edge.wait_for_weight(30.0).await;
    assert_eq!(by_cookie(&edge, &cookies).await, few);
    site.write(&site.text(&plan(70)));
    edge.wait_for_weight(70.0).await;
    let many = by_cookie(&edge, &cookies).await;
    assert!(few.is_subset(&many) && few.len() < many.len(), "{few:?} {many:?}");
    site.write(&site.text_with_revision("r2", &plan(70)));
    edge.wait_for_config("reloaded", |config| config["generation"] == 3).await;
    let others = by_cookie(&edge, &cookies).await;
    assert!(!others.is_subset(&many) && !many.is_subset(&others));
    let answer = edge.predict_with(&format!("cookie: {}\r\n", cookies[0])).await;
    assert_eq!(answer.header("set-cookie"), None, "a cookie is good for every rollout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_was_not_signed_here_is_none() {
    let (site, other) = (Site::new().await, Site::new().await);
    for site in [&site, &other] {
        site.write(&site.text(&plan(50, "{ cookie: who, max_age: 1h }")));
    }
    let (edge, elsewhere) = (site.start().await, other.start().await);
    edge.wait_for_weight(50.0).await;
    let foreign = set_cookie(&elsewhere.predict_with("").await).unwrap();
    for forged in [foreign.as_str(), "who=v2", "who=", "who=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let answer = edge.predict_with(&format!("cookie: {forged}\r\n")).await;
        let cookie = set_cookie(&answer).unwrap_or_else(|| panic!("{forged} was taken"));
        assert_ne!(cookie, forged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_canary_nobody_gets_a_cookie() {
    let site = Site::new().await;
    site.write(&site.text("sticky: { cookie: who }"));
    let edge = site.start().await;
    assert_eq!(edge.predict_with("").await.header("set-cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_that_share_a_secret_share_their_users() {
    let (site, other) = (Site::new().await, Site::new().await);
    for site in [&site, &other] {
        fs::write(site.at("cookie-secret"), "correct horse battery staple\n").unwrap();
        site.write(&site.text(&plan(50, "{ cookie: who, max_age: 1h, secret_file: cookie-secret }")));
    }
    let (edge, elsewhere) = (site.start().await, other.start().await);
    edge.wait_for_weight(50.0).await;
    elsewhere.wait_for_weight(50.0).await;
    let cookies = browsers(&edge, USERS).await;
    assert_eq!(by_cookie(&elsewhere, &cookies).await, by_cookie(&edge, &cookies).await);
    let answer = elsewhere.predict_with(&format!("cookie: {}\r\n", cookies[0])).await;
    assert_eq!(answer.header("set-cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_used_is_told_and_changes_nothing() {
    let site = Site::new().await;
    let with_file = site.text(&plan(50, "{ cookie: who, secret_file: cookie-secret }"));
    site.write(&with_file);
    check_start_fails(&site.config(), "cookie-secret cannot be read");
    fs::write(site.at("cookie-secret"), "short").unwrap();
    check_start_fails(&site.config(), "cookie-secret has 5 bytes");

    site.write(&site.weights(20));
    let edge = site.start().await;
    edge.wait_for_weight(20.0).await;
    site.write(&with_file);
    let config = edge.wait_for_config("refused", |config| config["reloads_failed"] == 1).await;
    assert!(config["last_error"].to_string().contains("cookie-secret has 5 bytes"), "{config:#}");
    assert_eq!(edge.weight().await, 20.0);
    fs::write(site.at("cookie-secret"), "0123456789abcdef").unwrap();
    edge.signal(nix::sys::signal::Signal::SIGHUP);
    edge.wait_for_weight(50.0).await;
}

fn check_start_fails(config: &Path, words: &str) {
    let output = command(config).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(words), "{said}");
}
