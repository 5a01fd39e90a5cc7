//! What is measured of each proxy in each round, in legs that are short, so that what is compared was measured close
//! together.

use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::sleep;

use crate::contender::{Contender, PATH, Percent, Running, Size};
use crate::figures::Figures;
use crate::process;
use crate::rig::{Job, Measured, Pattern, Request, Rig, RigError};
use crate::subject::SubjectError;

/// Load before anything is counted.
const WARM: Duration = Duration::from_millis(300);
/// Between two changes of weights.
const CHANGE_EVERY: Duration = Duration::from_millis(100);
/// Between two edits of a large config.
const EDIT_EVERY: Duration = Duration::from_secs(1);
/// Requests a second that look for the moment at which an edit is in force.
const LOOKOUT_RATE: f64 = 2_000.0;
/// Requests a second while a large config is edited.
const MANY_RATE: f64 = 5_000.0;
/// An edit that is not in force after this long counts as never.
const EFFECT_PATIENCE: Duration = Duration::from_secs(1);
/// Idle connections that are held for the memory they take.
const IDLE_CONNECTIONS: usize = 1_000;

/// Why a round cannot be finished.
#[derive(Debug, Error)]
pub enum CourseError {
    /// A proxy.
    #[error("a proxy failed")]
    Subject(#[from] SubjectError),
    /// The load.
    #[error("the load failed")]
    Rig(#[from] RigError),
    /// The kernel's books.
    #[error("the books of a process cannot be read; it may have ended")]
    Io(#[from] std::io::Error),
}

/// Everything that stays the same over the rounds.
#[derive(Debug)]
pub struct Course {
    /// Both ends of every proxy.
    pub rig: Rig,
    /// Length of one measurement.
    pub span: Duration,
    /// Requests a second that all can carry.
    pub common_rate: f64,
    /// Half of what nginx can do.
    pub half_rate: f64,
}

/// One proxy in one round.
struct Leg<'a> {
    course: &'a Course,
    contender: Contender,
    round: usize,
    running: Running,
    figures: &'a mut Figures,
}

impl Course {
    /// What a proxy can do at most, quickly.
    ///
    /// # Errors
    /// If the proxy or the load fails.
    pub async fn saturation(rig: &Rig, contender: Contender, span: Duration) -> Result<f64, CourseError> {
        let running = Running::start(contender, Size::OneRoute, rig.ports()).await?;
        let measured = rig.measure(job(&running, Pattern::Saturate, 64, span)?).await?;
        running.stop().await?;
        Ok(per_second(&measured))
    }

    /// Measures everybody once.
    ///
    /// # Errors
    /// If a proxy or the load fails.
    pub async fn round(&self, round: usize, figures: &mut Figures) -> Result<(), CourseError> {
        // Who comes first changes, so that nobody always has the machine as another left it.
        let mut order = Contender::ALL;
        order.rotate_left(round % Contender::ALL.len());
        for contender in order {
            self.leg(contender, round, figures).await?.at_saturation().await?;
        }
        for contender in order {
            self.leg(contender, round, figures).await?.at_rates().await?;
        }
        self.pointsman_alone(round, figures).await
    }

    async fn leg<'a>(
        &'a self,
        contender: Contender,
        round: usize,
        figures: &'a mut Figures,
    ) -> Result<Leg<'a>, CourseError> {
        let running = Running::start(contender, Size::OneRoute, self.rig.ports()).await?;
        Ok(Leg { course: self, contender, round, running, figures })
    }
}

impl Leg<'_> {
    fn note(&mut self, id: &'static str, value: f64) {
        self.figures.note(self.round, self.contender.name(), id, value);
    }

    async fn measure(&self, pattern: Pattern, connections: usize) -> Result<Measured, CourseError> {
        Ok(self.course.rig.measure(job(&self.running, pattern, connections, self.course.span)?).await?)
    }

    fn megabytes(&self) -> Result<f64, CourseError> {
        Ok(process::resident_megabytes(&self.running.pids()?)?)
    }

    /// Memory, one connection, and as much as it can.
    async fn at_saturation(mut self) -> Result<(), CourseError> {
        let has_memory = self.contender != Contender::Direct;
        if has_memory {
            let idle = self.megabytes()?;
            self.note("rss_idle", idle);
            let held = self.with_idle_connections().await?;
            self.note("rss_1000", held);
        }
        let one = self.measure(Pattern::Saturate, 1).await?;
        self.note_added(&one);
        let mut lost = one.lost;
        for (connections, rps, busy) in [(64, "rps_64", "busy_64"), (256, "rps_256", "busy_256")] {
            let measured = self.measure(Pattern::Saturate, connections).await?;
            self.note(rps, per_second(&measured));
            self.note(busy, 100.0 * cpu_seconds(&measured) / measured.seconds);
            lost += measured.lost;
        }
        if has_memory {
            let after = self.megabytes()?;
            self.note("rss_after", after);
        }
        let fresh = self.measure(Pattern::Fresh, 64).await?;
        self.note("rps_fresh", per_second(&fresh));
        self.note("lost", count(lost + fresh.lost));
        Ok(self.running.stop().await?)
    }

    /// Memory while 1,000 connections that have been used once are open.
    async fn with_idle_connections(&self) -> Result<f64, CourseError> {
        let mut hold = job(&self.running, Pattern::Hold, IDLE_CONNECTIONS, Duration::from_millis(700))?;
        hold.warm = Duration::ZERO;
        let looked = async {
            sleep(Duration::from_millis(500)).await;
            self.megabytes()
        };
        let (_, megabytes) = tokio::join!(self.course.rig.measure(hold), looked);
        megabytes
    }

    /// The p50 of one connection; what a proxy adds to it is known when the direct one is.
    fn note_added(&mut self, one: &Measured) {
        let micros = quantile_ms(one, 0.5) * 1e3;
        self.note("p50_one", micros);
        let direct = self.figures.value(self.round, Contender::Direct.name(), "p50_one");
        if self.contender == Contender::Direct {
            for contender in Contender::ALL {
                if let Some(known) = self.figures.value(self.round, contender.name(), "p50_one") {
                    self.figures.note(self.round, contender.name(), "added_p50", known - micros);
                }
            }
        } else if let Some(direct) = direct {
            self.note("added_p50", micros - direct);
        }
    }

    /// At half of what nginx can do, at a rate that all can carry, and at the same while weights change.
    async fn at_rates(mut self) -> Result<(), CourseError> {
        let half = self.measure(Pattern::Rate(self.course.half_rate), 64).await?;
        for (id, quantile) in [("p50_half", 0.5), ("p99_half", 0.99), ("p999_half", 0.999)] {
            self.note(id, quantile_ms(&half, quantile));
        }
        let steady = self.measure(Pattern::Rate(self.course.common_rate), 64).await?;
        self.note("cpu_per_million", cpu_seconds(&steady) * 1e6 / count(steady.answered));
        self.note("p99_steady", quantile_ms(&steady, 0.99));
        if self.contender.changes_weights() {
            let changing = self.while_changing().await?;
            let p99 = quantile_ms(&changing, 0.99);
            self.note("p99_changing", p99);
            self.note("p99_changing_ratio", p99 / quantile_ms(&steady, 0.99));
            self.note("lost_changing", count(changing.lost));
        }
        let before = self.figures.value(self.round, self.contender.name(), "lost").unwrap_or(0.0);
        self.note("lost", before + count(half.lost + steady.lost));
        Ok(self.running.stop().await?)
    }

    async fn while_changing(&self) -> Result<Measured, CourseError> {
        let percents = [Percent(10), Percent(11)];
        for percent in percents {
            self.running.prepare(percent)?;
        }
        let job = job(&self.running, Pattern::Rate(self.course.common_rate), 64, self.course.span)?;
        let until = Instant::now() + job.warm + job.counted;
        let edits = change(&self.running, percents, CHANGE_EVERY, until);
        let (measured, changed) = tokio::join!(self.course.rig.measure(job), edits);
        changed?;
        Ok(measured?)
    }
}

// ---- Pointsman alone: large configs, and how soon an edit is in force ----

impl Course {
    async fn pointsman_alone(&self, round: usize, figures: &mut Figures) -> Result<(), CourseError> {
        let name = Contender::Pointsman.name();
        let one = self.one_size(Size::OneRoute).await?;
        let many = self.one_size(Size::ManyRoutes).await?;
        figures.note(round, name, "effect_one", one.effect_ms);
        figures.note(round, name, "effect_many", many.effect_ms);
        figures.note(round, name, "routes_cpu_ratio", many.edge_seconds / one.edge_seconds);
        figures.note(round, name, "control_many", many.beside_percent);
        figures.note(round, name, "p99_many_steady", many.p99_steady_ms);
        figures.note(round, name, "p99_many_edited", many.p99_edited_ms);
        figures.note(round, name, "p99_many_ratio", many.p99_edited_ms / many.p99_steady_ms);
        Ok(())
    }

    async fn one_size(&self, size: Size) -> Result<OfSize, CourseError> {
        let running = Running::start(Contender::Pointsman, size, self.rig.ports()).await?;
        for percent in [0, 10, 11, 100].map(Percent) {
            running.prepare(percent)?;
        }
        let effect_ms = self.effect_ms(&running).await?;
        let rate = Pattern::Rate(MANY_RATE);
        let steady = self.rig.measure(job(&running, rate, 64, self.span)?).await?;
        let watched = job(&running, rate, 64, self.span.max(3 * EDIT_EVERY))?;
        let until = Instant::now() + watched.warm + watched.counted;
        let edits = change(&running, [Percent(10), Percent(11)], EDIT_EVERY, until);
        let (edited, changed) = tokio::join!(self.rig.measure(watched), edits);
        changed?;
        running.stop().await?;
        let edge: f64 = of_threads(&steady, |name| name.starts_with("edge"));
        let beside: f64 = of_threads(&steady, |name| !name.starts_with("edge"));
        Ok(OfSize {
            effect_ms,
            edge_seconds: edge / count(steady.answered),
            beside_percent: 100.0 * beside / steady.seconds,
            p99_steady_ms: quantile_ms(&steady, 0.99),
            p99_edited_ms: quantile_ms(&edited?, 0.99),
        })
    }

    /// From the edit of the file to the first answer under the new weights, as a client sees it; the median of four.
    async fn effect_ms(&self, running: &Running) -> Result<f64, CourseError> {
        let mut seen = Vec::new();
        for (percent, version) in [(100, 2), (0, 1), (100, 2), (0, 1)] {
            let mut lookout = job(running, Pattern::Rate(LOOKOUT_RATE), 8, EFFECT_PATIENCE)?;
            lookout.notes_switches = true;
            let edited = async {
                sleep(WARM).await;
                let began = Instant::now();
                running.set(Percent(percent)).map(|()| began)
            };
            let (measured, began) = tokio::join!(self.rig.measure(lookout), edited);
            let began = began?;
            // Requests that were under way may still come from the old version; the last switch is the one that stays.
            let switch = measured?.switches.into_iter().rfind(|(at, to)| *at > began && *to == version);
            seen.extend(switch.map(|(at, _)| (at - began).as_secs_f64() * 1e3));
        }
        seen.sort_by(f64::total_cmp);
        Ok(seen.get(seen.len() / 2).copied().unwrap_or(f64::NAN))
    }
}

/// What one size of config came to.
struct OfSize {
    effect_ms: f64,
    /// CPU seconds of the edge's worker for a request.
    edge_seconds: f64,
    beside_percent: f64,
    p99_steady_ms: f64,
    p99_edited_ms: f64,
}

/// Changes weights back and forth until `until`.
async fn change(running: &Running, percents: [Percent; 2], every: Duration, until: Instant) -> Result<(), CourseError> {
    let mut next = Instant::now() + every;
    for percent in percents.into_iter().cycle() {
        if next >= until {
            return Ok(());
        }
        tokio::time::sleep_until(next.into()).await;
        running.set(percent)?;
        next += every;
    }
    Ok(())
}

fn job(running: &Running, pattern: Pattern, connections: usize, counted: Duration) -> Result<Job, CourseError> {
    let (to, request, pids) = (running.address, Request::plain(PATH), running.pids()?);
    Ok(Job { to, request, pattern, connections, warm: WARM, counted, pids, notes_switches: false })
}

pub(crate) fn per_second(measured: &Measured) -> f64 {
    count(measured.answered) / measured.seconds
}

pub(crate) fn quantile_ms(measured: &Measured, quantile: f64) -> f64 {
    let latency = Duration::from_nanos(measured.latency.value_at_quantile(quantile));
    if measured.latency.is_empty() { f64::NAN } else { latency.as_secs_f64() * 1e3 }
}

fn cpu_seconds(measured: &Measured) -> f64 {
    of_threads(measured, |_| true)
}

fn of_threads(measured: &Measured, chosen: impl Fn(&str) -> bool) -> f64 {
    measured.cpu.iter().filter(|(name, _)| chosen(name)).fold(0.0, |sum, (_, seconds)| sum + seconds)
}

/// A count as a number to reckon with; counts of a bench stay far below the limit.
pub(crate) fn count(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}
