// The edge itself: the config in force and the edit that was refused, where state is kept, who decides.

import type { Config, Edge, Webhook } from "./types";
import { clock, grouped, span } from "./words";

export function ConfigCard({ config }: { config: Config }) {
  return (
    <section class="card" aria-labelledby="config">
      <h2 id="config">Config in force</h2>
      <dl class="facts">
        <div>
          <dt>File</dt>
          <dd>
            <code>{config.file}</code>
          </dd>
        </div>
        <div>
          <dt>Generation</dt>
          <dd>
            {config.generation}, loaded <time dateTime={config.loaded_at}>{clock(new Date(config.loaded_at))}</time>,{" "}
            <code title="SHA-256 of the text">{config.hash.slice(0, 12)}</code>
          </dd>
        </div>
        <div>
          <dt>Reloads</dt>
          <dd>
            {config.reloads_ok} taken, {config.reloads_failed} refused since the start
          </dd>
        </div>
      </dl>
      <Refusal config={config} />
      {config.needs_restart.length > 0 && (
        <div class="notice tone-careful">
          <b>Waits for a restart:</b>
          <ul>
            {config.needs_restart.map((what) => (
              <li key={what}>{what}</li>
            ))}
          </ul>
        </div>
      )}
      <details>
        <summary>The config, as checked</summary>
        <pre tabIndex={0}>{JSON.stringify(config.running, null, 2)}</pre>
      </details>
    </section>
  );
}

function Refusal({ config }: { config: Config }) {
  if (!config.last_error) return null;
  return (
    <div class="notice tone-bad">
      <b>
        What is in the file now was refused at {clock(new Date(config.last_error.at))}, and changes nothing:
      </b>
      <ul class="places">
        {config.last_error.problems.map((problem) => (
          <li key={problem}>{problem}</li>
        ))}
      </ul>
    </div>
  );
}

export function EdgeCard({ edge }: { edge: Edge }) {
  const { replicas, state } = edge;
  return (
    <section class="card" aria-labelledby="edge">
      <h2 id="edge">This edge</h2>
      <dl class="facts">
        <div>
          <dt>Program</dt>
          <dd>pointsman {edge.version}</dd>
        </div>
        <div>
          <dt>State</dt>
          <dd>
            <code>{state.file}</code>
            {state.problem ? (
              <p class="notice tone-bad">{state.problem}</p>
            ) : (
              <span class="tone-good"> every decision is kept</span>
            )}
            {state.note && <p class="quiet">{state.note}</p>}
          </dd>
        </div>
        {replicas && (
          <div>
            <dt>Who decides</dt>
            <dd>
              {replicas.role === "leader"
                ? `This edge (${replicas.name}) leads.`
                : `${replicas.leader ?? "Nobody that is known of"} leads; this edge (${replicas.name}) follows${
                    replicas.leader_age_s === null ? "" : `, last asked ${span(replicas.leader_age_s)} ago`
                  }.`}
            </dd>
          </div>
        )}
      </dl>
      {replicas && replicas.replicas.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Other edges">
          <table>
            <caption class="hidden">Other edges</caption>
            <thead>
              <tr>
                <th scope="col">Edge</th>
                <th scope="col">Address</th>
                <th scope="col">Last heard</th>
                <th scope="col">State</th>
              </tr>
            </thead>
            <tbody>
              {replicas.replicas.map((replica) => {
                const [tone, words] = replica.heard
                  ? ["good", "heard"]
                  : replica.gone
                    ? ["quiet", "gone; nothing waits for it"]
                    : ["bad", replica.serves ? "silent; nothing is promoted without it" : "silent"];
                return (
                  <tr key={replica.address}>
                    <th scope="row">{replica.name ?? "not known yet"}</th>
                    <td>
                      <code>{replica.address}</code>
                    </td>
                    <td>{replica.age_s === null ? "never" : `${span(replica.age_s)} ago`}</td>
                    <td class={`tone-${tone}`}>{words}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
      {edge.notifications && <Webhooks hooks={edge.notifications} />}
    </section>
  );
}

/** Who outside is told of changes, and whether they take it. */
function Webhooks({ hooks }: { hooks: Webhook[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Notifications">
      <table>
        <caption class="hidden">Webhooks that are told of changes</caption>
        <thead>
          <tr>
            <th scope="col">Webhook</th>
            <th scope="col">State</th>
            <th scope="col" class="number">Taken</th>
            <th scope="col" class="number">Waiting</th>
            <th scope="col" class="number">Lost</th>
          </tr>
        </thead>
        <tbody>
          {hooks.map((hook) => {
            const [tone, words] = standing(hook);
            return (
              <tr key={hook.name}>
                <th scope="row">
                  {hook.name} <span class="quiet">{hook.format}</span>
                </th>
                <td class={`tone-${tone}`}>{words}</td>
                <td class="number">{grouped(hook.delivered)}</td>
                <td class="number">{grouped(hook.waiting)}</td>
                <td class="number">{grouped(hook.given_up + hook.dropped)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function standing(hook: Webhook): [string, string] {
  if (hook.failing) return ["bad", "does not take its rows"];
  if (hook.last_delivered_at === null) return ["quiet", "nothing was told yet"];
  return ["good", `last told ${clock(new Date(hook.last_delivered_at))}`];
}

/** A webhook that does not take what it is told, why, and what to type. */
function Untold({ hook }: { hook: Webhook }) {
  const { last_failure: failure } = hook;
  const why = failure ? ` ${failure.problem} (${failure.event}, ${clock(new Date(failure.at))}).` : "";
  return (
    <p class="notice tone-careful">
      <b>Webhook {hook.name} does not take its notifications.</b>
      {why} {grouped(hook.waiting)} wait, {grouped(hook.given_up + hook.dropped)} are lost;{" "}
      <code>pointsman notify test {hook.name}</code> tries it.
    </p>
  );
}

/** What is wrong with the edge, on top of every page. */
export function Banners({ config, edge }: { config: Config | null; edge: Edge | null }) {
  return (
    <>
      {edge?.draining && (
        <p class="notice tone-careful">This edge is stopping: it finishes what is under way and takes no orders.</p>
      )}
      {edge && !edge.ready && !edge.draining && <p class="notice tone-careful">This edge is starting and takes no traffic yet.</p>}
      {edge?.state.problem && (
        <p class="notice tone-bad">
          <b>State cannot be kept:</b> {edge.state.problem}
        </p>
      )}
      {config?.last_error && <Refusal config={config} />}
      {edge?.notifications?.filter((hook) => hook.failing).map((hook) => <Untold key={hook.name} hook={hook} />)}
    </>
  );
}
