//! The draw of a user: which ticket a user holds in a rollout, from a hash and without any memory.
//!
//! Line: assign ► **ticket** ► split. A user gets the canary while the ticket is below the weight. So whoever has it at
//! 5 % still has it at 25 %; every edge, and every edge after a restart, draws the same; and another rollout, which is
//! another salt, draws other users.
//!
//! The hash is SipHash-2-4 with 128 bits (Aumasson and Bernstein, 2012): its key makes the rollouts independent, it is
//! fixed by published vectors, so that edges of different versions agree, and it costs some 20 ns. One half is the ticket,
//! the other one names the user for the evidence: the two say nothing of each other, so that the users of a small canary do
//! not crowd together.

use std::net::IpAddr;

use pointsman_config::{RouteName, Share, VersionId};
use sha2::{Digest, Sha256};
use siphasher::sip128::SipHasher24;

/// What makes the draws of one rollout others than those of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 16]);

/// What makes two rollouts the same, as [`pointsman_rollout::Identity`] has it.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// Of the rollout.
    pub route: &'a RouteName,
    /// Of the rollout.
    pub stable: &'a VersionId,
    /// Of the rollout.
    pub canary: &'a VersionId,
    /// The canary's.
    pub revision: Option<&'a str>,
}

impl Salt {
    /// The salt of a rollout; the same wherever and whenever it is made.
    pub fn of(draw: Draw<'_>) -> Self {
        let mut hash = Sha256::new();
        for part in [draw.route.as_str(), draw.stable.as_str(), draw.canary.as_str(), draw.revision.unwrap_or_default()]
        {
            // Names hold no zero byte, and what comes last may.
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update([u8::from(draw.revision.is_some())]);
        let mut salt = [0; 16];
        salt.iter_mut().zip(hash.finalize()).for_each(|(byte, hashed)| *byte = hashed);
        Self(salt)
    }

    /// What the user with this key drew.
    pub fn draw(self, key: &[u8]) -> Drawn {
        let (ticket, user) = SipHasher24::new_with_key(&self.0).hash(key).as_u64();
        let scaled = (u128::from(ticket) * u128::from(Share::PARTS)) >> 64;
        // Less than the number of parts, by the shift.
        Drawn { ticket: Ticket(u32::try_from(scaled).unwrap_or_default()), user }
    }
}

/// What a user drew in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// Decides the version.
    pub ticket: Ticket,
    /// Names the user in the evidence, whatever the weight.
    pub user: u64,
}

/// A number from 0 to 999,999, each as likely as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u32);

impl Ticket {
    /// A ticket that belongs to nobody.
    pub fn by_chance() -> Self {
        Self(rand::random_range(0..Share::PARTS))
    }

    /// Whether its holder gets the canary at this weight.
    pub fn wins(self, weight: Share) -> bool {
        self.0 < weight.ppm()
    }
}

/// What of an address makes a user. An IPv6 host changes the lower half of its address at will (RFC 8981), and shares the
/// upper one with its site.
pub(crate) fn key_of_address(address: IpAddr) -> [u8; 9] {
    let (family, number) = match address.to_canonical() {
        IpAddr::V4(address) => (4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (6, address.to_bits() >> 64),
    };
    let mut key = [family; 9];
    key.iter_mut().rev().zip(number.to_le_bytes()).take(8).for_each(|(place, byte)| *place = byte);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USERS: u32 = 100_000;

    fn salt(stable: &str, canary: &str, revision: Option<&str>) -> Salt {
        let (route, stable, canary) = ("r".parse().unwrap(), stable.parse().unwrap(), canary.parse().unwrap());
        Salt::of(Draw { route: &route, stable: &stable, canary: &canary, revision })
    }

    fn share(ppm: u32) -> Share {
        Share::from_ppm(ppm).unwrap()
    }

    fn key(user: u32) -> Vec<u8> {
        format!("user-{user}").into_bytes()
    }

    /// How many of `USERS` users fit, and how many of them are expected to at a probability of `p`.
    #[track_caller]
    fn check_share(fits: impl Fn(u32) -> bool, p: f64) {
        let all = f64::from(USERS);
        let found = (0..USERS).filter(|user| fits(*user)).count();
        let found = f64::from(u32::try_from(found).unwrap());
        let sigma = (all * p * (1.0 - p)).sqrt();
        assert!((found - all * p).abs() <= 5.0 * sigma, "{found} of {all} at {p}");
    }

    #[test]
    fn the_share_of_users_is_the_weight() {
        let salt = salt("v1", "v2", None);
        for ppm in [1_000, 10_000, 50_000, 250_000, 500_000, 999_000] {
            check_share(|user| salt.draw(&key(user)).ticket.wins(share(ppm)), f64::from(ppm) / 1e6);
        }
        let drawn = salt.draw(b"anybody").ticket;
        assert!(!drawn.wins(Share::ZERO) && drawn.wins(Share::WHOLE));
    }

    #[test]
    fn two_rollouts_draw_independently() {
        let (one, weight) = (salt("v1", "v2", Some("r1")), share(100_000));
        for other in [
            salt("v1", "v2", Some("r2")),
            salt("v1", "v2", None),
            salt("v1", "v3", Some("r1")),
            salt("v0", "v2", Some("r1")),
        ] {
            let both = |user| [one, other].iter().all(|salt| salt.draw(&key(user)).ticket.wins(weight));
            check_share(both, 0.01);
        }
        assert_ne!(salt("v1", "v2", None), salt("v1", "v2", Some("")), "no revision is not an empty one");
        assert_ne!(salt("v1", "v2", None), salt("v2", "v1", None));
    }

    #[test]
    fn the_name_of_a_user_says_nothing_of_the_ticket() {
        let salt = salt("v1", "v2", None);
        let low_half = |user: u32| {
            let drawn = salt.draw(&key(user));
            drawn.ticket.wins(share(100_000)) && drawn.user < u64::MAX / 2
        };
        check_share(low_half, 0.05);
    }

    /// Edges of different versions must draw the same users. The values were made by an implementation of its own.
    #[test]
    fn draws_are_the_same_for_ever() {
        let salt = salt("v1", "v2", Some("r7"));
        let tickets: Vec<_> = ["alice", "bob", "carol"].map(|user| salt.draw(user.as_bytes()).ticket.0).into();
        assert_eq!(tickets, [691_627, 753_351, 694_841]);
    }

    #[test]
    fn an_address_counts_by_its_site() {
        let key = |text: &str| key_of_address(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn who_has_the_canary_keeps_it_as_the_weight_grows(user: Vec<u8>, low in 0..=1_000_000u32, high in 0..=1_000_000u32) {
            let (low, high) = (low.min(high), low.max(high));
            let drawn = salt("v1", "v2", None).draw(&user);
            prop_assert_eq!(drawn, salt("v1", "v2", None).draw(&user));
            prop_assert!(!drawn.ticket.wins(share(low)) || drawn.ticket.wins(share(high)));
        }
    }
}
