//! An edit of the config file comes into force: routes begin, change and go; the rest waits for a restart.
//!
//! Line: config ► **reload** ► phase ► publisher.

use std::sync::Arc;

use pointsman_config::{Config, Route};
use pointsman_rollout::Change;
use tracing::{error, info, warn};

use super::config_watch::{Edit, Refusal, Reload};
use super::controlled::ControlledRoute;
use super::events::now_in_words;
use super::{Control, Decided, endpoints};
use crate::notify::News;
use crate::view::{ConfigErrorView, Event};

impl Control {
    /// The file changed.
    pub(super) async fn reload(&mut self, reload: Reload) {
        self.leave_a_lead_that_ended();
        match reload {
            Reload::Accepted(edit) => self.accept(*edit).await,
            Reload::Refused(refusal) => self.refuse(refusal),
            Reload::Restored => {
                self.config_view.last_error = None;
                info!(file = self.config_view.file, "config file is again what is in force");
            }
        }
        self.look_at_all();
        if self.events.has_listeners() {
            self.events.send(Event::Config(self.config_view.clone()));
        }
    }

    async fn accept(&mut self, edit: Edit) {
        let Edit { config, warnings, hash, secrets } = edit;
        self.publisher.sign_with_files(secrets);
        for warning in &warnings {
            warn!("{warning}");
        }
        let (config, needs_restart) = without_what_needs_a_restart(config, &self.config);
        for change in &needs_restart {
            warn!(change, "a change of the config file needs a restart; the rest of it is in force");
        }
        self.config_view.hash = hash;
        self.config_view.generation += 1;
        self.config_view.loaded_at = now_in_words();
        self.config_view.reloads_ok += 1;
        self.config_view.last_error = None;
        self.config_view.needs_restart = needs_restart;
        info!(generation = self.config_view.generation, routes = config.routes.len(), "config reloaded");
        let decided = self.take_up(config);
        self.settle(decided).await;
        // For people, and as dear as all the rest with a thousand routes: after the edit is in force.
        self.config_view.running = running(&self.config);
        self.tell_news(News::of_config(&self.config_view, self.config.routes.len()));
    }

    fn refuse(&mut self, refusal: Refusal) {
        let Refusal { hash, problems } = refusal;
        error!(
            file = self.config_view.file,
            problems = problems.join("\n"),
            "config file refused; the last good one stays in force"
        );
        self.config_view.reloads_failed += 1;
        self.tell_news(News::of_refused_config(&self.config_view, &problems));
        self.config_view.last_error = Some(ConfigErrorView { at: now_in_words(), hash, problems });
    }

    /// Begins, edits and drops routes so that they are those of `config`; nothing is in force yet.
    pub(super) fn take_up(&mut self, config: Config) -> Vec<Decided> {
        self.publisher.set_fast_lane(config.fast_lane);
        let before = std::mem::take(&mut self.routes);
        let mut before: std::collections::BTreeMap<_, _> =
            before.into_iter().map(|route| (route.route().name.clone(), route)).collect();
        let mut decided = Vec::new();
        let mut moved = false;
        for route in &config.routes {
            let known = before.remove(&route.name);
            moved |= known.as_ref().is_none_or(|known| !differs_in_plan_only(known.route(), route));
            let (route, changes) = self.take_up_one(route, known);
            decided.extend(changes.map(|changes| Decided { position: self.routes.len(), changes }));
            self.routes.push(route);
        }
        moved |= !before.is_empty();
        for (_, route) in before {
            self.park(route);
        }
        self.resolver.set(endpoints::names(&config.routes));
        self.discoveries.set(endpoints::services(&config.routes));
        self.observers = self.observers.adjusted(&config);
        self.publisher.observe_with(self.observers.clone());
        self.newsroom.notifier.adjust(&config.notifications);
        self.asking.set(&config.routes, &config.freeze);
        self.state.hold(&config.routes);
        self.config = config;
        // An edit of weights alone moves no endpoint, and placing ten thousand of them would delay it.
        if moved {
            self.place_all();
        }
        self.republish = true;
        decided
    }

    /// The route as it now is, and what that changed; nothing at all if its part of the file is what it was.
    fn take_up_one(&mut self, route: &Route, known: Option<ControlledRoute>) -> (ControlledRoute, Option<Vec<Change>>) {
        let now = self.now();
        let name = route.name.clone();
        let (controlled, changes) = match known {
            Some(known) if **known.route() == *route => return (known, None),
            Some(mut known) => {
                let changes = known.edit(Arc::new(route.clone()), now);
                (known, changes)
            }
            None if self.replication.as_ref().is_some_and(|replication| !replication.leads()) => {
                let saved = self.parked.remove(&name);
                (ControlledRoute::begin_following(Arc::new(route.clone()), saved, now), Vec::new())
            }
            None => ControlledRoute::begin(Arc::new(route.clone()), self.parked.remove(&name), now),
        };
        for version in controlled.held_back(now) {
            warn!(route = %name, %version, "the file names a version that was taken back; it stays at 0 until its revision changes or `pointsman retry`");
        }
        (controlled, Some(changes))
    }

    /// A route left the file; what is known of it is kept for its return.
    fn park(&mut self, mut route: ControlledRoute) {
        let (name, saved) = (route.route().name.clone(), route.save(self.now()));
        info!(route = %name, "route removed");
        self.state.put([(name.clone(), saved.clone())], []);
        self.endpoints.remove(&name);
        self.looks.remove(&name);
        self.counts.remove(&name);
        self.events.forget(&name);
        self.series.forget(&name);
        self.forget_news_of(&name);
        self.parked.insert(name, saved);
    }
}

/// Whether all that a route's endpoints depend on is what it was.
fn differs_in_plan_only(before: &Route, after: &Route) -> bool {
    before == after || Route { plan: after.plan.clone(), ..before.clone() } == *after
}

/// `config` with what is running where a change needs a restart, and what that holds back.
fn without_what_needs_a_restart(config: Config, running: &Config) -> (Config, Vec<String>) {
    let mut held_back = Vec::new();
    if config.listeners != running.listeners {
        held_back.push("`listeners` changed; restart the edge to listen on other addresses".to_owned());
    }
    if config.admin != running.admin {
        held_back.push("`admin` changed; restart the edge to move the admin API or its token file".to_owned());
    }
    if config.state != running.state {
        held_back.push("`state` changed; restart the edge to keep state in another place".to_owned());
    }
    if config.replicas != running.replicas {
        held_back.push(
            "`replicas` changed; restart the edge to listen for others elsewhere, or to look for others".to_owned(),
        );
    }
    let kept = Config {
        replicas: running.replicas.clone(),
        listeners: running.listeners.clone(),
        admin: running.admin.clone(),
        state: running.state.clone(),
        ..config
    };
    (kept, held_back)
}

/// The config in force, for people.
pub(crate) fn running(config: &Config) -> Arc<serde_json::Value> {
    // Every part of a config has a JSON form.
    Arc::new(serde_json::to_value(config).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "pointsman.yaml").unwrap().config
    }

    const RUNNING: &str = "listeners: [{ address: 127.0.0.1:1 }]\nroutes: [{ name: r, stable: v1, versions: { v1: { endpoints: [127.0.0.1:9001] } } }]\n";

    #[test]
    fn what_needs_a_restart_is_held_back_and_named_and_the_rest_is_taken() {
        let running = config(RUNNING);
        let edited = config(&format!(
            "{}state: {{ file: other.db }}\n",
            RUNNING.replace(":1 }", ":2 }").replace("name: r", "name: s")
        ));
        let (kept, held_back) = without_what_needs_a_restart(edited, &running);
        assert_eq!((&kept.listeners, &kept.state), (&running.listeners, &running.state));
        assert_eq!(kept.routes[0].name.as_str(), "s");
        assert_eq!(held_back.len(), 2);
        assert!(held_back[0].contains("listeners") && held_back[1].contains("state"));
    }

    #[test]
    fn an_edit_of_weights_moves_no_endpoint_and_every_other_edit_may() {
        let text = RUNNING.replace(
            "v1: { endpoints: [127.0.0.1:9001] }",
            "v1: { endpoints: [127.0.0.1:9001] }, v2: { endpoints: [127.0.0.1:9002] }",
        );
        let with = |more: &str| config(&text.replace("stable: v1", &format!("stable: v1, {more}"))).routes.remove(0);
        let before = with("weights: { v1: 90%, v2: 10% }");
        assert!(differs_in_plan_only(&before, &before));
        assert!(differs_in_plan_only(&before, &with("weights: { v1: 80%, v2: 20% }")));
        assert!(!differs_in_plan_only(&before, &with("weights: { v1: 90%, v2: 10% }, health_check: { interval: 7s }")));
        let mut elsewhere = before.clone();
        elsewhere.versions.retain(|version, _| *version == before.stable);
        assert!(!differs_in_plan_only(&before, &elsewhere));
    }

    #[test]
    fn an_edit_of_routes_needs_no_restart() {
        let running = config(RUNNING);
        let (_, held_back) = without_what_needs_a_restart(config(&RUNNING.replace("name: r", "name: s")), &running);
        assert!(held_back.is_empty());
    }
}
