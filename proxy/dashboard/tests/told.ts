// An edge that tells just what a test has it tell, and once a second how its routes stand; it serves the page as it was built.

import { readFileSync } from "node:fs";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";

const TYPES: Record<string, string> = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };

/** A route as a sample has it. */
export function sample(name: string, more: object = {}): object {
  const version = { requests: 9, errors: 0, error_rate: 0, requests_per_second: 1, p50_ms: 1, p95_ms: 1, p99_ms: 1, revision: null, ejections: 0, endpoints: [] };
  const weight = (share: number): object => ({ desired: share, effective: share, observed: share });
  return {
    name,
    phase: "steady",
    stable: "v1",
    canary: "v2",
    step: null,
    steps: null,
    since_s: 60,
    next: "weights stay",
    why: "",
    weights: { v1: weight(90), v2: weight(10) },
    versions: { v1: version, v2: version },
    analysis: { verdict: "none", reason: "", error_rate_difference: null, evidence: {}, forecast: null, mirror: null, alone: null, summary: null },
    gates: [],
    quarantined: [],
    last_decision: null,
    ...more,
  };
}

export class TellingEdge {
  routes: object[] = [sample("delivery-time")];
  /** Whether it says once a second how it and its routes are, as one does whose control loop goes on. */
  decides = true;
  generation = 1;
  /** Whether it answers that a token is needed. */
  locked = false;
  /** What was asked, in turn. */
  asked: string[] = [];
  private streams = new Set<ServerResponse>();
  private readonly beat = setInterval(() => {
    if (!this.decides) return;
    for (const route of this.routes) this.tell("sample", route);
    this.tellOfItself();
  }, 1000);
  private constructor(private readonly server: Server) {}

  static async start(): Promise<TellingEdge> {
    const server = createServer();
    const edge = new TellingEdge(server);
    server.on("request", (request, response) => edge.answer(request, response));
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    return edge;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  /** How many streams are open. */
  get listeners(): number {
    return this.streams.size;
  }

  /** How often this was asked. */
  count(what: string): number {
    return this.asked.filter((path) => path.startsWith(what)).length;
  }

  tell(type: string, data: object = {}): void {
    for (const stream of this.streams) write(stream, type, data);
  }

  /** What it says of itself. */
  tellOfItself(): void {
    this.tell("edge", itself());
  }

  /** A line that only says that the connection is there. */
  comment(): void {
    for (const stream of this.streams) stream.write(":\n\n");
  }

  /** Ends every stream. */
  hangUp(): void {
    for (const stream of this.streams) stream.end();
  }

  end(): void {
    clearInterval(this.beat);
    this.server.closeAllConnections();
    this.server.close();
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname, search } = new URL(request.url ?? "/", this.url);
    this.asked.push(`${request.method} ${pathname}${search}`);
    if (!pathname.startsWith("/api/")) return this.page(pathname, response);
    if (this.locked) return json(response, { status: 401, code: "unauthorized", detail: "a token is needed" }, 401);
    if (pathname === "/api/v1/events") return this.stream(response);
    if (pathname === "/api/v1/routes") return json(response, { routes: this.routes });
    if (pathname.endsWith("/series")) {
      return json(response, { now_ms: Date.now(), spacing_s: 1, versions: {}, judged: { at_ms: [], rollback: [], promotion: [] } });
    }
    if (pathname.endsWith("/decisions")) return json(response, { decisions: [] });
    return json(response, { decisions: [], route: this.routes[0], persisted: true });
  }

  private page(path: string, response: ServerResponse): void {
    const file = path === "/" ? "index.html" : (path.split("/").pop() ?? "");
    response.writeHead(200, { "content-type": TYPES[file.split(".").pop() ?? ""] ?? "text/plain", "cache-control": "no-store" });
    response.end(readFileSync(fileURLToPath(new URL(`../dist/${file}`, import.meta.url))));
  }

  private stream(response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const running = { file: "pointsman.yaml", hash: "0123456789ab", generation: this.generation, loaded_at: new Date().toISOString(), reloads_ok: 0, reloads_failed: 0, last_error: null, running: {}, needs_restart: [] };
    write(response, "config", running);
    for (const route of this.routes) write(response, "sample", route);
    this.streams.add(response);
    response.on("close", () => this.streams.delete(response));
  }
}

function itself(): object {
  return { at: new Date().toISOString(), version: "0.1.0", ready: true, draining: false, state: { file: "state.db", problem: null, note: null } };
}

function write(stream: ServerResponse, type: string, data: object): void {
  stream.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`);
}

function json(response: ServerResponse, body: object, status = 200): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}
