// How numbers and states are said: the same words as the command line uses.

import type { Edge, Route, Split } from "./types";

export type Tone = "good" | "move" | "careful" | "bad" | "quiet";

const PHASES: Record<string, { tone: Tone; words: string; icon: string }> = {
  steady: { tone: "good", words: "steady", icon: "●" },
  warming: { tone: "move", words: "warming up", icon: "◔" },
  shifting: { tone: "move", words: "shifting", icon: "▶" },
  paused: { tone: "careful", words: "paused", icon: "❚❚" },
  promoting: { tone: "move", words: "promoting", icon: "▲" },
  baking: { tone: "move", words: "baking", icon: "◕" },
  rolling_back: { tone: "bad", words: "rolling back", icon: "◀" },
  rolled_back: { tone: "bad", words: "rolled back", icon: "◀" },
};

export function phase(name: string): { tone: Tone; words: string; icon: string } {
  return PHASES[name] ?? { tone: "quiet", words: name.replaceAll("_", " "), icon: "•" };
}

/** About three digits that mean something. */
function significant(value: number): string {
  if (value !== 0 && Math.abs(value) < 0.00005) return "0";
  if (Math.abs(value) >= 99.995) return value.toFixed(0);
  if (Math.abs(value) >= 10) return value.toFixed(1);
  if (Math.abs(value) >= 0.1) return value.toFixed(2);
  return String(Number(value.toFixed(4)));
}

/** A ratio as a percentage. */
export function percent(ratio: number | null | undefined): string {
  if (ratio === null || ratio === undefined) return "–";
  const text = significant(100 * ratio);
  return `${text.includes(".") ? text.replace(/\.?0+$/, "") : text} %`;
}

/** A weight in percent, exact to 0.0001. */
export function weight(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return `${Number(value.toFixed(4))} %`;
}

/** An observed weight: nobody needs its fourth digit. */
export function observed(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return `${Number(value.toFixed(value < 1 ? 2 : 1))} %`;
}

/** A difference of ratios in points, with its sign. */
export function points(difference: number): string {
  const text = significant(100 * Math.abs(difference)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  if (text === "0") return "0";
  return `${difference < 0 ? "−" : "+"}${text}`;
}

export function grouped(count: number): string {
  return count.toLocaleString("en-US");
}

export function rate(perSecond: number): string {
  return perSecond >= 100 ? grouped(Math.round(perSecond)) : perSecond.toFixed(1);
}

export function latency(milliseconds: number | null | undefined): string {
  if (milliseconds === null || milliseconds === undefined) return "–";
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(2)} s`;
  return milliseconds >= 10 ? `${milliseconds.toFixed(0)} ms` : `${milliseconds.toFixed(1)} ms`;
}

/** `3 s`, `2 min 5 s`, `1 h 4 min`, `3 days`. */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours] = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24];
  const [minutes, rest] = [Math.floor(whole / 60) % 60, whole % 60];
  if (days >= 3) return `${days} days`;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
  return `${rest} s`;
}

/** `e^log` to 1. */
export function odds(log: number | null): string {
  if (log === null || log < 0) return "none";
  const decades = log / Math.LN10;
  return decades >= 7 ? `over 10^${Math.floor(decades)} to 1` : `${grouped(Math.round(Math.exp(log)))} to 1`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The time of day here; with the day if that is another one. */
export function clock(at: Date): string {
  const today = new Date().toDateString() === at.toDateString();
  return today ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
}

/** What a test of the canary asks. */
export function question(test: string, stable: string): string {
  const asked: Record<string, string> = {
    slow: `fails more than ${stable}`,
    fast: "fails most requests",
    latency: `slower than ${stable}`,
    promotion: "errors within margin",
    promotion_latency: "latency within margin",
    absolute: "fails more than allowed",
    split: "split not as configured",
    mirror: `answers unlike ${stable}`,
    promotion_mirror: `answers like ${stable}`,
  };
  return asked[test] ?? test.replaceAll("_", " ");
}

/** `387 more requests to v2, about 1 min 17 s at 5 %`; none where nothing can be foretold. */
export function forecast(route: Route): string | null {
  const [coming, canary] = [route.analysis.summary?.forecast, onTrial(route)];
  if (!coming || canary === null) return route.analysis.forecast;
  const share = weight(route.weights[canary]?.effective);
  return `${grouped(coming.requests)} more requests to ${canary}, about ${span(Math.ceil(coming.seconds))} at ${share}`;
}

/** What the outcome of a gate means for the canary. */
export function outcome(name: string): { tone: Tone; words: string } {
  const said: Record<string, [Tone, string]> = {
    passes: ["good", "nothing against it"],
    holds: ["careful", "holds: no step, no promotion"],
    fails: ["bad", "fails: the canary goes back"],
  };
  const [tone, words] = said[name] ?? ["quiet", name.replaceAll("_", " ")];
  return { tone, words };
}

/** Whom a promotion waits for, by name: `the freeze weekend and the gate change-board hold`. */
function holders(route: Route): string {
  const held = (route.gates ?? []).filter((gate) => gate.outcome === "holds").map((gate) => named(gate.gate));
  const last = held.pop() ?? "a gate";
  return held.length > 0 ? `${held.join(", ")} and ${last} hold` : `${last} holds`;
}

/** A gate by what it is, as far as its name tells. */
export function named(gate: string): string {
  return gate.startsWith("freeze/") ? `the freeze ${gate.slice("freeze/".length)}` : `the gate ${gate}`;
}

/** Is the canary worse? */
export function verdict(route: Route, canary: string): { tone: Tone; words: string } {
  const { analysis, stable } = route;
  const said: Record<string, [Tone, string]> = {
    "rollback catastrophic": ["bad", `Yes: ${canary} fails most of its requests`],
    "rollback error_regression": ["bad", `Yes: ${canary} fails more of its requests than ${stable} does`],
    "rollback latency_regression": ["bad", `Yes: more of ${canary}'s answers are slow than of ${stable}'s`],
    "rollback absolute_limit": ["bad", `Yes: ${canary} fails more of its requests than is ever allowed`],
    "continue collecting": ["quiet", "Not decided yet: evidence is being collected"],
    "continue suspect": ["careful", `Perhaps: something looks wrong with ${canary}, not yet beyond doubt`],
    "continue common_cause_hold": ["careful", "Cannot be told: both fail alike, so the cause lies elsewhere"],
    "continue baseline_failing_hold": ["careful", `No: it is ${stable} that fails; held until it recovers`],
    "continue no_canary_traffic": ["quiet", `Not known: ${canary} has had no request`],
    "continue split_mismatch": ["careful", "Cannot be told: requests are not divided as configured"],
    "continue mirror_pending": ["quiet", `No, but other answers than ${stable}'s are not excluded yet`],
    "continue mirror_disagreement": ["careful", `${canary} answers copied requests otherwise than ${stable}; held`],
    "continue gate_holds": ["careful", `No: ${canary} is proven good enough, and ${holders(route)} its promotion`],
  };
  const exact = said[`${analysis.verdict} ${analysis.reason}`];
  if (exact) return { tone: exact[0], words: exact[1] };
  if (analysis.verdict === "promote") {
    return { tone: "good", words: `No: ${canary} is proven to be within the promotion margin of ${stable}` };
  }
  if (analysis.verdict === "inconclusive") {
    return { tone: "careful", words: "Not decided in time; neither was proven" };
  }
  return { tone: "quiet", words: `${analysis.verdict} (${analysis.reason})` };
}

/** An interval of this width around 0, in ratios, tells nothing. */
const TELLS_NOTHING = 0.4;

/** How the canary's error rate stands to that of stable. */
export function rates(canary: string, stable: string, seen: { low: number; estimate: number; high: number }): string {
  if (seen.low <= 0 && seen.high >= 0 && seen.high - seen.low > TELLS_NOTHING) {
    return `${canary}'s error rate beside ${stable}'s is not known yet`;
  }
  const text = points(seen.estimate);
  const beside = text === "0" ? "the same as" : `${text.slice(1)} points ${text[0] === "+" ? "above" : "below"}`;
  return `${canary}'s error rate is ${beside} ${stable}'s`;
}

/** Whose requests are counted here, where there are several edges; none where this one is alone. */
export function whose(edge: Edge | null): { counted: string; judged: string } | null {
  const replicas = edge?.replicas;
  if (!replicas) return null;
  if (replicas.role !== "leader") {
    const leader = replicas.leader ?? "another edge";
    return {
      counted: `Counted by this edge (${replicas.name}) alone: other edges have requests of their own.`,
      judged: `Judged on the requests of this edge (${replicas.name}) alone. ${leader} leads and decides on those of all edges; its page shows them together.`,
    };
  }
  const edges = 1 + replicas.replicas.filter((other) => !other.gone).length;
  if (edges === 1) return null;
  return {
    counted: `Counted by this edge (${replicas.name}) alone, one of ${edges}: other edges have requests of their own.`,
    judged: `Judged on the requests of all ${edges} edges together.`,
  };
}

/** The canary, as long as it is not the version in production. */
export function onTrial(route: Route): string | null {
  return route.canary && route.canary !== route.stable ? route.canary : null;
}

/** Versions in the order in which they are shown: stable, canary, others by name. */
export function versionsOf(route: Route): string[] {
  const rank = (name: string): number => (name === route.stable ? 0 : name === route.canary ? 1 : 2);
  const names = [...new Set([...Object.keys(route.versions), ...Object.keys(route.weights)])];
  return names.sort((left, right) => rank(left) - rank(right) || left.localeCompare(right));
}

export function role(route: Route, version: string): string {
  if (version === route.stable) return "stable";
  if (version === route.canary) return "canary";
  return "";
}

/** A version's share of a split, in percent. */
export function shareOf(split: Split, version: string): number {
  if ("whole" in split) return split.whole === version ? 100 : 0;
  const { stable, canary, share } = split.canary;
  if (version === canary) return share / 10_000;
  return version === stable ? 100 - share / 10_000 : 0;
}

export function splitInWords(split: Split): string {
  if ("whole" in split) return `${split.whole} 100 %`;
  const { stable, canary } = split.canary;
  return `${stable} ${weight(shareOf(split, stable))}, ${canary} ${weight(shareOf(split, canary))}`;
}
