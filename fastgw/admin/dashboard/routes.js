// All routes, searched and sorted here: the API gives them as they are.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, errorsText, hitShare, lastErrorText, percentText, rateText, secondsText } from "./words.js";

const ANY = "any";

function listText(list) {
  return list.length > 0 ? list.join(" ") : ANY;
}

function searchedText(route) {
  const { name, to, listeners, hosts, paths, methods, filters } = route;
  return [name, to, ...listeners, ...hosts, ...paths, ...methods, ...filters].join(" ").toLowerCase();
}

export class Routes {
  #table;
  #before = new Map();
  #askedAt = 0;

  constructor() {
    const name = (row) => row.name;
    const column = (title, text) => ({ title, text });
    this.#table = new Table(byId("table-routes"), {
      caption: "Routes, counted since the start",
      noun: "routes",
      key: name,
      columns: [
        { title: "Route", text: name, value: name },
        column("Methods", ({ methods }) => listText(methods)),
        column("Hosts", ({ hosts }) => listText(hosts)),
        column("Paths", ({ paths }) => listText(paths)),
        { title: "To", text: ({ to }) => to, value: ({ to }) => to },
        column("Filters", ({ filters }) => filters.join(" ") || "none"),
        numberColumn("Per second", "rate", rateText),
        numberColumn("Requests", "requests", countText),
        { ...numberColumn("5xx", "errors", countText), mark: ({ errors }) => (errors > 0 ? "bad" : "") },
        { title: "Faults", text: ({ faults }) => errorsText(faults) },
        {
          title: "Last error",
          text: ({ last_error: error }) => lastErrorText(error),
          value: ({ last_error: error }) => error?.date,
        },
        numberColumn("p50", "p50_s", secondsText),
        numberColumn("p99", "p99_s", secondsText),
        numberColumn("Cache hits", "hits", percentText),
      ],
    });
    const search = byId("search-routes");
    search.addEventListener("input", () => this.#table.search(search.value));
  }

  /** `now`: seconds on the page's clock. */
  show({ routes }, now) {
    const elapsed = now - this.#askedAt;
    const rows = routes.map((route) => (
      { ...route, searched: searchedText(route), rate: this.#rate(route, elapsed), hits: hitShare(route.cache) }
    ));
    this.#before = new Map(routes.map((route) => [route.name, route.requests]));
    this.#askedAt = now;
    this.#table.show(rows);
  }

  /** Requests per second since the routes were last asked for; null where that would be a fall or a guess. */
  #rate({ name, requests }, elapsed) {
    const before = this.#before.get(name);
    return before === undefined || requests < before || elapsed <= 0 ? null : (requests - before) / elapsed;
  }
}
