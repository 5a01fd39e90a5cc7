// What the admin API gives; `GET /openapi.json` describes each field.

export type Percentages = { desired: number; effective: number; observed: number | null };

export type Endpoint = { address: string; state: string; in_flight: number; problem: string | null };

export type Version = {
  requests: number;
  errors: number;
  error_rate: number | null;
  requests_per_second: number;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
  revision: string | null;
  ejections: number;
  endpoints: Endpoint[];
};

export type Measure = { log_e: number | null; limit: number };

export type Tally = { requests: number; errors: number; slow: number };

export type Summary = {
  verdict?: string;
  elapsed_seconds: number;
  canary: Tally;
  stable: Tally;
  canary_error_rate: number | null;
  stable_error_rate: number | null;
  error_rate_difference: Difference | null;
  confidence: number;
  gates?: { gate: string; outcome: string; words: string; for_seconds: number }[];
  forecast: { requests: number; seconds: number } | null;
};

export type Difference = { low: number; estimate: number; high: number };

export type Alone = { tally: Tally; elapsed_seconds: number; limit: number };

export type Copies = {
  version: string;
  tally: { compared: number; disagreed: number; noise_compared: number; noise_disagreed: number };
};

export type Analysis = {
  verdict: string;
  reason: string;
  error_rate_difference: Difference | null;
  evidence: Record<string, Measure>;
  forecast: string | null;
  mirror: Copies | null;
  alone: Alone | null;
  summary: Summary | null;
};

/** What somebody else says about the canary. */
export type Gate = { gate: string; outcome: string; words: string; for_s: number; observed_s_ago: number | null };

export type DecisionLine = { id: number; at: string; decision: string; sentence: string };

export type Route = {
  name: string;
  phase: string;
  stable: string;
  canary: string | null;
  step: number | null;
  steps: number | null;
  since_s: number;
  next: string;
  why: string;
  weights: Record<string, Percentages>;
  versions: Record<string, Version>;
  analysis: Analysis;
  gates?: Gate[];
  quarantined: { version: string; revision: string | null; why: string }[];
  last_decision: DecisionLine | null;
  live_service?: {
    service: string;
    selected: string | null;
    ready: number;
    agreed: boolean;
    foreign: string | null;
    problem: string | null;
  };
  rollback_ready?: { ready: boolean; why: string; expected_ms: number | null };
  acknowledged?: { applied: number; edges: number };
};

/** All traffic to one version, or a share in parts per million to a canary. */
export type Split = { whole: string } | { canary: { stable: string; canary: string; share: number } };

export type Decision = {
  id: number;
  at: string;
  route: string;
  sentence: string;
  change: {
    decision: string;
    from: string;
    to: string;
    stable: string;
    canary: string | null;
    before: Split;
    after: Split;
    cause: unknown;
    evidence: Summary | null;
  };
  failures: { request_id: string; outcome: string; status: number | null; at_unix_ms: number }[];
};

export type Config = {
  file: string;
  hash: string;
  generation: number;
  loaded_at: string;
  reloads_ok: number;
  reloads_failed: number;
  last_error: { at: string; hash: string; problems: string[] } | null;
  running: unknown;
  needs_restart: string[];
};

export type Replica = {
  address: string;
  name: string | null;
  age_s: number | null;
  heard: boolean;
  serves: boolean;
  gone: boolean;
};

/** Who outside is told of changes. */
export type Webhook = {
  name: string;
  format: string;
  delivered: number;
  given_up: number;
  dropped: number;
  waiting: number;
  failing: boolean;
  last_failure: { at: string; event: string; problem: string } | null;
  last_delivered_at: string | null;
};

export type Edge = {
  at: string;
  version: string;
  ready: boolean;
  draining: boolean;
  state: { file: string; problem: string | null; note: string | null };
  replicas?: {
    name: string;
    role: string;
    leader: string | null;
    leader_age_s: number | null;
    replicas: Replica[];
    uncounted: number;
  };
  notifications?: Webhook[];
};

export type SecondOfVersion = {
  requests_per_second: number;
  error_rate: number;
  p50_ms: number | null;
  p99_ms: number | null;
  weight: number;
};

export type Second = {
  route: string;
  at_ms: number;
  versions: Record<string, SecondOfVersion>;
  rollback: number | null;
  promotion: number | null;
};

export type Series = {
  now_ms: number;
  spacing_s: number;
  versions: Record<
    string,
    {
      at_ms: number[];
      requests_per_second: number[];
      error_rate: number[];
      p50_ms: (number | null)[];
      p99_ms: (number | null)[];
      weight: number[];
    }
  >;
  judged: { at_ms: number[]; rollback: (number | null)[]; promotion: (number | null)[] };
};

export type EndpointTurn = {
  at: string;
  route: string;
  version: string;
  endpoint: string;
  state: string;
  why: string | null;
};

export type Problem = { status: number; code: string; detail: string };
