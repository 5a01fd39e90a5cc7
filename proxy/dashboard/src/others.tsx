// What others say of the canary: drift, numbers from Prometheus, gates outside, windows in which nothing goes forward.

import { store } from "./store";
import type { Config, Gate, Route } from "./types";
import { onTrial, outcome, span } from "./words";

type Running = {
  routes?: {
    name: string;
    guard?: { queries?: { name: string }[]; gates?: { name: string; before?: string[] }[]; drift?: unknown };
  }[];
  freeze?: { name: string; routes?: string[] }[];
};

/** Somebody who is asked: by which name, and what it is. */
type Asked = { name: string; kind: string };

/** Whom the config in force has asked about the canaries of a route, in the order in which they are told. */
function askedOf(config: Config | null, route: Route): Asked[] {
  const running = config?.running as Running | null | undefined;
  const guard = running?.routes?.find((candidate) => candidate.name === route.name)?.guard;
  const freezes = (running?.freeze ?? []).filter(({ routes }) => !routes?.length || routes.includes(route.name));
  return [
    ...(guard?.drift ? [{ name: "drift", kind: "drift of inputs and predictions" }] : []),
    ...(guard?.queries ?? []).map(({ name }) => ({ name, kind: "a number from Prometheus" })),
    ...(guard?.gates ?? []).map(({ name, before }) => ({ name, kind: `a gate before a ${(before ?? []).join(" or a ")}` })),
    ...freezes.map(({ name }) => ({ name: `freeze/${name}`, kind: "a freeze" })),
  ];
}

export function Others({ route, config }: { route: Route; config: Config | null }) {
  const asked = askedOf(config, route);
  const gates = route.gates ?? [];
  if (asked.length === 0 && gates.length === 0) return null;
  return (
    <section class="card" aria-labelledby="others">
      <h2 id="others">What others say</h2>
      {gates.length > 0 ? <Gates gates={gates} asked={asked} /> : <Unasked asked={asked} route={route} />}
    </section>
  );
}

function Gates({ gates, asked }: { gates: Gate[]; asked: Asked[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-labelledby="others">
      <table>
        <caption class="hidden">What others say about the canary</caption>
        <thead>
          <tr>
            <th scope="col">Who</th>
            <th scope="col">What follows</th>
            <th scope="col">Why</th>
            <th scope="col">For</th>
            <th scope="col">Looked at</th>
          </tr>
        </thead>
        <tbody>
          {gates.map((gate) => {
            const { tone, words } = outcome(gate.outcome);
            return (
              <tr key={gate.gate}>
                <th scope="row">
                  {gate.gate} <span class="quiet small">{asked.find(({ name }) => name === gate.gate)?.kind}</span>
                </th>
                <td class={`tone-${tone}`}>{words}</td>
                <td>{gate.words}</td>
                <td>{span(gate.for_s)}</td>
                <td>{gate.observed_s_ago === null ? "not yet" : `${span(gate.observed_s_ago)} ago`}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** Why nobody has said anything. */
function Unasked({ asked, route }: { asked: Asked[]; route: Route }) {
  const { replicas } = store.edge ?? {};
  const follows = replicas !== undefined && replicas.role !== "leader" && onTrial(route) !== null;
  return (
    <>
      <ul class="plain">
        {asked.map(({ name, kind }) => (
          <li key={name}>
            <b>{name}</b> <span class="quiet">{kind}</span>
          </li>
        ))}
      </ul>
      <p class="quiet small">
        {follows
          ? `Asked by the edge that leads (${replicas.leader ?? "none that is known of"}); its page shows what they say.`
          : "Asked as long as a canary is tried."}
      </p>
    </>
  );
}
