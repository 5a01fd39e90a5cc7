//! Weights as operators write them, `v1=90%, v2=10%`, made into a split of one route.

use std::collections::BTreeMap;

use pointsman_config::{Share, Split, VersionId};
use thiserror::Error;

/// Why weights are no split of a route.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WeightsError {
    /// They do not make a whole.
    #[error("the weights add up to {}; make them add up to 100%", percent(*ppm))]
    Sum {
        /// What they add up to, in parts per million.
        ppm: u64,
    },
    /// A version that the route does not have.
    #[error("the route has no version `{version}`; versions: {known}")]
    Version {
        /// What was written.
        version: VersionId,
        /// Every version of the route, separated by commas.
        known: String,
    },
    /// More than two versions would take traffic.
    #[error("{count} versions would take traffic; a split has two at most, so set the others to 0% or leave them out")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Two versions of which none is stable.
    #[error("none of them is the stable version; one of two must be `{stable}`, so that they can be compared with it")]
    NoStable {
        /// The route's stable version.
        stable: VersionId,
    },
}

fn percent(ppm: u64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The split that `weights` ask for on a route with these `versions`, `stable` being the one in production.
///
/// # Errors
/// If they do not add up, name a version that the route does not have, or are no pair of stable and one other.
pub fn split_of(
    weights: &BTreeMap<VersionId, Share>,
    stable: &VersionId,
    versions: &[&VersionId],
) -> Result<Split, WeightsError> {
    if let Some(version) = weights.keys().find(|version| !versions.contains(version)) {
        let known: Vec<&str> = versions.iter().map(|version| version.as_str()).collect();
        return Err(WeightsError::Version { version: version.clone(), known: known.join(", ") });
    }
    let ppm: u64 = weights.values().map(|share| u64::from(share.ppm())).sum();
    if ppm != u64::from(Share::PARTS) {
        return Err(WeightsError::Sum { ppm });
    }
    pair(weights, stable)
}

/// Weights that add up, as one whole or as stable and one other.
fn pair(weights: &BTreeMap<VersionId, Share>, stable: &VersionId) -> Result<Split, WeightsError> {
    let serving: Vec<(&VersionId, Share)> =
        weights.iter().map(|(version, share)| (version, *share)).filter(|(_, share)| *share > Share::ZERO).collect();
    match serving.as_slice() {
        [(only, _)] if *only == stable => Ok(Split::Whole(stable.clone())),
        // All traffic on another version is still a trial of it against stable, as long as nobody promotes it.
        [(only, share)] => Ok(Split::canary(stable.clone(), (*only).clone(), *share)),
        [(first, _), (second, share)] if *first == stable => {
            Ok(Split::canary(stable.clone(), (*second).clone(), *share))
        }
        [(first, share), (second, _)] if *second == stable => {
            Ok(Split::canary(stable.clone(), (*first).clone(), *share))
        }
        [_, _] => Err(WeightsError::NoStable { stable: stable.clone() }),
        more => Err(WeightsError::TooMany { count: more.len() }),
    }
}
