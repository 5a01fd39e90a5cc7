//! What was last found out about an endpoint, and how long ago: the way back rests on it.
//!
//! Line: health, warm-up ► **proof** ► way back. The check of the endpoint writes it, the control loop reads it, and neither
//! waits for the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Takes;
use super::features::ModelCard;

/// Right answers that are older are asked for again, as long as somebody wants them: early enough that they are never older
/// than the way back allows, which is 30 s.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// Wrong ones sooner: somebody may wait for the repair.
const ASK_SOON_AFTER: Duration = Duration::from_secs(5);

/// What one check knows. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proof(Arc<Mutex<Known>>);

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Debug, Default)]
struct Known {
    passed_at: Option<Instant>,
    golden: Option<(Instant, Result<(), String>)>,
    is_wanted: bool,
    card: Option<(Instant, ModelCard)>,
    /// Whether the description is to be read again as soon as that can be.
    is_doubted: bool,
    takes: Option<Arc<Takes>>,
}

/// What golden answers an endpoint gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Golden {
    /// The route has no golden calls.
    None,
    /// It gave none yet: it was not asked, or had no room for the calls.
    Awaited,
    /// The right ones, so long ago.
    Right(Duration),
    /// Not the right ones, in words.
    Wrong(String),
}

impl Proof {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A check was passed just now.
    pub(super) fn passes(&self) {
        self.known().passed_at = Some(Instant::now());
    }

    /// The golden calls were answered just now: rightly, or how not.
    pub(super) fn answers(&self, how: Result<(), String>) {
        self.known().golden = Some((Instant::now(), how));
    }

    /// Whether golden answers are to be asked for again and again.
    pub(crate) fn want_golden(&self, is_wanted: bool) {
        self.known().is_wanted = is_wanted;
    }

    /// Whether it is time to ask for them.
    pub(super) fn is_golden_due(&self) -> bool {
        let known = self.known();
        let is_due = |(at, how): &(Instant, Result<(), String>)| {
            at.elapsed() >= if how.is_ok() { ASK_AGAIN_AFTER } else { ASK_SOON_AFTER }
        };
        known.is_wanted && known.golden.as_ref().is_none_or(is_due)
    }

    /// How it described its model just now; none if it could not be asked.
    pub(super) fn describes(&self, card: Option<ModelCard>) {
        let mut known = self.known();
        known.takes = card.as_ref().map(|card| Arc::new(card.takes.clone()));
        known.card = card.map(|card| (Instant::now(), card));
        known.is_doubted = false;
    }

    /// Something happened after which it may be another model: its description is read again as soon as that can be.
    pub(super) fn doubts_description(&self) {
        self.known().is_doubted = true;
    }

    /// Whether its description was not read within the last `time`.
    pub(super) fn was_described_before(&self, time: Duration) -> bool {
        let known = self.known();
        known.is_doubted || known.card.as_ref().is_none_or(|(at, _)| at.elapsed() >= time)
    }

    /// Whether it described another model the last time.
    pub(super) fn is_another_model(&self, card: &ModelCard) -> bool {
        self.known().card.as_ref().is_some_and(|(_, known)| !known.is_same_model(card))
    }

    /// What its model takes, as it said last; none if that is not known.
    pub(crate) fn takes(&self) -> Option<Arc<Takes>> {
        self.known().takes.clone()
    }

    /// How long ago the last check was passed; none if none was.
    pub(crate) fn passed(&self) -> Option<Duration> {
        self.known().passed_at.map(|at| at.elapsed())
    }

    /// What came of the last golden calls, of a route that has some.
    pub(crate) fn golden(&self) -> Golden {
        match &self.known().golden {
            None => Golden::Awaited,
            Some((at, Ok(()))) => Golden::Right(at.elapsed()),
            Some((_, Err(why))) => Golden::Wrong(why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn golden_answers_are_due_while_they_are_wanted_and_before_they_are_too_old() {
        let proof = Proof::default();
        assert!(!proof.is_golden_due(), "nobody wants them");
        proof.want_golden(true);
        assert_eq!((proof.is_golden_due(), proof.golden()), (true, Golden::Awaited));
        proof.answers(Ok(()));
        assert_eq!((proof.is_golden_due(), proof.golden()), (false, Golden::Right(Duration::ZERO)));
        tokio::time::advance(ASK_AGAIN_AFTER).await;
        assert_eq!((proof.is_golden_due(), proof.golden()), (true, Golden::Right(ASK_AGAIN_AFTER)));
        proof.answers(Err("31.7".to_owned()));
        assert_eq!((proof.is_golden_due(), proof.golden()), (false, Golden::Wrong("31.7".to_owned())));
        tokio::time::advance(ASK_SOON_AFTER).await;
        assert!(proof.is_golden_due());
        proof.want_golden(false);
        assert!(!proof.is_golden_due());
    }

    #[tokio::test(start_paused = true)]
    async fn a_description_grows_old_and_tells_another_model() {
        let (proof, minute) = (Proof::default(), Duration::from_mins(1));
        let card = |digest: &str| ModelCard::read(format!(r#"{{"sha256":"{digest}"}}"#).as_bytes());
        assert!(proof.was_described_before(minute) && !proof.is_another_model(&card("1").unwrap()));
        proof.describes(card("1"));
        assert!(!proof.was_described_before(minute));
        proof.doubts_description();
        assert!(proof.was_described_before(minute) && proof.is_another_model(&card("2").unwrap()));
        proof.describes(card("1"));
        assert!(!proof.was_described_before(minute));
        tokio::time::advance(minute).await;
        assert!(proof.was_described_before(minute));
        assert!(!proof.is_another_model(&card("1").unwrap()) && proof.is_another_model(&card("2").unwrap()));
        assert_eq!(proof.takes().as_deref(), Some(&Takes::Unsaid));
        proof.describes(None);
        assert_eq!((proof.takes(), proof.is_another_model(&card("2").unwrap())), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_was_passed_grows_old() {
        let proof = Proof::default();
        assert_eq!(proof.passed(), None);
        proof.passes();
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(proof.clone().passed(), Some(Duration::from_secs(31)));
    }
}
