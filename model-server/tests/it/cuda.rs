//! What a processor predicts, a graphics card does: only in a build with the feature `cuda`, and only where there is a card.

use std::env;
use std::process::Command;

use candle_core::Device;
use serde_json::{Value, json};

use crate::embedding::{self, tiny};
use crate::golden::expected_rows;
use crate::server::{Server, bundle, program, row};

/// Whether there is a card; where `REQUIRE_CUDA` is set there must be.
fn is_there() -> bool {
    match Device::new_cuda(0) {
        Ok(_) => true,
        Err(error) => {
            assert!(env::var_os("REQUIRE_CUDA").is_none(), "no device cuda:0: {error}");
            eprintln!("skipped: no device cuda:0 ({error}); REQUIRE_CUDA=1 fails without one");
            false
        }
    }
}

fn on_card(mut command: Command) -> Server {
    Server::start(command.env("DEVICE", "cuda:0"))
}

/// Each row alone, and all of them at once.
fn predictions(server: &Server, rows: &[Value]) -> Vec<f64> {
    let number = |value: &Value| value.as_f64().unwrap();
    let single = |row| number(&server.post("/v1/predict", &Value::to_string(row)).json()["prediction"]);
    let together = server.post("/v1/predict/batch", &json!({"instances": rows}).to_string()).json();
    rows.iter().map(single).chain(together["predictions"].as_array().unwrap().iter().map(number)).collect()
}

#[test]
fn tables_are_predicted_as_on_a_processor() {
    if !is_there() {
        return;
    }
    let rows = &expected_rows()[..200];
    let found = predictions(&on_card(program(&bundle("v1"))), rows);
    let wanted = predictions(&Server::of("v1"), rows);
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() <= 1e-3, "{found} is not {wanted}");
    }
}

#[test]
fn texts_are_embedded_as_their_definition_says() {
    if is_there() {
        embedding::check(&on_card(program(&tiny())), &tiny());
    }
}

#[test]
fn threads_that_share_a_card_each_get_their_own_answers() {
    if !is_there() {
        return;
    }
    let mut command = program(&bundle("v1"));
    command.env("THREADS", "4");
    let server = on_card(command);
    let wanted = predictions(&Server::of("v1"), &[row()])[0];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for found in predictions(&server, &vec![row(); 50]) {
                    assert!((found - wanted).abs() <= 1e-3, "{found} is not {wanted}");
                }
            });
        }
    });
}
