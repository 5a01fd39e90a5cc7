//! What the live view shows: whether the edge answers, every route on a line, and one of them in full. Every colour stands
//! beside a word that says the same; `NO_COLOR` takes the colours away. All of it is made of lines that keep to the width
//! there is, down to a few dozen columns; what does not fit below is scrolled.

use pointsman_config::VersionId;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use time::OffsetDateTime;

use super::super::route;
use super::super::table::stable_first;
use super::super::{Seen, Silence, problems, role};
use crate::cli::words::{ago, clock, moment, odds, percent, percent_in_text, question, span, weight, wrapped_to};
use crate::view::{RouteView, VersionView};

/// Below this many columns labels stand above what they label.
const NARROW: usize = 60;
/// Columns of a phase, and of a space behind it.
const PHASE: usize = 13;
/// Columns of a name in a list, however little room there is.
const SHORTEST_NAME: usize = 4;
/// A picture that is older than so many seconds is not called live: the edge is asked every second.
const FRESH_S: f64 = 3.0;
/// Columns of labels.
const LABELS: usize = 11;
/// Columns of a bar at most.
const WIDEST_BAR: usize = 60;
/// Keys, for the last line.
const KEYS: &str = "q quit   up/down route   space/b scroll";

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Screen {
    url: String,
    seen: Seen,
    answered_at: OffsetDateTime,
    /// Why there is nothing new.
    silence: Option<Silence>,
    selected: usize,
    scrolled: u16,
    palette: Palette,
}

/// Styles by meaning.
#[derive(Debug, Clone, Copy)]
struct Palette {
    has_colours: bool,
}

impl Palette {
    fn of_environment() -> Self {
        Self { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    fn careful(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Of the words that `status` prints in this style.
    fn of(self, style: anstyle::Style) -> Style {
        use crate::cli::words::{BAD, BOLD, CAREFUL, GOOD};
        match style {
            style if style == BAD => self.bad(),
            style if style == CAREFUL => self.careful(),
            style if style == GOOD => self.good(),
            style if style == BOLD => bold(),
            _ => Style::new(),
        }
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

impl Screen {
    /// Of an edge that answered at `now`.
    pub(super) fn new(url: String, seen: Seen, now: OffsetDateTime) -> Self {
        let palette = Palette::of_environment();
        Self { url, seen, answered_at: now, silence: None, selected: 0, scrolled: 0, palette }
    }

    /// The edge answered at `now`, or did not.
    pub(super) fn note(&mut self, looked: Result<Seen, Silence>, now: OffsetDateTime) {
        match looked {
            Ok(seen) => {
                self.seen = seen;
                self.answered_at = now;
                self.silence = None;
            }
            Err(silence) => self.silence = Some(silence),
        }
    }

    /// Shows the route below.
    pub(super) fn next_route(&mut self) {
        self.select(self.selected + 1);
    }

    /// Shows the route above.
    pub(super) fn previous_route(&mut self) {
        self.select(self.selected.saturating_sub(1));
    }

    fn select(&mut self, place: usize) {
        self.selected = place.min(self.seen.routes.len().saturating_sub(1));
        self.scrolled = 0;
    }

    /// Shows what is below.
    pub(super) fn scroll_down(&mut self) {
        self.scrolled = self.scrolled.saturating_add(5);
    }

    /// Shows what is above.
    pub(super) fn scroll_up(&mut self) {
        self.scrolled = self.scrolled.saturating_sub(5);
    }

    /// Draws all of it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, now: OffsetDateTime) {
        self.selected = self.selected.min(self.seen.routes.len().saturating_sub(1));
        let area = frame.area();
        let width = usize::from(area.width);
        let head = self.head(width, now);
        let rows = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let [top, middle, bottom] =
            Layout::vertical([Constraint::Length(rows), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
        let body = self.body(width, now);
        let most = u16::try_from(body.len()).unwrap_or(u16::MAX).saturating_sub(middle.height);
        self.scrolled = self.scrolled.min(most);
        let below = most - self.scrolled;
        frame.render_widget(Paragraph::new(head), top);
        frame.render_widget(Paragraph::new(body).scroll((self.scrolled, 0)), middle);
        // First what is not seen: a narrow terminal cuts off the rest.
        let more = if below > 0 { format!("{below} more lines below   ") } else { String::new() };
        frame.render_widget(Paragraph::new(Line::styled(format!("{more}{KEYS}"), dim())), bottom);
    }

    /// Who is shown, and whether it answers.
    fn head(&self, width: usize, now: OffsetDateTime) -> Vec<Line<'static>> {
        let old_s = (now - self.answered_at).as_seconds_f64();
        let is_live = self.silence.is_none() && old_s <= FRESH_S;
        let mut lines = spread(
            width,
            vec![
                Span::styled("pointsman ", bold()),
                Span::raw(format!("{}  ", self.url)),
                Span::raw(clock(now)),
                Span::styled(if is_live { "  live" } else { "" }, self.palette.good()),
            ],
        );
        let since = format!("since {} ({} ago)", clock(self.answered_at), span(old_s));
        let old = "what is below is old; asking again every second";
        match &self.silence {
            None if is_live => {}
            None => {
                let asked = format!("no answer for {}; what is below is that old", span(old_s));
                lines.extend(styled(&asked, width, self.palette.careful()));
            }
            Some(Silence::Lost(why)) => {
                lines.extend(styled(&format!("LOST {since}; {old}"), width, self.palette.bad()));
                lines.extend(styled(why, width, dim()));
            }
            Some(Silence::Refused(why)) => {
                let refused = format!("REFUSED {since}: the edge answers, and not with this; {old}");
                lines.extend(styled(&refused, width, self.palette.bad()));
                lines.extend(styled(why, width, dim()));
            }
        }
        lines.push(Line::raw(""));
        lines
    }

    fn body(&self, width: usize, now: OffsetDateTime) -> Vec<Line<'static>> {
        let mut lines: Vec<Line<'static>> =
            problems(&self.seen).iter().flat_map(|problem| styled(problem, width, self.palette.bad())).collect();
        lines.extend(role(&self.seen).iter().flat_map(|role| styled(role, width, dim())));
        if !lines.is_empty() {
            lines.push(Line::raw(""));
        }
        if self.seen.routes.len() > 1 {
            lines.extend(self.seen.routes.iter().enumerate().map(|(place, route)| self.listed(place, route, width)));
            lines.push(Line::raw(""));
        }
        match self.seen.routes.get(self.selected) {
            Some(route) => lines.extend(Detail { route, width, palette: self.palette }.lines(now)),
            None => lines.push(Line::raw("No route is in force yet.")),
        }
        lines
    }

    /// A route on a line. Where there is little room, its name gives way to its phase.
    fn listed(&self, place: usize, route: &RouteView, width: usize) -> Line<'static> {
        let names = self.seen.routes.iter().map(|route| route.name.as_str().chars().count()).max().unwrap_or_default();
        let names = names.min(width.saturating_sub(PHASE + 4)).max(SHORTEST_NAME);
        let mark = if place == self.selected { "> " } else { "  " };
        let shown: String = route.name.as_str().chars().take(names).collect();
        let name = format!("{mark}{shown:<names$}  ");
        let phase = format!("{:<PHASE$}", route.phase.replace('_', " "));
        let rest = width.saturating_sub(name.chars().count() + phase.chars().count());
        let shares: String = traffic(route).chars().take(rest).collect();
        let style = if place == self.selected { bold() } else { Style::new() };
        Line::from(vec![
            Span::styled(name, style),
            Span::styled(phase, self.palette.of(super::super::table::phase_style(&route.phase))),
            Span::raw(shares),
        ])
    }
}

fn traffic(route: &RouteView) -> String {
    let told = |version: &VersionId| {
        let share = route.weights.get(version)?.effective;
        let errors = route
            .versions
            .get(version)?
            .error_rate
            .map_or(String::new(), |rate| format!(" ({} errors)", percent(rate)));
        (share > 0.0).then(|| format!("{version} {}{errors}", weight(share)))
    };
    stable_first(route).into_iter().filter_map(told).collect::<Vec<_>>().join("  ")
}

/// `text` over as many lines as it takes.
fn styled(text: &str, width: usize, style: Style) -> Vec<Line<'static>> {
    wrapped_to(text, width).into_iter().map(|line| Line::styled(line, style)).collect()
}

/// `parts` side by side, and on the next line what does not fit beside the others.
fn spread(width: usize, parts: Vec<Span<'static>>) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    for part in parts {
        let is_full = lines.last().is_some_and(|line| line.width() > 0 && line.width() + part.width() > width);
        if is_full {
            lines.push(Line::default());
        }
        if let Some(line) = lines.last_mut() {
            line.push_span(part);
        }
    }
    lines
}

/// One route in full.
struct Detail<'a> {
    route: &'a RouteView,
    width: usize,
    palette: Palette,
}

impl Detail<'_> {
    fn lines(&self, now: OffsetDateTime) -> Vec<Line<'static>> {
        let route = self.route;
        let mut lines = spread(self.width, self.headline());
        lines.extend(self.labelled("why", &route.why, Style::new()));
        lines.push(Line::raw(""));
        lines.extend(self.bars());
        lines.push(Line::raw(""));
        lines.extend(self.versions());
        lines.extend(self.comparison());
        for (style, text) in route::gates_in_words(route) {
            lines.extend(self.labelled("gate", &text, self.palette.of(style)));
        }
        for held in &route.quarantined {
            lines.extend(self.labelled("held at 0%", &format!("{}: {}", held.version, held.why), self.palette.bad()));
        }
        lines.push(Line::raw(""));
        lines.extend(self.labelled("next", &route.next, bold()));
        for (command, effect) in route::commands(route) {
            lines.extend(self.labelled("you can", &format!("{command}  {effect}"), Style::new()));
        }
        if let Some(last) = &route.last_decision {
            let told = format!("decision {}, {}{}: {}", last.id, moment(&last.at), ago(&last.at, now), last.sentence);
            lines.extend(self.labelled("last", &told, Style::new()));
        }
        lines
    }

    fn headline(&self) -> Vec<Span<'static>> {
        let route = self.route;
        let step = match (route.step, route.steps) {
            (Some(step), Some(steps)) => format!(", step {step} of {steps}"),
            (Some(step), None) => format!(", step {step}"),
            (None, _) => String::new(),
        };
        let phase = self.palette.of(super::super::table::phase_style(&route.phase));
        vec![
            Span::styled(format!("{}: ", route.name), bold()),
            Span::styled(format!("{}{step}, ", route.phase.replace('_', " ")), phase),
            Span::raw(format!("for {}", span(route.since_s))),
        ]
    }

    /// A label, and its text beside it or below it; nothing for an empty text.
    fn labelled(&self, label: &str, text: &str, style: Style) -> Vec<Line<'static>> {
        if text.is_empty() {
            return Vec::new();
        }
        if self.width < NARROW {
            let mut lines = vec![Line::styled(label.to_owned(), dim())];
            lines.extend(styled(text, self.width, style));
            return lines;
        }
        let beside = wrapped_to(text, self.width.saturating_sub(LABELS)).into_iter().enumerate();
        beside
            .map(|(place, line)| {
                let label = format!("{:<LABELS$}", if place == 0 { label } else { "" });
                Line::from(vec![Span::styled(label, dim()), Span::styled(line, style)])
            })
            .collect()
    }

    /// Desired, effective and observed split, stable in full and the canary in light cells.
    fn bars(&self) -> Vec<Line<'static>> {
        let route = self.route;
        let kinds: [(&str, route::Weigh); 3] = [
            ("desired", |seen| Some(seen.desired)),
            ("effective", |seen| Some(seen.effective)),
            ("observed", |seen| seen.observed),
        ];
        let mut lines = Vec::new();
        for (label, kind) in kinds {
            let share = |version: &VersionId| route.weights.get(version).and_then(kind);
            let Some(stable) = share(&route.stable) else {
                lines.extend(self.labelled(label, "no traffic in the last 10 s", dim()));
                continue;
            };
            let told: Vec<String> = stable_first(route)
                .into_iter()
                .filter_map(|version| Some((version, share(version)?)))
                .filter(|(version, share)| *share > 0.0 || **version == route.stable)
                .map(|(version, share)| format!("{version} {}", percent_in_text(share / 100.0)))
                .collect();
            lines.extend(self.bar(label, stable, &told.join("  ")));
        }
        lines
    }

    /// A bar with its figures; the figures alone where there is no room for both.
    fn bar(&self, label: &str, stable: f64, told: &str) -> Vec<Line<'static>> {
        let Some(room) = self.width.checked_sub(LABELS + told.chars().count() + 2) else {
            return self.labelled(label, told, Style::new());
        };
        let room = room.min(WIDEST_BAR);
        let full = route::cells(stable, room);
        vec![Line::from(vec![
            Span::styled(format!("{label:<LABELS$}"), dim()),
            Span::styled("█".repeat(full), self.palette.good()),
            Span::styled("░".repeat(room - full), self.palette.careful()),
            Span::raw(format!("  {told}")),
        ])]
    }

    fn versions(&self) -> Vec<Line<'static>> {
        let route = self.route;
        let mut lines = Vec::new();
        for version in stable_first(route) {
            let Some(seen) = route.versions.get(version) else { continue };
            let role = if *version == route.stable { " (stable)" } else { "" };
            lines.extend(self.labelled(version.as_str(), &format!("{}{role}", told(seen)), Style::new()));
            let not_up = seen.endpoints.iter().filter(|endpoint| endpoint.state != "up");
            for endpoint in not_up {
                let problem = endpoint.problem.as_deref().unwrap_or_default();
                let text = format!("{} is {} {problem}", endpoint.address, endpoint.state);
                lines.extend(self.labelled("", &text, self.palette.bad()));
            }
        }
        lines
    }

    /// Is the canary worse, and how far is each test from deciding.
    fn comparison(&self) -> Vec<Line<'static>> {
        let analysis = &self.route.analysis;
        let Some(canary) = route::on_trial(self.route).filter(|_| !matches!(analysis.verdict.as_str(), "" | "none"))
        else {
            return Vec::new();
        };
        let mut lines = vec![Line::raw("")];
        let verdict = route::verdict(analysis, canary, &self.route.stable);
        lines.extend(self.labelled("worse?", &verdict, self.palette.of(route::verdict_style(analysis))));
        lines.extend(self.labelled("", &route::difference(analysis, canary, &self.route.stable), Style::new()));
        for (test, seen) in &analysis.evidence {
            let question = question(test, self.route.stable.as_str());
            let held = seen.log_e.map_or_else(|| "none".to_owned(), odds);
            let text = format!("{question}: {held}, decides at {}", odds(seen.limit));
            let reached = seen.log_e.is_some_and(|log_e| log_e >= seen.limit);
            let style = if reached { self.palette.careful() } else { Style::new() };
            lines.extend(self.labelled("odds", &text, style));
        }
        lines.extend(self.labelled("forecast", analysis.forecast.as_deref().unwrap_or_default(), Style::new()));
        lines
    }
}

/// Rates and latencies of a version.
fn told(seen: &VersionView) -> String {
    let up = seen.endpoints.iter().filter(|endpoint| endpoint.state == "up").count();
    let all = seen.endpoints.iter().filter(|endpoint| endpoint.state != "draining").count();
    let errors = seen.error_rate.map_or("no traffic".to_owned(), |rate| format!("{} errors", percent(rate)));
    let p99 = seen.p99_ms.map_or(String::new(), |p99| format!(", p99 {}", crate::cli::words::latency(p99)));
    format!("{:.1} requests/s, {errors}{p99}, {up} of {all} up", seen.requests_per_second)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    /// An edge without routes; `more` is laid over what it says of itself.
    fn seen(more: &serde_json::Value) -> Seen {
        let mut config = json!({
            "file": "pointsman.yaml", "hash": "0", "generation": 1, "loaded_at": "2026-01-31T03:00:00Z", "reloads_ok": 0,
            "reloads_failed": 0, "last_error": null, "needs_restart": [], "running": {}, "notifications": [],
            "state": {"file": "state.db", "problem": null, "note": null}
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Seen { routes: Vec::new(), config: serde_json::from_value(config).unwrap() }
    }

    fn drawn(screen: &mut Screen, now: OffsetDateTime) -> String {
        let mut terminal = Terminal::new(TestBackend::new(160, 20)).unwrap();
        terminal.draw(|frame| screen.draw(frame, now)).unwrap();
        terminal.backend().to_string()
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_769_828_682 + seconds).unwrap()
    }

    #[test]
    fn a_picture_is_called_live_while_it_is_and_what_it_is_else() {
        let mut screen = Screen::new("http://edge".to_owned(), seen(&json!({})), at(0));
        let live = |text: &str| text.contains("  live");
        assert!(live(&drawn(&mut screen, at(3))), "asked every second");
        let late = drawn(&mut screen, at(5));
        assert!(!live(&late) && late.contains("no answer for 5 s"), "{late}");
        screen.note(Err(Silence::Refused("a token is needed".to_owned())), at(6));
        let refused = drawn(&mut screen, at(6));
        assert!(refused.contains("REFUSED since") && refused.contains("a token is needed"), "{refused}");
        assert!(!refused.contains("LOST") && !live(&refused), "{refused}");
        screen.note(Err(Silence::Lost("nobody there".to_owned())), at(7));
        let lost = drawn(&mut screen, at(7));
        assert!(lost.contains("LOST since") && !live(&lost), "{lost}");
        screen.note(Ok(seen(&json!({}))), at(8));
        assert!(live(&drawn(&mut screen, at(8))));
    }

    #[test]
    fn trouble_of_the_edge_and_of_those_around_it_is_told_beside_the_routes() {
        let replicas = |role: &str, age_s: f64, others: serde_json::Value| json!({"replicas": {"name": "edge-b", "role": role, "leader": "edge-a", "leader_age_s": age_s, "replicas": others, "uncounted": 0}});
        let other = json!([{"address": "10.0.0.8:9901", "name": null, "age_s": 9.5, "heard": false, "serves": true, "gone": false}]);
        let hook = json!([{
            "name": "on-call", "format": "slack", "delivered": 0, "given_up": 0, "dropped": 0, "retries": 0, "waiting": 1,
            "failing": true, "last_failure": {"at": "x", "event": "rollback", "problem": "it answered 503"},
            "last_delivered_at": null
        }]);
        for (more, words) in [
            (replicas("follower", 0.2, json!([])), "This edge, edge-b, follows edge-a. Counts and errors here are"),
            (replicas("follower", 9.5, json!([])), "The leader, edge-a, has not asked this edge for 9.5 s."),
            (
                replicas("leader", 0.0, other),
                "The edge 10.0.0.8:9901 was heard 9.5 s ago; nothing is promoted without it.",
            ),
            (json!({"notifications": hook}), "Webhook on-call does not take its notifications: it answered 503"),
            (json!({"state": {"file": "state.db", "problem": null, "note": "set aside"}}), "state.db: set aside"),
        ] {
            let mut screen = Screen::new("http://edge".to_owned(), seen(&more), at(0));
            let text = drawn(&mut screen, at(0));
            assert!(text.contains(words), "`{words}` is missing: {text}");
        }
    }
}
