// A real edge with two fake models behind it and traffic in front of it; ends with the test.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";
import { type Locator, type Page, expect, test as base } from "@playwright/test";

/** A model that answers as it is told. */
class Model {
  /** Of a hundred requests so many fail. */
  failing = 0;
  /** It answers after so many milliseconds. */
  delay = 2;
  ready = true;
  private asked = 0;
  private constructor(readonly server: Server) {}

  static async start(): Promise<Model> {
    const model = new Model(createServer());
    model.server.on("request", (request, response) => {
      request.resume();
      if (request.url === "/ready") {
        response.writeHead(model.ready ? 200 : 503).end();
        return;
      }
      model.asked += 1;
      const fails = (model.asked * 377) % 1000 < 10 * model.failing;
      setTimeout(() => {
        response.writeHead(fails ? 500 : 200, { "content-type": "application/json" });
        response.end(fails ? '{"error":"broken"}' : '{"prediction":31.7}');
      }, model.delay + Math.random() * model.delay);
    });
    await new Promise<void>((listening) => model.server.listen(0, "127.0.0.1", listening));
    return model;
  }

  get address(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }
}

async function freePort(): Promise<number> {
  const socket = createSocket();
  await new Promise<void>((listening) => socket.listen(0, "127.0.0.1", listening));
  const { port } = socket.address() as AddressInfo;
  await new Promise((closed) => socket.close(closed));
  return port;
}

export type Site = { v1: Model; v2: Model; folder: string; admin: number };

/** What a site's config says of its route. */
export type Plan = { weights?: string; rollout?: string; guard?: string; revision?: string; more?: string; tokenFile?: string };

export class Edge {
  private process: ChildProcess | null = null;
  private log = "";
  address = "";
  private constructor(readonly site: Site) {}

  static async new(): Promise<Edge> {
    const [v1, v2, admin] = await Promise.all([Model.start(), Model.start(), freePort()]);
    const folder = mkdtempSync(join(tmpdir(), "pointsman-dashboard-"));
    return new Edge({ v1, v2, folder, admin });
  }

  get config(): string {
    return join(this.site.folder, "pointsman.yaml");
  }

  get url(): string {
    return `http://127.0.0.1:${this.site.admin}/`;
  }

  /** Writes the config; YAML takes JSON. */
  write(plan: Plan): void {
    writeFileSync(this.config, this.text(plan));
  }

  text(plan: Plan): string {
    const { v1, v2, admin } = this.site;
    const token = plan.tokenFile ? `, token_file: ${JSON.stringify(plan.tokenFile)}` : "";
    return `listeners: [{ address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:${admin}${token} }
state: { file: state.db }
routes:
  - name: delivery-time
    stable: v1
    versions:
      v1: { endpoints: [${v1.address}], revision: r6 }
      v2: { endpoints: [${v2.address}], revision: ${JSON.stringify(plan.revision ?? "r7")} }
    health_check: { path: /ready, interval: 100ms, timeout: 1s }
    ${plan.rollout ? `rollout: ${plan.rollout}` : `weights: ${plan.weights ?? "{ v1: 90%, v2: 10% }"}`}
    ${plan.guard ? `guard: ${plan.guard}` : ""}
${plan.more ?? ""}`;
  }

  /** Starts it; `--upgrade` has it take over from the one that runs. */
  async start(...more: string[]): Promise<void> {
    const program = process.env.POINTSMAN;
    if (!program) throw new Error("POINTSMAN must name the program");
    const child = spawn(program, ["run", "--config", this.config, "--drain-delay", "0s", ...more], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    this.process = child;
    this.log = "";
    child.stderr.on("data", (data: Buffer) => {
      this.log += data.toString();
    });
    const lines = createInterface({ input: child.stdout });
    this.address = await new Promise((listening, failed) => {
      lines.on("line", (line) => {
        if (line.startsWith("listening on ")) this.address = line.slice("listening on ".length);
        if (line.startsWith("admin on ")) listening(this.address);
      });
      child.once("exit", (code) => failed(new Error(`it ended with ${code}: ${this.log}`)));
    });
  }

  get pid(): number {
    return this.process?.pid ?? 0;
  }

  /** What it wrote to its log. */
  said(): string {
    return this.log;
  }

  signal(signal: NodeJS.Signals): void {
    this.process?.kill(signal);
  }

  async kill(): Promise<void> {
    const child = this.process;
    this.process = null;
    if (!child || child.exitCode !== null) return;
    const ended = new Promise((exit) => child.once("exit", exit));
    child.kill("SIGKILL");
    await ended;
  }

  async end(): Promise<void> {
    await this.kill();
    for (const model of [this.site.v1, this.site.v2]) model.server.closeAllConnections();
    for (const model of [this.site.v1, this.site.v2]) model.server.close();
    rmSync(this.site.folder, { recursive: true, force: true });
  }

  /** One order past the page. */
  async order(verb: string, body: object): Promise<Response> {
    return fetch(`${this.url}api/v1/routes/delivery-time/${verb}`, {
      method: verb === "weights" ? "PUT" : "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  }

  async route(): Promise<any> {
    return (await fetch(`${this.url}api/v1/routes/delivery-time`)).json();
  }
}

/** Requests at a steady pace until it is stopped; each with an id of its own. */
export class Traffic {
  private timer: NodeJS.Timeout | null = null;
  private count = 0;
  constructor(
    readonly edge: Edge,
    private readonly id = (count: number): string => `request-${count}`,
  ) {}

  start(perSecond: number): this {
    this.stop();
    let owed = 0;
    let last = Date.now();
    this.timer = setInterval(() => {
      const now = Date.now();
      owed = Math.min(owed + ((now - last) / 1000) * perSecond, perSecond);
      last = now;
      for (; owed >= 1; owed -= 1) void this.ask();
    }, 20);
    return this;
  }

  private async ask(): Promise<void> {
    this.count += 1;
    try {
      const answer = await fetch(`http://${this.edge.address}/v1/predict`, {
        method: "POST",
        body: '{"distance_km":4.2}',
        headers: { "content-type": "application/json", "x-request-id": this.id(this.count) },
      });
      await answer.arrayBuffer();
    } catch {
      // The edge may be down: some tests kill it.
    }
  }

  stop(): void {
    if (this.timer) clearInterval(this.timer);
    this.timer = null;
  }
}

/** For who works on the page: what `npm run build` made is looked at without building the program. */
async function fromDisk(page: Page): Promise<void> {
  if (process.env.DIST !== "1") return;
  await page.route("**/dashboard/app.*", (route) => {
    const file = new URL(route.request().url()).pathname.split("/").pop() ?? "";
    return route.fulfill({ path: fileURLToPath(new URL(`../dist/${file}`, import.meta.url)) });
  });
}

type Fixtures = { edge: Edge; traffic: Traffic; strict: void };

export const test = base.extend<Fixtures>({
  edge: async ({}, use) => {
    const edge = await Edge.new();
    await use(edge);
    await edge.end();
  },
  traffic: async ({ edge }, use) => {
    const traffic = new Traffic(edge);
    await use(traffic);
    traffic.stop();
  },
  // Nothing is asked of any other host, nothing breaks the policy, no script fails.
  strict: [
    async ({ page }, use) => {
      const wrong: string[] = [];
      page.on("request", (request) => {
        const { hostname, protocol } = new URL(request.url());
        if (hostname !== "127.0.0.1" && protocol !== "data:" && protocol !== "blob:") wrong.push(request.url());
      });
      page.on("pageerror", (error) => wrong.push(String(error)));
      page.on("console", (message) => {
        if (/content security policy|trusted type/i.test(message.text())) wrong.push(message.text());
      });
      await fromDisk(page);
      await use();
      expect(wrong).toEqual([]);
    },
    { auto: true },
  ],
});

export { expect };

/** The page of an edge, once it is live. */
export async function open(page: Page, edge: Edge): Promise<void> {
  await page.goto(edge.url);
  await expect(page.locator("#link")).toHaveText(/Live/);
  await expect(page.getByRole("heading", { level: 1, name: "delivery-time" })).toBeVisible();
}

/** Traffic that has been judged for a moment. */
export async function settled(page: Page): Promise<void> {
  await expect(page.locator(".plot canvas").first()).toBeVisible();
}

/** Takes a picture for the documents, if they are to be made anew: of the page, or of a part of it. */
export async function picture(page: Page, name: string, part?: Locator): Promise<void> {
  if (process.env.UPDATE_DOCS !== "1") return;
  await page.evaluate(() => window.scrollTo(0, 0));
  await (part ?? page).screenshot({ path: fileURLToPath(new URL(`../../../docs/images/${name}.png`, import.meta.url)), animations: "disabled" });
}
