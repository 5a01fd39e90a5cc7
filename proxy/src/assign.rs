//! Which version a request goes to: as a tester asks, as its user drew, or by chance.
//!
//! Line: admission ► **assign** ► split ► pool. What the config says is made ready once, with the snapshot, so that a
//! request without a wish and without a user costs a draw and nothing else.
//!
//! A wish (`overrides`) goes before the draw and leaves no trace on it: a tester keeps the version that the weights give
//! as soon as the header is gone. It holds whatever the weight is, through promotion and rollback, for a version that was
//! taken back as well: who asks for it does so on purpose.

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use pointsman_config::{Override, OverrideSource, Route, Sticky, VersionId};

use crate::admission::RequestHead;
use crate::listen::Client;
use crate::recorder::{Arm, AssignedBy, Assignment, Terms};
use crate::ticket::{Draw, Drawn, Salt, Ticket, key_of_address};
use crate::user_cookie::{Secret, UserCookie};

/// How the requests of one route are assigned.
#[derive(Debug)]
pub(crate) struct Assign {
    wishes: Box<[Wish]>,
    /// None without a canary: there is nothing to draw.
    rollout: Option<Rollout>,
}

/// What can be drawn.
#[derive(Debug)]
struct Rollout {
    salt: Salt,
    users: Users,
}

/// What makes a user.
#[derive(Debug)]
enum Users {
    Nobody,
    Header(HeaderName),
    Cookie(UserCookie),
    Address,
}

/// One way to ask for a version.
#[derive(Debug)]
struct Wish {
    source: WishSource,
    /// Values, and what they ask for.
    values: Box<[(Box<[u8]>, Arm)]>,
}

#[derive(Debug)]
enum WishSource {
    Header(HeaderName),
    Cookie(Box<[u8]>),
}

/// Where a request goes, and what its client is to keep.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) assignment: Assignment,
    /// A `set-cookie` for a user whom nobody had met.
    pub(crate) new_user: Option<HeaderValue>,
}

impl Assign {
    /// What `route` says of assignment, while `terms` hold; `secret` is the one that signs its users' cookies.
    pub(crate) fn new(route: &Route, terms: &Terms, secret: Option<Secret>) -> Self {
        let rollout = terms.canary.as_ref().map(|canary| {
            let revision = route.versions.get(canary).and_then(|version| version.revision.as_deref());
            let salt = Salt::of(Draw { route: &route.name, stable: &terms.stable, canary, revision });
            Rollout { salt, users: Users::new(route.sticky.as_ref(), secret) }
        });
        Self { wishes: route.overrides.iter().filter_map(|wish| Wish::new(wish, terms)).collect(), rollout }
    }

    /// Assigns a request of `client` while `terms` hold.
    pub(crate) fn assign(&self, head: &impl RequestHead, client: &Client, terms: &Terms) -> Assigned {
        if let Some(arm) = self.wishes.iter().find_map(|wish| wish.of(head)) {
            return Assigned { assignment: Assignment { arm, by: AssignedBy::Override }, new_user: None };
        }
        let Some(rollout) = &self.rollout else {
            return Assigned { assignment: Assignment::by_chance(Arm::Stable), new_user: None };
        };
        let (drawn, new_user) = rollout.draw(head, client);
        let arm = |ticket: Ticket| if ticket.wins(terms.weight) { Arm::Canary } else { Arm::Stable };
        let assignment = match drawn {
            Some(Drawn { ticket, user }) => Assignment { arm: arm(ticket), by: AssignedBy::User(user) },
            None => Assignment::by_chance(arm(Ticket::by_chance())),
        };
        Assigned { assignment, new_user }
    }
}

impl Rollout {
    /// What the user behind a request drew; none if there is no telling who it is.
    fn draw(&self, head: &impl RequestHead, client: &Client) -> (Option<Drawn>, Option<HeaderValue>) {
        match &self.users {
            Users::Nobody => (None, None),
            Users::Header(name) => {
                // Of several values nobody can say which one is the user.
                let key = head.only(name).map(<[u8]>::trim_ascii).filter(|key| !key.is_empty());
                (key.map(|key| self.salt.draw(key)), None)
            }
            Users::Cookie(cookie) => self.draw_by_cookie(cookie, head, client.is_secure),
            Users::Address => (Some(self.draw_by_address(client.ip)), None),
        }
    }

    fn draw_by_cookie(
        &self,
        cookie: &UserCookie,
        head: &impl RequestHead,
        is_secure: bool,
    ) -> (Option<Drawn>, Option<HeaderValue>) {
        let known = cookies(head, cookie.name()).find_map(|value| cookie.user(value));
        let (user, new_user) = match known {
            Some(user) => (user, None),
            None => cookie.new_user(is_secure),
        };
        (Some(self.salt.draw(user.key())), new_user)
    }

    fn draw_by_address(&self, address: IpAddr) -> Drawn {
        self.salt.draw(&key_of_address(address))
    }
}

impl Users {
    fn new(sticky: Option<&Sticky>, secret: Option<Secret>) -> Self {
        match (sticky, secret) {
            // The config takes no other names; one that is none would be in no request.
            (Some(Sticky::Header(name)), _) => name.parse().map_or(Self::Nobody, Self::Header),
            (Some(Sticky::Cookie(cookie)), Some(secret)) => Self::Cookie(UserCookie::new(cookie, secret)),
            (Some(Sticky::ClientIp), _) => Self::Address,
            (Some(Sticky::Cookie(_)), None) | (None, _) => Self::Nobody,
        }
    }
}

impl Wish {
    fn new(wish: &Override, terms: &Terms) -> Option<Self> {
        let source = match &wish.source {
            OverrideSource::Header(name) => WishSource::Header(name.parse().ok()?),
            OverrideSource::Cookie(name) => WishSource::Cookie(name.as_bytes().into()),
        };
        let values = match &wish.ask {
            Some(ask) => {
                arm_of(&ask.version, terms).map(|arm| (ask.value.as_bytes().into(), arm)).into_iter().collect()
            }
            None => arms(terms).map(|(version, arm)| (version.as_str().as_bytes().into(), arm)).collect(),
        };
        Some(Self { source, values })
    }

    /// The version that a request asks for in this way; a value that names none is no wish.
    fn of(&self, head: &impl RequestHead) -> Option<Arm> {
        match &self.source {
            WishSource::Header(name) => head.values(name).find_map(|value| self.arm(value.trim_ascii())),
            WishSource::Cookie(name) => cookies(head, name).find_map(|value| self.arm(value)),
        }
    }

    fn arm(&self, value: &[u8]) -> Option<Arm> {
        self.values.iter().find(|(known, _)| **known == *value).map(|(_, arm)| *arm)
    }
}

/// Every version of the route, and its side.
fn arms(terms: &Terms) -> impl Iterator<Item = (&VersionId, Arm)> {
    let canary = terms.canary.iter().map(|canary| (canary, Arm::Canary));
    let others = terms.others.iter().enumerate().map(|(position, version)| (version, Arm::Other(position)));
    std::iter::once((&terms.stable, Arm::Stable)).chain(canary).chain(others)
}

fn arm_of(version: &VersionId, terms: &Terms) -> Option<Arm> {
    arms(terms).find(|(known, _)| *known == version).map(|(_, arm)| arm)
}

/// Every value of a cookie, in the order of the head; HTTP/2 clients send one line per cookie (RFC 9113, section 8.2.3).
fn cookies<'a>(head: &'a impl RequestHead, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let pairs = head.values(&COOKIE).flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pingora_http::RequestHeader;
    use pointsman_config::{Ask, Share, StickyCookie, Version};

    use super::*;
    use crate::outcome::ErrorPolicy;

    fn id(name: &str) -> VersionId {
        name.parse().unwrap()
    }

    fn terms(ppm: u32) -> Terms {
        Terms {
            weight: Share::from_ppm(ppm).unwrap(),
            trial: 0,
            stable: id("v1"),
            canary: Some(id("v2")),
            others: vec![id("v0"), id("v3")],
            errors: ErrorPolicy::new(&[].into()),
            slow_after: Duration::from_secs(1),
            unanswered_after: Duration::from_secs(2),
            users: None,
        }
    }

    fn route() -> Route {
        let versions = ["v0", "v1", "v2", "v3"].map(|name| (id(name), Version::at(Vec::new())));
        Route::new("r".parse().unwrap(), id("v1"), versions.into())
    }

    fn with_overrides(overrides: &[(OverrideSource, Option<(&str, &str)>)]) -> Route {
        let one = |(source, ask): &(OverrideSource, Option<(&str, &str)>)| Override {
            source: source.clone(),
            ask: ask.map(|(value, version)| Ask { value: value.to_owned(), version: id(version) }),
        };
        Route { overrides: overrides.iter().map(one).collect(), ..route() }
    }

    fn sticky_cookie() -> Route {
        let cookie = StickyCookie { name: "user".to_owned(), max_age: Duration::from_mins(1), secret_file: None };
        Route { sticky: Some(Sticky::Cookie(cookie)), ..route() }
    }

    fn client() -> Client {
        Client::new("192.0.2.7".parse().unwrap(), false)
    }

    fn head(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn assigned(route: &Route, terms: &Terms, headers: &[(&'static str, &str)]) -> Assigned {
        Assign::new(route, terms, Some(Secret::from_text(&"A".repeat(43)).unwrap())).assign(
            &head(headers),
            &client(),
            terms,
        )
    }

    #[track_caller]
    fn check_wish(route: &Route, headers: &[(&'static str, &str)], expected: Option<Arm>) {
        let Assignment { arm, by } = assigned(route, &terms(0), headers).assignment;
        let wished = (by == AssignedBy::Override).then_some(arm);
        assert_eq!(wished, expected, "{headers:?}");
        assert!(wished.is_some() || arm == Arm::Stable);
    }

    #[test]
    fn the_first_wish_that_fits_counts_and_every_version_can_be_wished_for() {
        let header = |name: &str| OverrideSource::Header(name.to_owned());
        let route = with_overrides(&[
            (header("x-version"), None),
            (header("x-canary"), Some(("always", "v2"))),
            (OverrideSource::Cookie("canary".to_owned()), Some(("always", "v3"))),
        ]);
        check_wish(&route, &[], None);
        check_wish(&route, &[("x-version", "v1")], Some(Arm::Stable));
        check_wish(&route, &[("x-version", " v2 ")], Some(Arm::Canary));
        check_wish(&route, &[("x-version", "v0")], Some(Arm::Other(0)));
        check_wish(&route, &[("x-version", "v3")], Some(Arm::Other(1)));
        check_wish(&route, &[("x-version", "v9")], None);
        check_wish(&route, &[("x-version", "v9"), ("x-version", "v2")], Some(Arm::Canary));
        check_wish(&route, &[("x-canary", "always"), ("cookie", "canary=always")], Some(Arm::Canary));
        check_wish(
            &route,
            &[("x-version", "V2"), ("x-canary", "never"), ("cookie", "canary=always")],
            Some(Arm::Other(1)),
        );
        check_wish(&route, &[("cookie", "a=b; canary=always ;c"), ("cookie", "d=e")], Some(Arm::Other(1)));
        check_wish(&route, &[("cookie", "a=b"), ("cookie", "canary=always")], Some(Arm::Other(1)));
        check_wish(&route, &[("cookie", "xcanary=always; canary2=always; canary")], None);
    }

    #[test]
    fn a_user_by_header_keeps_the_version_and_who_has_no_name_draws_by_chance() {
        let route = Route { sticky: Some(Sticky::Header("x-user".to_owned())), ..route() };
        let by = |headers: &[(&'static str, &str)], ppm| assigned(&route, &terms(ppm), headers).assignment;
        for user in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let first = by(&[("x-user", user)], 500_000);
            assert!(matches!(first.by, AssignedBy::User(_)));
            assert_eq!(by(&[("x-user", &format!(" {user} "))], 500_000), first);
            assert_eq!(by(&[("x-user", user)], 1_000_000), Assignment { arm: Arm::Canary, by: first.by });
        }
        for nobody in [&[][..], &[("x-user", "")], &[("x-user", "a"), ("x-user", "b")]] {
            assert_eq!(by(nobody, 500_000).by, AssignedBy::Chance);
        }
    }

    #[test]
    fn a_cookie_comes_back_and_a_forged_one_makes_a_new_user() {
        let route = sticky_cookie();
        let first = assigned(&route, &terms(500_000), &[("cookie", "user=forged")]);
        let set = first.new_user.unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        for weight in [0, 500_000, 1_000_000] {
            let again =
                assigned(&route, &terms(weight), &[("cookie", "x=y"), ("cookie", &format!("user=v2; {pair}; z"))]);
            assert_eq!((again.assignment.by, &again.new_user), (first.assignment.by, &None));
        }
        assert_ne!(assigned(&route, &terms(0), &[]).assignment.by, first.assignment.by);
    }

    #[test]
    fn an_address_is_a_user() {
        let route = Route { sticky: Some(Sticky::ClientIp), ..route() };
        let first = assigned(&route, &terms(500_000), &[]).assignment;
        assert!(matches!(first.by, AssignedBy::User(_)));
        assert_eq!(assigned(&route, &terms(500_000), &[("x-forwarded-for", "192.0.2.9")]).assignment, first);
    }

    #[test]
    fn without_a_canary_nobody_draws_and_nobody_gets_a_cookie() {
        let terms = Terms { canary: None, weight: Share::ZERO, ..terms(0) };
        let got = assigned(&sticky_cookie(), &terms, &[]);
        assert_eq!(got.assignment, Assignment::by_chance(Arm::Stable));
        assert!(got.new_user.is_none());
    }

    #[test]
    fn a_wish_leaves_the_draw_alone() {
        let mut route = sticky_cookie();
        route.overrides = with_overrides(&[(OverrideSource::Header("x-version".to_owned()), None)]).overrides;
        let got = assigned(&route, &terms(0), &[("x-version", "v2")]);
        assert!(got.new_user.is_none() && got.assignment.by == AssignedBy::Override);
    }
}
