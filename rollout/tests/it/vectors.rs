//! The judge agrees with the analysis' reference, sequence by sequence and function by function.

use std::path::PathBuf;

use pointsman_rollout::stats::{
    Bursts, Labels, Tolerated, beta_binomial_kernel, burst_discount, log_labels_if_bursting, log_labels_if_independent,
    non_inferiority_stake,
};
use serde_json::Value;

#[path = "../../examples/judge/vector.rs"]
mod vector;

/// The shared file where there is one, the copy beside this test otherwise.
fn vectors() -> Value {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let shared = here.join("../../shared/design/vectors_public.json");
    let file = if shared.exists() { shared } else { here.join("tests/vectors_public.json") };
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// A number of the file: null is minus infinity, `"inf"` infinity.
fn number(value: &Value) -> f64 {
    match value {
        Value::Null => f64::NEG_INFINITY,
        Value::String(text) if text == "inf" => f64::INFINITY,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
        }
    }
}

/// Asserts that `got` is `want` within `rel` and `abs`; infinities must be the same.
fn close(got: f64, want: f64, (rel, abs): (f64, f64), what: &str) {
    let same = got.total_cmp(&want).is_eq() || (got - want).abs() <= abs + rel * want.abs();
    assert!(same, "{what}: {got} instead of {want}");
}

fn compare(got: &Value, want: &Value, tolerance: &Value, what: &str) {
    for (key, want) in want.as_object().unwrap() {
        let what = format!("{what}: {key}");
        let got = &got[key];
        let tolerance = |rel: &str| (tolerance[rel].as_f64().unwrap(), tolerance["abs"].as_f64().unwrap());
        match want {
            Value::Bool(_) => assert_eq!(got, want, "{what}"),
            Value::String(text) if text != "inf" => assert_eq!(got, want, "{what}"),
            Value::Array(ends) => {
                for (i, end) in ends.iter().enumerate() {
                    close(number(&got[i]), number(end), tolerance("cs_rel"), &what);
                }
            }
            Value::Null | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                close(number(got), number(want), tolerance("rel"), &what);
            }
        }
    }
}

#[test]
fn every_sequence_is_judged_like_the_reference_judges_it() {
    let file = vectors();
    let list = file["vectors"].as_array().unwrap();
    assert!(list.len() >= 29, "only {} vectors", list.len());
    for case in list {
        let name = case["name"].as_str().unwrap();
        let judged = serde_json::to_value(vector::judge(case).unwrap()).unwrap();
        assert_eq!(judged["first_rollback"], case["first_rollback"], "{name}");
        let want = case["expect"].as_array().unwrap();
        assert_eq!(judged["results"].as_array().unwrap().len(), want.len(), "{name}");
        for (i, want) in want.iter().enumerate() {
            compare(&judged["results"][i], want, &case["tolerance"], &format!("{name} at tick {}", want["tick"]));
        }
    }
}

/// The functions' values carry no tolerance of their own: logarithms of gamma functions, so 1e-9.
const FUNCTION: (f64, f64) = (1e-9, 1e-9);

fn check_discount(case: &Value) {
    let arg = |name: &str| case[name].as_f64().unwrap();
    let labels = Labels {
        weight: arg("w"),
        canary_requests: 0.0,
        canary_bad: arg("xc"),
        stable_requests: arg("N"),
        stable_bad: arg("X") - arg("xc"),
    };
    let bursts = Bursts { icc: arg("icc"), rate: arg("pbar"), canary_units: arg("u_c"), stable_units: arg("u_b") };
    close(log_labels_if_bursting(&labels, arg("rho0"), bursts), arg("log_g0"), FUNCTION, "log_g0");
    close(log_labels_if_independent(&labels, arg("rho0")), arg("log_bin0"), FUNCTION, "log_bin0");
    close(burst_discount(&labels, arg("rho0"), bursts), arg("value"), FUNCTION, "burst_discount");
}

#[test]
fn every_function_has_the_reference_value() {
    let file = vectors();
    let list = file["functions"].as_array().unwrap();
    assert!(list.len() >= 15, "only {} values", list.len());
    for case in list {
        let arg = |name: &str| case[name].as_f64().unwrap();
        match case["f"].as_str().unwrap() {
            "burst_discount" => check_discount(case),
            "bb_log_kernel" => {
                let got = beta_binomial_kernel(arg("x"), arg("n"), arg("p"), arg("icc"));
                close(got, arg("value"), FUNCTION, "bb_log_kernel");
            }
            "kelly_ni" => {
                let margin = Tolerated { ratio: arg("rho1"), difference: arg("d1") };
                close(
                    non_inferiority_stake(arg("w"), arg("pc"), arg("pb"), margin),
                    arg("value"),
                    FUNCTION,
                    "kelly_ni",
                );
            }
            other => panic!("nobody checks {other}"),
        }
    }
}
