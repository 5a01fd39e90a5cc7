// Asking the admin API, and listening to it. The token stays in this tab's session storage and goes into one header.

import type { Problem } from "./types";

const TOKEN = "pointsman-token";
const NAME = "pointsman-name";

/** How long an answer may take; the edge itself gives up on an order after ten seconds. */
const PATIENCE_MS = 15_000;

export const token = {
  get: (): string => sessionStorage.getItem(TOKEN) ?? "",
  set: (value: string): void => {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  },
};

/** Who gives orders, for the decision log. */
export const actor = {
  get: (): string => sessionStorage.getItem(NAME) ?? "",
  set: (value: string): void => sessionStorage.setItem(NAME, value),
};

/** An answer that is not what was asked for. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }

  /** Whether a token is asked for, or the one that was sent is wrong. */
  get needsToken(): boolean {
    return this.problem.status === 401;
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

function headers(more: Record<string, string> = {}): Record<string, string> {
  const held = token.get();
  return held ? { authorization: `Bearer ${held}`, ...more } : more;
}

async function asked(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...init });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Unreachable(late ? "the edge did not answer in time" : "the edge cannot be reached");
  }
  if (answer.ok) return answer;
  throw new Refused(await problemOf(answer));
}

async function problemOf(answer: Response): Promise<Problem> {
  const bare = { status: answer.status, code: "unknown", detail: `the edge answered ${answer.status}` };
  try {
    const said = (await answer.json()) as Partial<Problem>;
    return { ...bare, ...said, status: answer.status };
  } catch {
    return bare;
  }
}

export async function read<T>(path: string): Promise<T> {
  const answer = await asked(path, { headers: headers(), signal: AbortSignal.timeout(PATIENCE_MS) });
  return (await answer.json()) as T;
}

/** Gives an order; `seen` is the newest decision that its giver has seen. */
export async function order<T>(method: "POST" | "PUT", path: string, body: unknown, seen: number | null): Promise<T> {
  const more: Record<string, string> = { "content-type": "application/json", "x-pointsman-actor": asciiName() };
  if (seen !== null) more["x-pointsman-seen-decision"] = String(seen);
  const init = { method, headers: headers(more), body: JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE_MS) };
  return (await (await asked(path, init)).json()) as T;
}

/** A header carries visible ASCII only. */
function asciiName(): string {
  const visible = actor.get().replace(/[^\x21-\x7e]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 64);
  return visible || "dashboard";
}

/** Path of a route's part of the API; names are text of somebody else. */
export function pathOf(route: string, part = ""): string {
  return `api/v1/routes/${encodeURIComponent(route)}${part && `/${part}`}`;
}

/**
 * Reads server-sent events until the stream ends or `signal` says stop. (`EventSource` could not send the token.)
 * @param signed is called whenever something comes, also what only says that the connection is there
 * @param taken is called with each event's data, parsed
 */
export async function listen(
  path: string,
  signal: AbortSignal,
  signed: () => void,
  taken: (data: unknown) => void,
): Promise<void> {
  const answer = await asked(path, { headers: headers({ accept: "text/event-stream" }), signal });
  if (!answer.body) throw new Unreachable("the edge sent no events");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      signed();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
        if (data) taken(JSON.parse(data));
      }
    }
  } catch (error) {
    if (error instanceof SyntaxError) throw error;
    throw new Unreachable("the connection broke off");
  } finally {
    reader.releaseLock();
  }
}
