// What a person does and sees at three in the morning, in a real browser on a real edge.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, open, picture, settled, test } from "./rig";

test("a rollback is seen live, with its reason and the requests that failed", async ({ page, edge, traffic }) => {
  edge.write({ weights: "{ v1: 80%, v2: 20% }" });
  await edge.start();
  traffic.start(150);
  await open(page, edge);
  const hero = page.locator(".hero");
  await expect(hero).toContainText("steady");
  await expect(page.getByRole("region", { name: "Is it worse?" })).toContainText("evidence is being collected");
  await settled(page);
  // For the picture: something to look back on.
  if (process.env.UPDATE_DOCS === "1") {
    test.setTimeout(200_000);
    await page.waitForTimeout(60_000);
  }
  edge.site.v2.failing = 60;
  await expect(hero).toContainText("rolled back");
  await expect(hero).toContainText("What was taken back");
  await expect(page.getByRole("status").first()).toContainText("delivery-time");
  await expect(page.getByRole("img", { name: /^effective: v1 100 %, v2 0 %/ })).toBeVisible();
  await expect(page.getByText("v2 (r7) is held at 0 %")).toBeVisible();
  // What was before the rollback stays to be seen by who comes later.
  const decision = page.locator(".log > li").filter({ has: page.getByText("rollback", { exact: true }) });
  await decision.locator("summary").click();
  await expect(decision).toContainText(/requests to v2 failed/);
  await expect(decision).toContainText(/request-\d+ error 500/);
  await expect(page).toHaveTitle(/rolled back/);
  await decision.locator("summary").click();
  if (process.env.UPDATE_DOCS === "1") await page.waitForTimeout(12_000);
  await picture(page, "dashboard-rolled-back");
});

test("a page that is opened after it shows what was before", async ({ page, edge, traffic }) => {
  edge.write({ weights: "{ v1: 80%, v2: 20% }" });
  await edge.start();
  traffic.start(150);
  await expect.poll(async () => (await edge.route()).versions.v2.requests).toBeGreaterThan(100);
  edge.site.v2.failing = 70;
  await expect.poll(async () => (await edge.route()).phase).toBe("rolled_back");
  await open(page, edge);
  const chart = page.locator("figure.chart").filter({ hasText: "Errors" });
  await chart.getByText("Numbers").click();
  const told = chart.getByRole("region", { name: "Numbers: Errors" });
  await expect(told).toContainText(/[1-9]\d*(\.\d+)? %/);
  await expect(page.locator(".log > li").filter({ has: page.getByText("rollback", { exact: true }) })).toBeVisible();
});

test("weights are edited through the dialog, before and after are shown, and it is audited", async ({
  page,
  edge,
  traffic,
}) => {
  edge.write({ weights: "{ v1: 95%, v2: 5% }" });
  await edge.start();
  traffic.start(80);
  await open(page, edge);
  await page.getByRole("button", { name: /^Set weights/ }).click();
  const dialog = page.getByRole("dialog", { name: "Set the weights of delivery-time" });
  await dialog.getByRole("spinbutton", { name: "Weight of v2, in percent" }).fill("30");
  await expect(dialog.getByRole("img", { name: "now: v1 95 %, v2 5 %" })).toBeVisible();
  await expect(dialog.getByRole("img", { name: "then: v1 70 %, v2 30 %" })).toBeVisible();
  const send = dialog.getByRole("button", { name: "Set weights" });
  await send.click();
  await expect(dialog, "it asks for a reason").toBeVisible();
  await dialog.getByLabel("Reason").fill("quiet <b>evening</b>");
  await dialog.getByLabel("Your name").fill("Ada Lovelace");
  await picture(page, "dashboard-weights");
  // Pressed twice, it is sent once.
  await send.dblclick();
  await expect(dialog).toBeHidden();
  await expect(page.getByRole("img", { name: /^effective: v1 70 %, v2 30 %/ })).toBeVisible();
  const rows = page.locator(".log > li").filter({ hasText: "quiet <b>evening</b>" });
  await expect(rows).toHaveCount(1);
  await expect(rows).toContainText("Ada-Lovelace");
});

test("an order on a state that has changed is said and not carried out unseen", async ({ page, edge, traffic }) => {
  edge.write({ weights: "{ v1: 95%, v2: 5% }" });
  await edge.start();
  traffic.start(30);
  await open(page, edge);
  await expect.poll(async () => (await edge.route()).weights.v2.effective).toBe(5);
  await page.getByRole("button", { name: /^Set weights/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("spinbutton", { name: "Weight of v2, in percent" }).fill("50");
  await dialog.getByLabel("Reason").fill("more");
  // Somebody else is faster.
  expect((await edge.order("weights", { weights: { v1: "99%", v2: "1%" }, reason: "support calls" })).status).toBe(200);
  await expect(dialog.getByText("Since you opened this")).toBeVisible();
  await expect(dialog.getByText("support calls")).toBeVisible();
  await expect(dialog.getByRole("button", { name: "Set weights" })).toBeDisabled();
  await dialog.getByRole("button", { name: "I have seen it" }).click();
  await dialog.getByRole("button", { name: "Set weights" }).click();
  await expect(dialog).toBeHidden();
  await expect.poll(async () => (await edge.route()).weights.v2.effective).toBe(50);
});

test("the edge refuses what the page could not know", async ({ page, edge, traffic }) => {
  edge.write({ weights: "{ v1: 95%, v2: 5% }" });
  await edge.start();
  traffic.start(30);
  await open(page, edge);
  await expect.poll(async () => (await edge.route()).weights.v2.effective).toBe(5);
  await page.getByRole("button", { name: /^Set weights/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("spinbutton", { name: "Weight of v2, in percent" }).fill("40");
  await dialog.getByLabel("Reason").fill("more");
  // The order overtakes the event that would have told of the other one.
  await page.route("**/weights", async (route) => {
    await edge.order("weights", { weights: { v1: "98%", v2: "2%" }, reason: "somebody else" });
    await route.continue();
  });
  await dialog.getByRole("button", { name: "Set weights" }).click();
  await expect(dialog.getByRole("alert")).toContainText("moved on since you looked");
  await expect(dialog.getByRole("alert")).toBeFocused();
  expect(await dialog.getByLabel("Reason").inputValue()).toBe("more");
  expect((await edge.route()).weights.v2.effective).toBe(2);
});

test("a wrong token is said, and nothing of the form is lost", async ({ page, edge }) => {
  const file = join(edge.site.folder, "token");
  writeFileSync(file, "correct-horse\n");
  edge.write({ tokenFile: file });
  await edge.start();
  await page.goto(edge.url);
  await expect(page.getByRole("heading", { name: "This edge asks for its token" })).toBeVisible();
  await page.locator("#token").fill("wrong");
  await page.getByRole("button", { name: "Unlock" }).click();
  await expect(page.getByRole("alert")).toHaveText("This is not the token.");
  await page.locator("#token").fill("correct-horse");
  await page.keyboard.press("Enter");
  await expect(page.locator("#link")).toHaveText(/Live/);

  // The token changes while a form is filled in.
  await page.getByRole("button", { name: /^Set weights/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("spinbutton", { name: "Weight of v2, in percent" }).fill("25");
  await dialog.getByLabel("Reason").fill("support calls");
  writeFileSync(file, "battery-staple\n");
  const send = dialog.getByRole("button", { name: "Set weights" });
  await send.click();
  await expect(dialog.getByRole("alert")).toContainText("asks for its token");
  await dialog.getByLabel("Token").fill("guess");
  await send.click();
  await expect(dialog.getByRole("alert")).toContainText("This is not the token");
  expect(await dialog.getByLabel("Reason").inputValue()).toBe("support calls");
  expect(await dialog.getByRole("spinbutton").inputValue()).toBe("25");
  await dialog.getByLabel("Token").fill("battery-staple");
  await send.click();
  await expect(dialog).toBeHidden();
  await expect(page.locator(".log > li").first()).toContainText("support calls");
  // In this tab, and nowhere that outlives it.
  expect(await page.evaluate(() => [localStorage.length, document.cookie])).toEqual([0, ""]);
  expect(await page.evaluate(() => Object.values(sessionStorage))).toContain("battery-staple");
});

test("a lost connection is said, since when, and mended by itself", async ({ page, edge, traffic }) => {
  edge.write({});
  await edge.start();
  traffic.start(30);
  await open(page, edge);
  await edge.kill();
  const banner = page.locator("#lost");
  await expect(banner).toContainText(/Connection lost since \d\d:\d\d:\d\d/);
  await expect(page.locator("#link")).toHaveText(/Not connected/);
  await expect(page.locator(".page")).toHaveClass(/old/);
  await expect(page.getByRole("button", { name: /^Set weights/ })).toBeDisabled();
  await expect(page).toHaveTitle(/no connection/);
  await picture(page, "dashboard-lost");
  await edge.start();
  await expect(page.locator("#link")).toHaveText(/Live/);
  await expect(banner).toBeHidden();
  await expect(page.getByRole("button", { name: /^Set weights/ })).toBeEnabled();
});

test("a page goes on through an upgrade of the program", async ({ page, edge, traffic }) => {
  edge.write({});
  await edge.start();
  traffic.start(30);
  await open(page, edge);
  const before = edge.pid;
  await edge.start("--upgrade");
  expect(edge.pid).not.toBe(before);
  await expect(page.locator("#link")).toHaveText(/Live/);
  // Told by the successor: the one before is gone.
  await expect.poll(() => isGone(before)).toBe(true);
  await edge.order("weights", { weights: { v1: "55%", v2: "45%" }, reason: "after the upgrade" });
  await expect(page.getByRole("img", { name: /^effective: v1 55 %, v2 45 %/ })).toBeVisible();
});

function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch {
    return true;
  }
}

test("an edge that hangs is called stale, not live", async ({ page, edge }) => {
  edge.write({});
  await edge.start();
  await open(page, edge);
  edge.signal("SIGSTOP");
  try {
    await expect(page.locator("#stale")).toContainText(/nothing new since \d\d:\d\d:\d\d/);
    await expect(page.locator("#link")).toHaveText(/Stale/);
  } finally {
    edge.signal("SIGCONT");
  }
  await expect(page.locator("#link")).toHaveText(/Live/);
});

test("a plan moves along its track, is paused, resumed, and goes through the bake", async ({ page, edge, traffic }) => {
  edge.write({
    rollout: "{ canary: v2, steps: [ { weight: 10%, hold: 1s }, { weight: 50%, hold: 1h } ], promotion: manual, bake: 1h }",
    guard: "{ promotion: { min_soak: 2s } }",
  });
  await edge.start();
  traffic.start(150);
  await open(page, edge);
  const plan = page.getByRole("region", { name: "Plan" });
  // From here on nothing is decided by itself, however long a dialog is open.
  await expect(plan.locator("[aria-current=step]")).toContainText("50 %");
  await page.getByRole("button", { name: /^Pause/ }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill("lunch");
  await page.getByRole("dialog").getByRole("button", { name: "Pause" }).click();
  await expect(page.locator(".hero")).toContainText("paused");
  await expect(page.locator(".hero")).toContainText("lunch");
  await page.getByRole("button", { name: /^Resume/ }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill("back");
  await page.getByRole("dialog").getByRole("button", { name: "Resume" }).click();
  await expect(page.locator(".hero")).toContainText("shifting");
  await page.getByRole("button", { name: /^Promote/ }).click();
  await expect(page.getByRole("dialog").getByRole("img", { name: /^then: v1 0 %, v2 100 %/ })).toBeVisible();
  await page.getByRole("dialog").getByLabel("Reason").fill("it is good");
  await page.getByRole("dialog").getByRole("button", { name: "Promote" }).click();
  await expect(plan.locator("[aria-current=step]")).toContainText("Bake");
  await expect(page.locator(".hero")).toContainText("baking");
  await page.getByRole("button", { name: /^Roll back/ }).click();
  // Nothing asks for a reason where there is no time.
  await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await expect(page.locator(".hero")).toContainText("rolled back");
  await page.getByRole("button", { name: /^Retry v2/ }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill("a false alarm");
  await page.getByRole("dialog").getByRole("button", { name: "Retry v2" }).click();
  await expect(plan.locator("[aria-current=step]")).toBeVisible();
});

test("a refused edit is shown with its place", async ({ page, edge }) => {
  edge.write({});
  await edge.start();
  await open(page, edge);
  edge.write({ weights: "{ v1: 90%, v2: 20% }" });
  const refusal = page.getByText("was refused at").first();
  await expect(refusal).toBeVisible();
  await expect(page.getByText(/pointsman\.yaml:\d+:\d+.*110%/).first()).toBeVisible();
  edge.write({ weights: "{ v1: 60%, v2: 40% }" });
  await expect(refusal).toBeHidden();
  await expect(page.getByText("generation 2")).toBeVisible();
});

test("in a cluster it is told who leads, and which edge is silent", async ({ page, edge }) => {
  edge.write({});
  await edge.start();
  const other = (name: string, heard: boolean, age_s: number) => ({ address: `${name}:9901`, name, age_s, heard, serves: true, gone: false });
  const replicas = {
    name: "pointsman-a",
    role: "leader",
    leader: "pointsman-a",
    leader_age_s: null,
    uncounted: 0,
    replicas: [other("pointsman-b", true, 0.2), other("pointsman-c", false, 14)],
  };
  // One edge has no others, so what it says of itself is put in its mouth.
  await page.route("**/api/v1/events*", async (route) => {
    const told = { type: "edge", at: new Date().toISOString(), version: "0.1.0", ready: true, draining: true };
    const state = { file: "state.db", problem: "the disk is full; free some space", note: null };
    const body = `event: edge\ndata: ${JSON.stringify({ ...told, state, replicas })}\n\n`;
    await route.fulfill({ contentType: "text/event-stream", body });
  });
  await page.goto(edge.url);
  const card = page.getByRole("region", { name: "This edge" });
  await expect(card).toContainText("This edge (pointsman-a) leads.");
  await expect(card.getByRole("row").filter({ hasText: "pointsman-b" })).toContainText("heard");
  await expect(card.getByRole("row").filter({ hasText: "pointsman-c" })).toContainText("silent; nothing is promoted without it");
  await expect(page.getByText("This edge is stopping")).toBeVisible();
  await expect(page.getByText("State cannot be kept:")).toBeVisible();
});

test("names, reasons and request ids of somebody else are text", async ({ page, edge, traffic }) => {
  const evil = "<img src=x onerror=document.title=1>";
  edge.write({ weights: "{ v1: 70%, v2: 30% }", revision: evil });
  await edge.start();
  traffic.start(150);
  await open(page, edge);
  await edge.order("weights", { weights: { v1: "60%", v2: "40%" }, reason: `<svg onload="alert(1)">` });
  edge.site.v2.failing = 80;
  await expect(page.locator(".hero")).toContainText("rolled back");
  // The edge takes no request id that is not plain; should one come all the same, it is text.
  await page.route("**/decisions?*", async (route) => {
    const answer = await route.fetch();
    const body = (await answer.text()).replaceAll(/"request_id":"[^"]*"/g, '"request_id":"<script>alert(1)</script>"');
    await route.fulfill({ response: answer, body });
  });
  await page.reload();
  const rollback = page.locator(".log > li").filter({ has: page.getByText("rollback", { exact: true }) });
  await rollback.locator("summary").click();
  await expect(rollback).toContainText("<script>alert(1)</script> error 500");
  await page.unrouteAll({ behavior: "wait" });
  await expect(page.getByText(evil).first()).toBeVisible();
  await expect(page.getByText(`<svg onload="alert(1)">`).first()).toBeVisible();
  expect(await page.locator("#app img:not(.brand img), #app script, #app svg[onload]").count()).toBe(0);
  await expect(page).toHaveTitle(/rolled back/);
  // An address with something strange in it is no route, and nothing else.
  await page.goto(`${edge.url}#/routes/${encodeURIComponent(evil)}`);
  await expect(page.getByText(`There is no route ${evil}`)).toBeVisible();
});
