// The page: a list of routes beside the one that is looked at, and above both whether what is shown is true now.

import { Component, type ComponentChildren, render } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { token } from "./api";
import { Banners, ConfigCard, EdgeCard } from "./edge";
import { PhaseChip, RoutePage, Words } from "./route";
import { SplitBar } from "./split";
import { store } from "./store";
import type { Route } from "./types";
import { clock, grouped, onTrial, percent, phase, span, verdict, weight } from "./words";

/** Redraws whenever the store has news. */
function useStore(): void {
  const [, redraw] = useReducer((count: number, _news: void) => count + 1, 0);
  useEffect(() => store.watch(redraw), []);
}

/** Draws again only when one of these values is another one: there may be a thousand routes, and most stay as they are. */
class Unchanged extends Component<{ values: unknown[]; draw: () => ComponentChildren }> {
  override shouldComponentUpdate(next: { values: unknown[] }): boolean {
    return next.values.some((value, index) => value !== this.props.values[index]);
  }

  override render(): ComponentChildren {
    return this.props.draw();
  }
}

/** The route that the address names. */
function named(): string | null {
  const [, name] = /^#\/routes\/(.+)$/.exec(location.hash) ?? [];
  if (name === undefined) return null;
  try {
    return decodeURIComponent(name);
  } catch {
    return null;
  }
}

function hrefOf(route: string): string {
  return `#/routes/${encodeURIComponent(route)}`;
}

function App() {
  useStore();
  const [chosen, setChosen] = useState(named());
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    const moved = () => {
      setChosen(named());
      // A keyboard goes on in what was asked for, not in the list.
      requestAnimationFrame(() => main.current?.querySelector<HTMLElement>("h1")?.focus());
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const routes = [...store.routes.values()].sort(byUrgency);
  const only = routes.length === 1 ? (routes[0]?.name ?? null) : null;
  // A dialog that is open stays with its route, also where another one comes beside it.
  const shown = chosen ?? store.held ?? only;
  useEffect(() => store.look(shown), [shown]);
  useEffect(() => {
    const timer = setInterval(() => store.check(), 1000);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => {
    const turned = () => store.appear(document.visibilityState === "visible");
    turned();
    document.addEventListener("visibilitychange", turned);
    return () => document.removeEventListener("visibilitychange", turned);
  }, []);
  const route = shown === null ? undefined : store.routes.get(shown);
  useEffect(() => {
    document.title = titleOf(route, routes);
  });
  const { link, config, edge } = store;
  const locked = link.state === "locked" && store.held === null;
  const old = link.state === "lost" || link.state === "stale" || link.state === "locked";
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <Header />
      <div class="hidden" role="status" aria-live="polite">
        {store.announced}
      </div>
      <LinkBanner />
      <div class={`page ${old ? "old" : ""} ${locked ? "locked" : ""}`}>
        {routes.length > 1 && <Routes routes={routes} shown={shown} />}
        <main ref={main} id="main" tabIndex={-1}>
          {link.state === "locked" && locked ? (
            <Unlock wrong={link.wrong} why={link.why} />
          ) : (
            <>
              <Banners config={config} edge={edge} />
              {route ? (
                <RoutePage key={route.name} route={route} />
              ) : (
                <Overview routes={routes} missing={shown} />
              )}
              <div class="columns">
                {config && <ConfigCard config={config} />}
                {edge && <EdgeCard edge={edge} />}
              </div>
            </>
          )}
        </main>
      </div>
    </>
  );
}

/** The address has the route in it, so the link itself must not be followed. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** A tab in the background tells too. */
function titleOf(route: Route | undefined, routes: Route[]): string {
  const untrue = { lost: "no connection", stale: "stale", locked: "locked", connecting: "", live: "" }[store.link.state];
  if (untrue) return `⚠ ${untrue} – Pointsman`;
  if (route) return `${phase(route.phase).icon} ${route.name}: ${phase(route.phase).words} – Pointsman`;
  const bad = routes.filter((each) => ["bad", "careful"].includes(phase(each.phase).tone)).length;
  return bad ? `(${bad}) Pointsman` : "Pointsman";
}

function Header() {
  const { link, config, edge } = store;
  const states = {
    connecting: ["careful", "Connecting…"],
    live: ["good", "Live"],
    stale: ["bad", "Stale"],
    lost: ["bad", "Not connected"],
    locked: ["careful", "Locked"],
  } as const;
  const [tone, words] = states[link.state];
  return (
    <header class="top">
      <a class="brand" href="#/">
        <img src="dashboard/icon.svg" alt="" width="28" height="28" />
        Pointsman
      </a>
      <span class={`chip tone-${tone}`} id="link">
        <span class="chipicon" aria-hidden="true">
          {link.state === "live" ? "●" : "▲"}
        </span>
        {words}
      </span>
      <span class="spacer" />
      {edge?.replicas && <span class="quiet small">{edge.replicas.role === "leader" ? "leads" : "follows"}</span>}
      {config && <span class="quiet small">generation {config.generation}</span>}
      {token.get() !== "" && link.state !== "locked" && (
        <button type="button" class="small" onClick={() => store.unlock("")}>
          Forget token
        </button>
      )}
    </header>
  );
}

function LinkBanner() {
  const { link } = store;
  if (link.state === "lost") {
    const wait = Math.max(0, Math.ceil((link.nextTry - Date.now()) / 1000));
    return (
      <div class="linkbanner notice tone-bad" id="lost">
        <span>
          <b>Connection lost</b>
          {link.since !== null && ` since ${clock(new Date(link.since))} (${span((Date.now() - link.since) / 1000)} ago)`}:{" "}
          {link.why}. {link.since !== null && "What is shown is from then. "}
          {wait > 0 ? `Trying again in ${wait} s.` : "Trying again…"}
        </span>
        <button type="button" onClick={() => store.connect()}>
          Try now
        </button>
      </div>
    );
  }
  if (link.state === "stale") {
    return (
      <div class="linkbanner notice tone-careful" id="stale">
        <span>
          <b>Stale:</b> connected, but the edge tells nothing new
          {link.since !== null && ` since ${clock(new Date(link.since))} (${span((Date.now() - link.since) / 1000)} ago)`}.
        </span>
      </div>
    );
  }
  return null;
}

function Unlock({ wrong, why }: { wrong: boolean; why: string }) {
  const [value, setValue] = useState("");
  const unlock = (event: Event): void => {
    event.preventDefault();
    store.unlock(value.trim());
  };
  return (
    <section class="card narrow" aria-labelledby="unlock">
      <h1 id="unlock" tabIndex={-1}>
        This edge asks for its token
      </h1>
      <p>It stands in the file that admin.token_file names. It is kept in this tab only, until the tab is closed.</p>
      {wrong && (
        <p class="notice tone-bad" role="alert">
          This is not the token.
        </p>
      )}
      {!wrong && <p class="quiet small">{why}</p>}
      <form onSubmit={unlock}>
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          required
          autoComplete="off"
          value={value}
          onInput={(event) => setValue(event.currentTarget.value)}
        />
        <div class="buttons">
          <button type="submit" class="primary">
            Unlock
          </button>
        </div>
      </form>
    </section>
  );
}

const RANK = { bad: 0, careful: 1, move: 2, good: 3, quiet: 3 };

/** What is wrong first, then by name. */
function byUrgency(left: Route, right: Route): number {
  const apart = RANK[phase(left.phase).tone] - RANK[phase(right.phase).tone];
  return apart || (left.name < right.name ? -1 : Number(left.name > right.name));
}

function health(route: Route): { up: number; all: number } {
  const endpoints = Object.values(route.versions).flatMap((version) => version.endpoints);
  const counted = endpoints.filter((endpoint) => endpoint.state !== "draining");
  return { up: counted.filter((endpoint) => endpoint.state === "up").length, all: counted.length };
}

function Health({ up, all }: { up: number; all: number }) {
  return (
    <span class={`small ${up < all ? "tone-bad" : "quiet"}`}>
      {up} of {all} up
    </span>
  );
}

function Routes({ routes, shown }: { routes: Route[]; shown: string | null }) {
  const [filter, setFilter] = useState("");
  const wanted = routes.filter((route) => route.name.includes(filter.trim()));
  return (
    <nav aria-label="Routes">
      {routes.length > 8 && (
        <input
          type="search"
          aria-label="Find a route"
          placeholder="Find a route"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
      )}
      <ul>
        {wanted.map((route) => {
          const { name, phase } = route;
          const { up, all } = health(route);
          const listed = { name, phase, up, all, isShown: name === shown };
          return <Unchanged key={name} values={Object.values(listed)} draw={() => <Listed {...listed} />} />;
        })}
      </ul>
    </nav>
  );
}

/** A route of the list. */
function Listed({ name, phase, up, all, isShown }: { name: string; phase: string; up: number; all: number; isShown: boolean }) {
  return (
    <li>
      <a href={hrefOf(name)} aria-current={isShown ? "page" : undefined}>
        <span class="routename">{name}</span>
        <PhaseChip name={phase} />
        <Health up={up} all={all} />
      </a>
    </li>
  );
}

/** Cards that are shown unless more are asked for: what a person can look through, and a page can draw every second. */
const CARDS = 60;

function Overview({ routes, missing }: { routes: Route[]; missing: string | null }) {
  const [cards, setCards] = useState(CARDS);
  if (missing !== null && routes.length > 0) {
    return (
      <section class="card">
        <h1 tabIndex={-1}>There is no route {missing}</h1>
        <p>It may have left the config file.</p>
      </section>
    );
  }
  if (routes.length === 0) {
    return (
      <section class="card">
        <h1 tabIndex={-1}>{store.link.state === "live" ? "No routes" : "Connecting…"}</h1>
        {store.link.state === "live" && <p>The config file has no route yet.</p>}
      </section>
    );
  }
  return (
    <>
      <h1 tabIndex={-1} class="pagetitle">
        Routes
      </h1>
      <ul class="cards">
        {routes.slice(0, cards).map((route) => (
          <Unchanged key={route.name} values={[route]} draw={() => <Card route={route} />} />
        ))}
      </ul>
      {routes.length > cards && (
        <p>
          <button type="button" onClick={() => setCards(cards + CARDS)}>
            Show more
          </button>{" "}
          <span class="quiet">
            {grouped(cards)} of {grouped(routes.length)} are shown, what is wrong first; “Find a route” finds the others.
          </span>
        </p>
      )}
    </>
  );
}

function Card({ route }: { route: Route }) {
  const canary = onTrial(route);
  const said = canary && route.analysis.verdict !== "none" ? verdict(route, canary) : null;
  const shares = Object.fromEntries(Object.entries(route.weights).map(([name, seen]) => [name, seen.effective]));
  return (
    <li class={`card tone-${phase(route.phase).tone}`}>
      <div class="herohead">
        <h2>
          <a href={hrefOf(route.name)}>{route.name}</a>
        </h2>
        <PhaseChip name={route.phase} />
        <span class="quiet small">for {span(route.since_s)}</span>
      </div>
      <SplitBar route={route} label="effective" shares={shares} />
      <p class="small">
        {canary && <>{canary} at {weight(route.weights[canary]?.effective)}. </>}
        {said && <span class={`tone-${said.tone}`}>{said.words}. </span>}
        <span class="quiet">
          Errors: {route.stable} {percent(route.versions[route.stable]?.error_rate)}
          {canary && `, ${canary} ${percent(route.versions[canary]?.error_rate)}`}.
        </span>{" "}
        <Health {...health(route)} />
      </p>
      <p class="small quiet">
        Next: <Words text={route.next} route={route} />
      </p>
    </li>
  );
}

const root = document.getElementById("app");
if (root) render(<App />, root);
