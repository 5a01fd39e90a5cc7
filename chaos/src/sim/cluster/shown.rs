//! What watches show of the store: made once for every writing of it, for all edges.

use std::collections::BTreeMap;
use std::sync::Arc;

use pointsman_config::VersionId;
use pointsman_kubernetes::{Observed, Picture, PortChoice};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{NAMESPACE, Written};
use crate::fakes::api_server::{Key, LabelSelector, Resource, SERVICE_LABEL, Selection, Store};

/// The live Service, and the endpoints of every Service.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Shown {
    written: Written,
    pub(in crate::sim) observed: Arc<Observed>,
    /// Whom the live Service reaches.
    pub(in crate::sim) live: Arc<Picture>,
    /// Who is of which version.
    pub(in crate::sim) members: Arc<BTreeMap<VersionId, Arc<Picture>>>,
}

impl Shown {
    /// Looks anew at what was written since what is `known` was.
    pub(super) fn of(
        store: &Store,
        (live, versions): (&Key, &[VersionId]),
        written: Written,
        known: Option<&Self>,
    ) -> Self {
        let service = known.filter(|known| known.written.service == written.service);
        let slices = known.filter(|known| known.written.slices == written.slices);
        let member = |version: &VersionId| (version.clone(), Arc::new(picture(store, version.as_str())));
        Self {
            written,
            observed: service.map_or_else(|| Arc::new(observed(store, live)), |known| Arc::clone(&known.observed)),
            live: slices.map_or_else(|| Arc::new(picture(store, &live.name)), |known| Arc::clone(&known.live)),
            members: slices
                .map_or_else(|| Arc::new(versions.iter().map(member).collect()), |known| Arc::clone(&known.members)),
        }
    }
}

fn observed(store: &Store, live: &Key) -> Observed {
    Observed::of(&store.get(live).ok().and_then(read).unwrap_or_default())
}

fn picture(store: &Store, service: &str) -> Picture {
    let labels: LabelSelector = format!("{SERVICE_LABEL}={service}").parse().unwrap_or_default();
    let selection = Selection { labels, ..Selection::all(Resource::EndpointSlice, Some(NAMESPACE)) };
    let slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice> =
        store.all(&selection).into_iter().filter_map(read).collect();
    Picture::of(&slices, &PortChoice::Any)
}

fn read<T: DeserializeOwned>(object: Value) -> Option<T> {
    serde_json::from_value(object).ok()
}
