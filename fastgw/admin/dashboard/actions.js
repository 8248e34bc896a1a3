// What the gateway can be asked to do: read its file anew, go back, drain. Each is asked for twice.

import { Unanswered, change } from "./connection.js";
import { byId, setText } from "./elements.js";

const CHANGE_TIMEOUT = 180000;
const ACTIONS = {
  reload: { path: "/reload", title: "Reload the configuration?", about: "The file is read again and applied on all workers or none." },
  rollback: {
    path: "/rollback",
    title: "Roll back?",
    about: "The previous configuration becomes active again, until the next reload.",
  },
  drain: {
    path: "/drain",
    title: "Drain and stop this gateway?",
    about: "It accepts no new connections, finishes requests in flight and stops. Only its service manager starts it again.",
  },
};

function saidText({ state, ok, summary, problems = [] }) {
  if (state) return "The gateway is draining and then stops.";
  const wrong = problems.map(({ file, line, path, wrong: what }) => `${file}:${line}: ${path}: ${what}`);
  return ok ? summary : [summary, ...wrong].join("\n");
}

export class Actions {
  #done;
  #action = null;

  /** `done()`: something may be otherwise now. */
  constructor(done) {
    this.#done = done;
    for (const [name, action] of Object.entries(ACTIONS)) {
      byId(`do-${name}`).addEventListener("click", () => this.#ask(action));
    }
    byId("confirm-no").addEventListener("click", () => byId("confirm").close());
    byId("confirm-form").addEventListener("submit", (event) => this.#do(event));
  }

  /** Ask whether to return to a generation. */
  rollBackTo(generation) {
    this.#ask({
      path: "/rollback",
      body: { generation },
      title: `Roll back to generation ${generation}?`,
      about: "That configuration becomes active again, as a new generation, until the next reload.",
    });
  }

  /** Leave out what a role may not ask for. */
  allow(role) {
    for (const button of document.querySelectorAll("[data-changes]")) button.hidden = role === "read_only";
  }

  #ask(action) {
    this.#action = action;
    setText(byId("confirm-title"), this.#action.title);
    setText(byId("confirm-about"), this.#action.about);
    setText(byId("confirm-said"), "");
    byId("confirm-yes").hidden = false;
    setText(byId("confirm-no"), "Cancel");
    byId("confirm").showModal();
  }

  async #do(event) {
    event.preventDefault();
    byId("confirm-yes").hidden = true;
    setText(byId("confirm-said"), "Requested; waiting for all workers.");
    try {
      setText(byId("confirm-said"), saidText(await change(this.#action.path, CHANGE_TIMEOUT, this.#action.body)));
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      setText(byId("confirm-said"), error.message);
    }
    setText(byId("confirm-no"), "Close");
    this.#done();
  }
}
