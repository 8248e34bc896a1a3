// Every target of every upstream, those in trouble first.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText } from "./words.js";

/** By urgency, and the badge of each. */
const HEALTH = {
  unhealthy: { urgency: 3, mark: "badge bad" },
  ejected: { urgency: 2, mark: "badge warn" },
  unknown: { urgency: 1, mark: "badge" },
  healthy: { urgency: 0, mark: "badge good" },
};

/** What a breaker's state is worth saying; null = the upstream has none. */
const BREAKER = { open: "the breaker is open", half_open: "the breaker is half-open" };

function rowsOf(upstream) {
  return upstream.targets.map((target) => ({
    ...target,
    upstream,
    searched: `${upstream.name} ${upstream.algorithm} ${target.url} ${target.health}`.toLowerCase(),
  }));
}

export class Upstreams {
  #table;

  constructor() {
    this.#table = new Table(byId("table-upstreams"), {
      caption: "Targets of the upstreams",
      noun: "targets",
      key: ({ upstream, url }) => `${upstream.name}\n${url}`,
      order: { title: "Health", down: true },
      columns: [
        { title: "Upstream", text: ({ upstream }) => upstream.name, value: ({ upstream }) => upstream.name },
        { title: "Target", text: ({ url }) => url, value: ({ url }) => url },
        {
          title: "Health",
          text: ({ health, drained }) => (drained ? `${health}, drained` : health),
          value: ({ health }) => HEALTH[health]?.urgency ?? 0,
          mark: ({ health }) => HEALTH[health]?.mark ?? "badge",
        },
        {
          title: "Problem",
          text: ({ upstream, problem }) =>
            [problem, BREAKER[upstream.breaker]].filter(Boolean).join("; "),
          mark: () => "warn",
        },
        numberColumn("In use", "in_use", countText),
        numberColumn("Idle", "idle", countText),
        { ...numberColumn("Waiting", "waiting", countText), mark: ({ waiting }) => (waiting > 0 ? "warn" : "") },
        numberColumn("Weight", "weight", countText),
        { title: "Algorithm", text: ({ upstream }) => upstream.algorithm },
        {
          title: "Upstream retries",
          numeric: true,
          text: ({ upstream }) => countText(upstream.retries),
          value: ({ upstream }) => upstream.retries,
        },
      ],
    });
    const search = byId("search-upstreams");
    search.addEventListener("input", () => this.#table.search(search.value));
  }

  show(upstreams) {
    this.#table.show(upstreams.flatMap(rowsOf));
  }
}
