// Asking the admin API, and whether it answers.

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

/** The JSON at `path`; `patience`: milliseconds until it must be there. Raises `Unanswered`. */
export async function ask(path, patience) {
  const held = token.get();
  const response = await send(path, held, patience);
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

/** A header field is bytes, one for each character: those of the text in UTF-8. */
function asBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function send(path, held, patience) {
  const headers = { Accept: "application/json", ...(held && { Authorization: `Bearer ${asBytes(held)}` }) };
  try {
    return await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(patience) });
  } catch {
    throw new Unanswered(0, AWAY);
  }
}
