// Configurations that are kept: what has changed since, and the way back.

import { Unanswered, ask } from "./connection.js";
import { byId, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, dateText } from "./words.js";

const VERSIONS_TIMEOUT = 60000;
/** Characters; a browser stalls on more in one piece. */
const DIFF_SHOWN = 200000;
const LINE_MARKS = { "+": "good", "-": "bad", "@": "hunk" };

export class Versions {
  #rollBack;
  #chosen = null;
  #table = new Table(byId("table-versions"), {
    caption: "Configurations that can be returned to",
    noun: "configurations",
    key: ({ generation }) => generation,
    order: { title: "Number", down: true },
    columns: [
      { title: "Generation", text: ({ generation }) => `Generation ${generation}`, pick: (number) => this.#open(number) },
      { title: "Active from", text: ({ date }) => dateText(date), value: ({ date }) => date },
      { title: "Source", text: ({ source }) => source, value: ({ source }) => source },
      { title: "Hash", text: ({ hash }) => hash.slice(0, 12) },
      numberColumn("Number", "generation", countText),
    ],
  });

  /** `rollBack(generation)`: asks whether to return to it. */
  constructor(rollBack) {
    this.#rollBack = rollBack;
    byId("version-roll-back").addEventListener("click", () => this.#rollBack(this.#chosen));
    byId("version-close").addEventListener("click", () => this.#close());
  }

  show({ kept }) {
    this.#table.show(kept);
    if (this.#chosen !== null && !kept.some(({ generation }) => generation === this.#chosen)) this.#close();
  }

  async #open(number) {
    this.#chosen = number;
    setText(byId("version-title"), `Generation ${number}`);
    let said;
    let lines = "";
    try {
      const { active, changes, diff } = await ask(`/config/history/${number}`, VERSIONS_TIMEOUT);
      setText(byId("version-about"), `From generation ${number} to generation ${active}, which is active:`);
      said = changes;
      lines = diff;
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      setText(byId("version-about"), error.message);
      said = "";
    }
    setText(byId("version-changes"), said);
    byId("version-changes").hidden = !said;
    this.#showDiff(lines);
    byId("version-detail").hidden = false;
    byId("version-title").focus();
  }

  #showDiff(diff) {
    const shown = diff.length > DIFF_SHOWN ? `${diff.slice(0, DIFF_SHOWN)}\n…` : diff;
    const rows = shown.split("\n").map((line) => {
      const row = document.createElement("span");
      row.className = LINE_MARKS[line[0]] ?? "";
      row.textContent = `${line}\n`;
      return row;
    });
    byId("version-diff").replaceChildren(...rows);
    byId("version-diff").hidden = !diff;
  }

  #close() {
    this.#chosen = null;
    byId("version-detail").hidden = true;
  }
}
