// Asking the admin API, and whether it answers.

const PATIENCE_MS = 10000;
const AWAY = "Control is away.";
const TOKEN = "fastgw-token";

/** The API did not answer as it should. `status` 0: it did not answer at all. `token`: what it was asked with. */
export class Unanswered extends Error {
  constructor(status, message, held = null) {
    super(message);
    this.status = status;
    this.token = held;
  }
}

/** The token lives as long as the tab: sessionStorage, and nowhere else. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
  forget: () => sessionStorage.removeItem(TOKEN),
};

/** The JSON at `path`. Raises `Unanswered`. */
export async function ask(path) {
  const held = token.get();
  const response = await send(path, held);
  if (!response.ok) throw await refusal(path, response, held);
  try {
    return await response.json();
  } catch {
    throw new Unanswered(0, AWAY); // it left in the middle of its answer
  }
}

/** The API says why in a problem document (RFC 9457); a proxy before it may not. */
async function refusal(path, response, held) {
  const { detail = "" } = await response.json().catch(() => ({}));
  return new Unanswered(response.status, `The admin API answers ${response.status} to ${path}. ${detail}`.trim(), held);
}

async function send(path, held) {
  const headers = { Accept: "application/json", ...(held && { Authorization: `Bearer ${held}` }) };
  try {
    return await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    throw new Unanswered(0, AWAY);
  }
}
