// The page for everybody: by keyboard alone, read aloud, in light and dark, on a phone.

import { AxeBuilder } from "@axe-core/playwright";
import type { Page } from "@playwright/test";
import { type Edge, type Traffic, expect, picture, settled, test } from "./rig";

/** Two routes, of which one has a canary on its way. */
async function staged(page: Page, edge: Edge, traffic: Traffic): Promise<void> {
  edge.write({
    rollout:
      "{ canary: v2, steps: [ { weight: 5%, hold: 10m }, { weight: 25%, hold: 10m }, { weight: 50%, hold: 10m } ], promotion: automatic, bake: 10m }",
    more: `  - name: ranking
    match: { path_prefix: /ranking }
    stable: v7
    versions: { v7: { endpoints: [${edge.site.v1.address}] } }
    health_check: { path: /ready, interval: 100ms, timeout: 1s }
`,
  });
  for (const model of [edge.site.v1, edge.site.v2]) model.failing = 0.4;
  await edge.start();
  traffic.start(120);
  await page.goto(`${edge.url}#/routes/delivery-time`);
  await expect(page.locator("#link")).toHaveText(/Live/);
  await expect(page.locator(".hero")).toContainText("shifting");
  await expect(page.getByRole("region", { name: "Is it worse?" })).toContainText("points");
  await settled(page);
}

/** Serious and worse must not be. */
async function scan(page: Page, what: string): Promise<void> {
  const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]).analyze();
  const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  expect(serious.map(({ id, nodes }) => `${what}: ${id}: ${nodes.map((node) => node.html).join(" | ")}`)).toEqual([]);
}

for (const scheme of ["light", "dark"] as const) {
  test(`nothing seriously hinders anybody, in ${scheme}`, async ({ page, edge, traffic }) => {
    if (process.env.UPDATE_DOCS === "1") test.setTimeout(300_000);
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    await staged(page, edge, traffic);
    await scan(page, "route");
    // Long enough for charts to show something.
    if (process.env.UPDATE_DOCS === "1") await page.waitForTimeout(75_000);
    await picture(page, `dashboard-${scheme}`);
    if (scheme === "light") {
      await picture(page, "dashboard-evidence", page.getByRole("region", { name: "Is it worse?" }));
    }
    await page.getByRole("button", { name: /^Roll back/ }).click();
    await scan(page, "dialog");
    await page.keyboard.press("Escape");
    await page.goto(`${edge.url}#/`);
    await expect(page.getByRole("heading", { level: 1, name: "Routes" })).toBeVisible();
    await scan(page, "overview");
    if (scheme === "light") await picture(page, "dashboard-routes");
    await edge.kill();
    await expect(page.locator("#lost")).toBeVisible();
    await scan(page, "connection lost");
  });
}

test("a phone shows all of it without scrolling sideways", async ({ page, edge, traffic }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await staged(page, edge, traffic);
  const sideways = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  expect(await sideways()).toBe(0);
  await picture(page, "dashboard-phone");
  for (const details of await page.locator("main details > summary").all()) await details.click();
  expect(await sideways(), "with everything unfolded").toBe(0);
  await page.getByRole("button", { name: /^Set weights/ }).click();
  await expect(page.getByRole("dialog")).toBeVisible();
  const box = await page.getByRole("dialog").boundingBox();
  expect(box && box.x >= 0 && box.x + box.width <= 360).toBe(true);
  expect(await sideways(), "with a dialog").toBe(0);
  await page.keyboard.press("Escape");
  await page.goto(`${edge.url}#/`);
  await expect(page.getByRole("heading", { level: 1, name: "Routes" })).toBeVisible();
  expect(await sideways(), "the list").toBe(0);
});

test("a wide screen is used and not stretched", async ({ page, edge, traffic }) => {
  await page.setViewportSize({ width: 2560, height: 1300 });
  await staged(page, edge, traffic);
  const main = await page.locator("main").boundingBox();
  expect(main && main.width > 900 && main.width < 1400).toBe(true);
});

test("everything is done by keyboard alone", async ({ page, edge, traffic }) => {
  await staged(page, edge, traffic);
  await page.goto(`${edge.url}#/`);
  await expect(page.getByRole("heading", { level: 1, name: "Routes" })).toBeVisible();
  const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim() ?? "");
  const press = async (key: string, until: RegExp) => {
    for (let presses = 0; presses < 60; presses += 1) {
      if (until.test(await focused())) return;
      await page.keyboard.press(key);
    }
    throw new Error(`${until} is not reached with ${key}; at ${await focused()}`);
  };
  await page.reload();
  await expect(page.locator("#link")).toHaveText(/Live/);
  await page.keyboard.press("Tab");
  expect(await focused()).toBe("Skip to the content");
  await press("Tab", /^delivery-time/);
  await page.keyboard.press("Enter");
  await expect(page.locator("h1")).toBeFocused();
  await expect(page.locator("h1")).toHaveText("delivery-time");
  await press("Tab", /^Pause$/);
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement as Element).outlineStyle);
  expect(outline, "it is seen where the focus is").not.toBe("none");
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await expect(dialog).toBeVisible();
  // Escape takes it back, and the focus is where it was.
  await page.keyboard.press("Escape");
  await expect(dialog).toBeHidden();
  expect(await focused()).toBe("Pause");
  await page.keyboard.press("Enter");
  await expect(dialog).toBeVisible();
  await dialog.getByLabel("Reason").focus();
  await page.keyboard.type("by keyboard");
  await page.keyboard.press("Enter");
  await expect(dialog).toBeHidden();
  await expect(page.locator(".hero")).toContainText("paused");
  await expect(page.locator(".hero")).toContainText("by keyboard");
});

test("landmarks, names and live words are there for who does not see the page", async ({ page, edge, traffic }) => {
  await staged(page, edge, traffic);
  await expect(page.getByRole("banner")).toBeVisible();
  await expect(page.getByRole("navigation", { name: "Routes" })).toBeVisible();
  await expect(page.getByRole("main")).toBeVisible();
  await expect(page.getByRole("img", { name: /^Requests\. v1: .* per second/ })).toBeVisible();
  await expect(page.getByRole("img", { name: /v2's error rate .* sure: between/ })).toBeVisible();
  await expect(page.getByRole("meter", { name: "Odds that: fails most requests" })).toHaveAttribute("aria-valuetext", /decides at/);
  await expect(page.getByText(/after [\d,]+ more requests to v2, about .+ at 5 %/)).toBeVisible();
  await edge.order("pause", { reason: "for who listens" });
  await expect(page.getByRole("status").first()).toContainText("for who listens");
});
