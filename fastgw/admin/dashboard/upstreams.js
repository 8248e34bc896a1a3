// Every target of every upstream, those in trouble first.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, errorsText, lastErrorText, rateText, secondsText } from "./words.js";

/** By urgency, and the badge of each. */
const HEALTH = {
  failing: { urgency: 4, mark: "badge bad" },
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
        numberColumn("Per second", "rate", rateText),
        {
          title: "Errors",
          text: ({ errors }) => errorsText(errors),
          value: ({ errors }) => Object.values(errors).reduce((sum, count) => sum + count, 0),
          mark: ({ recent_errors: recent }) => (Object.keys(recent).length > 0 ? "bad" : ""),
        },
        numberColumn("p50", "p50_s", secondsText),
        numberColumn("p99", "p99_s", secondsText),
        {
          title: "Last error",
          text: ({ last_error: error }) => lastErrorText(error),
          value: ({ last_error: error }) => error?.date,
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
