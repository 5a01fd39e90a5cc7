// Builds the page into the folder that is named: `node build.mjs dist`. What comes out depends on the sources and on the
// versions in package-lock.json alone, so that a test can compare it with what is committed.
import { build } from "esbuild";
import { copyFile, mkdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = process.argv[2];
if (!out) throw new Error("say where to: node build.mjs dist");
await mkdir(out, { recursive: true });
// What is bundled is given on under its own licence.
const licences = await Promise.all(
  ["preact", "uplot"].map(async (name) => {
    const text = await readFile(join(here, "node_modules", name, "LICENSE"), "utf8");
    return `${name}\n\n${text.trim().replaceAll("*/", "* /")}`;
  }),
);
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/app.tsx" },
  outdir: resolve(out),
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  // Readable, so that a change of it can be reviewed; it goes over the wire compressed.
  minify: false,
  banner: { js: `/*! ${licences.join("\n\n")}\n*/` },
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "warning",
});
for (const file of ["index.html", "icon.svg"]) await copyFile(join(here, "src", file), join(out, file));
