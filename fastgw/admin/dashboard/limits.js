// How much of the limits is in use, as far as control knows without asking a worker; what it does not know is a dash.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { UNKNOWN, countText, dateText, percentText } from "./words.js";

const TABLES = {
  connections: "Client connections",
  rate_limit: "Keys of rate limits",
  quota: "Keys of quotas",
};
/** From this share on something is told to be nearly used up. */
const NEARLY = 0.9;

function shareMark(share) {
  if (share >= 1) return "bad";
  return share >= NEARLY ? "warn" : "";
}

function mostUsedText({ most_used: used, most_used_of: limit, most_used_by: name }) {
  if (used === null) return UNKNOWN;
  return name === null ? countText(used) : `${countText(used)} of ${countText(limit)} by ${name}`;
}

export class Limits {
  #uses = new Table(byId("table-limits"), {
    caption: "Limits, refusals counted since the start",
    noun: "limits",
    key: ({ place }) => place,
    columns: [
      { title: "Filter", text: ({ filter }) => filter, value: ({ filter }) => filter },
      { title: "Type", text: ({ type }) => type, value: ({ type }) => type },
      { title: "Where", text: ({ level }) => level, value: ({ level }) => level },
      { title: "Counts by", text: ({ key }) => key || "all together" },
      numberColumn("Limit", "limit", countText),
      { title: "Per", text: ({ per }) => per || "at a time" },
      { ...numberColumn("In flight", "in_flight", countText), mark: (use) => shareMark(use.in_flight / use.limit) },
      numberColumn("Keys", "keys", countText),
      {
        title: "Most used",
        text: mostUsedText,
        value: ({ most_used: used, most_used_of: limit }) => (limit ? used / limit : used),
        mark: ({ most_used: used, most_used_of: limit }) => (limit ? shareMark(used / limit) : ""),
      },
      { ...numberColumn("Refused", "refused", countText), mark: ({ refused }) => (refused > 0 ? "warn" : "") },
      { title: "Resets", text: ({ resets_date: date }) => dateText(date), value: ({ resets_date: date }) => date },
    ],
  });

  #tables = new Table(byId("table-tables"), {
    caption: "Shared memory of all limits of the node",
    key: ({ table }) => table,
    columns: [
      { title: "What", text: ({ table }) => TABLES[table] ?? table },
      numberColumn("In use", "used", countText),
      numberColumn("Of", "size", countText),
      {
        title: "Share",
        numeric: true,
        text: ({ used, size }) => percentText(used / size),
        mark: ({ used, size }) => shareMark(used / size),
      },
      numberColumn("Shared slots", "shared", countText),
      numberColumn("Without a slot", "overflowed", countText),
      numberColumn("Refused, table full", "refused", countText),
    ],
  });

  show({ tables, limits }) {
    this.#tables.show(tables);
    this.#uses.show(limits.map((limit, place) => ({ ...limit, place })));
  }
}
