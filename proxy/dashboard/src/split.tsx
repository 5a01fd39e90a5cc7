// Who gets how much, as one bar.

import { colorOf } from "./charts";
import type { Route } from "./types";
import { observed, role, versionsOf, weight } from "./words";

export function SplitBar(props: {
  route: Route;
  label: string;
  hint?: string;
  shares: Record<string, number> | null;
  measured?: boolean;
}) {
  const { route, label, hint, shares, measured } = props;
  const show = measured ? observed : weight;
  const versions = versionsOf(route).filter((name) => (shares?.[name] ?? 0) > 0 || role(route, name) !== "");
  const words = shares
    ? versions.map((name) => `${name} ${show(shares[name] ?? 0)}`).join(", ")
    : "no traffic in the last 10 s";
  return (
    <div class="split">
      <span class="splitname" title={hint}>
        {label}
      </span>
      <div class="bar" role="img" aria-label={`${label}: ${words}`}>
        {shares &&
          versions.filter((name) => (shares[name] ?? 0) > 0).map((name) => (
            <div
              key={name}
              class={`part ${role(route, name) || "other"}`}
              style={{ flexGrow: String(Math.max(0, shares[name] ?? 0)), background: `var(${colorOf(route, name)})` }}
            />
          ))}
      </div>
      <span class="splitwords" aria-hidden="true">
        {shares
          ? versions.map((name) => (
              <span key={name}>
                <i class={`dot ${role(route, name) || "other"}`} />
                {name} <b>{show(shares[name] ?? 0)}</b>
              </span>
            ))
          : words}
      </span>
    </div>
  );
}
