//! Network policies let through what must get through, and no pod is without one.

use serde_json::Value;

use crate::Finding;
use crate::edge;
use crate::objects::{Labels, Object, Objects, Read, match_labels, selects};

/// Pods that a policy speaks of, by their labels.
struct Pods<'a> {
    labels: &'a Labels,
    /// Labels of their namespace.
    namespace: &'a Labels,
}

/// Which way traffic goes, as a policy says it.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Way {
    fn kind(self) -> &'static str {
        match self {
            Self::In => "Ingress",
            Self::Out => "Egress",
        }
    }

    fn rules(self) -> &'static str {
        match self {
            Self::In => "/spec/ingress",
            Self::Out => "/spec/egress",
        }
    }

    fn peers(self) -> &'static str {
        match self {
            Self::In => "/from",
            Self::Out => "/to",
        }
    }
}

/// Pods that no policy isolates, and ways that are closed and must be open: from the edge to every version, among the
/// edges, from Prometheus and clients to the edge, and from the edge to whomever its config has it ask.
pub fn check(objects: &Objects) -> Vec<Finding> {
    let mut found = Vec::new();
    for deployment in objects.of("Deployment") {
        for way in [Way::In, Way::Out] {
            if policies(objects, &deployment.pod_labels(), way).next().is_none() {
                found.push(deployment.finding(format!("no NetworkPolicy limits its {}", way.kind())));
            }
        }
    }
    let Some(edge) = objects.find("Deployment", "pointsman") else {
        return found;
    };
    for (from, to, port) in needed(objects, edge) {
        if !is_open(objects, &from, to, port) {
            found.push(
                to.finding(format!("{} does not reach its port `{port}` through the NetworkPolicies", from.name)),
            );
        }
    }
    found.extend(asked_in_vain(objects, edge));
    found.extend(unknown_ports(objects));
    found
}

/// What the config has the edge ask at a port that no policy lets it out to. Who stands there nobody knows here, nor at which
/// port its pods listen if that is another than its Service's.
fn asked_in_vain(objects: &Objects, edge: &Object) -> Vec<Finding> {
    let labels = edge.pod_labels();
    let rules: Vec<&Value> =
        policies(objects, &labels, Way::Out).flat_map(|policy| policy.0.items(Way::Out.rules())).collect();
    let is_open = |port: u64| {
        rules.iter().any(|rule| {
            let ports = rule.items("/ports");
            ports.is_empty() || ports.iter().any(|one| one.at("/port").as_u64() == Some(port))
        })
    };
    let closed = edge::asked(objects).into_iter().filter(|url| !port_of(url).is_some_and(is_open));
    closed.map(|url| edge.finding(format!("asks {url}, and no NetworkPolicy lets it out to that port"))).collect()
}

/// The port of a URL, or that of its scheme.
fn port_of(url: &str) -> Option<u64> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    match authority.rsplit_once(':') {
        Some((_host, port)) if !port.ends_with(']') => port.parse().ok(),
        Some(_) | None => Some(if scheme == "https" { 443 } else { 80 }),
    }
}

/// Where traffic comes from.
struct Source {
    name: String,
    labels: Labels,
    namespace: Labels,
    /// Whether policies of these objects are its own.
    is_ours: bool,
}

impl Source {
    fn of(deployment: &Object, objects: &Objects) -> Self {
        let namespace = named(objects.of("Namespace").map(Object::name).next().unwrap_or_default());
        Self { name: deployment.to_string(), labels: deployment.pod_labels(), namespace, is_ours: true }
    }

    fn elsewhere(name: &str, namespace: &str) -> Self {
        Self { name: name.to_owned(), labels: Labels::new(), namespace: named(namespace), is_ours: false }
    }
}

/// The label that every namespace has.
fn named(namespace: &str) -> Labels {
    Labels::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())])
}

fn needed<'a>(objects: &'a Objects, edge: &'a Object) -> Vec<(Source, &'a Object, &'static str)> {
    let mut needed = vec![
        (Source::of(edge, objects), edge, "replicas"),
        (Source::elsewhere("a client", "elsewhere"), edge, "http"),
        (Source::elsewhere("Prometheus", "monitoring"), edge, "admin"),
    ];
    for model in objects.of("Deployment").filter(|one| one.name() != edge.name()) {
        needed.push((Source::of(edge, objects), model, "http"));
        needed.push((Source::elsewhere("Prometheus", "monitoring"), model, "http"));
    }
    needed
}

fn is_open(objects: &Objects, from: &Source, to: &Object, port: &str) -> bool {
    let Some(&number) = to.pod_ports().get(port) else {
        return false;
    };
    let labels = to.pod_labels();
    let namespace = Source::of(to, objects).namespace;
    let target = Pods { labels: &labels, namespace: &namespace };
    let source = Pods { labels: &from.labels, namespace: &from.namespace };
    let comes_out = !from.is_ours || lets(objects, (&source, &target), (Way::Out, number));
    comes_out && lets(objects, (&target, &source), (Way::In, number))
}

/// Whether the policies of the first pods let them speak with the second.
fn lets(objects: &Objects, (own, peer): (&Pods<'_>, &Pods<'_>), (way, port): (Way, u64)) -> bool {
    let mut applying = policies(objects, own.labels, way).peekable();
    let own_namespace = own.namespace;
    applying.peek().is_none()
        || applying.flat_map(|policy| policy.0.items(way.rules())).any(|rule| {
            let peers = rule.items(way.peers());
            let to_peer = peers.is_empty() || peers.iter().any(|one| is_peer(one, peer, own_namespace));
            let ports = rule.items("/ports");
            to_peer && (ports.is_empty() || ports.iter().any(|one| one.at("/port").as_u64() == Some(port)))
        })
}

fn is_peer(peer: &Value, pods: &Pods<'_>, own_namespace: &Labels) -> bool {
    let takes = |place: &str, labels: &Labels| {
        let selector = peer.at(place);
        let wanted = selector.labels("/matchLabels");
        wanted.is_empty() && !selector.has("/matchExpressions") || selects(&wanted, labels)
    };
    let in_namespace = match (peer.has("/namespaceSelector"), peer.has("/podSelector")) {
        (true, _) => takes("/namespaceSelector", pods.namespace),
        (false, true) => pods.namespace == own_namespace,
        (false, false) => false,
    };
    in_namespace && takes("/podSelector", pods.labels)
}

fn policies<'a>(objects: &'a Objects, labels: &'a Labels, way: Way) -> impl Iterator<Item = &'a Object> {
    objects.of("NetworkPolicy").filter(move |policy| {
        let selector = match_labels(policy.0.at("/spec/podSelector"));
        policy.0.texts("/spec/policyTypes").contains(&way.kind()) && selector.is_some_and(|one| selects(&one, labels))
    })
}

/// Ports that are opened and that nothing listens on; numbers, since not every network plug-in knows names.
fn unknown_ports(objects: &Objects) -> Vec<Finding> {
    let mut found = Vec::new();
    for policy in objects.of("NetworkPolicy") {
        let selector = match_labels(policy.0.at("/spec/podSelector")).unwrap_or_default();
        let behind = objects.selected(&selector);
        if behind.is_empty() {
            found.push(policy.finding("selects no pods"));
        }
        for port in policy.0.items("/spec/ingress").iter().flat_map(|rule| rule.items("/ports")) {
            let number = port.at("/port").as_u64();
            if number.is_none() || !behind.iter().any(|one| one.pod_port(port.at("/port")).is_some()) {
                found.push(policy.finding(format!("opens port {}, which nothing listens on", port.at("/port"))));
            }
        }
    }
    found
}
