//! What several micro-benches start from.

use std::fmt::Write as _;

/// A config with `routes` routes of two versions each.
pub(crate) fn config_text(routes: usize) -> String {
    let mut text = String::from("listeners:\n  - address: 127.0.0.1:8080\nroutes:\n");
    for number in 0..routes {
        let (host, third, fourth) = (number % 50, number / 250, number % 250 + 1);
        write!(
            text,
            "  - name: route-{number}\n    match: {{ host: h{host}.example.com, path_prefix: /models/m{number} }}\n    stable: v1\n    versions:\n      v1: {{ endpoints: [10.1.{third}.{fourth}:9001] }}\n      v2: {{ endpoints: [10.2.{third}.{fourth}:9002] }}\n    weights: {{ v1: 95%, v2: 5% }}\n"
        )
        .unwrap();
    }
    text
}
