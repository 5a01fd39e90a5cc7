//! The config files that the acts write, as an operator would.

use std::net::SocketAddr;

/// Who is where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) edge: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) v1: SocketAddr,
    pub(super) v2: SocketAddr,
}

impl Places {
    /// Weights by hand: `percent` to v2.
    pub(super) fn weights(&self, revision: &str, percent: u32) -> String {
        self.file(revision, &format!("    weights: {{ v1: {}%, v2: {percent}% }}\n", 100 - percent))
    }

    /// A rollout of v2 in three short steps. Holds and soak are seconds here, so that the whole story fits into a minute;
    /// in production they are minutes.
    pub(super) fn rollout(&self, revision: &str) -> String {
        let plan = "    rollout:\n      canary: v2\n      steps: [ { weight: 5%, hold: 4s }, { weight: 25%, hold: 3s }, { weight: 50%, hold: 3s } ]\n      bake: 4s\n      step_deadline: 1m\n";
        self.file(revision, plan)
    }

    fn file(&self, revision: &str, plan: &str) -> String {
        let Self { edge, admin, v1, v2 } = self;
        format!(
            "\
# Written by `pointsman demo`, as an operator would edit it.
listeners:
  - address: {edge}
admin:
  address: {admin}
state:
  file: state.db
routes:
  - name: delivery-time
    match: {{ path_prefix: / }}
    stable: v1
    versions:
      v1: {{ endpoints: [\"{v1}\"] }}
      v2: {{ endpoints: [\"{v2}\"], revision: {revision} }}
    health_check: {{ path: /ready }}
    guard:
      promotion: {{ ratio: 1.5, difference: 1%, confidence: 99%, min_soak: 8s, max_duration: 5m }}
{plan}"
        )
    }
}
