// What the page knows: filled by one stream of events, told to whoever draws it.

import { Refused, listen, pathOf, read, token } from "./api";
import { History } from "./history";
import type { Config, Decision, Edge, EndpointTurn, Route, Second, Series } from "./types";

/** Without a sign of the edge for this long, what is shown is stale. It gives one a second. */
const STALE_AFTER_MS = 4_000;
/** The edge sends a sign of life every 15 s at least; a stream that is silent for longer is dead. */
const DEAD_AFTER_MS = 20_000;
/** Samples of many routes come one after the other, and are drawn together. */
const TOGETHER_MS = 80;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** A route that did not come between so many signs of the edge has left the config. */
const SIGNS_WITHOUT = 3;
/** Decisions that are loaded at a time. */
const PAGE = 20;
/** Turns of endpoints that are kept. */
const TURNS = 20;

export type Link =
  | { state: "connecting" }
  | { state: "live" }
  | { state: "stale"; since: number }
  | { state: "lost"; since: number | null; why: string; nextTry: number }
  | { state: "locked"; wrong: boolean; why: string };

export type Log = { rows: Decision[]; more: boolean; problem: string | null };

class Store {
  link: Link = { state: "connecting" };
  routes = new Map<string, Route>();
  config: Config | null = null;
  edge: Edge | null = null;
  focus: string | null = null;
  history = new History();
  log: Log = { rows: [], more: false, problem: null };
  turns: EndpointTurn[] = [];
  /** Said aloud to those who do not see the page. */
  announced = "";
  /** When the last event came. */
  heard = 0;

  private watchers = new Set<() => void>();
  private drawing = false;
  private stream: AbortController | null = null;
  private pause = FIRST_PAUSE_MS;
  private retry: number | undefined;

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  /** Something changed; drawn once for all that changes at the same time, or within `delay` milliseconds. */
  changed(delay = 0): void {
    if (this.drawing) return;
    this.drawing = true;
    // Not an animation frame: a tab in the background has none, and its title shall tell too.
    setTimeout(() => {
      this.drawing = false;
      for (const watcher of this.watchers) watcher();
    }, delay);
  }

  say(words: string): void {
    this.announced = words;
    this.changed();
  }

  /** Looks at `route` closely from now on. */
  look(route: string | null): void {
    if (route === this.focus && this.stream) return;
    this.focus = route;
    this.history = new History();
    this.log = { rows: [], more: false, problem: null };
    this.turns = [];
    this.connect();
  }

  unlock(value: string): void {
    token.set(value);
    this.pause = FIRST_PAUSE_MS;
    this.connect();
  }

  connect(): void {
    clearTimeout(this.retry);
    this.stream?.abort();
    const stream = new AbortController();
    this.stream = stream;
    this.changed();
    void this.follow(stream);
  }

  private async follow(stream: AbortController): Promise<void> {
    const query = this.focus === null ? "" : `?focus=${encodeURIComponent(this.focus)}`;
    // Every route comes once between two signs of the edge; one that stays out is gone.
    const unseen = new Map<string, number>();
    let begun = false;
    try {
      await listen(`api/v1/events${query}`, stream.signal, (data) => {
        if (stream.signal.aborted) return;
        const event = data as { type: string; name?: string };
        if (!begun) {
          begun = true;
          this.live();
        }
        if (event.type === "sample" && event.name) unseen.delete(event.name);
        if (event.type === "edge") this.forgetUnseen(unseen);
        this.take(event);
      });
      this.lost(stream, "the edge ended the connection");
    } catch (error) {
      if (stream.signal.aborted) return;
      if (error instanceof Refused && (error.needsToken || error.problem.code === "host_not_allowed")) {
        this.link = { state: "locked", wrong: token.get() !== "" && error.needsToken, why: error.problem.detail };
        return this.changed();
      }
      this.lost(stream, error instanceof Error ? error.message : "the connection broke off");
    }
  }

  private forgetUnseen(unseen: Map<string, number>): void {
    for (const name of [...this.routes.keys()]) {
      const times = (unseen.get(name) ?? 0) + 1;
      unseen.set(name, times);
      if (times > SIGNS_WITHOUT) this.routes.delete(name);
    }
  }

  private live(): void {
    this.pause = FIRST_PAUSE_MS;
    if (this.link.state === "lost") this.say("Connected again.");
    this.link = { state: "live" };
    this.heard = Date.now();
    // What was missed meanwhile is asked for; what comes live is added to it.
    void this.catchUp();
  }

  private async catchUp(): Promise<void> {
    const { focus, history } = this;
    if (focus === null) return;
    const [series] = await Promise.allSettled([read<Series>(pathOf(focus, "series")), this.loadLog(focus)]);
    if (series.status === "fulfilled" && history === this.history) history.begin(series.value);
    this.changed();
  }

  private async loadLog(route: string): Promise<void> {
    try {
      const answer = await read<{ decisions: Decision[] }>(pathOf(route, `decisions?limit=${PAGE}`));
      if (route !== this.focus) return;
      const newest = answer.decisions[0]?.id ?? 0;
      const came = this.log.rows.filter((row) => row.id > newest);
      this.log = { rows: [...came, ...answer.decisions], more: answer.decisions.length === PAGE, problem: null };
    } catch (error) {
      this.log = { ...this.log, problem: error instanceof Error ? error.message : "the log cannot be read" };
    }
  }

  /** Loads older decisions. */
  async older(): Promise<void> {
    const { focus, log } = this;
    const last = log.rows.at(-1);
    if (focus === null || !last) return;
    try {
      const answer = await read<{ decisions: Decision[] }>(pathOf(focus, `decisions?limit=${PAGE}&before=${last.id}`));
      if (focus !== this.focus) return;
      const rows = [...this.log.rows, ...answer.decisions];
      this.log = { rows, more: answer.decisions.length === PAGE, problem: null };
    } catch (error) {
      this.log = { ...this.log, problem: error instanceof Error ? error.message : "the log cannot be read" };
    }
    this.changed();
  }

  private lost(stream: AbortController, why: string): void {
    if (stream.signal.aborted) return;
    stream.abort();
    const since = this.link.state === "lost" ? this.link.since : this.heard || null;
    if (this.link.state !== "lost") this.say("Connection lost. What is shown is old.");
    // Spread a little, so that many pages do not come back at the same moment.
    const pause = this.pause * (0.8 + 0.4 * Math.random());
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
    this.link = { state: "lost", since, why, nextTry: Date.now() + pause };
    clearTimeout(this.retry);
    this.retry = window.setTimeout(() => this.connect(), pause);
    this.changed();
  }

  /** Looks whether news still come; called once a second. */
  check(): void {
    const silent = Date.now() - this.heard;
    if (this.link.state === "live" && silent > STALE_AFTER_MS) {
      this.link = { state: "stale", since: this.heard };
      this.say("The edge tells nothing new. What is shown is old.");
    } else if (this.link.state === "stale" && silent > DEAD_AFTER_MS && this.stream) {
      this.lost(this.stream, "the edge has said nothing for a while");
    }
    this.changed();
  }

  private take(event: { type: string }): void {
    this.heard = Date.now();
    if (this.link.state === "stale") this.link = { state: "live" };
    switch (event.type) {
      case "sample":
        this.takeRoute(event as unknown as Route);
        break;
      case "second":
        this.history.add(event as unknown as Second);
        break;
      case "decision":
        this.takeDecision(event as unknown as Decision);
        break;
      case "endpoint":
        this.takeTurn(event as unknown as EndpointTurn);
        break;
      case "config":
        this.config = event as unknown as Config;
        break;
      case "edge":
        this.edge = event as unknown as Edge;
        break;
      case "missed":
        void this.catchUp();
        break;
      default:
        // A newer edge may tell of more.
        break;
    }
    this.changed(event.type === "sample" || event.type === "second" ? TOGETHER_MS : 0);
  }

  /** What a route looks like after an order, ahead of its next sample. */
  takeRoute(route: Route): void {
    this.routes.set(route.name, route);
  }

  private takeDecision(decision: Decision): void {
    this.say(`${decision.route}: ${decision.sentence}`);
    if (decision.route !== this.focus || this.log.rows.some((row) => row.id === decision.id)) return;
    this.log = { ...this.log, rows: [decision, ...this.log.rows] };
  }

  private takeTurn(turn: EndpointTurn): void {
    if (turn.route === this.focus) this.turns = [turn, ...this.turns].slice(0, TURNS);
  }
}

export const store = new Store();
