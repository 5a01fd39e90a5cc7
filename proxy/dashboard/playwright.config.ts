// The page in a real browser. Normally run by `cargo test` (tests/it/dashboard.rs), which names the programs:
// POINTSMAN, MODEL_SERVER and CHROMIUM. Here by hand: `POINTSMAN=../../target/debug/pointsman npx playwright test`.
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results",
  // Beside other loads; what is waited for are conditions.
  timeout: 90_000,
  expect: { timeout: 30_000 },
  fullyParallel: false,
  workers: 1,
  forbidOnly: true,
  retries: 0,
  reporter: [["list"]],
  use: {
    viewport: { width: 1280, height: 900 },
    locale: "en-GB",
    timezoneId: "UTC",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      // Tests run as root in containers, where chromium's own sandbox cannot be set up.
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
    },
    trace: "off",
  },
});
