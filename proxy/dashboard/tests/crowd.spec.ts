// A thousand routes: the list stays usable, and neither work nor memory grows with time. `MEASURE=1` prints the figures
// that docs/dashboard.md has.

import { type IncomingMessage, type Server, type ServerResponse, createServer, request as ask } from "node:http";
import type { AddressInfo } from "node:net";
import type { CDPSession, Page } from "@playwright/test";
import { type Edge, expect, test } from "./rig";

const ROUTES = 1_000;
/** The edge tells of a tenth of its routes in each tenth of a second. */
const PARTS = 10;

const PHASES = ["steady", "shifting", "warming", "paused", "baking", "rolled_back"];

/** An edge, as far as it is told to pages, of a thousand routes: everything else is asked of a real one. */
class Crowd {
  private listener: ServerResponse | null = null;
  private round = 0;
  /** Who looks at no route in particular is told of every second of all of them. */
  private tellsSeconds = false;
  private constructor(
    private readonly server: Server,
    private readonly template: Record<string, any>,
  ) {}

  static async start(edge: Edge): Promise<Crowd> {
    const crowd = new Crowd(createServer(), await edge.route());
    crowd.server.on("request", (request, response) => {
      if (request.url?.startsWith("/api/v1/events")) crowd.tell(request, response);
      else pass(edge, request, response);
    });
    await new Promise<void>((listening) => crowd.server.listen(0, "127.0.0.1", listening));
    return crowd;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  private tell(request: IncomingMessage, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream" });
    this.listener = response;
    this.tellsSeconds = !request.url?.includes("focus=");
    request.once("close", () => {
      if (this.listener === response) this.listener = null;
    });
    for (let index = 0; index < ROUTES; index += 1) this.sample(index);
    void this.edge();
  }

  private write(event: object): boolean {
    return this.listener?.write(`data: ${JSON.stringify(event)}\n\n`) ?? true;
  }

  private sample(index: number): boolean {
    const { template, round } = this;
    const observed = (index * 7 + round) % 90;
    const phase = PHASES[index % 97 === 5 ? 5 : index % 31 === 3 ? 1 : 0];
    const weights = { v1: { desired: 90, effective: 90, observed: 100 - observed }, v2: { desired: 10, effective: 10, observed } };
    const since_s = 100 + index + round;
    if (this.tellsSeconds) {
      const second = { requests_per_second: 10, error_rate: 0, p50_ms: 2, p99_ms: 3, weight: 10 };
      const versions = { v1: second, v2: second };
      this.write({ type: "second", route: nameOf(index), at_ms: Date.now(), versions, rollback: null, promotion: null });
    }
    return this.write({ ...template, type: "sample", name: nameOf(index), phase, since_s, weights });
  }

  private async edge(): Promise<void> {
    const state = { file: "state.db", problem: null, note: null };
    const at = new Date().toISOString();
    const took = this.write({ type: "edge", at, version: "0.1.0", ready: true, draining: false, state });
    const { listener } = this;
    if (!took && listener) await new Promise((drained) => listener.once("drain", drained));
  }

  /** One second of news; `pause` after each tenth of it. */
  async second(pause: number): Promise<void> {
    this.round += 1;
    for (let part = 0; part < PARTS; part += 1) {
      for (let index = part; index < ROUTES; index += PARTS) this.sample(index);
      if (pause > 0) await new Promise((over) => setTimeout(over, pause));
    }
    await this.edge();
  }

  end(): void {
    this.listener?.destroy();
    this.server.closeAllConnections();
    this.server.close();
  }
}

function nameOf(index: number): string {
  return `route-${String(index).padStart(4, "0")}`;
}

function pass(edge: Edge, request: IncomingMessage, response: ServerResponse): void {
  const { hostname, port } = new URL(edge.url);
  const asked = ask({ hostname, port, path: request.url, method: request.method }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(response);
  });
  asked.once("error", () => response.destroy());
  request.pipe(asked);
}

type Metrics = { busy_ms: number; heap_mb: number; nodes: number };

async function metricsOf(session: CDPSession): Promise<Metrics> {
  await session.send("HeapProfiler.collectGarbage");
  const { metrics } = await session.send("Performance.getMetrics");
  const of = (name: string): number => metrics.find((metric) => metric.name === name)?.value ?? Number.NaN;
  return { busy_ms: of("TaskDuration") * 1000, heap_mb: of("JSHeapUsedSize") / 1e6, nodes: of("Nodes") };
}

/** The longest tasks of the page's thread since this was first called. */
async function longest(page: Page): Promise<number> {
  return page.evaluate(() => {
    const kept = window as unknown as { longest?: number };
    if (kept.longest === undefined) {
      kept.longest = 0;
      new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) kept.longest = Math.max(kept.longest ?? 0, duration);
      }).observe({ type: "longtask" });
    }
    return kept.longest;
  });
}

const crowded = test.extend<{ crowd: Crowd }>({
  crowd: async ({ edge, traffic }, use) => {
    edge.write({});
    await edge.start();
    traffic.start(20);
    await expect.poll(async () => (await edge.route()).versions.v2.requests).toBeGreaterThan(0);
    const crowd = await Crowd.start(edge);
    await use(crowd);
    crowd.end();
  },
});

crowded("a thousand routes stay a list that can be used, whatever comes in", async ({ page, crowd }) => {
  test.setTimeout(300_000);
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  await page.goto(crowd.url);
  await expect(page.locator("#link")).toHaveText(/Live/);
  const list = page.getByRole("navigation", { name: "Routes" });
  await expect(page.getByRole("heading", { level: 1, name: "Routes" })).toBeVisible();
  await expect(page).toHaveTitle(/^\(11\)/);
  // What is wrong stands first, there and in the list beside it.
  await expect(list.getByRole("link").first()).toHaveText(/^route-0005.*rolled back/);
  for (let warm = 0; warm < 3; warm += 1) await crowd.second(100);
  await longest(page);
  const seconds = process.env.MEASURE === "1" ? 20 : 3;
  const before = await metricsOf(session);
  for (let second = 0; second < seconds; second += 1) await crowd.second(100);
  const live = await metricsOf(session);
  const slowest = await longest(page);
  // Minutes of news, as fast as the page takes them.
  for (let second = 0; second < 180; second += 1) await crowd.second(0);
  await crowd.second(100);
  const after = await metricsOf(session);
  const busy = (live.busy_ms - before.busy_ms) / seconds;
  console.log(
    `${ROUTES} routes: ${busy.toFixed(0)} ms of each second, longest task ${slowest.toFixed(0)} ms, ${live.nodes} nodes; heap ${live.heap_mb.toFixed(1)} MB, three minutes later ${after.heap_mb.toFixed(1)} MB`,
  );
  expect(after.nodes, "nothing is left behind").toBeLessThan(1.2 * live.nodes);
  expect(after.heap_mb, "nothing is kept of what is over").toBeLessThan(1.5 * live.heap_mb + 5);
  // It can be used: found, opened, and what is seen is the newest.
  await list.getByRole("searchbox", { name: "Find a route" }).fill("0777");
  await expect(list.getByRole("link")).toHaveCount(1);
  await crowd.second(0);
  await list.getByRole("link").click();
  await expect(page.getByRole("heading", { level: 1, name: "route-0777" })).toBeVisible();
});
