// What can be pressed: each order asks for a reason, shows what will happen, and is refused on a state that has changed.

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Refused, actor, order, pathOf, token } from "./api";
import { SplitBar } from "./split";
import { store } from "./store";
import type { Decision, DecisionLine, Route } from "./types";
import { onTrial, versionsOf, weight } from "./words";

export type Verb = "weights" | "promote" | "rollback" | "pause" | "resume" | "retry";

export type Choice = {
  verb: Verb;
  label: string;
  /** What it does, in a few words. */
  effect: string;
  tone: "plain" | "good" | "bad";
  version?: string;
  foreign?: "adopt" | "restore";
};

/** Orders that the route would obey now. */
export function choicesOf(route: Route): Choice[] {
  const canary = onTrial(route) ?? route.canary ?? "the canary";
  const seen = route.canary ? route.weights[route.canary] : undefined;
  const hasAll = (seen?.desired ?? 0) >= 100;
  const hasTraffic = (seen?.effective ?? 0) > 0;
  const pause: Choice = { verb: "pause", label: "Pause", effect: "stop here; the guard stays armed", tone: "plain" };
  const resume: Choice = { verb: "resume", label: "Resume", effect: "go on where it stopped", tone: "plain" };
  const promote: Choice = { verb: "promote", label: "Promote", effect: `all traffic to ${canary} now`, tone: "good" };
  const back: Choice = { verb: "rollback", label: "Roll back", effect: `${canary} back to 0 % now`, tone: "bad" };
  const weights: Choice = { verb: "weights", label: "Set weights", effect: "divide the traffic by hand", tone: "plain" };
  const choices: Choice[] = [];
  if (route.live_service?.foreign) {
    choices.push(
      { ...resume, label: "Adopt", effect: "go on with the live Service as it is now", foreign: "adopt" },
      { ...resume, label: "Restore", effect: "put the live Service back, and go on", foreign: "restore" },
      back,
    );
  } else {
    const byPhase: Record<string, Choice[]> = {
      warming: [back, pause, promote],
      shifting: [back, pause, promote],
      paused: hasAll ? [back, resume] : [back, resume, promote],
      baking: [back, pause],
      promoting: [back],
      steady: hasTraffic && onTrial(route) ? [back] : [],
    };
    choices.push(...(byPhase[route.phase] ?? []));
  }
  if (versionsOf(route).length > 1) choices.push(weights);
  for (const held of route.quarantined) {
    choices.push({
      verb: "retry",
      label: `Retry ${held.version}`,
      effect: `let ${held.version} start anew`,
      tone: "plain",
      version: held.version,
    });
  }
  return choices;
}

/** The effective weights now. */
function present(route: Route): Record<string, number> {
  return Object.fromEntries(versionsOf(route).map((name) => [name, route.weights[name]?.effective ?? 0]));
}

/** What the order will do, in words, and the weights that it leads to as far as they follow from it at once. */
function outcome(route: Route, choice: Choice, byHand: Record<string, number>): [string, Record<string, number> | null] {
  const all = (version: string) => Object.fromEntries(versionsOf(route).map((name) => [name, name === version ? 100 : 0]));
  const canary = route.canary ?? "";
  switch (choice.verb) {
    case "rollback":
      return [
        `${onTrial(route) ?? canary} gets no new request from the next moment on, and stays at 0 % until its revision changes or somebody says retry.`,
        onTrial(route) ? all(route.stable) : null,
      ];
    case "promote":
      return [
        `${canary} gets all traffic now, whatever is left of the plan. The old version stays warm while it bakes, and the way back is one move.`,
        all(canary),
      ];
    case "pause":
      return ["Weights stay as they are. A regression still takes the canary back.", present(route)];
    case "resume":
      if (choice.foreign === "adopt") return ["What the live Service selects now counts, and the rollout goes on from it.", null];
      if (choice.foreign === "restore") return ["The live Service is put back to what it was, and the rollout goes on.", null];
      return ["The rollout goes on at the step where it stopped, and moves by itself again.", null];
    case "retry":
      return [
        `${choice.version} may have traffic again, as the config file asks: by its weight, or from the first step of its plan. What was counted against it no longer counts.`,
        null,
      ];
    case "weights":
      return [
        "In force at once, and until the next change of this route in the config file. A plan that is under way pauses. The guard stays armed.",
        byHand,
      ];
  }
}

const TITLES: Record<Verb, (route: Route, choice: Choice) => string> = {
  weights: (route) => `Set the weights of ${route.name}`,
  promote: (route) => `Promote ${route.canary ?? "the canary"} of ${route.name}`,
  rollback: (route) => `Roll back ${onTrial(route) ?? route.canary ?? "the canary"} of ${route.name}`,
  pause: (route) => `Pause ${route.name}`,
  resume: (route, choice) => `${choice.label} ${route.name}`,
  retry: (route, choice) => `Retry ${choice.version ?? ""} of ${route.name}`,
};

type OrderAnswer = { decisions: Decision[]; route: Route; persisted: boolean };

export function OrderDialog({ route, choice, close }: { route: Route; choice: Choice; close: () => void }) {
  const box = useRef<HTMLDialogElement>(null);
  const [seen, setSeen] = useState<DecisionLine | null>(route.last_decision);
  const [before] = useState(() => present(route));
  const [reason, setReason] = useState("");
  const [name, setName] = useState(actor.get());
  const [canary, setCanary] = useState(() => onTrial(route) ?? versionsOf(route).find((other) => other !== route.stable) ?? "");
  const [share, setShare] = useState(() => String(route.weights[canary]?.effective ?? 0));
  const [key, setKey] = useState("");
  const [asksKey, setAsksKey] = useState(false);
  const [refusedAsFrozen, setRefusedAsFrozen] = useState(false);
  const [force, setForce] = useState(false);
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState(false);
  const busy = useRef(false);
  const problemBox = useRef<HTMLParagraphElement>(null);
  const ids = { title: useId(), effect: useId(), share: useId(), range: useId(), reason: useId(), name: useId(), key: useId(), canary: useId() };

  useEffect(() => store.hold(route.name), []);
  useEffect(() => {
    const dialog = box.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  useEffect(() => {
    if (problem) problemBox.current?.focus();
  }, [problem]);

  const percentage = Number(share);
  const valid = choice.verb !== "weights" || (share.trim() !== "" && percentage >= 0 && percentage <= 100);
  const byHand = Object.fromEntries(
    versionsOf(route).map((version) => [
      version,
      version === canary ? percentage : version === route.stable ? 100 - percentage : 0,
    ]),
  );
  const [effect, after] = outcome(route, choice, byHand);
  const newest = route.last_decision;
  const moved = (newest?.id ?? 0) !== (seen?.id ?? 0);
  const isRollback = choice.verb === "rollback";
  const lost = store.link.state === "lost";
  const frozen = choice.verb === "promote" && (refusedAsFrozen || freezeOf(route) !== null);

  const send = async (event: Event): Promise<void> => {
    event.preventDefault();
    // State is set after the next drawing; two presses can come before.
    if (busy.current || !valid) return;
    busy.current = true;
    setSending(true);
    setProblem("");
    actor.set(name.trim());
    if (key) token.set(key.trim());
    try {
      const [method, path, body] = request(route, choice, byHand, canary, { reason: reason.trim(), force: force && frozen });
      const known = isRollback ? null : (seen?.id ?? 0);
      const answer = await store.give(() => order<OrderAnswer>(method, path, body, known));
      store.takeRoute(answer.route);
      const done = answer.decisions.map((decision) => decision.sentence).join(" ") || "Everything stood as asked already.";
      store.say(answer.persisted ? `Done: ${done}` : `Done, but not on disk yet, see the state below: ${done}`);
      close();
    } catch (error) {
      const needsToken = error instanceof Refused && error.needsToken;
      setAsksKey((asked) => asked || needsToken);
      setRefusedAsFrozen((was) => was || (error instanceof Refused && error.problem.code === "frozen"));
      if (needsToken && key) token.set("");
      setProblem(needsToken ? (key ? "This is not the token. Nothing was changed; try again." : "This edge asks for its token. Nothing was changed.") : inWords(error));
    } finally {
      busy.current = false;
      setSending(false);
    }
  };

  return (
    <dialog ref={box} aria-labelledby={ids.title} aria-describedby={ids.effect} onClose={close}>
      <form onSubmit={(event) => void send(event)}>
        <h2 id={ids.title}>{TITLES[choice.verb](route, choice)}</h2>
        <p id={ids.effect}>{effect}</p>
        {choice.verb === "weights" && (
          <div class="weights">
            {versionsOf(route).length > 2 && (
              <label for={ids.canary}>
                Version beside {route.stable}
                <select id={ids.canary} value={canary} onChange={(event) => setCanary(event.currentTarget.value)}>
                  {versionsOf(route)
                    .filter((version) => version !== route.stable)
                    .map((version) => (
                      <option key={version}>{version}</option>
                    ))}
                </select>
              </label>
            )}
            <label for={ids.share}>Weight of {canary}, in percent</label>
            <div class="slider">
              <input
                type="range"
                min="0"
                max="100"
                step="1"
                aria-label={`Weight of ${canary}, in percent`}
                id={ids.range}
                value={share}
                onInput={(event) => setShare(event.currentTarget.value)}
              />
              <input
                id={ids.share}
                type="number"
                min="0"
                max="100"
                step="any"
                inputMode="decimal"
                required
                value={share}
                onInput={(event) => setShare(event.currentTarget.value)}
              />
            </div>
            <p class="quiet small">
              {route.stable} gets the rest{valid ? `, ${weight(100 - percentage)}` : ""}.
            </p>
          </div>
        )}
        <div class="beforeafter">
          <SplitBar route={route} label="now" shares={before} />
          {after && valid ? (
            <SplitBar route={route} label="then" shares={after} />
          ) : (
            <p class="quiet small">The weights that follow are those of the config file; the page shows them as soon as they are in force.</p>
          )}
        </div>
        {moved && (
          <div class="notice tone-careful" role="status">
            <p>
              Since you opened this: <b>{newest?.sentence ?? "the route began anew"}</b>
            </p>
            {!isRollback && (
              <button
                type="button"
                onClick={() => {
                  setSeen(newest);
                  setProblem("");
                }}
              >
                I have seen it
              </button>
            )}
          </div>
        )}
        {frozen && (
          <div class="notice tone-careful">
            <p>{freezeOf(route) ?? "This route is frozen: nothing goes forward."}</p>
            <label class="tick">
              <input type="checkbox" checked={force} onInput={(event) => setForce(event.currentTarget.checked)} />
              Promote all the same
            </label>
          </div>
        )}
        <label for={ids.reason}>
          Reason <span class="quiet">(for the decision log{isRollback ? "; leave it out if there is no time" : ""})</span>
        </label>
        <input
          id={ids.reason}
          type="text"
          maxLength={500}
          required={!isRollback}
          autoComplete="off"
          value={reason}
          onInput={(event) => setReason(event.currentTarget.value)}
        />
        <label for={ids.name}>
          Your name <span class="quiet">(for the decision log)</span>
        </label>
        <input
          id={ids.name}
          type="text"
          maxLength={64}
          autoComplete="username"
          placeholder="dashboard"
          value={name}
          onInput={(event) => setName(event.currentTarget.value)}
        />
        {asksKey && (
          <>
            <label for={ids.key}>
              Token <span class="quiet">(what stands in admin.token_file; kept in this tab only)</span>
            </label>
            <input
              id={ids.key}
              type="password"
              required
              autoComplete="off"
              value={key}
              onInput={(event) => setKey(event.currentTarget.value)}
            />
          </>
        )}
        {problem && (
          <p class="notice tone-bad" role="alert" tabIndex={-1} ref={problemBox}>
            {problem}
          </p>
        )}
        {lost && <p class="notice tone-bad">The connection is lost; the order may not arrive.</p>}
        <div class="buttons">
          <button type="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" class={`primary ${choice.tone}`} disabled={sending || !valid || (moved && !isRollback)}>
            {sending ? "Sending…" : choice.label}
          </button>
        </div>
      </form>
    </dialog>
  );
}

function request(
  route: Route,
  choice: Choice,
  byHand: Record<string, number>,
  canary: string,
  { reason, force }: { reason: string; force: boolean },
): ["POST" | "PUT", string, unknown] {
  if (choice.verb === "weights") {
    const named = [...new Set([route.stable, canary])].filter((version) => version !== "");
    const weights = Object.fromEntries(named.map((version) => [version, `${Number((byHand[version] ?? 0).toFixed(4))}%`]));
    return ["PUT", pathOf(route.name, "weights"), { weights, reason }];
  }
  const more = choice.verb === "retry" ? { version: choice.version } : choice.foreign ? { foreign: choice.foreign } : {};
  return ["POST", pathOf(route.name, choice.verb), { reason, ...more, ...(force ? { force } : {}) }];
}

/** Until when nothing goes forward, where that is known. */
function freezeOf(route: Route): string | null {
  const held = (route.gates ?? []).find((gate) => gate.gate.startsWith("freeze/") && gate.outcome === "holds");
  return held ? `Frozen by ${held.gate.slice("freeze/".length)}: ${held.words}.` : null;
}

/** First letter large, a full stop at the end. */
function inWords(error: unknown): string {
  const said = error instanceof Error ? error.message : "it did not work";
  return `${said.charAt(0).toUpperCase()}${said.slice(1)}${/[.!?]$/.test(said) ? "" : "."}`;
}
