//! The rows of the table: what is measured, in which unit, what counts as better, and what is to be reached.

use std::collections::BTreeMap;

use serde::Serialize;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Such as requests a second.
    Higher,
    /// Such as a latency.
    Lower,
    /// It says under which conditions the others were taken.
    Neither,
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The ratio to the best of the peers.
    Ratio(f64),
    /// The figure itself.
    Figure(f64),
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// In JSON, and for who looks it up.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// For people.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Digits behind the point.
    pub digits: usize,
    /// What ours is to reach.
    pub goal: Option<Goal>,
}

/// A row without a goal.
pub(crate) const fn row(
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    better: Better,
    digits: usize,
) -> Row {
    Row { id, title, unit, better, digits, goal: None }
}

impl Row {
    pub(crate) const fn ratio(self, goal: f64) -> Self {
        Self { goal: Some(Goal::Ratio(goal)), ..self }
    }

    pub(crate) const fn figure(self, goal: f64) -> Self {
        Self { goal: Some(Goal::Figure(goal)), ..self }
    }
}

/// A table: who is compared, in what, and what is to be reached.
#[derive(Debug, Clone, Copy)]
pub struct Sheet {
    /// The heading of the report.
    pub title: &'static str,
    /// What the ratio is to, in words; empty where there is none.
    pub ratio: &'static str,
    /// What the picture shows, for who cannot see it.
    pub picture: &'static str,
    /// Everybody, in the order of the report.
    pub columns: &'static [&'static str],
    /// Who sets the mark of a ratio.
    pub peers: &'static [&'static str],
    /// Who is to reach it.
    pub ours: &'static str,
    /// Every row, in the order of the report.
    pub rows: &'static [Row],
    /// The rows that the picture shows, in reading order.
    pub panels: &'static [&'static str],
    /// Who is not in the picture: it is only the limit.
    pub unseen: &'static str,
}

impl Sheet {
    /// The row with this id.
    pub fn find(&self, id: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.id == id)
    }
}

/// Everything that was measured: for each row and column one value per round; none where it was not to be had.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures(BTreeMap<&'static str, BTreeMap<&'static str, Vec<Option<f64>>>>);

impl Figures {
    /// One value of one round.
    pub fn note(&mut self, round: usize, who: &'static str, id: &'static str, value: f64) {
        let values = self.0.entry(id).or_default().entry(who).or_default();
        if values.len() <= round {
            values.resize(round + 1, None);
        }
        if let Some(place) = values.get_mut(round) {
            *place = value.is_finite().then_some(value);
        }
    }

    /// The value of one round.
    pub fn value(&self, round: usize, who: &str, id: &str) -> Option<f64> {
        *self.0.get(id)?.get(who)?.get(round)?
    }

    fn values(&self, who: &str, id: &str) -> Vec<f64> {
        self.0.get(id).and_then(|row| row.get(who)).into_iter().flatten().copied().flatten().collect()
    }

    /// Median over the rounds, and the lowest and highest value.
    pub fn spread(&self, who: &str, id: &str) -> Option<Spread> {
        Spread::of(self.values(who, id))
    }

    /// The median of the ratios to the better of `peers`, each within its round.
    pub fn ratio(&self, who: &str, row: &Row, peers: &[&str]) -> Option<Spread> {
        let rounds = self.0.get(row.id)?.get(who)?.len();
        let ratios = (0..rounds).filter_map(|round| {
            let value = self.value(round, who, row.id)?;
            let peers = peers.iter().filter_map(|peer| self.value(round, peer, row.id));
            let best = match row.better {
                Better::Higher => peers.reduce(f64::max)?,
                Better::Lower => peers.reduce(f64::min)?,
                Better::Neither => return None,
            };
            (best > 0.0).then_some(value / best)
        });
        Spread::of(ratios.collect())
    }
}

/// What several rounds came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The lowest.
    pub low: f64,
    /// The middle one; between two, their mean.
    pub median: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle.checked_sub(1)?)? } else { upper };
        Some(Self { low: *values.first()?, median: f64::midpoint(lower, upper), high: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::SHEET;

    #[test]
    fn ratios_are_taken_within_a_round_against_the_better_peer_of_that_round() {
        let mut figures = Figures::default();
        let rounds = [(100.0, 50.0, 120.0), (10.0, 20.0, 30.0), (40.0, 40.0, 40.0)];
        for (round, (nginx, haproxy, ours)) in rounds.into_iter().enumerate() {
            for (name, value) in [("nginx", nginx), ("HAProxy", haproxy), ("Pointsman", ours)] {
                figures.note(round, name, "rps_64", value);
                figures.note(round, name, "p99_half", value);
            }
        }
        let ratio = |id: &str| figures.ratio("Pointsman", SHEET.find(id).unwrap(), &["nginx", "HAProxy"]).unwrap();
        assert_eq!(ratio("rps_64"), Spread { low: 1.0, median: 1.2, high: 1.5 });
        assert_eq!(ratio("p99_half"), Spread { low: 1.0, median: 2.4, high: 3.0 });
        assert_eq!(figures.spread("nginx", "rps_64").unwrap(), Spread { low: 10.0, median: 40.0, high: 100.0 });
    }

    #[test]
    fn a_round_without_a_value_counts_nowhere() {
        let mut figures = Figures::default();
        figures.note(0, "nginx", "p99_half", f64::NAN);
        figures.note(1, "nginx", "p99_half", 2.0);
        figures.note(1, "Pointsman", "p99_half", 1.0);
        assert_eq!(figures.spread("nginx", "p99_half").unwrap(), Spread { low: 2.0, median: 2.0, high: 2.0 });
        let ratio = figures.ratio("Pointsman", SHEET.find("p99_half").unwrap(), &["nginx", "HAProxy"]).unwrap();
        assert_eq!(ratio, Spread { low: 0.5, median: 0.5, high: 0.5 });
    }
}
