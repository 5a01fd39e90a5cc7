//! What a tick of a rollout is told of its live Service: the Service and the pictures of endpoints, put together. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pointsman_config::{Route, VersionId};
use pointsman_rollout::{Foreign, Selected, ServiceSeen};

use crate::discovery::{Endpoint, Picture};
use crate::live_service::Observed;

/// What `route`'s live Service looks like: `observed` as it stands, `live` its own endpoints as far as they are known (whoever
/// knows them from before, and hears nothing at present, says so),
/// `versions` those of each version's Service. None for a route without a live Service.
pub fn service_seen(
    route: &Route,
    observed: &Observed,
    live: Option<&Picture>,
    versions: &BTreeMap<VersionId, Arc<Picture>>,
) -> Option<ServiceSeen> {
    let key = &route.live_service.as_ref()?.selector_key;
    let selected = selected(route, observed, key);
    let agreed = match &selected {
        Selected::Version(version) => {
            live.zip(versions.get(version)).is_some_and(|(live, version)| is_made_of(live, version))
        }
        Selected::Other(_) => false,
    };
    let foreign = observed.foreign(&route.name);
    let foreign = foreign.map(|foreign| Foreign { by: foreign.by, what: foreign.what, when: foreign.when });
    Some(ServiceSeen { selected, ready: live.map(Picture::ready), heard: live.is_some(), agreed, foreign })
}

fn selected(route: &Route, observed: &Observed, key: &str) -> Selected {
    let Some(value) = observed.selector.get(key) else { return Selected::Other(format!("nothing by `{key}`")) };
    let version = route.versions.keys().find(|version| version.as_str() == value);
    version.map_or_else(|| Selected::Other(format!("{key}={value}")), |version| Selected::Version(version.clone()))
}

/// Whether all endpoints of `live`, ready or not, are of `version`, and there are some.
fn is_made_of(live: &Picture, version: &Picture) -> bool {
    !live.endpoints.is_empty() && live.endpoints.iter().all(|(address, endpoint)| is_among(version, *address, endpoint))
}

/// By its pod where that is known, since a Service may send to another port of it; else by its address.
fn is_among(version: &Picture, address: SocketAddr, endpoint: &Endpoint) -> bool {
    match &endpoint.pod {
        Some(pod) => version.endpoints.values().any(|known| known.pod.as_ref() == Some(pod)),
        None => version.endpoints.contains_key(&address),
    }
}

#[cfg(test)]
mod tests {
    use pointsman_config::{LiveService, Retire, Version};
    use serde_json::json;

    use super::*;
    use crate::discovery::Condition;
    use crate::live_service::tests::{left_by_us, observed};

    fn picture(endpoints: &[(&str, Condition, Option<&str>)]) -> Picture {
        let endpoint = |(address, condition, pod): &(&str, Condition, Option<&str>)| {
            (address.parse().unwrap(), Endpoint { condition: *condition, serving: true, pod: pod.map(Arc::from) })
        };
        Picture { endpoints: endpoints.iter().map(endpoint).collect(), problem: None }
    }

    fn route() -> Route {
        let versions = ["v1", "v2"].map(|name| (name.parse().unwrap(), Version::at(Vec::new())));
        let live = LiveService {
            namespace: None,
            service: "live".to_owned(),
            selector_key: "version".to_owned(),
            retire: Retire::None,
        };
        let route = Route::new("shop".parse().unwrap(), "v1".parse().unwrap(), versions.into());
        Route { live_service: Some(live), ..route }
    }

    /// Whether the slices agree, and how many are ready, of a Service that selects v1.
    #[track_caller]
    fn check(live: &[(&str, Condition, Option<&str>)], agreed: bool, ready: usize) {
        let v1 = picture(&[
            ("10.244.0.1:8000", Condition::Ready, Some("a")),
            ("10.244.0.2:8000", Condition::Ready, Some("b")),
            ("10.244.0.3:8000", Condition::Ready, None),
        ]);
        let versions = BTreeMap::from([("v1".parse().unwrap(), Arc::new(v1))]);
        let seen = service_seen(&route(), &observed(left_by_us()), Some(&picture(live)), &versions).unwrap();
        assert_eq!(seen.selected, Selected::Version("v1".parse().unwrap()));
        assert_eq!((seen.agreed, seen.ready, seen.foreign), (agreed, Some(ready), None));
    }

    #[test]
    fn a_service_agrees_when_all_its_slices_hold_the_selected_version_and_nothing_else() {
        let (a, b) =
            (("10.244.0.1:8000", Condition::Ready, Some("a")), ("10.244.0.2:80", Condition::NotReady, Some("b")));
        check(&[a, b], true, 1);
        check(&[a, ("10.244.0.9:8000", Condition::Draining, Some("old"))], false, 1);
        check(&[("10.244.0.3:8000", Condition::Ready, None)], true, 1);
        check(&[("10.244.0.4:8000", Condition::Ready, None)], false, 1);
        check(&[], false, 0);
    }

    #[test]
    fn of_slices_that_were_never_heard_nothing_is_known() {
        let seen = service_seen(&route(), &observed(left_by_us()), None, &BTreeMap::new()).unwrap();
        assert_eq!((seen.selected, seen.ready, seen.agreed), (Selected::Version("v1".parse().unwrap()), None, false));
        assert!(!seen.heard);
    }

    #[test]
    fn what_it_selects_is_a_version_of_the_route_or_told_in_words() {
        let words = |selector: serde_json::Value| {
            let mut service = left_by_us();
            service["spec"]["selector"] = selector;
            let seen = service_seen(&route(), &observed(service), Some(&Picture::default()), &BTreeMap::new()).unwrap();
            assert!(seen.foreign.is_some_and(|foreign| foreign.what.contains("the selector was changed")));
            seen.selected.in_words().to_owned()
        };
        assert_eq!(words(json!({ "version": "v2" })), "v2");
        assert_eq!(words(json!({ "version": "v9" })), "version=v9");
        assert_eq!(words(json!({ "app": "model" })), "nothing by `version`");
    }
}
