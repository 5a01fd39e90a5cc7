//! Books and judge, as an operator would have them: whom they blame, when they say nothing, and how far apart they find
//! what scipy and numpy find apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use pointsman_config::{Against, DriftGuard, OnDrift};
use pointsman_rollout::Outcome;
use pointsman_telemetry::drift::{Distribution, FORMAT, Report, Sketch, Training, Values};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::books::{Books, Since};
use super::judge::{Judged, Repeated, judge, of_numbers};
use super::{Pair, Side, read};

const EDGES: [f64; 3] = [10.0, 20.0, 30.0];

fn pair() -> Pair {
    Pair { stable: "v1".parse().unwrap(), canary: "v2".parse().unwrap(), trial: 0 }
}

fn guard(against: Against) -> DriftGuard {
    DriftGuard { against, min_rows: 200, action: OnDrift::Rollback, ..DriftGuard::default() }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A server that counts one feature, `km`, and its predictions.
#[derive(Clone)]
struct Server {
    instance: u32,
    rows: u64,
    requests: u64,
    km: (Sketch, Vec<u64>),
    sky: BTreeMap<String, u64>,
    predictions: (Sketch, Vec<u64>),
    trained: Vec<u64>,
}

impl Server {
    fn new() -> Self {
        let empty = || (Sketch::default(), vec![0; 4]);
        let (km, predictions) = (empty(), empty());
        Self { instance: 0, rows: 0, requests: 0, km, sky: BTreeMap::new(), predictions, trained: vec![250; 4] }
    }

    fn count(&mut self, km: f32, sky: &str, prediction: f32) {
        self.requests += 1;
        self.count_row(km, sky, prediction);
    }

    fn count_row(&mut self, km: f32, sky: &str, prediction: f32) {
        self.rows += 1;
        *self.sky.entry(sky.to_owned()).or_default() += 1;
        for ((sketch, counts), value) in [(&mut self.km, km), (&mut self.predictions, prediction)] {
            sketch.count(value);
            counts[EDGES.partition_point(|edge| *edge <= f64::from(value))] += 1;
        }
    }

    /// Rows as in training, with predictions so much further up; each of `km` and prediction is 0 to 40, evenly.
    fn serve(&mut self, rows: usize, further: (f32, f32), chance: &mut StdRng) {
        for _ in 0..rows {
            let sky = if chance.random_bool(0.7) { "sun" } else { "rain" };
            let (km, prediction) = (chance.random_range(0.0..40.0), chance.random_range(0.0..40.0));
            self.count(km + further.0, sky, prediction + further.1);
        }
    }

    /// Requests of so many rows each, all of them of one place and one hour.
    fn serve_batches(&mut self, requests: usize, rows: usize, chance: &mut StdRng) {
        for _ in 0..requests {
            self.requests += 1;
            let (km, prediction) = (chance.random_range(0.0..40.0), chance.random_range(0.0..40.0));
            for _ in 0..rows {
                self.count_row(km, "sun", prediction);
            }
        }
    }

    fn report(&self) -> Report {
        let numbers = |(sketch, counts): &(Sketch, Vec<u64>), is_prediction| Distribution {
            is_prediction,
            values: Values::Numbers(sketch.clone()),
            training: Some(Training {
                edges: Some(EDGES.to_vec()),
                trained: self.trained.clone(),
                counts: counts.clone(),
            }),
        };
        let sky = Values::Categories { counts: self.sky.clone() };
        let sky = Distribution { is_prediction: false, values: sky, training: None };
        let named = [("km", numbers(&self.km, false)), ("sky", sky), ("prediction", numbers(&self.predictions, true))];
        Report {
            format: FORMAT,
            instance: self.instance.to_string(),
            model: "m".to_owned(),
            version: "1".to_owned(),
            rows: self.rows,
            requests: Some(self.requests),
            distributions: named.map(|(name, found)| (name.to_owned(), found)).into(),
        }
    }
}

/// Two endpoints of each version, and the books that are kept of them.
struct Site {
    stable: [Server; 2],
    canary: [Server; 2],
    books: Books,
    now: Instant,
    chance: StdRng,
}

impl Site {
    fn new() -> Self {
        let servers = || [Server::new(), Server::new()];
        let books = Books::new(Duration::from_mins(10));
        let mut site =
            Self { stable: servers(), canary: servers(), books, now: Instant::now(), chance: StdRng::seed_from_u64(5) };
        site.look();
        site
    }

    fn look(&mut self) -> Vec<String> {
        self.now += Duration::from_secs(10);
        let of = |side: Side, servers: &[Server; 2]| {
            let told = servers.iter().zip(1..).map(move |(server, port)| ((side, at(port)), server.report()));
            told.collect::<BTreeMap<_, _>>()
        };
        let mut told = of(Side::Stable, &self.stable);
        told.extend(of(Side::Canary, &self.canary));
        self.books.note(told, self.now)
    }

    /// Rows for both; how much further up the `km` of both and the predictions of the canary are.
    fn serve(&mut self, rows: usize, km: f32, predictions: f32) {
        for server in &mut self.stable {
            server.serve(rows, (km, 0.0), &mut self.chance);
        }
        for server in &mut self.canary {
            server.serve(rows, (km, predictions), &mut self.chance);
        }
    }

    fn judge(&self, against: Against) -> Judged {
        judge(&guard(against), &pair(), (&self.books, Since::default()))
    }
}

#[test]
fn a_canary_that_answers_otherwise_is_found_by_its_predictions_first() {
    let mut site = Site::new();
    site.serve(500, 0.0, 15.0);
    assert_eq!(site.look(), Vec::<String>::new());
    let found = site.judge(Against::Stable);
    assert_eq!(found.outcome, Outcome::Fails, "{}", found.words);
    assert!(found.words.starts_with("v2 drifted from v1's at the same time: its predictions (PSI "), "{}", found.words);
    assert!(
        !found.words.contains("`km`") && found.words.contains("over 1000 requests of v2 and 1000 requests of v1"),
        "{}",
        found.words
    );
    let held = DriftGuard { action: OnDrift::Hold, ..guard(Against::Stable) };
    let held = judge(&held, &pair(), (&site.books, Since::default()));
    assert_eq!((held.outcome, held.words), (Outcome::Holds, found.words));
}

/// Two large requests each are not a thousand chances to be alike.
#[test]
fn rows_of_one_request_are_alike_and_say_no_more_than_one_row_does() {
    let mut site = Site::new();
    let serve = |site: &mut Site, requests, rows| {
        for server in site.stable.iter_mut().chain(&mut site.canary) {
            server.serve_batches(requests, rows, &mut site.chance);
        }
    };
    serve(&mut site, 1, 512);
    site.look();
    let found = site.judge(Against::Stable);
    assert_eq!(found.outcome, Outcome::Holds, "{}", found.words);
    assert!(found.words.contains("too few requests were counted yet: 2 requests (1024 rows) of v2"), "{}", found.words);
    // Enough requests for a word, of versions that are the same: chance is what so few draws make of it.
    for seed in 0..200 {
        let mut site = Site { chance: StdRng::seed_from_u64(seed), ..Site::new() };
        serve(&mut site, 100, 50);
        site.look();
        let found = site.judge(Against::Stable);
        assert_eq!(found.outcome, Outcome::Passes, "seed {seed}: {}", found.words);
    }
}

#[test]
fn a_server_that_tells_no_requests_has_its_rows_taken_for_them() {
    let mut server = Server::new();
    server.serve(200, (0.0, 0.0), &mut StdRng::seed_from_u64(1));
    let mut old = serde_json::to_value(server.report()).unwrap();
    old.as_object_mut().unwrap().remove("requests");
    let report = |text: &str| read("/d", text.as_bytes()).unwrap();
    let mut books = Books::new(Duration::from_mins(10));
    let nothing = Server::new().report();
    let both = |told: Report| BTreeMap::from([((Side::Stable, at(1)), told.clone()), ((Side::Canary, at(2)), told)]);
    let now = Instant::now();
    books.note(both(Report { requests: None, ..nothing }), now);
    books.note(both(report(&old.to_string())), now + Duration::from_secs(10));
    let found = judge(&guard(Against::Stable), &pair(), (&books, Since::default()));
    assert!(found.words.contains("over 200 requests of v2 and 200 requests of v1"), "{}", found.words);
}

#[test]
fn a_canary_goes_back_only_when_rows_of_their_own_say_the_same_three_times() {
    let (mut site, mut repeated) = (Site::new(), Repeated::default());
    let mut look = |site: &mut Site, rows, further| {
        site.serve(rows, 0.0, further);
        site.look();
        repeated.look(&guard(Against::Stable), &pair(), &mut site.books)
    };
    let first = look(&mut site, 500, 15.0);
    assert_eq!(first.outcome, Outcome::Holds, "{}", first.words);
    assert!(first.words.contains("v2 drifted from v1's") && first.words.contains("1 of 3 times"), "{}", first.words);
    // The same rows again, and some few others, are nothing new.
    for _ in 0..3 {
        assert!(look(&mut site, 20, 15.0).words.contains("1 of 3 times"));
    }
    assert!(look(&mut site, 200, 15.0).words.contains("2 of 3 times"));
    let last = look(&mut site, 200, 15.0);
    assert_eq!(last.outcome, Outcome::Fails, "{}", last.words);
    assert_eq!(look(&mut site, 0, 0.0).outcome, Outcome::Fails, "it stays so while the window does");
}

#[test]
fn rows_that_say_otherwise_begin_the_count_anew() {
    let (mut site, mut repeated) = (Site::new(), Repeated::default());
    let mut look = |site: &mut Site, rows, further| {
        site.serve(rows, 0.0, further);
        site.look();
        repeated.look(&guard(Against::Stable), &pair(), &mut site.books)
    };
    assert!(look(&mut site, 2_000, 25.0).words.contains("1 of 3 times"));
    assert!(look(&mut site, 200, 25.0).words.contains("2 of 3 times"));
    assert!(look(&mut site, 200, 0.0).words.contains("0 of 3 times"), "what came since is as stable's");
    assert!(look(&mut site, 200, 25.0).words.contains("1 of 3 times"));
}

#[test]
fn what_changes_in_the_world_is_no_fault_of_the_canary_and_is_told_beside_its_training() {
    let mut site = Site::new();
    site.serve(500, 25.0, 0.0);
    site.look();
    let beside_stable = site.judge(Against::Stable);
    assert_eq!(beside_stable.outcome, Outcome::Passes, "{}", beside_stable.words);
    let beside_training = site.judge(Against::Training);
    assert_eq!(beside_training.outcome, Outcome::Fails, "what the guard was told to do");
    for words in ["v2 drifted from its training: `km` (PSI ", "v1 has drifted from its training too (`km`"] {
        assert!(beside_training.words.contains(words), "{}", beside_training.words);
    }
}

#[test]
fn few_rows_say_nothing_and_rows_from_before_the_first_look_do_not_count() {
    let mut site = Site::new();
    site.serve(99, 0.0, 30.0);
    site.look();
    let found = site.judge(Against::Stable);
    assert_eq!(found.outcome, Outcome::Holds);
    assert!(
        found.words.contains("198 requests of v2 and 198 requests of v1 at the same time; 200 of each"),
        "{}",
        found.words
    );
    assert_eq!(site.judge(Against::Training).outcome, Outcome::Holds);
    let mut late = Site::new();
    late.books = Books::new(Duration::from_mins(10));
    late.serve(5_000, 0.0, 30.0);
    late.look();
    assert!(late.judge(Against::Stable).words.contains("0 requests of v2 and 0 requests of v1"));
}

#[test]
fn only_rows_of_the_same_time_are_compared_with_stable() {
    let mut site = Site::new();
    for server in &mut site.stable {
        server.serve(3_000, (0.0, 30.0), &mut site.chance);
    }
    // Slices are 20 s long.
    for _ in 0..3 {
        site.look();
    }
    site.serve(300, 0.0, 0.0);
    site.look();
    let found = site.judge(Against::Stable);
    assert_eq!(found.outcome, Outcome::Passes, "{}", found.words);
    assert!(found.words.contains("600 requests of v2 and 600 requests of v1"), "{}", found.words);
}

#[test]
fn what_left_the_window_counts_no_more() {
    let mut site = Site::new();
    site.serve(500, 0.0, 30.0);
    site.look();
    assert_eq!(site.judge(Against::Stable).outcome, Outcome::Fails);
    for _ in 0..70 {
        site.look();
    }
    assert_eq!(site.judge(Against::Stable).outcome, Outcome::Holds);
}

#[test]
fn a_server_that_starts_anew_is_added_up_and_one_whose_counts_go_back_is_told() {
    let mut site = Site::new();
    site.serve(300, 0.0, 0.0);
    site.look();
    site.canary[0] = Server { instance: 7, ..Server::new() };
    site.serve(100, 0.0, 0.0);
    assert_eq!(site.look(), Vec::<String>::new());
    assert!(site.judge(Against::Stable).words.contains("800 requests of v2 and 800 requests of v1"));
    site.canary[1] = Server::new();
    let told = site.look();
    assert_eq!(told, ["127.0.0.1:2: its counts went back although it did not start anew"]);
}

#[test]
fn endpoints_of_one_version_that_count_different_things_are_told() {
    let mut site = Site::new();
    for server in &mut site.canary {
        server.trained = vec![100; 4];
    }
    site.canary[1].trained = vec![400, 200, 200, 200];
    site.serve(300, 0.0, 0.0);
    let told = site.look();
    assert!(told[0].contains("is counted otherwise than by other endpoints of the same version"), "{told:?}");
}

#[test]
fn equal_versions_are_not_blamed_over_thousands_of_looks_at_few_rows() {
    let mut chance = StdRng::seed_from_u64(77);
    let mut largest = 0.0_f64;
    for _ in 0..1_000 {
        let (mut one, mut other) = (Server::new(), Server::new());
        one.serve(200, (0.0, 0.0), &mut chance);
        other.serve(200, (0.0, 0.0), &mut chance);
        let mut books = Books::new(Duration::from_mins(10));
        let now = Instant::now();
        let both = |stable: &Server, canary: &Server| {
            BTreeMap::from([((Side::Stable, at(1)), stable.report()), ((Side::Canary, at(2)), canary.report())])
        };
        books.note(both(&Server::new(), &Server::new()), now);
        books.note(both(&one, &other), now + Duration::from_secs(30));
        let found = judge(&guard(Against::Stable), &pair(), (&books, Since::default()));
        assert_eq!(found.outcome, Outcome::Passes, "{}", found.words);
        let psi = found.words.split("(PSI ").nth(1).unwrap().split([',', ')']).next().unwrap().parse::<f64>().unwrap();
        largest = largest.max(psi);
    }
    assert!((0.02..0.4).contains(&largest), "chance does make something of it: {largest}");
}

#[test]
fn scipy_and_numpy_find_in_the_pooled_rows_what_is_found_in_the_sketches() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/drift.json");
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let pooled = |side: &str| {
            let mut sum = Sketch::default();
            for endpoint in case[side].as_array().unwrap() {
                let mut one = Sketch::default();
                for value in endpoint.as_array().unwrap() {
                    one.count(value.to_string().parse().unwrap());
                }
                sum.add(&one);
            }
            sum
        };
        let both = pooled("canary").side_by_side(&pooled("stable"));
        let (few, all) = of_numbers(&both, [u64::MAX; 2]).unwrap();
        let (psi, ks) = (few.psi, all.ks);
        let (wanted_psi, wanted_ks) = (case["psi"].as_f64().unwrap(), case["ks"].as_f64().unwrap());
        let near = (psi - wanted_psi).abs() <= 0.01 + 0.1 * wanted_psi && (ks - wanted_ks).abs() <= 0.01;
        assert!(near, "{}: {psi} for {wanted_psi}, {ks} for {wanted_ks}", case["name"]);
    }
}

#[test]
fn what_is_no_report_is_refused_in_words() {
    let mut server = Server::new();
    server.count(1.0, "sun", 2.0);
    let good = serde_json::to_string(&server.report()).unwrap();
    assert_eq!(read("/d", good.as_bytes()).unwrap(), server.report());
    let refused = [
        ("<html>".to_owned(), "what `/d` answered is no report of drift"),
        (r#"{"verdict":"stable","rows":1}"#.to_owned(), "what `/d` answered is no report of drift"),
        (
            good.replace(r#""format":1"#, r#""format":2"#),
            "`/d` writes format 2, and this edge reads 1; update the older one",
        ),
        (good.replace(r#""shift":10"#, r#""shift":99"#), "what `/d` answered is no report of drift"),
    ];
    for (text, why) in refused {
        assert_eq!(read("/d", text.as_bytes()).unwrap_err().to_string(), why, "{text}");
    }
}
