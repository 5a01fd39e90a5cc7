// The model server's page for people: it works without a network, and its example is answered.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { AxeBuilder } from "@axe-core/playwright";
import { expect, test } from "./rig";

test("the model's page loads nothing from elsewhere, and its example is answered", async ({ page }) => {
  const program = process.env.MODEL_SERVER;
  test.skip(!program, "MODEL_SERVER names no program");
  const bundle = new URL("../../../model-server/models/delivery-time/v1", import.meta.url).pathname;
  const server: ChildProcess = spawn(program ?? "", [], {
    env: { ...process.env, MODEL_PATH: bundle, HOST: "127.0.0.1", PORT: "0", THREADS: "1" },
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    if (!server.stdout) throw new Error("it has no output");
    const address = await new Promise<string>((listening, failed) => {
      createInterface({ input: server.stdout as NonNullable<typeof server.stdout> }).on("line", (line) => {
        if (line.startsWith("listening on ")) listening(line.slice("listening on ".length));
      });
      server.once("exit", (code) => failed(new Error(`it ended with ${code}`)));
    });
    await page.goto(`http://${address}/docs`);
    await expect(page.locator("details").first()).toBeVisible();
    const found = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]).analyze();
    const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
    expect(serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ")}`)).toEqual([]);
    const predict = page.locator("details").filter({ has: page.getByText("/v1/predict", { exact: true }) });
    await expect(predict).toHaveCount(1);
    if (!(await predict.evaluate((details: HTMLDetailsElement) => details.open))) await predict.locator("summary").click();
    await predict.getByRole("button", { name: "Send" }).click();
    await expect(predict).toContainText("200 OK");
    await expect(predict).toContainText(/"prediction": \d/);
  } finally {
    server.kill("SIGKILL");
  }
});
