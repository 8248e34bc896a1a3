// Requests, errors and latency over hours and days, of routes, consumers or plans, out of the analytics that the gateway keeps.

import { Chart } from "./chart.js";
import { Unanswered, ask } from "./connection.js";
import { byId, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { bytesText, countText, percentText, rateText, secondsText } from "./words.js";

const ANALYTICS_TIMEOUT = 15000;
const ROWS_OF_PLOT = 10000;
/** What can be chosen: how far back, and the step of the plot. */
const SPANS = {
  "24h": { seconds: 86400, step: "hour", step_s: 3600 },
  "7d": { seconds: 7 * 86400, step: "hour", step_s: 3600 },
  "30d": { seconds: 30 * 86400, step: "day", step_s: 86400 },
};

/** What the rows are of, and how that is called. */
const KINDS = {
  route: { title: "Route", noun: "routes" },
  consumer: { title: "Consumer", noun: "consumers" },
  plan: { title: "Plan", noun: "plans" },
};
/** Shown for the plan of consumers without groups. */
const NO_PLAN = "(none)";

/** One point for each step, of all rows. Percentiles are those of the only row of a step; of several there are none. */
function pointsOf(rows, { step_s: step }, now, until) {
  const byDate = new Map();
  for (const row of rows) {
    const sum = byDate.get(row.date) ?? { requests: 0, errors: 0, rows: [] };
    sum.requests += row.requests;
    sum.errors += row.errors ?? 0;
    sum.rows.push(row);
    byDate.set(row.date, sum);
  }
  return [...byDate.entries()].sort(([one], [other]) => one - other).map(([date, { requests, errors, rows: of }]) => ({
    at: now - Math.max(0, until - date - step / 2),
    requests: requests / step,
    serverErrors: errors / step,
    p50: of.length === 1 ? of[0].p50_s ?? null : null,
    p99: of.length === 1 ? of[0].p99_s ?? null : null,
  }));
}

export class AnalyticsView {
  #about = byId("analytics-about");
  #charts = [
    new Chart(byId("chart-days-requests"), {
      lines: [{ key: "requests", label: "all" }, { key: "serverErrors", label: "5xx" }],
      format: rateText,
      least: 0.001,
      shown: SPANS["24h"].seconds,
    }),
    new Chart(byId("chart-days-latency"), {
      lines: [{ key: "p50", label: "p50" }, { key: "p99", label: "p99" }],
      format: secondsText,
      least: 0.001,
      shown: SPANS["24h"].seconds,
    }),
  ];

  #table = new Table(byId("table-analytics"), {
    caption: "Requests in this time",
    noun: "rows",
    key: ({ name }) => name,
    order: { title: "Requests", down: true },
    columns: [
      { title: "Name", text: ({ name }) => name, value: ({ name }) => name, pick: (name) => this.#pick(name) },
      numberColumn("Requests", "requests", countText),
      { title: "5xx share", numeric: true, text: ({ errors, requests }) => percentText(errors / requests),
        value: ({ errors, requests }) => errors / requests, mark: ({ errors }) => (errors > 0 ? "warn" : "") },
      numberColumn("p50", "p50_s", secondsText),
      numberColumn("p95", "p95_s", secondsText),
      numberColumn("p99", "p99_s", secondsText),
      numberColumn("Received", "request_bytes", bytesText),
      numberColumn("Sent", "response_bytes", bytesText),
    ],
  });

  constructor() {
    for (const id of ["analytics-span", "analytics-name"]) byId(id).addEventListener("change", () => this.#again());
    byId("analytics-by").addEventListener("change", () => {
      byId("analytics-name").value = ""; // no route has the name of a consumer
      this.#again();
    });
  }

  /** Whether there was an answer. A configuration without analytics is one. Raises `Unanswered`. */
  async refresh() {
    const name = byId("analytics-span").value;
    const span = SPANS[name];
    const by = byId("analytics-by").value;
    setText(byId("analytics-kind"), KINDS[by].title);
    const picked = byId("analytics-name").value.trim();
    const of = picked ? `&${by}=${encodeURIComponent(by === "plan" && picked === NO_PLAN ? "" : picked)}` : "";
    const rows = `since=${name}&step=${span.step}&limit=${ROWS_OF_PLOT}`;
    byId("analytics-csv").href = `analytics.csv?by=${by}&${rows}${of}`;
    byId("analytics-csv").download = `analytics-${KINDS[by].noun}.csv`;
    try {
      const [all, plot] = await Promise.all([
        ask(`/analytics?by=${by}&since=${name}${of}`, ANALYTICS_TIMEOUT),
        ask(`/analytics?by=${by}&${rows}${of}`, ANALYTICS_TIMEOUT),
      ]);
      if (by === byId("analytics-by").value) this.#show(all, plot, span, by); // else another answer follows
    } catch (error) {
      if (!(error instanceof Unanswered) || error.status === 401) throw error;
      this.#table.show([]);
      setText(this.#about, error.message);
      return error.status === 404;
    }
    return true;
  }

  #show(all, plot, span, by) {
    const now = performance.now() / 1000;
    const points = pointsOf(plot.rows, span, now, plot.until_date);
    for (const chart of this.#charts) {
      chart.span(span.seconds);
      chart.draw(points, now);
    }
    this.#table.show(all.rows.map((row) => ({ ...row, name: row[by] || NO_PLAN })));
    const { noun } = KINDS[by];
    const isCut = plot.total > plot.rows.length;
    const hint = all.rows.length < 2 ? "" : `Latencies of one ${by} are plotted: choose it.`;
    setText(this.#about, isCut ? `There are too many ${noun} to plot all of them: choose one.` : hint);
  }

  #pick(name) {
    byId("analytics-name").value = name;
    byId("analytics-name").focus();
    this.#again();
  }

  /** What goes wrong then is told by the next poll. */
  #again() {
    this.refresh().catch((error) => setText(this.#about, error.message));
  }
}
