// What the page knows: filled by one stream of events, told to whoever draws it.

import { Refused, listen, pathOf, read, token } from "./api";
import { History } from "./history";
import type { Config, Decision, Edge, EndpointTurn, Route, Second, Series } from "./types";

/** Without a word of the edge about itself for this long, what is shown is stale. What decides gives one a second. */
const STALE_AFTER_MS = 4_000;
/** The admin port sends something every 15 s at least, whatever decides; a stream that is silent for longer is dead. */
const DEAD_AFTER_MS = 20_000;
/** Between two streams that are begun anew because events were left out. */
const ANEW_AFTER_MS = 10_000;
/** A page that nobody sees asks so often what its title tells. */
const GLANCE_MS = 10_000;
/** An order that is not answered by then may be waiting for a connection, which browsers have few of. */
const ORDER_WAITS_MS = 1_000;
/** Samples of many routes come one after the other, and are drawn together. */
const TOGETHER_MS = 250;
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
  | { state: "stale"; since: number | null }
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
  /** When the edge last said how it is; a stream alone is no sign that anything decides. */
  heard = 0;
  /** The route with an open dialog: it stays, whatever becomes of it. */
  held: string | null = null;

  private watchers = new Set<() => void>();
  private drawing = false;
  private stream: AbortController | null = null;
  private pause = FIRST_PAUSE_MS;
  private retry: number | undefined;
  private anew: number | undefined;
  /** When each route last came. */
  private received = new Map<string, number>();
  private connected = 0;
  /** When the present stream began to tell, or 0; and when anything last came on it. */
  private begun = 0;
  private sign = 0;
  private asleep = false;
  /** Which line of glances counts. */
  private glances = 0;
  /** What the last glance saw move. */
  private pulse = "";

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

  /** Whether somebody can see the page. One that nobody sees leaves the connections to those that are seen. */
  appear(isSeen: boolean): void {
    if (isSeen === !this.asleep) return;
    this.asleep = !isSeen;
    this.pulse = "";
    if (isSeen) {
      if (this.link.state === "live") this.link = { state: "connecting" };
      this.connect();
    } else {
      this.connect();
    }
  }

  /** Keeps a route on the page until what is given back is called. */
  hold(route: string): () => void {
    this.held = route;
    return () => {
      this.held = null;
      this.changed();
    };
  }

  /**
   * Sends an order. A browser opens six connections to a host: where pages hold them all, this one lets go of its own until
   * there is an answer.
   */
  async give<T>(send: () => Promise<T>): Promise<T> {
    let waits = false;
    const timer = setTimeout(() => {
      waits = true;
      this.letGo();
    }, ORDER_WAITS_MS);
    try {
      const answer = await send();
      // With a token that the page did not have before.
      waits ||= this.link.state === "locked";
      return answer;
    } finally {
      clearTimeout(timer);
      if (waits) this.connect();
    }
  }

  private letGo(): void {
    clearTimeout(this.retry);
    clearTimeout(this.anew);
    this.anew = undefined;
    this.begun = 0;
    this.stream?.abort();
  }

  connect(): void {
    this.letGo();
    if (this.asleep) {
      this.glances += 1;
      void this.glance(this.glances);
      return;
    }
    this.connected = Date.now();
    const stream = new AbortController();
    this.stream = stream;
    this.changed();
    void this.follow(stream);
  }

  private async follow(stream: AbortController): Promise<void> {
    // Who looks at none has none in focus: of a thousand routes nobody can draw every second.
    const query = `?focus=${encodeURIComponent(this.focus ?? "")}`;
    // Every route comes once between two signs of the edge; one that stays out is gone.
    const unseen = new Map<string, number>();
    let begun = false;
    try {
      const signed = (): void => {
        this.sign = Date.now();
      };
      await listen(`api/v1/events${query}`, stream.signal, signed, (data) => {
        if (stream.signal.aborted) return;
        const event = data as { type: string; name?: string };
        if (!begun) {
          begun = true;
          this.begin();
        }
        if (event.type === "sample" && event.name) unseen.delete(event.name);
        if (event.type === "edge") this.forgetUnseen(unseen);
        // Whatever did not come may have been among it.
        if (event.type === "missed") unseen.clear();
        this.take(event);
      });
      this.lost(stream, "the edge ended the connection");
    } catch (error) {
      if (stream.signal.aborted) return;
      if (this.isLocked(error)) return this.changed();
      this.lost(stream, error instanceof Error ? error.message : "the connection broke off");
    }
  }

  private isLocked(error: unknown): boolean {
    if (!(error instanceof Refused && (error.needsToken || error.problem.code === "host_not_allowed"))) return false;
    this.link = { state: "locked", wrong: token.get() !== "" && error.needsToken, why: error.problem.detail };
    return true;
  }

  /** What a page that nobody sees tells in its title. */
  private async glance(number: number): Promise<void> {
    // One that is late says nothing any more, and is followed by none: there is one line of them at a time.
    const isOver = (): boolean => !this.asleep || number !== this.glances;
    try {
      const { routes } = await read<{ routes: Route[] }>("api/v1/routes");
      if (isOver()) return;
      const names = new Set(routes.map((route) => route.name));
      for (const name of [...this.routes.keys()]) if (!names.has(name)) this.forget(name);
      for (const route of routes) this.takeRoute(route);
      // Where nothing decides any more, spans stand still.
      const pulse = routes.map((route) => route.since_s).join();
      const stands = pulse !== "" && pulse === this.pulse;
      this.pulse = pulse;
      if (!stands) this.heard = Date.now();
      this.link = stands ? { state: "stale", since: this.heard || null } : { state: "live" };
    } catch (error) {
      if (isOver()) return;
      if (this.isLocked(error)) return this.changed();
      const since = this.link.state === "lost" ? this.link.since : this.heard || null;
      const why = error instanceof Error ? error.message : "the connection broke off";
      this.link = { state: "lost", since, why, nextTry: Date.now() + GLANCE_MS };
    }
    this.retry = window.setTimeout(() => void this.glance(number), GLANCE_MS);
    this.changed();
  }

  private forgetUnseen(unseen: Map<string, number>): void {
    for (const name of [...this.routes.keys()]) {
      const times = (unseen.get(name) ?? 0) + 1;
      unseen.set(name, times);
      if (times > SIGNS_WITHOUT) this.forget(name);
    }
  }

  private forget(name: string): void {
    if (name === this.held) return;
    this.routes.delete(name);
    this.received.delete(name);
  }

  /** The stream tells; whether anything decides, the edge says by and by. */
  private begin(): void {
    this.pause = FIRST_PAUSE_MS;
    this.begun = Date.now();
    // What was missed meanwhile is asked for; what comes live is added to it.
    void this.catchUp();
  }

  private live(): void {
    this.heard = Date.now();
    if (this.link.state === "live") return;
    if (this.link.state === "lost") this.say("Connected again.");
    this.link = { state: "live" };
  }

  /** Events were left out, of whatever kind: a stream that begins anew says how everything stands. */
  private beginAnew(): void {
    if (this.anew !== undefined) return;
    const wait = Math.max(0, this.connected + ANEW_AFTER_MS - Date.now());
    this.anew = window.setTimeout(() => this.connect(), wait);
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
    this.letGo();
    const since = this.link.state === "lost" ? this.link.since : this.heard || null;
    if (this.link.state !== "lost") this.say("Connection lost. What is shown is old.");
    // Spread a little, so that many pages do not come back at the same moment.
    const pause = this.pause * (0.8 + 0.4 * Math.random());
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_MS);
    this.link = { state: "lost", since, why, nextTry: Date.now() + pause };
    this.retry = window.setTimeout(() => this.connect(), pause);
    this.changed();
  }

  /** Looks whether news still come; called once a second. */
  check(): void {
    if (!this.asleep) this.judge(Date.now());
    this.changed();
  }

  private judge(now: number): void {
    const { state } = this.link;
    // Before the first word of the edge, the stream itself is what one waits from.
    const since = state === "live" ? this.heard : this.begun;
    if ((state === "live" || state === "connecting" || state === "lost") && since !== 0 && now - since > STALE_AFTER_MS) {
      this.link = { state: "stale", since: this.heard || null };
      this.say("The edge tells nothing new. What is shown is old.");
    }
    if (this.begun !== 0 && now - this.sign > DEAD_AFTER_MS && this.stream) {
      this.lost(this.stream, "the edge has said nothing for a while");
    }
  }

  private take(event: { type: string }): void {
    switch (event.type) {
      case "sample":
        this.takeRoute(event as unknown as Route);
        break;
      case "second":
        this.takeSecond(event as unknown as Second);
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
        this.live();
        break;
      case "missed":
        this.beginAnew();
        break;
      default:
        // A newer edge may tell of more.
        break;
    }
    this.changed(event.type === "sample" || event.type === "second" ? TOGETHER_MS : 0);
  }

  /** What a route looks like after an order, ahead of its next sample. */
  takeRoute(route: Route): void {
    const before = this.routes.get(route.name);
    // What comes again as it was is no newer than the first time.
    if (before?.since_s !== route.since_s || before.phase !== route.phase) this.received.set(route.name, Date.now());
    this.routes.set(route.name, route);
  }

  /** When the phase of a route, or its step, began: seen from when it was told, not from now. */
  since(route: Route): Date {
    return new Date((this.received.get(route.name) ?? Date.now()) - route.since_s * 1000);
  }

  private takeSecond(second: Second): void {
    if (second.route === this.focus) this.history.add(second);
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
