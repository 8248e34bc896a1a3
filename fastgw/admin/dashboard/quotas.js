// The quotas that count, and where each stands.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { UNKNOWN, countText, dateText } from "./words.js";

export class Quotas {
  #table = new Table(byId("table-quotas"), {
    caption: "Quotas",
    noun: "quotas",
    key: ({ place }) => place,
    columns: [
      { title: "Filter", text: ({ filter }) => filter, value: ({ filter }) => filter },
      { title: "Where", text: ({ level }) => level, value: ({ level }) => level },
      { title: "Counts by", text: ({ key }) => key },
      { title: "Period", text: ({ period }) => period },
      numberColumn("Limit", "limit", countText),
      { title: "Used", numeric: true, text: ({ used }) => (used === null ? UNKNOWN : countText(used)) },
      { title: "Resets", text: ({ resets_date: date }) => dateText(date), value: ({ resets_date: date }) => date },
    ],
  });

  show({ quotas }) {
    this.#table.show(quotas.map((quota, place) => ({ ...quota, place })));
  }
}
