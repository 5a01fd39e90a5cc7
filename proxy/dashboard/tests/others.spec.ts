// Who else has a say: gates, freezes, numbers; who is told; and whose figures are shown where there are several edges.

import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Page } from "@playwright/test";
import { expect, open, picture, test } from "./rig";

/** Somebody outside who answers as he is told. */
class Outside {
  status = 200;
  answer: object = {};
  readonly asked: Record<string, unknown>[] = [];
  private constructor(private readonly server: Server) {}

  static async start(): Promise<Outside> {
    const outside = new Outside(createServer());
    outside.server.on("request", (request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (part: string) => {
        body += part;
      });
      request.on("end", () => {
        if (request.headers["content-type"]?.startsWith("application/json")) outside.asked.push(JSON.parse(body));
        response.writeHead(outside.status, { "content-type": "application/json" }).end(JSON.stringify(outside.answer));
      });
    });
    await new Promise<void>((listening) => outside.server.listen(0, "127.0.0.1", listening));
    return outside;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  end(): void {
    this.server.closeAllConnections();
    this.server.close();
  }
}

const others = test.extend<{ board: Outside; hook: Outside }>({
  board: async ({}, use) => {
    const board = await Outside.start();
    await use(board);
    board.end();
  },
  hook: async ({}, use) => {
    const hook = await Outside.start();
    await use(hook);
    hook.end();
  },
});

others("a gate that holds is told with its reason, and the rollout goes on when it passes", async ({ page, edge, traffic, board, hook }) => {
  hook.answer = { status: "success", data: { resultType: "vector", result: [{ metric: {}, value: [0, "0.5"] }] } };
  board.answer = { allow: false, reason: "the board meets at nine" };
  edge.write({
    rollout: "{ canary: v2, steps: [ { weight: 40%, hold: 1s }, { weight: 60%, hold: 1h } ], promotion: manual }",
    guard: `{ max_error_rate: 50%,
      gates: [ { name: change-board, url: '${board.url}', before: [step], every: 1s } ],
      queries: [ { name: orders, prometheus: '${hook.url}', query: 'x{v="{{version}}"}', max: 1, every: 1s } ] }`,
  });
  await edge.start();
  traffic.start(250);
  await open(page, edge);
  const card = page.getByRole("region", { name: "What others say" }).first();
  const row = card.getByRole("row").filter({ hasText: "change-board" });
  await expect(row).toContainText("a gate before a step");
  await expect(row).toContainText("holds: no step, no promotion");
  await expect(row).toContainText("the board meets at nine");
  await expect(page.locator(".hero")).toContainText("change-board");
  await picture(page, "dashboard-others", card);
  board.answer = { allow: true };
  await expect(row).toContainText("nothing against it");
  await expect(page.getByRole("img", { name: /^effective: v1 60 %, v2 40 %/ })).toBeVisible();
  await expect(card.getByRole("row").filter({ hasText: "orders" })).toContainText("a number from Prometheus");
  // What was held stays in the log, with what was said.
  const held = page.locator(".log > li").filter({ has: page.getByText("hold", { exact: true }) }).first();
  await held.locator("summary").click();
  await expect(held).toContainText("the gate `change-board` holds");
  // Where only others are in the way of a promotion, nobody is left to wonder who.
  const route = await edge.route();
  const gate = { gate: "change-board", outcome: "holds", words: "the board went home", for_s: 61, observed_s_ago: 2 };
  const freeze = { ...gate, gate: "freeze/winter", words: "nothing goes forward until Mon 08:00" };
  const analysis = { ...route.analysis, verdict: "continue", reason: "gate_holds" };
  await saying(page, [{ ...route, type: "sample", gates: [gate, freeze], analysis }]);
  await page.reload();
  await expect(page.locator(".hero")).toContainText(
    "No: v2 is proven good enough, and the gate change-board and the freeze winter hold its promotion",
  );
});

others("a freeze is told, and a promotion goes past it only by a tick and with a reason", async ({ page, edge, traffic, hook }) => {
  hook.status = 503;
  edge.write({
    rollout: "{ canary: v2, steps: [ { weight: 40%, hold: 1h } ], promotion: manual, bake: 1h }",
    more: `freeze: [ { name: winter, cron: "* * * * *", duration: 10m } ]
notifications: [ { name: audit, url: '${hook.url}', give_up_after: 1h } ]`,
  });
  await edge.start();
  traffic.start(100);
  await open(page, edge);
  const card = page.getByRole("region", { name: "What others say" }).first();
  await expect(card.getByRole("row").filter({ hasText: "freeze/winter" })).toContainText("nothing goes forward until");
  await page.getByRole("button", { name: /^Promote/ }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("Frozen by winter: nothing goes forward until");
  await dialog.getByLabel("Reason").fill("the old one is worse");
  await dialog.getByRole("button", { name: "Promote" }).click();
  await expect(dialog.getByRole("alert"), "without the tick the edge says no").toContainText("is frozen by `winter`");
  await dialog.getByRole("checkbox", { name: "Promote all the same" }).check();
  await dialog.getByRole("button", { name: "Promote" }).click();
  await expect(dialog).toBeHidden();
  await expect(page.locator(".hero")).toContainText("baking");
  // Whoever should be told of it does not listen, and that is said too.
  await expect(page.getByText("Webhook audit does not take its notifications.")).toBeVisible();
  const row = page.getByRole("region", { name: "Notifications" }).getByRole("row").filter({ hasText: "audit" });
  await expect(row).toContainText("does not take its rows");
  hook.status = 200;
  await expect(row).toContainText("last told");
  await expect(page.getByText("Webhook audit does not take")).toBeHidden();
  expect(hook.asked.some(({ event }) => event === "promote")).toBe(true);
});

/** Has the page hear this instead of the stream of its edge. */
async function saying(page: Page, events: object[]): Promise<void> {
  const body = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
  await page.route("**/api/v1/events*", (asked) => asked.fulfill({ contentType: "text/event-stream", body }));
}

/** What this edge would say in a cluster. */
function inACluster(page: Page, replicas: object, route: object): Promise<void> {
  const state = { file: "the live Services", problem: null, note: null };
  const edge = { type: "edge", at: new Date().toISOString(), version: "0.1.0", ready: true, draining: false, state, replicas };
  return saying(page, [{ ...route, type: "sample" }, edge]);
}

test("in a cluster the page says whose requests it counts", async ({ page, edge, traffic }) => {
  edge.write({ weights: "{ v1: 60%, v2: 40%}" });
  await edge.start();
  traffic.start(100);
  await expect.poll(async () => (await edge.route()).analysis.verdict).toBe("continue");
  const route = await edge.route();
  const other = { address: "10.0.0.7:9901", name: "b", age_s: 0.1, heard: true, serves: true, gone: false };
  const gone = { address: "10.0.0.9:9901", name: "c", age_s: 99, heard: false, serves: false, gone: true };
  const leader = { name: "a", role: "leader", leader: "a", leader_age_s: null, uncounted: 0, replicas: [other, gone] };
  await inACluster(page, leader, route);
  await page.goto(edge.url);
  await expect(page.getByRole("region", { name: "What each version does" })).toContainText("Counted by this edge (a) alone, one of 2");
  await expect(page.getByRole("region", { name: "Is it worse?" })).toContainText("Judged on the requests of all 2 edges together.");
  await inACluster(page, { ...leader, role: "follower", name: "b", leader_age_s: 0.1, replicas: [] }, route);
  await page.reload();
  await expect(page.getByRole("region", { name: "Versions and endpoints" }).first()).toContainText("Counted by this edge (b) alone");
  await expect(page.getByRole("region", { name: "Is it worse?" })).toContainText("a leads and decides on those of all edges");
});
