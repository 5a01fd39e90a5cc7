// What the page makes of what an edge tells it: too much, nothing new, or not to a page that nobody sees.

import { type Page, test as base, expect } from "@playwright/test";
import { TellingEdge, sample } from "./told";

const test = base.extend<{ edge: TellingEdge }>({
  edge: async ({}, use) => {
    const edge = await TellingEdge.start();
    await use(edge);
    edge.end();
  },
});

const link = (page: Page) => page.locator("#link");

/** Every state that the page shows from now on in the element of this id, or in the whole page. */
async function watched(page: Page, id: string): Promise<() => Promise<string[]>> {
  await page.evaluate((id) => {
    const seen: string[] = [];
    Object.assign(window, { seen });
    const look = () => seen.push(document.getElementById(id)?.textContent ?? "");
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  }, id);
  return () => page.evaluate(() => (window as unknown as { seen: string[] }).seen);
}

/** The page is put into the background, or comes back. */
async function turn(page: Page, state: "hidden" | "visible"): Promise<void> {
  await page.evaluate((value) => {
    Object.defineProperty(document, "visibilityState", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
}

test("a page keeps the seconds of the route that is looked at, and asks for no others", async ({ page, edge }) => {
  edge.routes = [sample("delivery-time"), sample("ranking")];
  await page.goto(edge.url);
  await expect(page.getByRole("heading", { level: 1, name: "Routes" })).toBeVisible();
  expect(edge.asked).toContain("GET /api/v1/events?focus=");
  await page.goto(`${edge.url}#/routes/ranking`);
  await expect(page.getByRole("heading", { level: 1, name: "ranking" })).toBeVisible();
  await expect.poll(() => edge.count("GET /api/v1/events?focus=ranking")).toBe(1);
  await expect.poll(() => edge.listeners).toBe(1);
  const second = (route: string, rps: number) => {
    const seen = { requests_per_second: rps, error_rate: 0, p50_ms: 1, p99_ms: 1, weight: 90 };
    edge.tell("second", { route, at_ms: Date.now(), versions: { v1: seen }, rollback: null, promotion: null });
  };
  second("delivery-time", 77_777);
  second("ranking", 11_111);
  const chart = page.locator("figure.chart").filter({ hasText: "Requests" }).first();
  await chart.getByText("Numbers").click();
  await expect(chart).toContainText("11,111");
  await expect(chart).not.toContainText("77,777");
});

test("events that were left out make no route vanish, and are asked for again, but not again and again", async ({ page, edge }) => {
  edge.routes = [sample("delivery-time"), sample("ranking")];
  await page.goto(`${edge.url}#/routes/ranking`);
  await expect(link(page)).toHaveText(/Live/);
  const before = edge.count("GET /api/v1/events");
  const seen = await watched(page, "main");
  edge.generation = 2;
  for (let sign = 0; sign < 12; sign += 1) {
    edge.tell("missed", { events: 500 });
    edge.tell("sample", sample("delivery-time"));
    edge.tellOfItself();
  }
  await expect(page.getByText("generation 2", { exact: true })).toBeVisible();
  expect(edge.count("GET /api/v1/events") - before).toBe(1);
  expect((await seen()).filter((words) => words.includes("There is no route"))).toEqual([]);
});

test("a dialog stays open, with what was written, whatever becomes of its route", async ({ page, edge }) => {
  await page.goto(edge.url);
  await expect(link(page)).toHaveText(/Live/);
  await page.getByRole("button", { name: /^Set weights/ }).click();
  const reason = page.getByRole("dialog").getByLabel("Reason");
  await reason.fill("support calls");
  // Another route comes, this one is heard of no more, and the token changes.
  edge.routes = [sample("ranking"), sample("search")];
  for (let sign = 0; sign < 8; sign += 1) edge.tellOfItself();
  await expect(page.getByRole("link", { name: /ranking/, includeHidden: true })).toHaveCount(1);
  edge.locked = true;
  edge.hangUp();
  await expect(link(page)).toHaveText(/Locked/);
  await expect(page).toHaveTitle(/locked/);
  expect(await reason.inputValue()).toBe("support calls");
  await page.keyboard.press("Escape");
  await expect(page.getByRole("heading", { name: "This edge asks for its token" })).toBeVisible();
  // The list beside it is as old as everything else.
  expect(await page.getByRole("navigation", { name: "Routes" }).evaluate((list) => getComputedStyle(list).filter)).toContain("grayscale");
});

test("an edge that decides nothing any more is not live, however often it is asked", async ({ page, edge }) => {
  await page.goto(edge.url);
  await expect(link(page)).toHaveText(/Live/);
  edge.decides = false;
  await expect(link(page)).toHaveText(/Stale/);
  await expect(page).toHaveTitle(/stale/);
  const since = await page.locator("#stale").textContent();
  // A new stream begins with what was true when it stopped.
  edge.routes = [sample("delivery-time", { next: "what was true then" })];
  const seen = await watched(page, "link");
  edge.hangUp();
  await expect(page.getByText(/what was true then/i).first()).toBeVisible();
  edge.comment();
  await expect(link(page)).toHaveText(/Stale/);
  const clock = /since (\d\d:\d\d:\d\d)/;
  const again = await page.locator("#stale").textContent();
  expect(clock.exec(again ?? "")?.[1]).toBe(clock.exec(since ?? "")?.[1]);
  expect((await seen()).filter((words) => words.includes("Live"))).toEqual([]);
  edge.decides = true;
  await expect(link(page)).toHaveText(/Live/);
});

test("what is old does not go on counting", async ({ page, edge }) => {
  await page.goto(edge.url);
  await expect(link(page)).toHaveText(/Live/);
  const since = await page.locator(".hero time").textContent();
  edge.end();
  await expect(page.locator("#lost")).toContainText(/\(([3-9]|\d\d) s ago\)/);
  expect(await page.locator(".hero time").textContent()).toBe(since);
});

test("a page that nobody sees holds no stream, and its title tells all the same", async ({ page, edge }) => {
  await page.goto(edge.url);
  await expect(link(page)).toHaveText(/Live/);
  expect(edge.listeners).toBe(1);
  edge.routes = [sample("delivery-time", { phase: "rolled_back", since_s: 1 })];
  await turn(page, "hidden");
  await expect.poll(() => edge.listeners).toBe(0);
  await expect(page).toHaveTitle(/rolled back/);
  await turn(page, "visible");
  await expect(link(page)).toHaveText(/Live/);
  expect(edge.listeners).toBe(1);
});

test("a page that nobody sees goes on looking when its order is answered late", async ({ page, edge }) => {
  await page.goto(edge.url);
  await expect(link(page)).toHaveText(/Live/);
  let answer = (): void => {};
  const held = new Promise<void>((resolve) => (answer = resolve));
  await page.route("**/rollback", async (route) => {
    await held;
    await route.continue();
  });
  await page.getByRole("button", { name: /^Roll back/ }).click();
  const sent = page.waitForRequest("**/rollback");
  await page.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await sent;
  await turn(page, "hidden");
  // It lets go of its connections for the order by and by, and looks on once that is answered.
  const before = edge.count("GET /api/v1/routes");
  await expect.poll(() => edge.count("GET /api/v1/routes")).toBeGreaterThan(0);
  await page.waitForTimeout(1_500);
  answer();
  await expect.poll(() => edge.count("POST /api/v1/routes/delivery-time/rollback")).toBe(1);
  edge.routes = [sample("delivery-time", { phase: "rolled_back", since_s: 1 })];
  await expect(page).toHaveTitle(/rolled back/);
  expect(edge.count("GET /api/v1/routes")).toBeGreaterThan(before);
});

test("an order gets through where the pages of a browser hold all of its connections", async ({ context, edge }) => {
  const pages: Page[] = [];
  for (let count = 0; count < 6; count += 1) {
    const page = await context.newPage();
    await page.goto(edge.url);
    await expect.poll(() => edge.listeners).toBe(count + 1);
    pages.push(page);
  }
  const last = pages.at(-1) as Page;
  await last.getByRole("button", { name: /^Roll back/ }).click();
  await last.getByRole("dialog").getByRole("button", { name: "Roll back" }).click();
  await expect(last.getByRole("dialog")).toBeHidden({ timeout: 12_000 });
  expect(edge.count("POST /api/v1/routes/delivery-time/rollback")).toBe(1);
  await expect.poll(() => edge.listeners, "and looks on").toBe(6);
});
