//! The kinds of objects that the server knows, where they live in its paths, and what names one of them.

use std::fmt;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `v1`: the only kind here that lies in no namespace.
    Namespace,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `coordination.k8s.io/v1`
    Lease,
    /// `v1`: the same objects as [`Resource::Event`], in their older form.
    CoreEvent,
    /// `events.k8s.io/v1`
    Event,
    /// `v1`
    ConfigMap,
    /// `v1`
    Pod,
    /// `apps/v1`
    Deployment,
}

/// What differs between kinds.
struct Facts {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    parts: &'static [Part],
    habits: &'static [Habit],
}

/// How the registry of a kind is set up on the real server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// A `PUT` to a name that does not exist creates it.
    CreatedByUpdate,
    /// A `PUT` names the resource version that it replaces.
    UpdatedWithVersion,
    /// A `DELETE` answers with the object, not with a `Status`.
    ReturnedByDelete,
    /// Changes of the specification are counted in `metadata.generation`.
    CountedInGeneration,
}

const BARE: Facts = Facts { group: "", plural: "", kind: "", parts: &[], habits: &[] };

impl Resource {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Lease,
        Self::CoreEvent,
        Self::Event,
        Self::ConfigMap,
        Self::Pod,
        Self::Deployment,
    ];

    fn facts(self) -> Facts {
        match self {
            Self::Namespace => Facts {
                plural: "namespaces",
                kind: "Namespace",
                parts: &[Part::Status, Part::Finalize],
                habits: &[Habit::ReturnedByDelete],
                ..BARE
            },
            Self::Service => Facts {
                plural: "services",
                kind: "Service",
                parts: &[Part::Status],
                habits: &[Habit::CreatedByUpdate, Habit::ReturnedByDelete],
                ..BARE
            },
            Self::EndpointSlice => Facts {
                group: "discovery.k8s.io",
                plural: "endpointslices",
                kind: "EndpointSlice",
                habits: &[Habit::CountedInGeneration],
                ..BARE
            },
            Self::Lease => Facts {
                group: "coordination.k8s.io",
                plural: "leases",
                kind: "Lease",
                habits: &[Habit::CreatedByUpdate, Habit::UpdatedWithVersion],
                ..BARE
            },
            Self::CoreEvent => Facts { plural: "events", kind: "Event", habits: &[Habit::CreatedByUpdate], ..BARE },
            Self::Event => Facts { group: "events.k8s.io", ..Self::CoreEvent.facts() },
            Self::ConfigMap => Facts { plural: "configmaps", kind: "ConfigMap", ..BARE },
            Self::Pod => Facts {
                plural: "pods",
                kind: "Pod",
                parts: &[Part::Status],
                habits: &[Habit::ReturnedByDelete],
                ..BARE
            },
            Self::Deployment => Facts {
                group: "apps",
                plural: "deployments",
                kind: "Deployment",
                parts: &[Part::Status, Part::Scale],
                habits: &[Habit::CountedInGeneration],
            },
        }
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        self.facts().group
    }

    /// As in paths and in rules of access, `services`.
    pub fn plural(self) -> &'static str {
        self.facts().plural
    }

    /// As in `kind:` of an object, `Service`.
    pub fn kind(self) -> &'static str {
        self.facts().kind
    }

    /// As in `apiVersion:` of an object, `discovery.k8s.io/v1`.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// Whether its objects lie in namespaces.
    pub fn is_namespaced(self) -> bool {
        self != Self::Namespace
    }

    /// The kind that these objects are kept as: events of both groups are the same objects.
    pub(super) fn stored(self) -> Self {
        if self == Self::Event { Self::CoreEvent } else { self }
    }

    pub(super) fn has(self, part: Part) -> bool {
        part == Part::Whole || self.facts().parts.contains(&part)
    }

    pub(super) fn parts(self) -> &'static [Part] {
        self.facts().parts
    }

    pub(super) fn is_created_by_update(self) -> bool {
        self.has_habit(Habit::CreatedByUpdate)
    }

    pub(super) fn is_updated_with_version(self) -> bool {
        self.has_habit(Habit::UpdatedWithVersion)
    }

    pub(super) fn is_returned_by_delete(self) -> bool {
        self.has_habit(Habit::ReturnedByDelete)
    }

    pub(super) fn has_generation(self) -> bool {
        self.has_habit(Habit::CountedInGeneration)
    }

    fn has_habit(self, habit: Habit) -> bool {
        self.facts().habits.contains(&habit)
    }

    /// As messages name it, `leases.coordination.k8s.io`.
    pub(super) fn qualified_plural(self) -> String {
        qualified(self.plural(), self.group())
    }

    /// As messages about invalid objects name it, `Lease.coordination.k8s.io`.
    pub(super) fn qualified_kind(self) -> String {
        qualified(self.kind(), self.group())
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// Which part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All but its status, where that is a part of its own.
    Whole,
    /// `/status`
    Status,
    /// `/scale`, as an `autoscaling/v1` `Scale`
    Scale,
    /// `/finalize` of a namespace: what keeps it from being gone
    Finalize,
}

impl Part {
    /// The last piece of the path; empty for the whole.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
        }
    }
}

/// What names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub resource: Resource,
    /// Empty for what lies in no namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

impl Key {
    /// A key of these parts.
    pub fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The same object as it is kept.
    pub(super) fn stored(&self) -> Self {
        Self { resource: self.resource.stored(), ..self.clone() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.resource.qualified_plural(), self.namespace, self.name)
    }
}

/// What a path names: one object, or all of a kind in one namespace or in every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub resource: Resource,
    /// The namespace, if the path names one.
    pub namespace: Option<String>,
    /// The object, if the path names one.
    pub name: Option<String>,
    /// The part of it.
    pub part: Part,
}

impl Target {
    /// Reads a path such as `/api/v1/namespaces/shop/services/live`; `None` where the server has nothing.
    pub fn parse(path: &str) -> Option<Self> {
        let pieces: Vec<&str> = path.trim_matches('/').split('/').collect();
        match pieces.as_slice() {
            ["api", "v1", rest @ ..] => Self::within("", rest),
            ["apis", group, "v1", rest @ ..] if !group.is_empty() => Self::within(group, rest),
            _ => None,
        }
    }

    fn within(group: &str, rest: &[&str]) -> Option<Self> {
        match rest {
            ["namespaces", namespace, plural, rest @ ..]
                if ![Part::Status, Part::Finalize].map(Part::name).contains(plural) =>
            {
                let resource = find(group, plural).filter(|found| found.is_namespaced())?;
                Self::of(resource, Some((*namespace).to_owned()), rest)
            }
            [plural] => Self::of(find(group, plural)?, None, &[]),
            [plural, rest @ ..] => Self::of(find(group, plural).filter(|found| !found.is_namespaced())?, None, rest),
            [] => None,
        }
    }

    fn of(resource: Resource, namespace: Option<String>, rest: &[&str]) -> Option<Self> {
        let (name, part) = match rest {
            [] => (None, Part::Whole),
            [name] => (Some((*name).to_owned()), Part::Whole),
            [name, part] => {
                let part = resource.parts().iter().find(|known| known.name() == *part)?;
                (Some((*name).to_owned()), *part)
            }
            _ => return None,
        };
        Some(Self { resource, namespace, name, part })
    }

    /// The object that is named, if one is.
    pub fn key(&self) -> Option<Key> {
        let name = self.name.as_deref()?;
        Some(Key::new(self.resource, self.namespace.as_deref().unwrap_or_default(), name))
    }
}

fn find(group: &str, plural: &str) -> Option<Resource> {
    Resource::ALL.into_iter().find(|known| known.group() == group && known.plural() == plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<(Resource, Option<&str>, Option<&str>, Part)>) {
        let found = Target::parse(path);
        let expected = expected.map(|(resource, namespace, name, part)| Target {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            part,
        });
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_name_objects_and_collections() {
        use Part::{Scale, Status, Whole};
        check("/api/v1/services", Some((Resource::Service, None, None, Whole)));
        check("/api/v1/namespaces/a/services", Some((Resource::Service, Some("a"), None, Whole)));
        check("/api/v1/namespaces/a/services/b", Some((Resource::Service, Some("a"), Some("b"), Whole)));
        check("/api/v1/namespaces/a/pods/b/status", Some((Resource::Pod, Some("a"), Some("b"), Status)));
        check(
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            Some((Resource::Deployment, Some("a"), Some("b"), Scale)),
        );
        check("/api/v1/namespaces", Some((Resource::Namespace, None, None, Whole)));
        check("/api/v1/namespaces/a", Some((Resource::Namespace, None, Some("a"), Whole)));
        check("/api/v1/namespaces/a/status", Some((Resource::Namespace, None, Some("a"), Status)));
        check("/api/v1/namespaces/a/finalize", Some((Resource::Namespace, None, Some("a"), Part::Finalize)));
        check("/api/v1/namespaces/a/events", Some((Resource::CoreEvent, Some("a"), None, Whole)));
        check("/apis/events.k8s.io/v1/namespaces/a/events", Some((Resource::Event, Some("a"), None, Whole)));
    }

    #[test]
    fn other_paths_name_nothing() {
        for path in [
            "/",
            "/api/v1",
            "/api/v2/services",
            "/api/v1/secrets",
            "/api/v1/services/b",
            "/api/v1/namespaces/a/services/b/scale",
            "/api/v1/namespaces/a/namespaces/b",
            "/apis/apps/v1/namespaces/a/services/b",
            "/api/v1/namespaces/a/pods/b/status/more",
        ] {
            check(path, None);
        }
    }
}
