// Consumers, and what one of them has used of its quotas.

import { Unanswered, ask } from "./connection.js";
import { byId, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { UNKNOWN, countText, dateText } from "./words.js";

const QUOTA_TIMEOUT = 15000;
const QUOTA_NEARLY = 0.9;

function quotaMark({ used, limit }) {
  if (used === null || used < QUOTA_NEARLY * limit) return "";
  return used >= limit ? "bad" : "warn";
}

export class Consumers {
  #about = byId("quotas-about");
  #table = new Table(byId("table-consumers"), {
    caption: "Consumers",
    noun: "consumers",
    key: ({ name }) => name,
    order: { title: "Name", down: false },
    columns: [
      { title: "Name", text: ({ name }) => name, value: ({ name }) => name, pick: (name) => this.#open(name) },
      { title: "Groups", text: ({ groups }) => groups.join(", ") || UNKNOWN, value: ({ groups }) => groups.join(", ") },
      numberColumn("Keys", "keys", countText),
      numberColumn("Passwords", "passwords", countText),
      numberColumn("Subjects", "subjects", countText),
      numberColumn("Certificates", "certificates", countText),
      numberColumn("Signing keys", "signing_keys", countText),
    ],
  });

  #quotas = new Table(byId("table-quotas"), {
    caption: "Quotas of the consumer",
    noun: "quotas",
    key: ({ place }) => place,
    columns: [
      { title: "Quota", text: ({ filter }) => filter, value: ({ filter }) => filter },
      { title: "Where", text: ({ level }) => level, value: ({ level }) => level },
      { title: "Period", text: ({ period }) => period },
      { ...numberColumn("Used", "used", countText), mark: quotaMark },
      numberColumn("Limit", "limit", countText),
      numberColumn("Left", "left", countText),
      { title: "Resets", text: ({ resets_date: date }) => dateText(date), value: ({ resets_date: date }) => date },
    ],
  });

  constructor() {
    const search = byId("search-consumers");
    search.addEventListener("input", () => this.#table.search(search.value));
    byId("quotas-close").addEventListener("click", () => this.#close());
  }

  show({ consumers }) {
    const searched = ({ name, groups }) => [name, ...groups].join(" ").toLowerCase();
    this.#table.show(consumers.map((each) => ({ ...each, searched: searched(each) })));
  }

  async #open(name) {
    setText(byId("quotas-title"), `Quotas of ${name}`);
    setText(this.#about, "");
    try {
      const { quotas } = await ask(`/quotas?consumer=${encodeURIComponent(name)}`, QUOTA_TIMEOUT);
      this.#quotas.show(quotas.filter(({ used }) => used !== null).map((each, place) => ({ ...each, place })));
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      this.#quotas.show([]);
      setText(this.#about, error.message);
    }
    byId("quotas").hidden = false;
    byId("quotas-title").focus();
  }

  #close() {
    byId("quotas").hidden = true;
    byId("search-consumers").focus();
  }
}
