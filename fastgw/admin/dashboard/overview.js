// What is going on now: tiles, charts, answers by status class, faults by reason.

import { Chart } from "./chart.js";
import { byId, setClass, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, hitShare, percentText, rateText, secondsText } from "./words.js";

const MINUTE_S = 60;
const RECENT_S = 10;
const CLASSES = ["2xx", "3xx", "4xx", "5xx", "499"];
const ABOUT = { "499": "499 (the client left)" };
const BAD_LAG_S = 0.1;
const BAD_SHARE = 0.01;

export class Overview {
  #longest = Infinity;
  #charts;
  #classes;
  #faults;

  constructor() {
    const latency = (value) => this.#latencyText(value);
    const chart = (id, format, least, ...lines) => new Chart(byId(id), { lines, format, least });
    this.#charts = [
      chart("chart-requests", rateText, 1, { key: "requests", label: "all" },
        { key: "clientErrors", label: "4xx" }, { key: "serverErrors", label: "5xx" }),
      chart("chart-latency", latency, 0.001, { key: "p50", label: "p50" }, { key: "p90", label: "p90" },
        { key: "p99", label: "p99" }),
      chart("chart-connections", countText, 10, { key: "connections", label: "open" }),
      chart("chart-lag", secondsText, 0.001, { key: "lag", label: "worst" }),
    ];
    this.#classes = new Table(byId("table-classes"), {
      caption: "Responses by status class",
      key: ({ name }) => name,
      columns: [
        { title: "Status", text: ({ name }) => ABOUT[name] ?? name },
        numberColumn("Per second", "rate", rateText),
        numberColumn("Share", "share", percentText),
        numberColumn("Since the start", "total", countText),
      ],
    });
    this.#faults = new Table(byId("table-faults"), {
      caption: "Errors by reason",
      noun: "faults",
      key: ({ name }) => name,
      order: { title: "Last minute", down: true },
      columns: [
        { title: "Fault", text: ({ name }) => name, value: ({ name }) => name },
        numberColumn("Last minute", "recent", countText),
        numberColumn("Since the start", "total", countText),
      ],
    });
  }

  show(history) {
    const { latest } = history;
    this.#longest = latest.latency.bounds_s.at(-1);
    this.#showTiles(latest, history);
    this.#classes.show(CLASSES.map((name) => this.#class(name, history)));
    const seen = Object.entries(latest.faults).filter(([, total]) => total > 0);
    this.#faults.show(seen.map(([name, total]) => this.#fault(name, total, history)));
  }

  /** Apart from the rest: time goes on in them while no answer comes. */
  drawCharts(history, now) {
    for (const chart of this.#charts) chart.draw(history.points, now);
  }

  showTargets(upstreams) {
    const targets = upstreams.flatMap((upstream) => upstream.targets);
    const troubled = targets.filter(({ health }) => ["failing", "unhealthy", "ejected"].includes(health)).length;
    tile("targets", `${countText(troubled)} of ${countText(targets.length)}`, troubled > 0);
  }

  #class(name, history) {
    const pick = ({ responses }) => responses[name] ?? 0;
    return { name, rate: history.rate(RECENT_S, pick), share: history.shareOf(name), total: pick(history.latest) };
  }

  #fault(name, total, history) {
    return { name, total, recent: history.gained(MINUTE_S, ({ faults }) => faults[name]) };
  }

  #showTiles(latest, history) {
    const point = history.points.at(-1);
    const share = history.shareOf("5xx");
    const ready = latest.workers.filter(({ state }) => state === "ready").length;
    tile("requests", rateText(point.requests));
    tile("errors", percentText(share), share > BAD_SHARE);
    tile("p50", this.#latencyText(point.p50));
    tile("p99", this.#latencyText(point.p99));
    tile("connections", countText(latest.connections));
    tile("lag", secondsText(latest.loop_lag_s), latest.loop_lag_s > BAD_LAG_S);
    tile("cache", percentText(hitShare(gainedResults(history))));
    tile("workers", `${ready} of ${latest.workers.length}`, ready < latest.workers.length);
  }

  #latencyText(value) {
    return value >= this.#longest ? `> ${secondsText(this.#longest)}` : secondsText(value);
  }
}

/** What the caches of all routes did in the last minute. */
function gainedResults(history) {
  const names = Object.keys(history.latest.cache);
  return Object.fromEntries(names.map((name) => [name, history.gained(MINUTE_S, ({ cache }) => cache[name]) ?? 0]));
}

function tile(name, text, isBad = false) {
  setText(byId(`tile-${name}`), text);
  setClass(byId(`tile-${name}`), isBad ? "bad" : "");
}
