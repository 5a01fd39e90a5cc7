// One route: what serves, what is tried, is it worse, since when, what happens next, and what can be pressed.

import { useState } from "preact/hooks";
import { Charts } from "./charts";
import { Evidence } from "./evidence";
import { Log } from "./log";
import { Others } from "./others";
import { type Choice, OrderDialog, choicesOf } from "./orders";
import { SplitBar } from "./split";
import { Steps } from "./steps";
import { store } from "./store";
import type { Endpoint, Percentages, Route } from "./types";
import { clock, forecast, grouped, latency, onTrial, percent, phase, rate, role, span, verdict, versionsOf, weight, whose } from "./words";

export function PhaseChip({ name }: { name: string }) {
  const { tone, words, icon } = phase(name);
  return (
    <span class={`chip tone-${tone}`}>
      <span class="chipicon" aria-hidden="true">
        {icon}
      </span>
      {words}
    </span>
  );
}

export function RoutePage({ route }: { route: Route }) {
  const [open, setOpen] = useState<Choice | null>(null);
  const { config, history, log } = store;
  return (
    <>
      <Hero route={route} press={setOpen} />
      <div class="columns">
        <Weights route={route} />
        <Steps route={route} config={config} />
      </div>
      <Charts route={route} history={history} rows={log.rows} />
      <Evidence route={route} config={config} history={history} rows={log.rows} />
      <Others route={route} config={config} />
      <Versions route={route} />
      <WayBack route={route} />
      <Log log={log} route={route} />
      {open && <OrderDialog route={route} choice={open} close={() => setOpen(null)} />}
    </>
  );
}

function Hero({ route, press }: { route: Route; press: (choice: Choice) => void }) {
  const canary = onTrial(route);
  const { analysis, stable } = route;
  const compared = canary !== null && analysis.verdict !== "" && analysis.verdict !== "none";
  const said = compared ? verdict(route, canary) : null;
  const back = route.phase === "rolled_back" || route.phase === "rolling_back";
  const isCut = canary !== null && !back && route.weights[canary]?.desired !== route.weights[canary]?.effective;
  const since = store.since(route);
  const step = route.step === null ? "" : `, step ${route.step}${route.steps === null ? "" : ` of ${route.steps}`}`;
  const offline = store.link.state === "lost" || store.link.state === "connecting";
  const choices = choicesOf(route);
  const foretold = forecast(route);
  return (
    <section class={`card hero tone-${phase(route.phase).tone}`} aria-labelledby="route">
      <div class="herohead">
        <h1 id="route" tabIndex={-1}>
          {route.name}
        </h1>
        <PhaseChip name={route.phase} />
        <span class="quiet">
          for {span(route.since_s)}
          {step}
        </span>
      </div>
      <dl class="answers">
        <div>
          <dt>What serves</dt>
          <dd>
            <VersionName route={route} name={stable} /> <b>{weight(route.weights[stable]?.effective)}</b>
          </dd>
        </div>
        <div>
          <dt>{back ? "What was taken back" : "What is tried"}</dt>
          <dd>
            {canary ? (
              <>
                <VersionName route={route} name={canary} /> <b>{weight(route.weights[canary]?.effective)}</b>
              </>
            ) : (
              "nothing"
            )}
          </dd>
        </div>
        <div>
          <dt>Is it worse?</dt>
          <dd class={said ? `tone-${said.tone}` : back ? "tone-bad" : ""}>
            {said ? said.words : back ? <Words text={route.why || "it was taken back"} route={route} /> : "Nothing is compared"}
          </dd>
        </div>
        <div>
          <dt>Since when</dt>
          <dd>
            {phase(route.phase).words} since <time dateTime={since.toISOString()}>{clock(since)}</time>
          </dd>
        </div>
        <div class="wide">
          <dt>What happens next</dt>
          <dd>
            <Words text={route.next} route={route} />
            {foretold && <span class="forecast">Proven good enough for a promotion, as it looks now, after {foretold}.</span>}
          </dd>
        </div>
        {route.why && !back && (
          <div class="wide">
            <dt>Why</dt>
            <dd class={isCut || route.phase === "paused" ? "tone-careful" : ""}>
              <Words text={route.why} route={route} />
            </dd>
          </div>
        )}
      </dl>
      {choices.length > 0 && (
        <div class="actions" role="group" aria-label={`What you can press on ${route.name}`}>
          {choices.map((choice) => (
            <button
              type="button"
              key={choice.label}
              class={choice.tone}
              disabled={offline}
              title={choice.effect}
              aria-label={`${choice.label}: ${choice.effect}`}
              onClick={() => press(choice)}
            >
              {choice.label}
            </button>
          ))}
        </div>
      )}
    </section>
  );
}

/** With a large letter at its beginning, unless that is the name of a version. */
function sentence(words: string, route: Route): string {
  const [first = ""] = words.split(/[^\w.-]/, 1);
  if (first === "" || first in route.versions || /\d/.test(first)) return words;
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}`;
}

/** A sentence in which commands stand between backticks. */
export function Words({ text, route }: { text: string; route: Route }) {
  const parts = sentence(text, route).split("`");
  return <>{parts.map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part))}</>;
}

function VersionName({ route, name }: { route: Route; name: string }) {
  const revision = route.versions[name]?.revision;
  return (
    <span class="version">
      <i class={`dot ${role(route, name) || "other"}`} aria-hidden="true" />
      {name}
      {revision && <span class="quiet"> {revision}</span>}
    </span>
  );
}

function Weights({ route }: { route: Route }) {
  const kind = (pick: (seen: Percentages) => number | null): Record<string, number> | null => {
    const shares = Object.entries(route.weights).map(([name, seen]) => [name, pick(seen)] as const);
    return shares.every(([, share]) => share === null)
      ? null
      : Object.fromEntries(shares.map(([name, share]) => [name, share ?? 0]));
  };
  return (
    <section class="card" aria-labelledby="weights">
      <h2 id="weights">Who gets how much</h2>
      <SplitBar route={route} label="desired" hint="What the file, the plan or an operator asks" shares={kind((seen) => seen.desired)} />
      <SplitBar route={route} label="effective" hint="What the edge applies" shares={kind((seen) => seen.effective)} />
      <SplitBar route={route} label="observed" hint="What requests of the last 10 s got" shares={kind((seen) => seen.observed)} measured />
      {route.quarantined.map((held) => (
        <p class="notice tone-bad" key={held.version}>
          <b>
            {held.version}
            {held.revision ? ` (${held.revision})` : ""} is held at 0 %
          </b>{" "}
          until its revision changes or somebody says retry. {sentence(held.why, route)}.
        </p>
      ))}
    </section>
  );
}

function Versions({ route }: { route: Route }) {
  const names = versionsOf(route);
  const elsewhere = whose(store.edge);
  return (
    <section class="card" aria-labelledby="versions">
      <h2 id="versions">Versions and endpoints</h2>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby="versions">
        <table>
          <caption class="hidden">Traffic of each version over the last minute</caption>
          <thead>
            <tr>
              <th scope="col">Version</th>
              <th scope="col" class="number">Requests/s</th>
              <th scope="col" class="number">Errors</th>
              <th scope="col" class="number">p50</th>
              <th scope="col" class="number">p95</th>
              <th scope="col" class="number">p99</th>
              <th scope="col" class="number">Since start</th>
            </tr>
          </thead>
          <tbody>
            {names.map((name) => {
              const seen = route.versions[name];
              if (!seen) return null;
              return (
                <tr key={name}>
                  <th scope="row">
                    <VersionName route={route} name={name} /> <span class="quiet">{role(route, name)}</span>
                  </th>
                  <td class="number">{rate(seen.requests_per_second)}</td>
                  <td class="number">{percent(seen.error_rate)}</td>
                  <td class="number">{latency(seen.p50_ms)}</td>
                  <td class="number">{latency(seen.p95_ms)}</td>
                  <td class="number">{latency(seen.p99_ms)}</td>
                  <td class="number">
                    {grouped(seen.requests)}, {grouped(seen.errors)} failed
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      {elsewhere && <p class="quiet small">{elsewhere.counted}</p>}
      <ul class="endpoints">
        {names.flatMap((name) =>
          (route.versions[name]?.endpoints ?? []).map((endpoint) => (
            <EndpointLine key={`${name} ${endpoint.address}`} route={route} version={name} endpoint={endpoint} />
          )),
        )}
      </ul>
      {store.turns.length > 0 && (
        <details>
          <summary>What endpoints did since this page was opened</summary>
          <ul class="plain">
            {store.turns.map((turn) => (
              <li key={`${turn.at} ${turn.endpoint}`}>
                <time dateTime={turn.at}>{clock(new Date(turn.at))}</time> {turn.version} {turn.endpoint} is {turn.state}
                {turn.why ? `: ${turn.why}` : ""}
              </li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}

function EndpointLine({ route, version, endpoint }: { route: Route; version: string; endpoint: Endpoint }) {
  const tone = endpoint.state === "up" ? "good" : endpoint.state === "draining" ? "quiet" : "bad";
  const icon = endpoint.state === "up" ? "●" : endpoint.state === "draining" ? "◌" : "▲";
  return (
    <li>
      <VersionName route={{ ...route, versions: {} }} name={version} />
      <code>{endpoint.address}</code>
      <span class={`state tone-${tone}`}>
        <span aria-hidden="true">{icon}</span> {endpoint.state}
      </span>
      <span class="quiet small">{endpoint.in_flight} in flight</span>
      {endpoint.problem && <span class="small problem">{endpoint.problem}</span>}
    </li>
  );
}

/** The live Service, and whether there is a way back. */
function WayBack({ route }: { route: Route }) {
  const { live_service: live, rollback_ready: ready, acknowledged } = route;
  if (!live && !ready && !acknowledged) return null;
  return (
    <section class="card" aria-labelledby="wayback">
      <h2 id="wayback">Way back</h2>
      {ready && (
        <p class={ready.ready ? "tone-good" : "tone-careful"}>
          {ready.ready
            ? `Proven: ${Math.ceil(ready.expected_ms ?? 0)} ms until every edge and the live Service have it.`
            : `Not proven, so nothing is promoted: ${ready.why}.`}
        </p>
      )}
      {live && (
        <p>
          {live.selected === null
            ? `${live.service} was not seen yet.`
            : `${live.service} selects ${live.selected}; ${live.agreed ? "all of its slices agree" : "its slices do not agree yet"}, ${live.ready} ready.`}
        </p>
      )}
      {live?.foreign && <p class="notice tone-careful">Changed by somebody else: {live.foreign}.</p>}
      {live?.problem && <p class="notice tone-careful">{sentence(live.problem, route)}.</p>}
      {acknowledged && (
        <p class={acknowledged.applied < acknowledged.edges ? "tone-careful" : ""}>
          {acknowledged.applied} of {acknowledged.edges} edges apply what is granted.
        </p>
      )}
    </section>
  );
}
