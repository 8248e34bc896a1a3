// The route tester: a request is described, and the gateway tells where it would go and why. Nobody is sent anything.

import { Unanswered, post } from "./connection.js";
import { byId, setText } from "./elements.js";

const EXPLAIN_TIMEOUT = 35000; // the API's own is 30 s

/** As it is asked of the API: what is left empty is not in it. */
function requestAsked() {
  const field = (name) => byId(`explain-${name}`).value.trim();
  const asked = {
    method: field("method"),
    url: field("url"),
    headers: field("headers").split("\n").map((line) => line.trim()).filter(Boolean),
  };
  for (const name of ["client", "listener", "certificate"]) if (field(name)) asked[name] = field(name);
  return asked;
}

/** What it comes to; the text beside it has the reasons. */
function resultText({ generation, explanation: { route, target, status, fault, detail } }) {
  const answer = status ? `is answered ${status}${fault ? ` (${fault})` : ""}` : detail;
  return `${route ? `Route ${route}` : "No route"}: ${target && !status ? `goes to ${target}` : answer}. Generation ${generation}.`;
}

export class Explain {
  #number = 0;

  constructor() {
    byId("explain-form").addEventListener("submit", (event) => this.#ask(event));
  }

  async #ask(event) {
    event.preventDefault();
    const number = ++this.#number;
    setText(byId("explain-said"), "Asking.");
    let said;
    let text = "";
    try {
      const told = await post("/explain", EXPLAIN_TIMEOUT, requestAsked());
      said = resultText(told);
      text = told.text;
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      said = error.message;
    }
    if (number !== this.#number) return; // something else was asked meanwhile
    setText(byId("explain-said"), said);
    setText(byId("explain-text"), text);
    byId("explain-text").hidden = !text;
  }
}
