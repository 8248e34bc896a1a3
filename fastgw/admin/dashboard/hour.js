// The last hour, which the gateway keeps: it is there as soon as the page is.

import { Chart } from "./chart.js";
import { byId } from "./elements.js";
import { quantile } from "./histogram.js";
import { rateText, secondsText } from "./words.js";

const HOUR_S = 3600;

export class Hour {
  #charts = [
    new Chart(byId("chart-hour-requests"), {
      lines: [{ key: "requests", label: "all" }, { key: "clientErrors", label: "4xx" },
        { key: "serverErrors", label: "5xx" }],
      format: rateText,
      least: 1,
      shown: HOUR_S,
    }),
    new Chart(byId("chart-hour-latency"), {
      lines: [{ key: "p50", label: "p50" }, { key: "p99", label: "p99" }],
      format: secondsText,
      least: 0.001,
      shown: HOUR_S,
    }),
  ];

  /** `now`: seconds on the page's clock. The gateway's own clock says only how far points lie apart. */
  show({ points, bounds_s: bounds }, now) {
    const last = points.at(-1)?.date ?? 0;
    const drawn = points.map((point) => ({
      at: now - (last - point.date),
      requests: point.requests / point.seconds,
      clientErrors: (point.responses["4xx"] ?? 0) / point.seconds,
      serverErrors: (point.responses["5xx"] ?? 0) / point.seconds,
      p50: quantile(bounds, point.latency, 0.5),
      p99: quantile(bounds, point.latency, 0.99),
    }));
    for (const chart of this.#charts) chart.draw(drawn, now);
  }
}
