// Lines over time. Each chart has a name, a sentence that says the same, and a table for those who want numbers.

import uPlot from "uplot";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Cell, Columns, History } from "./history";
import { store } from "./store";
import type { Decision, Route } from "./types";
import { clock, latency, percent, phase, rate, role, versionsOf, whose } from "./words";

export type Line = { label: string; color: string; dashed?: boolean; thin?: boolean };

type Mark = { at: number; tone: string; label: string };

type ChartProps = {
  name: string;
  lines: Line[];
  columns: Columns;
  marks: Mark[];
  /** Between these moments, in milliseconds since 1970. */
  from: number;
  now: number;
  show: (value: number) => string;
  /** The scale begins at 0 and ends here at least. */
  atLeast: number;
  /** A horizontal line with this name at this value. */
  limit?: { at: number; label: string };
};

const HEIGHT = 168;
const SYNC = uPlot.sync("moment");

/** A colour of the page, as the canvas needs it. */
function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function theme(): MediaQueryList {
  return matchMedia("(prefers-color-scheme: dark)");
}

function options(props: { current: ChartProps }, width: number): uPlot.Options {
  const { lines, show, atLeast } = props.current;
  const axis = { stroke: color("--quiet"), font: "12px system-ui, sans-serif", ticks: { show: false } };
  const grid = { stroke: color("--line"), width: 1 };
  return {
    width,
    height: HEIGHT,
    // The edge's seconds are in the time of this browser.
    scales: {
      x: { range: () => [props.current.from / 1000, props.current.now / 1000] },
      y: { range: (_plot, _low, high) => [0, Math.max(atLeast, (high ?? 0) * 1.08)] },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 28, values: (_plot, at, _axis, _space, apart) => at.map((each) => moment(each, apart)), space: 70 },
      { ...axis, grid, size: 62, values: (_plot, values) => values.map((value) => (value === 0 ? "0" : show(value))), splits: ticks },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: color(line.color),
        width: line.thin ? 1.25 : 2,
        points: { show: false },
        ...(line.dashed ? { dash: [6, 4] } : {}),
      })),
    ],
    legend: { show: false },
    cursor: { sync: { key: SYNC.key }, points: { size: 7 }, drag: { x: false, y: false }, y: false },
    hooks: { draw: [(plot) => drawMarks(plot, props.current)] },
  };
}

/** Few, so that each can be read. */
function ticks(_plot: uPlot, _axis: number, low: number, high: number): number[] {
  const raw = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10) * power;
  const count = Math.floor(high / step + 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => index * step);
}

/** With seconds where minutes alone would repeat themselves. */
function moment(seconds: number, apart: number): string {
  const second = apart < 60 ? { second: "2-digit" as const } : {};
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...second });
}

/** Decisions as vertical lines, a limit as a horizontal one. */
function drawMarks(plot: uPlot, { marks, limit }: ChartProps): void {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  const pixel = devicePixelRatio || 1;
  ctx.save();
  ctx.lineWidth = pixel;
  for (const { at, tone } of marks) {
    const x = plot.valToPos(at / 1000, "x", true);
    if (x < left || x > left + width) continue;
    ctx.strokeStyle = color(`--${tone}`);
    ctx.setLineDash([3 * pixel, 3 * pixel]);
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.fillStyle = ctx.strokeStyle;
    ctx.beginPath();
    ctx.moveTo(x - 4 * pixel, top);
    ctx.lineTo(x + 4 * pixel, top);
    ctx.lineTo(x, top + 6 * pixel);
    ctx.fill();
  }
  if (limit) {
    const y = plot.valToPos(limit.at, "y", true);
    ctx.strokeStyle = color("--ink");
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.fillStyle = color("--ink");
    ctx.font = `${11 * pixel}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    ctx.textAlign = "right";
    ctx.fillText(limit.label, left + width - 4 * pixel, y - 2 * pixel);
  }
  ctx.restore();
}

function Chart(props: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const current = useRef(props);
  current.current = props;
  const [dark, setDark] = useState(theme().matches);
  useEffect(() => {
    const query = theme();
    const turned = () => setDark(query.matches);
    query.addEventListener("change", turned);
    return () => query.removeEventListener("change", turned);
  }, []);
  const shape = props.lines.map((line) => `${line.label} ${line.color}`).join(",");
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const drawn = new uPlot(options(current, element.clientWidth), current.current.columns, element);
    plot.current = drawn;
    const resized = new ResizeObserver(() => drawn.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      drawn.destroy();
      plot.current = null;
    };
  }, [shape, dark]);
  useEffect(() => plot.current?.setData(props.columns), [props.columns]);
  return <div class="plot" ref={box} role="img" aria-label={props.name} />;
}

function Figure(props: ChartProps & { title: string; says: string; latest: (string | null)[] }) {
  const { title, says, lines, latest, columns, show } = props;
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        <ul class="legend">
          {lines.map((line, index) => (
            <li key={line.label}>
              <Swatch line={line} />
              {line.label} <b>{latest[index] ?? "–"}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <Chart {...props} name={`${title}. ${says}`} />
      <details class="numbers">
        <summary>
          Numbers<span class="hidden"> of the chart: {title}</span>
        </summary>
        <Numbers title={title} lines={lines} columns={columns} show={show} />
      </details>
    </figure>
  );
}

function Swatch({ line }: { line: Line }) {
  return (
    <svg class="swatch" viewBox="0 0 18 8" aria-hidden="true">
      <line
        x1="0"
        y1="4"
        x2="18"
        y2="4"
        stroke={`var(${line.color})`}
        stroke-width={line.thin ? 1.5 : 3}
        stroke-dasharray={line.dashed ? "5 3" : "none"}
      />
    </svg>
  );
}

/** Rows that a table of a chart has. */
const ROWS = 12;

function Numbers({ title, lines, columns, show }: Pick<ChartProps, "lines" | "columns" | "show"> & { title: string }) {
  const [at, ...values] = columns;
  const step = Math.max(1, Math.ceil(at.length / ROWS));
  const picked = at.map((_, index) => index).filter((index) => (at.length - 1 - index) % step === 0);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={`Numbers: ${title}`}>
      <table>
        <caption class="hidden">{title}</caption>
        <thead>
          <tr>
            <th scope="col">Time</th>
            {lines.map((line) => (
              <th scope="col" key={line.label} class="number">
                {line.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {picked.reverse().map((index) => (
            <tr key={at[index]}>
              <th scope="row">{clock(new Date((at[index] ?? 0) * 1000))}</th>
              {values.map((column, line) => {
                const value = column[index];
                return (
                  <td class="number" key={lines[line]?.label}>
                    {value === null || value === undefined ? "–" : show(value)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function colorOf(route: Route, version: string): string {
  const kind = role(route, version);
  return kind === "stable" ? "--stable" : kind === "canary" ? "--canary" : "--other";
}

/** A gap this wide is joined: a canary with few requests would else be a row of dots. */
const JOINED_CELLS = 6;

/** A line of what cells hold; where none is, it is joined over a short gap and broken at a long one. */
function line(cells: (Cell | null)[], value: (cell: Cell) => number | null): (number | null)[] {
  let last = Number.NEGATIVE_INFINITY;
  const next: number[] = [];
  let coming = Number.POSITIVE_INFINITY;
  for (let index = cells.length - 1; index >= 0; index -= 1) {
    next[index] = coming;
    if (cells[index]) coming = index;
  }
  return cells.map((cell, index) => {
    if (cell) {
      last = index;
      return value(cell);
    }
    const joined = (next[index] ?? Number.POSITIVE_INFINITY) - last <= JOINED_CELLS;
    // The library joins over what is undefined, and breaks at null.
    return joined ? (undefined as unknown as null) : null;
  });
}

/** Requests; none are 0 from the first on. */
function flow(cells: (Cell | null)[]): (number | null)[] {
  const first = cells.findIndex((cell) => cell !== null);
  return cells.map((cell, index) => cell?.rps ?? (first >= 0 && index > first ? 0 : null));
}

function lastOf(column: (number | null)[] | undefined): number | null {
  return column?.findLast((value) => value !== null && value !== undefined) ?? null;
}

export const WINDOWS = [5, 15, 30];

/** The charts of a route. */
export function Charts({ route, history, rows }: { route: Route; history: History; rows: Decision[] }) {
  const [minutes, setMinutes] = useState(5);
  const versions = versionsOf(route).filter((name) => (history.versions.get(name)?.length ?? 0) > 0);
  const { at, of } = history.grid(versions, minutes);
  const cells = (name: string) => of.get(name) ?? [];
  const marks = rows.map((row) => ({
    at: Date.parse(row.at),
    tone: phase(row.change.to).tone === "quiet" ? "quiet" : phase(row.change.to).tone,
    label: row.sentence,
  }));
  const lines = versions.map((name) => ({ label: named(route, name), color: colorOf(route, name) }));
  const both = versions.flatMap((name) => [
    { label: `${name} p99`, color: colorOf(route, name) },
    { label: `${name} p50`, color: colorOf(route, name), dashed: true, thin: true },
  ]);
  const requests: Columns = [at, ...versions.map((name) => flow(cells(name)))];
  const errors: Columns = [at, ...versions.map((name) => line(cells(name), (cell) => cell.errors))];
  const times: Columns = [
    at,
    ...versions.flatMap((name) => [
      line(cells(name), (cell) => cell.p99),
      line(cells(name), (cell) => cell.p50),
    ]),
  ];
  const seen = (name: string) => route.versions[name];
  const says = (what: (name: string) => string) => versions.map((name) => `${name}: ${what(name)}`).join("; ");
  const shared = { marks, from: history.from(minutes), now: history.now };
  const perSecond = (value: number) => `${rate(value)}/s`;
  const shown = (columns: Columns, show: (value: number) => string) =>
    columns.slice(1).map((column) => {
      const value = lastOf(column as (number | null)[]);
      return value === null ? null : show(value);
    });
  return (
    <section class="card" aria-labelledby="charts">
      <div class="cardhead">
        <h2 id="charts">What each version does</h2>
        <fieldset class="choice">
          <legend class="hidden">How far back</legend>
          {WINDOWS.map((window) => (
            <label key={window}>
              <input
                type="radio"
                name="window"
                checked={minutes === window}
                onChange={() => setMinutes(window)}
              />
              <span>{window} min</span>
            </label>
          ))}
        </fieldset>
      </div>
      {versions.length === 0 ? (
        <p class="quiet">No request came to this edge in the last half hour.</p>
      ) : (
        <div class="charts">
          <Figure
            {...shared}
            title="Requests"
            name="Requests"
            says={says((name) => `${rate(seen(name)?.requests_per_second ?? 0)} per second over the last 10 s`)}
            lines={lines}
            columns={requests}
            latest={shown(requests, perSecond)}
            show={perSecond}
            atLeast={1}
          />
          <Figure
            {...shared}
            title="Errors"
            name="Errors"
            says={says((name) => `${percent(seen(name)?.error_rate)} of requests over the last minute`)}
            lines={lines}
            columns={errors}
            latest={shown(errors, percent)}
            show={percent}
            atLeast={0.01}
          />
          <Figure
            {...shared}
            title="Latency"
            name="Latency"
            says={says((name) => `median ${latency(seen(name)?.p50_ms)}, p99 ${latency(seen(name)?.p99_ms)}`)}
            lines={both}
            columns={times}
            latest={shown(times, latency)}
            show={latency}
            atLeast={5}
          />
        </div>
      )}
      <p class="quiet small">
        {whose(store.edge)?.counted} Vertical lines are decisions; the log below has their words.
      </p>
    </section>
  );
}

function named(route: Route, version: string): string {
  const what = role(route, version);
  return what ? `${version} (${what})` : version;
}

/** How near the evidence came to its lines. */
export function EvidenceChart({ history, rows }: { history: History; rows: Decision[] }) {
  const columns = history.judgedColumns(15);
  if (columns[0].length < 2) return null;
  const marks = rows.map((row) => ({ at: Date.parse(row.at), tone: phase(row.change.to).tone, label: row.sentence }));
  const part = (value: number) => percent(value);
  const [, back, on] = columns;
  const latest = [back, on].map((column) => {
    const value = lastOf(column);
    return value === null ? null : part(value);
  });
  return (
    <Figure
      title="Evidence, the last 15 minutes"
      name="Evidence"
      says={`To a rollback ${latest[0] ?? "nothing"} of the way, to a promotion ${latest[1] ?? "nothing"}`}
      lines={[
        { label: "to a rollback", color: "--bad" },
        { label: "to a promotion", color: "--good", dashed: true },
      ]}
      columns={columns}
      latest={latest}
      marks={marks}
      from={history.from(15)}
      now={history.now}
      show={part}
      atLeast={1.1}
      limit={{ at: 1, label: "decides" }}
    />
  );
}
