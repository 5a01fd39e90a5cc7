// Is it worse? The difference with its interval, the odds of each test, and how far both ways have come.

import { EvidenceChart } from "./charts";
import type { History } from "./history";
import { store } from "./store";
import type { Config, Decision, Difference, Measure, Route } from "./types";
import { grouped, odds, onTrial, percent, points, question, rates, span, verdict, whose } from "./words";

/** Tests that a promotion waits for; the others are against the canary. */
const FOR = new Set(["promotion", "promotion_latency", "promotion_mirror"]);

type Margins = { tolerance: number; promotion: number };

type RunningRoute = {
  name?: string;
  guard?: {
    tolerance?: { ratio?: number; difference?: number };
    promotion?: { ratio?: number; difference?: number };
  };
};

/** How much worse than stable is let pass, as a ratio: the absolute part, or the relative one where that is more. */
export function marginsOf(config: Config | null, route: Route): Margins | null {
  const running = (config?.running as { routes?: RunningRoute[] } | null)?.routes ?? [];
  const guard = running.find((candidate) => candidate.name === route.name)?.guard;
  const stable = route.analysis.summary?.stable_error_rate ?? 0;
  const margin = (part: { ratio?: number; difference?: number } | undefined): number | null =>
    part?.difference === undefined || part.ratio === undefined
      ? null
      : Math.max(part.difference, (part.ratio - 1) * stable);
  const [tolerance, promotion] = [margin(guard?.tolerance), margin(guard?.promotion)];
  return tolerance === null || promotion === null ? null : { tolerance, promotion };
}

export function Evidence(props: { route: Route; config: Config | null; history: History; rows: Decision[] }) {
  const { route, config, history, rows } = props;
  const { analysis, stable } = route;
  const canary = onTrial(route);
  const compared = canary !== null && analysis.verdict !== "" && analysis.verdict !== "none";
  const said = compared ? verdict(route, canary) : null;
  const margins = marginsOf(config, route);
  return (
    <section class="card" aria-labelledby="evidence">
      <h2 id="evidence">Is it worse?</h2>
      {said ? (
        <p class={`lead tone-${said.tone}`}>{said.words}.</p>
      ) : (
        <p class="quiet">
          {analysis.alone
            ? `${canary ?? "The version"} is held to its absolute limit: there is nothing to compare it with.`
            : "Nothing is compared now: no canary has traffic beside stable."}
        </p>
      )}
      {compared && analysis.error_rate_difference && (
        <Interval
          difference={analysis.error_rate_difference}
          confidence={analysis.summary?.confidence ?? 0.99}
          margin={margins?.promotion ?? null}
          names={[canary, stable]}
        />
      )}
      {compared && analysis.summary && (
        <p class="small quiet">
          Compared for {span(analysis.summary.elapsed_seconds)}: {grouped(analysis.summary.canary.errors)} of{" "}
          {grouped(analysis.summary.canary.requests)} requests to {canary} failed (
          {percent(analysis.summary.canary_error_rate)}), {grouped(analysis.summary.stable.errors)} of{" "}
          {grouped(analysis.summary.stable.requests)} to {stable} ({percent(analysis.summary.stable_error_rate)}).{" "}
          {whose(store.edge)?.judged}
        </p>
      )}
      {analysis.alone && (
        <p>
          By itself {grouped(analysis.alone.tally.errors)} of {grouped(analysis.alone.tally.requests)} requests to{" "}
          {canary ?? route.canary ?? "it"} failed in {span(analysis.alone.elapsed_seconds)}; at most{" "}
          {percent(analysis.alone.limit)} may.
        </p>
      )}
      {analysis.mirror && (
        <p>
          On copied requests {analysis.mirror.version} answered {grouped(analysis.mirror.tally.disagreed)} of{" "}
          {grouped(analysis.mirror.tally.compared)} unlike {stable}.
        </p>
      )}
      <Tests tests={analysis.evidence} stable={stable} />
      <EvidenceChart history={history} rows={rows} />
    </section>
  );
}

const WIDTH = 640;
const SIDE = 24;
const AXIS = 74;

/**
 * The interval on a scale that is even near the margin and coarse far from it, so that a margin of a tenth of a point and
 * an interval of fifty points are seen in one picture.
 */
function Interval(props: {
  difference: Difference;
  confidence: number;
  margin: number | null;
  names: [string, string];
}) {
  const { difference, confidence, margin, names } = props;
  const [canary, stable] = names;
  const unit = margin && margin > 0 ? margin : 0.001;
  const far = Math.max(Math.abs(difference.low), Math.abs(difference.high), 4 * unit) * 1.15;
  const bend = (value: number) => Math.asinh(value / unit) / Math.asinh(far / unit);
  const x = (value: number) => WIDTH / 2 + bend(value) * (WIDTH / 2 - SIDE);
  const ticks = [0.001, 0.01, 0.1, 1].flatMap((size) => [-size, size]).filter((tick) => Math.abs(tick) < far);
  const apart = ticks.filter((tick) => Math.abs(x(tick) - x(0)) > 46 && Math.abs(x(tick) - x(margin ?? 0)) > 40);
  const tone = difference.low > (margin ?? 0) ? "bad" : difference.high < unit ? "good" : "move";
  const words = `${rates(canary, stable, difference)} (${percent(confidence)} sure: between ${points(difference.low)} and ${points(difference.high)} points${
    margin === null ? "" : `; up to ${points(margin)} is let pass at a promotion`
  }).`;
  return (
    <figure class="interval">
      <svg viewBox={`0 0 ${WIDTH} 112`} role="img" aria-label={words}>
        {margin !== null && (
          <rect class="beyond" x={x(margin)} y="22" width={WIDTH - SIDE - x(margin)} height={AXIS - 22} />
        )}
        <line class="axis" x1={SIDE} x2={WIDTH - SIDE} y1={AXIS} y2={AXIS} />
        <line class="zero" x1={x(0)} x2={x(0)} y1="22" y2={AXIS + 5} />
        <text class="tick" x={x(0)} y={AXIS + 20}>
          0
        </text>
        {apart.map((tick) => (
          <g key={tick}>
            <line class="axis" x1={x(tick)} x2={x(tick)} y1={AXIS} y2={AXIS + 5} />
            <text class="tick" x={x(tick)} y={AXIS + 20}>
              {points(tick)}
            </text>
          </g>
        ))}
        {margin !== null && (
          <g>
            <line class="margin" x1={x(margin)} x2={x(margin)} y1="22" y2={AXIS + 5} />
            <text class="marginname" x={x(margin) + 6} y="16">
              margin {points(margin)}
            </text>
          </g>
        )}
        <text class="side" x={SIDE} y="106">
          ← {canary} fails less
        </text>
        <text class="side end" x={WIDTH - SIDE} y="106">
          {canary} fails more (points) →
        </text>
        <g class={`tone-${tone}`}>
          <line class="whisker" x1={x(difference.low)} x2={x(difference.high)} y1="48" y2="48" />
          <line class="end" x1={x(difference.low)} x2={x(difference.low)} y1="40" y2="56" />
          <line class="end" x1={x(difference.high)} x2={x(difference.high)} y1="40" y2="56" />
          <circle class="estimate" cx={x(difference.estimate)} cy="48" r="7" />
        </g>
      </svg>
      <figcaption>{words}</figcaption>
    </figure>
  );
}

function Tests({ tests, stable }: { tests: Record<string, Measure>; stable: string }) {
  const names = Object.keys(tests);
  if (names.length === 0) return null;
  const [against, forIt] = [names.filter((name) => !FOR.has(name)), names.filter((name) => FOR.has(name))];
  return (
    <div class="tests">
      <Meters title="Against it" tone="bad" names={against} tests={tests} stable={stable} />
      <Meters title="For a promotion" tone="good" names={forIt} tests={tests} stable={stable} />
    </div>
  );
}

function Meters(props: {
  title: string;
  tone: string;
  names: string[];
  tests: Record<string, Measure>;
  stable: string;
}) {
  const { title, tone, names, tests, stable } = props;
  if (names.length === 0) return null;
  return (
    <div>
      <h3>{title}</h3>
      <ul class="meters">
        {names.map((name) => {
          const { log_e, limit } = tests[name] ?? { log_e: null, limit: 1 };
          const way = Math.min(1, Math.max(0, (log_e ?? 0) / limit));
          const asked = question(name, stable);
          const held = `${odds(log_e)}, decides at ${odds(limit)}`;
          return (
            <li key={name}>
              <span>{asked}</span>
              <span class="quiet small">{held}</span>
              <div
                class={`meter tone-${tone}`}
                role="meter"
                aria-label={`Odds that: ${asked}`}
                aria-valuemin={0}
                aria-valuemax={100}
                aria-valuenow={Math.round(100 * way)}
                aria-valuetext={held}
              >
                <div style={{ width: `${100 * way}%` }} />
              </div>
            </li>
          );
        })}
      </ul>
    </div>
  );
}
