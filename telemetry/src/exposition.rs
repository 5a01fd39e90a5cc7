//! A registry as the text that Prometheus scrapes. Every server makes its own registry and hands it in; the
//! crate's global one is never used, so that two servers in one process do not mix their figures.

use prometheus::{Registry, TextEncoder};
use thiserror::Error;

/// The `content-type` of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why metrics could not be written out.
#[derive(Debug, Error)]
#[error("the metrics cannot be written out; one of them is not well formed")]
pub struct ExpositionError {
    #[from]
    source: prometheus::Error,
}

/// Everything in the registry at this moment, in the text format 0.0.4.
///
/// # Errors
/// When a collector hands out a metric that the format cannot say.
pub fn render(registry: &Registry) -> Result<String, ExpositionError> {
    Ok(TextEncoder::new().encode_to_string(&registry.gather())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{HistogramOpts, HistogramVec, IntCounter};

    #[test]
    fn a_registry_is_written_out_as_text() {
        let registry = Registry::new();
        let answers = IntCounter::new("answers_total", "Answers given").unwrap();
        registry.register(Box::new(answers.clone())).unwrap();
        answers.inc_by(3);
        let text = render(&registry).unwrap();
        assert_eq!(text, "# HELP answers_total Answers given\n# TYPE answers_total counter\nanswers_total 3\n");
    }

    #[test]
    fn a_histogram_over_our_buckets_names_the_objectives() {
        let registry = Registry::new();
        let options = HistogramOpts::new("wait_seconds", "Waiting").buckets(crate::buckets::LATENCY_SECONDS.to_vec());
        let waits = HistogramVec::new(options, &["version"]).unwrap();
        registry.register(Box::new(waits.clone())).unwrap();
        waits.with_label_values(&["v1"]).observe(0.2);
        let text = render(&registry).unwrap();
        assert!(text.contains("wait_seconds_bucket{version=\"v1\",le=\"0.15\"} 0\n"), "{text}");
        assert!(text.contains("wait_seconds_bucket{version=\"v1\",le=\"0.2\"} 1\n"), "{text}");
        assert!(text.contains("wait_seconds_bucket{version=\"v1\",le=\"+Inf\"} 1\n"), "{text}");
    }

    #[test]
    fn an_empty_registry_is_an_empty_text() {
        assert_eq!(render(&Registry::new()).unwrap(), "");
    }
}
