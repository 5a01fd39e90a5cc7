// What was decided, by whom or what, why, and on which requests.

import { useState } from "preact/hooks";
import { type Log as Rows, store } from "./store";
import type { Decision, Route } from "./types";
import { clock, grouped, outcome, percent, phase, points, span, splitInWords } from "./words";

export function Log({ log, route }: { log: Rows; route: Route }) {
  const [loading, setLoading] = useState(false);
  const older = async (): Promise<void> => {
    setLoading(true);
    await store.older();
    setLoading(false);
  };
  return (
    <section class="card" aria-labelledby="log">
      <h2 id="log">What was decided</h2>
      {log.problem && <p class="notice tone-careful">The log cannot be read: {log.problem}</p>}
      {log.rows.length === 0 && !log.problem && <p class="quiet">Nothing was decided yet about {route.name}.</p>}
      <ol class="log">
        {log.rows.map((row) => (
          <Row key={row.id} row={row} />
        ))}
      </ol>
      {log.more && (
        <button type="button" disabled={loading} onClick={() => void older()}>
          {loading ? "Loading…" : "Older decisions"}
        </button>
      )}
    </section>
  );
}

function Row({ row }: { row: Decision }) {
  const at = new Date(row.at);
  const { change, failures } = row;
  const { evidence } = change;
  return (
    <li>
      <details>
        <summary>
          <time dateTime={row.at}>{clock(at)}</time>
          <span class={`chip small tone-${phase(change.to).tone}`}>{change.decision.replaceAll("_", " ")}</span>
          <span class="what">{row.sentence}</span>
        </summary>
        <dl class="facts">
          <div>
            <dt>Decision</dt>
            <dd>
              {row.id}, {at.toISOString()}
            </dd>
          </div>
          <div>
            <dt>Phase</dt>
            <dd>
              {phase(change.from).words} → {phase(change.to).words}
            </dd>
          </div>
          <div>
            <dt>Split</dt>
            <dd>
              {splitInWords(change.before)} → {splitInWords(change.after)}
            </dd>
          </div>
          {evidence && (
            <div>
              <dt>Seen</dt>
              <dd>
                {grouped(evidence.canary.errors)} of {grouped(evidence.canary.requests)} requests to{" "}
                {change.canary ?? "the canary"} failed ({percent(evidence.canary_error_rate)}),{" "}
                {grouped(evidence.stable.errors)} of {grouped(evidence.stable.requests)} to {change.stable} (
                {percent(evidence.stable_error_rate)}), in {span(evidence.elapsed_seconds)}
                {evidence.error_rate_difference &&
                  `; difference ${points(evidence.error_rate_difference.low)} to ${points(evidence.error_rate_difference.high)} points`}
              </dd>
            </div>
          )}
          {evidence?.gates && evidence.gates.length > 0 && (
            <div>
              <dt>Others said</dt>
              <dd>
                <ul class="plain">
                  {evidence.gates.map((gate) => (
                    <li key={gate.gate}>
                      <b>{gate.gate}</b> {outcome(gate.outcome).words}, for {span(gate.for_seconds)}: {gate.words}
                    </li>
                  ))}
                </ul>
              </dd>
            </div>
          )}
          {failures.length > 0 && (
            <div>
              <dt>Failing requests</dt>
              <dd>
                <ul class="plain">
                  {failures.map((failure) => (
                    <li key={`${failure.request_id} ${failure.at_unix_ms}`}>
                      <code>{failure.request_id}</code> {failure.outcome}
                      {failure.status === null ? "" : ` ${failure.status}`}, {clock(new Date(failure.at_unix_ms))}
                    </li>
                  ))}
                </ul>
              </dd>
            </div>
          )}
          <div>
            <dt>Letter</dt>
            <dd>
              <code>pointsman explain {row.route} {row.id}</code>
            </dd>
          </div>
        </dl>
      </details>
    </li>
  );
}
