// Asking the admin API, and whether it answers.

const AWAY = "The control process is unreachable.";
const CSRF = "fastgw-csrf";
const SESSION = "/session";
const LINKED = "#token=";

/** The API did not answer as it should. `status` 0: it did not answer at all. `session`: in which it was asked. */
export class Unanswered extends Error {
  constructor(status, message, asked = 0) {
    super(message);
    this.status = status;
    this.session = asked;
  }
}

/**
 * The token becomes a cookie that no script can read, and is kept nowhere. What else is needed to change anything lies
 * in localStorage, which only this origin has: the cookie is sent to all ports of the host.
 */
export const session = {
  number: 0, // of those that this page has begun

  isBegun: () => localStorage.getItem(CSRF) !== null,

  async begin(token, timeout) {
    const authorization = { Authorization: `Bearer ${asBytes(token)}` };
    const { csrf } = await answered(SESSION, await send(SESSION, timeout, { method: "POST", headers: authorization }));
    localStorage.setItem(CSRF, csrf);
    session.number += 1;
  },

  async end(timeout) {
    const response = await send(SESSION, timeout, { method: "DELETE" });
    const hasEnded = response.ok || response.status === 401; // it may have before
    if (!hasEnded) throw await refusal(SESSION, response, session.number);
    localStorage.removeItem(CSRF);
  },

  /** The token that the address has brought along behind its `#`, which then has it no more; "" = none. */
  linked() {
    if (!location.hash.startsWith(LINKED)) return "";
    const token = decodeURIComponent(location.hash.slice(LINKED.length));
    history.replaceState(null, "", location.pathname);
    return token;
  },
};

/** The JSON at `path`; `timeout`: milliseconds until it must be there. Raises `Unanswered`. */
export async function ask(path, timeout) {
  const asked = session.number;
  return answered(path, await send(path, timeout), asked);
}

/** The JSON of the answer to `what`, sent as JSON. Raises `Unanswered`. */
export async function post(path, timeout, what) {
  const asked = session.number;
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) };
  return answered(path, await send(path, timeout, options), asked);
}

/** Have something done, and hear what became of it. A refusal that says why is an answer as well. */
export async function change(path, timeout, what) {
  const body = what && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(what) };
  const response = await send(path, timeout, { method: "POST", ...body });
  const isOutcome = response.headers.get("Content-Type")?.startsWith("application/json");
  if (!response.ok && !isOutcome) throw await refusal(path, response, session.number);
  return response.json();
}

/** The lines of JSON of the answer to `what`, as they come; null for an empty one. They end with `signal`. */
export function stream(path, what, signal) {
  return streamed(path, what, signal);
}

async function* streamed(path, what, signal) {
  const asked = session.number;
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(what), signal };
  const response = await send(path, null, options);
  if (!response.ok) throw await refusal(path, response, asked);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (left + value).split("\n");
      left = lines.pop();
      for (const line of lines) yield line ? JSON.parse(line) : null;
    }
  } catch (error) {
    if (signal.aborted) return;
    throw new Unanswered(0, error instanceof SyntaxError ? error.message : AWAY);
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function answered(path, response, asked = session.number) {
  if (!response.ok) throw await refusal(path, response, asked);
  try {
    return await response.json();
  } catch {
    throw new Unanswered(0, AWAY); // it left in the middle of its answer
  }
}

/** The API says why in a problem document (RFC 9457); a proxy before it may not. */
async function refusal(path, response, asked) {
  const { detail = "" } = await response.json().catch(() => ({}));
  return new Unanswered(response.status, `The admin API answers ${response.status} to ${path}. ${detail}`.trim(), asked);
}

/** A header field is bytes, one for each character: those of the text in UTF-8. */
function asBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** `options`: of `fetch`; without a `signal`, `timeout` counts. What is needed to change anything is sent along. */
async function send(path, timeout, { headers = {}, ...options } = {}) {
  const csrf = localStorage.getItem(CSRF);
  const all = { Accept: "application/json", ...(csrf && { "X-CSRF-Token": csrf }), ...headers };
  try {
    const signal = options.signal ?? AbortSignal.timeout(timeout);
    return await fetch(path, { ...options, headers: all, cache: "no-store", signal });
  } catch {
    throw new Unanswered(0, AWAY);
  }
}
