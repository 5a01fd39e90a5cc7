// The seconds that charts show: what the edge kept from before the page was opened, and what came since.

import type { Second, Series } from "./types";

/** As long as the edge keeps them. */
const KEPT_MS = 30 * 60_000;
/** The shortest time that a chart shows. */
const SHORTEST_MS = 60_000;

export type Point = { at: number; rps: number; errors: number; p50: number | null; p99: number | null; weight: number };
export type Judged = { at: number; rollback: number | null; promotion: number | null };

/** Columns for one chart: moments in seconds since 1970, and a list of values for each line. */
export type Columns = [number[], ...(number | null)[][]];

/** Some seconds of one version together. */
export type Cell = { rps: number; errors: number; p50: number | null; p99: number | null };

function cellOf(points: Point[], looks: number): Cell | null {
  if (points.length === 0) return null;
  const requests = points.reduce((sum, point) => sum + point.rps, 0);
  const mean = (value: (point: Point) => number): number =>
    requests > 0 ? points.reduce((sum, point) => sum + value(point) * point.rps, 0) / requests : 0;
  const medians = points.filter((point) => point.p50 !== null);
  return {
    rps: requests / Math.max(looks, points.length),
    errors: mean((point) => point.errors),
    p50: medians.length ? mean((point) => point.p50 ?? 0) : null,
    p99: medians.length ? Math.max(...points.map((point) => point.p99 ?? 0)) : null,
  };
}

export class History {
  versions = new Map<string, Point[]>();
  judged: Judged[] = [];
  /** The last moment that is known of. */
  now = 0;

  /** What was kept by the edge; later seconds that came meanwhile stay. */
  begin(series: Series): void {
    for (const [name, kept] of Object.entries(series.versions)) {
      const points = kept.at_ms.map((at, index) => ({
        at,
        rps: kept.requests_per_second[index] ?? 0,
        errors: kept.error_rate[index] ?? 0,
        p50: kept.p50_ms[index] ?? null,
        p99: kept.p99_ms[index] ?? null,
        weight: kept.weight[index] ?? 0,
      }));
      const last = points.at(-1)?.at ?? 0;
      const since = (this.versions.get(name) ?? []).filter((point) => point.at > last);
      this.versions.set(name, [...points, ...since]);
    }
    const { at_ms, rollback, promotion } = series.judged;
    const judged = at_ms.map((at, index) => ({
      at,
      rollback: rollback[index] ?? null,
      promotion: promotion[index] ?? null,
    }));
    const last = judged.at(-1)?.at ?? 0;
    this.judged = [...judged, ...this.judged.filter((point) => point.at > last)];
    this.now = Math.max(this.now, series.now_ms);
  }

  add(second: Second): void {
    this.now = second.at_ms;
    for (const [name, seen] of Object.entries(second.versions)) {
      const points = this.versions.get(name) ?? [];
      points.push({
        at: second.at_ms,
        rps: seen.requests_per_second,
        errors: seen.error_rate,
        p50: seen.p50_ms,
        p99: seen.p99_ms,
        weight: seen.weight,
      });
      this.versions.set(name, points);
    }
    if (second.rollback !== null || second.promotion !== null) {
      this.judged.push({ at: second.at_ms, rollback: second.rollback, promotion: second.promotion });
    }
    const oldest = this.now - KEPT_MS;
    for (const points of this.versions.values()) while (points[0] && points[0].at < oldest) points.shift();
    while (this.judged[0] && this.judged[0].at < oldest) this.judged.shift();
  }

  /** Where a chart of the last `minutes` begins: not long before the first that is known, so that a young edge fills it. */
  from(minutes: number): number {
    const firsts = [...this.versions.values()].map((points) => points[0]?.at ?? this.now);
    const first = Math.min(this.now - SHORTEST_MS, ...firsts);
    return Math.max(this.now - minutes * 60_000, first);
  }

  /** What each of `versions` did over the last `minutes`, on a grid that a chart of that width can show. */
  grid(versions: string[], minutes: number): { at: number[]; of: Map<string, (Cell | null)[]> } {
    const width = minutes <= 5 ? 2_000 : minutes <= 15 ? 5_000 : 10_000;
    const last = Math.floor(this.now / width);
    const first = last - Math.floor((minutes * 60_000) / width) + 1;
    // A look without requests left no point of that version; one of another version tells that there was a look.
    const looks = new Map<number, Set<number>>();
    for (const points of this.versions.values()) {
      for (const { at } of points) {
        const place = Math.floor(at / width);
        if (place < first) continue;
        const seen = looks.get(place) ?? new Set();
        looks.set(place, seen.add(at));
      }
    }
    const places = Array.from({ length: last - first + 1 }, (_, index) => first + index);
    const of = new Map<string, (Cell | null)[]>();
    for (const version of versions) {
      const cells = new Map<number, Point[]>();
      for (const point of this.versions.get(version) ?? []) {
        const place = Math.floor(point.at / width);
        if (place >= first) cells.set(place, [...(cells.get(place) ?? []), point]);
      }
      of.set(version, places.map((place) => cellOf(cells.get(place) ?? [], looks.get(place)?.size ?? 1)));
    }
    return { at: places.map((place) => (place * width) / 1000), of };
  }

  judgedColumns(minutes: number): Columns {
    const points = this.judged.filter((point) => point.at >= this.now - minutes * 60_000);
    return [
      points.map((point) => point.at / 1000),
      points.map((point) => point.rollback),
      points.map((point) => point.promotion),
    ];
  }
}
