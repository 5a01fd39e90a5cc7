//! What is copied to another version, and how answers are compared.

use std::time::Duration;

use crate::error::{Findings, Spot, quoted};
use crate::file::{CompareFile, List, MirrorFile};
use crate::read::Written;
use crate::scalar::{Gate, Pointer, Text, Value};
use crate::{Compare, Mirror, Share, VersionId};

use super::range::{at_most, count, factor, percent, positive, size};
use super::route::is_known;
use super::{items, required};

const DEFAULT_CONCURRENT: u32 = 64;
const MOST_CONCURRENT: u32 = 10_000;
const DEFAULT_BODY: u64 = 256 << 10;
/// Each copy under way holds as much.
const MOST_BODY: u64 = 16 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_FIELDS: usize = 32;

/// The mirror, if the route has one and its version and share are good.
pub(super) fn mirror(
    file: &Written<MirrorFile>,
    stable: Option<&VersionId>,
    known: &[VersionId],
    findings: &Findings,
) -> Option<Mirror> {
    let (spot, file) = file.good()?;
    let version = required(
        &file.version,
        "version",
        spot,
        "name the version that gets the copies, such as `version: v2`",
        findings,
    );
    let version = version.filter(|(place, Text(id))| {
        is_known(id, place, known, findings) && differs_from_stable(place, id, stable, findings)
    });
    let share = required(&file.share, "share", spot, "write how much is copied, such as `share: 10%`", findings);
    if let Some((place, Text(Share::ZERO))) = share {
        findings.error(place, "a share of 0% copies nothing", "write more, or remove `mirror`");
    }
    let concurrent = count(&file.concurrent, DEFAULT_CONCURRENT, &(1..=MOST_CONCURRENT), findings);
    let body_bytes = size(&file.body, DEFAULT_BODY, MOST_BODY, findings);
    let timeout = positive(&file.timeout, DEFAULT_TIMEOUT, findings);
    let compare = compare(&file.compare, findings);
    Some(Mirror { version: version?.1.0.clone(), share: share?.1.0, concurrent, body_bytes, timeout, compare })
}

fn differs_from_stable(spot: &Spot, version: &VersionId, stable: Option<&VersionId>, findings: &Findings) -> bool {
    let same = stable == Some(version);
    if same {
        findings.error(
            spot,
            format!("{} is stable, whose own requests are copied", quoted(version.as_str())),
            "name the version that is to be compared with it",
        );
    }
    !same
}

fn compare(file: &Written<CompareFile>, findings: &Findings) -> Compare {
    let default = Compare::default();
    let Some(file) = file.value() else { return default };
    Compare {
        fields: fields(&file.fields, default.fields, findings),
        relative: percent(&file.relative, default.relative, 0.0..=1.0, "0% to 100%", findings),
        absolute: factor(&file.absolute, default.absolute, 0.0..=f64::MAX, "0 or more", findings),
        noise: file.noise.or(default.noise),
        gate: gate(&file.gate, default.gate, findings),
    }
}

fn fields(list: &List<Text<Pointer>>, default: Vec<String>, findings: &Findings) -> Vec<String> {
    if matches!(list, Written::Absent) {
        return default;
    }
    let given = items(list.good(), "name what is compared, such as /prediction", findings);
    at_most(&given, MOST_FIELDS, "fields", findings);
    given.into_iter().map(|(_, Text(Pointer(pointer)))| pointer.clone()).collect()
}

fn gate(value: &Value<Gate>, default: Option<f64>, findings: &Findings) -> Option<f64> {
    let Gate(gate) = value.or(Gate(default));
    if let (Some((spot, _)), Some(true)) = (value.good(), gate.map(|ratio| ratio <= 0.0)) {
        let way_out = "write more, such as 1%, or off";
        findings.error(spot, "no number of copies proves a disagreement of at most 0%", way_out);
    }
    gate
}
