//! Which Kubernetes Events to write: the same one twice is counted, and a flood is cut short, with the time passed in. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use pointsman_rollout::{Change, Decision, Time};

/// For so long the same event is counted on instead of told again.
const SAME_WITHIN: Duration = Duration::from_mins(10);
/// Events that may come at once, as client-go's recorder has it.
const BURST: u32 = 25;
/// A further one each.
const REFILL: Duration = Duration::from_secs(10);
/// Events that are remembered, to count them on.
const REMEMBERED: usize = 64;
/// What the API takes of a note.
const NOTE_BYTES: usize = 1024;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// One word, such as `Promote`.
    pub reason: &'static str,
    /// One sentence for people.
    pub note: String,
    /// Whether someone should look today.
    pub is_warning: bool,
}

impl Told {
    /// What `change` is told as.
    pub fn of(change: &Change) -> Self {
        let (reason, is_warning) = match change.decision {
            Decision::Start => ("Start", false),
            Decision::Step => ("Step", false),
            Decision::Pause => ("Pause", true),
            Decision::Hold => ("Hold", false),
            Decision::Resume => ("Resume", false),
            Decision::Promote => ("Promote", false),
            Decision::Flip => ("Flip", false),
            Decision::Bake => ("Bake", false),
            Decision::Finish => ("Finish", false),
            Decision::Rollback => ("Rollback", true),
            Decision::RollbackDone => ("RollbackDone", false),
            Decision::Alert => ("Alert", true),
            Decision::SetWeights => ("SetWeights", false),
            Decision::Retry => ("Retry", false),
            Decision::Edit => ("Edit", false),
        };
        Self { reason, note: change.sentence(), is_warning }
    }
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Post {
    /// A new event.
    New {
        /// Its number, for its name.
        number: u64,
        /// What it says.
        told: Told,
    },
    /// One that was written before happened again.
    Again {
        /// Its number.
        number: u64,
        /// How often it has happened.
        count: i32,
    },
}

#[derive(Debug)]
struct Remembered {
    subject: String,
    told: Told,
    number: u64,
    count: i32,
    last: Time,
}

/// What was told.
#[derive(Debug)]
pub struct Journal {
    remembered: VecDeque<Remembered>,
    next_number: u64,
    tokens: u32,
    refilled: Time,
    /// Events that were not told since the last one that was.
    withheld: u64,
}

impl Journal {
    /// Nothing was told yet.
    pub fn new(now: Time) -> Self {
        Self { remembered: VecDeque::new(), next_number: 0, tokens: BURST, refilled: now, withheld: 0 }
    }

    /// What to write of `told`, which is about `subject` and happened at `now`; nothing if there was too much of late. Then
    /// the next one that is written says how many were not.
    pub fn tell(&mut self, subject: &str, told: &Told, now: Time) -> Option<Post> {
        self.refill(now);
        if self.tokens == 0 {
            self.withheld += 1;
            return None;
        }
        self.tokens -= 1;
        let same = self.remembered.iter_mut().find(|known| known.subject == subject && known.told == *told);
        match same.filter(|known| now.since(known.last) < SAME_WITHIN) {
            Some(known) => {
                known.count = known.count.saturating_add(1);
                known.last = now;
                Some(Post::Again { number: known.number, count: known.count })
            }
            None => Some(self.new_post(subject, told, now)),
        }
    }

    fn new_post(&mut self, subject: &str, told: &Told, now: Time) -> Post {
        let number = self.next_number;
        self.next_number += 1;
        self.remembered.retain(|known| known.subject != subject || known.told != *told);
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        let known = Remembered { subject: subject.to_owned(), told: told.clone(), number, count: 1, last: now };
        self.remembered.push_back(known);
        let note = noted(&told.note, std::mem::take(&mut self.withheld));
        Post::New { number, told: Told { note, ..told.clone() } }
    }

    fn refill(&mut self, now: Time) {
        while self.tokens < BURST && now.since(self.refilled) >= REFILL {
            self.tokens += 1;
            self.refilled = self.refilled.plus(REFILL);
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }
}

/// The note, cut to what the API takes, with what was withheld before it.
fn noted(note: &str, withheld: u64) -> String {
    let more = match withheld {
        0 => String::new(),
        1 => " (one event before this one was not told)".to_owned(),
        many => format!(" ({many} events before this one were not told)"),
    };
    let room = NOTE_BYTES - more.len();
    if note.len() <= room {
        return format!("{note}{more}");
    }
    let mut end = room - '…'.len_utf8();
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…{more}", note.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation::tests::decided;

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    fn told(note: &str) -> Told {
        Told { reason: "Step", note: note.to_owned(), is_warning: false }
    }

    #[track_caller]
    fn check(post: Option<Post>, number: u64, wanted: &str) {
        match post {
            Some(Post::New { number: is, told }) => assert_eq!((is, told.note.as_str()), (number, wanted)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_change_is_told_in_its_own_sentence() {
        let told = Told::of(&decided(1, "the model is odd", None).change);
        assert_eq!((told.reason, told.is_warning), ("Pause", true));
        assert_eq!(told.note, "paused with v2 at 0%: by ann: the model is odd");
    }

    #[test]
    fn different_sentences_are_different_events_and_the_same_is_counted() {
        let mut journal = Journal::new(at(0));
        check(journal.tell("live", &told("v2 now gets 1%"), at(0)), 0, "v2 now gets 1%");
        check(journal.tell("live", &told("v2 now gets 5%"), at(1)), 1, "v2 now gets 5%");
        assert_eq!(journal.tell("live", &told("v2 now gets 1%"), at(2)), Some(Post::Again { number: 0, count: 2 }));
        check(journal.tell("other", &told("v2 now gets 1%"), at(2)), 2, "v2 now gets 1%");
        check(journal.tell("live", &told("v2 now gets 1%"), at(700)), 3, "v2 now gets 1%");
        assert_eq!(journal.tell("live", &told("v2 now gets 1%"), at(701)), Some(Post::Again { number: 3, count: 2 }));
    }

    #[test]
    fn a_flood_is_cut_short_and_the_next_event_says_so() {
        let mut journal = Journal::new(at(0));
        let posts = (0..40).filter_map(|number| journal.tell("live", &told(&number.to_string()), at(0))).count();
        assert_eq!(posts, 25);
        check(journal.tell("live", &told("after"), at(10)), 25, "after (15 events before this one were not told)");
        assert_eq!(journal.tell("live", &told("too soon"), at(19)), None);
        check(journal.tell("live", &told("later"), at(20)), 26, "later (one event before this one was not told)");
    }

    #[test]
    fn a_note_is_cut_between_letters() {
        let mut journal = Journal::new(at(0));
        let Some(Post::New { told, .. }) = journal.tell("live", &told(&"ü".repeat(600)), at(0)) else {
            panic!("none")
        };
        assert!(told.note.len() <= 1024 && told.note.ends_with("ü…"), "{} bytes", told.note.len());
    }
}
