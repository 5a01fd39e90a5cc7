// The plan as a track: what is done, where it stands, what is to come.

import type { Config, Route } from "./types";
import { span, weight } from "./words";

type Duration = { secs: number; nanos: number };
type Step = { weight: number; hold: Duration };
type Plan = {
  canary: string;
  strategy: { canary: Step[] } | string;
  promotion: string;
  bake: Duration;
};

type Stop = { name: string; detail: string; state: "done" | "now" | "coming" };

/** The route's plan as the running config has it; none if its weights are set by hand. */
function planOf(config: Config | null, route: Route): Plan | null {
  const running = (config?.running as { routes?: { name: string; plan?: { rollout?: Plan } }[] } | null)?.routes ?? [];
  return running.find((candidate) => candidate.name === route.name)?.plan?.rollout ?? null;
}

function seconds(duration: Duration): number {
  return duration.secs + duration.nanos / 1e9;
}

/** The stop at which the route stands; -1 where it stands at none. */
function present(route: Route, steps: number): number {
  switch (route.phase) {
    case "warming":
      return 0;
    case "shifting":
    case "paused":
      return route.step ?? -1;
    case "promoting":
      return steps + 1;
    case "baking":
      return steps + 2;
    case "steady":
      return route.canary === route.stable || route.canary === null ? steps + 3 : -1;
    default:
      return -1;
  }
}

function stopsOf(plan: Plan, route: Route): Stop[] {
  const steps = typeof plan.strategy === "string" ? [] : plan.strategy.canary;
  const at = present(route, steps.length);
  const names: [string, string][] = [
    ["Warm up", "ready, checked"],
    ...steps.map((step): [string, string] => [weight(step.weight / 10_000), `hold ${span(seconds(step.hold))}`]),
    ["100 %", plan.promotion === "manual" ? "waits for promote" : "by itself"],
    ["Bake", span(seconds(plan.bake))],
  ];
  return names.map(([name, detail], index) => ({
    name,
    detail,
    state: at < 0 ? "coming" : index < at ? "done" : index === at ? "now" : "coming",
  }));
}

export function Steps({ route, config }: { route: Route; config: Config | null }) {
  const plan = planOf(config, route);
  const back = route.phase === "rolled_back" || route.phase === "rolling_back";
  return (
    <section class="card" aria-labelledby="steps">
      <h2 id="steps">Plan</h2>
      {plan ? (
        <>
          <ol class={`track ${back ? "back" : ""}`}>
            {stopsOf(plan, route).map((stop) => (
              <li key={stop.name} class={stop.state} aria-current={stop.state === "now" ? "step" : undefined}>
                <span class="stop" aria-hidden="true">
                  {stop.state === "done" ? "✓" : ""}
                </span>
                <b>{stop.name}</b>
                <span class="quiet small">{stop.detail}</span>
                <span class="hidden">
                  {stop.state === "done" ? "done" : stop.state === "now" ? "here now" : "to come"}
                </span>
              </li>
            ))}
          </ol>
          {back && (
            <p class="small tone-bad">
              {plan.canary} was taken back; with a new revision, or after retry, the plan begins anew.
            </p>
          )}
        </>
      ) : (
        <p class="quiet">Weights are set by hand, in the config file or with “Set weights”. Nothing moves by itself but a rollback.</p>
      )}
    </section>
  );
}
