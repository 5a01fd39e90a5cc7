//! What is written down about single requests.

use crate::error::Findings;
use crate::file::{AccessLogFile, TracesFile};
use crate::read::Written;
use crate::scalar::{CollectorUrl, Percent, Text};
use crate::{AccessLog, Traces};

use super::required;

const DEFAULT_LOGGED: f64 = 1.0;
const DEFAULT_TRACED: f64 = 0.01;
const DEFAULT_SERVICE: &str = "pointsman";

/// The access log, if there is one.
pub(super) fn access_log(file: &Written<AccessLogFile>) -> Option<AccessLog> {
    let file = file.value()?;
    let Percent(sample) = file.sample.or(Percent(DEFAULT_LOGGED));
    Some(AccessLog { file: file.file.scalar().cloned(), sample })
}

/// Where spans go, if anywhere.
pub(super) fn traces(file: &Written<TracesFile>, findings: &Findings) -> Option<Traces> {
    let (spot, file) = file.good()?;
    let way_out = "write where the collector is, such as `endpoint: http://127.0.0.1:4318`";
    let endpoint = required(&file.endpoint, "endpoint", spot, way_out, findings);
    let Percent(sample) = file.sample.or(Percent(DEFAULT_TRACED));
    let service_name = file.service_name.or(DEFAULT_SERVICE.to_owned());
    let (_, Text(CollectorUrl(endpoint))) = endpoint?;
    Some(Traces { endpoint: endpoint.clone(), sample, service_name })
}
