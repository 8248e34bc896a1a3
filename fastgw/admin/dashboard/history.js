// What /live told in the last minutes. It tells counts since the start; all rates are differences of two answers, over
// the time that passed on the *gateway's* clock, so that neither a slow answer nor a changed clock bends them.

import { bucketsSince, quantile } from "./histogram.js";

/** Seconds that the charts show. */
export const SHOWN_S = 300;
/** Seconds over which percentiles and shares are taken: in one second of little traffic there is no p99. */
const WINDOW_S = 10;

/** Whether a counter is lower than it was: the gateway was started anew, and a difference would mean nothing. */
function wentDown(now, before) {
  const fell = (each, earlier) => Object.keys(earlier).some((key) => (each[key] ?? 0) < earlier[key]);
  return (
    now.uptime_s < before.uptime_s ||
    now.requests < before.requests ||
    now.latency.counts.length !== before.latency.counts.length ||
    fell(now.responses, before.responses) ||
    fell(now.faults, before.faults) ||
    fell(now.latency.counts, before.latency.counts)
  );
}

export class History {
  /** One for each answer: what the charts draw. `at`: seconds on the page's clock. A null is a gap. */
  points = [];
  /** The answers themselves, of one life of the gateway, the oldest first. */
  #answers = [];

  get latest() {
    return this.#answers.at(-1) ?? null;
  }

  add(live, at) {
    const before = this.latest;
    if (before && live.uptime_s === before.uptime_s) return; // asked twice within one moment: no time to divide by
    if (before && wentDown(live, before)) this.#answers = [];
    this.#answers.push(live);
    while (this.#answers[0].uptime_s < live.uptime_s - SHOWN_S) this.#answers.shift();
    this.points.push(this.#point(at));
    this.forget(at);
  }

  /** Drop what has left the charts; needed while nothing comes in as well. */
  forget(now) {
    while (this.points.length > 0 && this.points[0].at < now - SHOWN_S) this.points.shift();
  }

  /** The last answer that is at least `seconds` older than the latest, or else the oldest; null while there is one. */
  since(seconds) {
    const earlier = this.#answers.slice(0, -1);
    const then = this.latest.uptime_s - seconds;
    return earlier.findLast((each) => each.uptime_s <= then) ?? earlier[0] ?? null;
  }

  /** How much of `pick` came in the last `seconds`; null when that is not known. */
  gained(seconds, pick) {
    const before = this.since(seconds);
    return before && (pick(this.latest) ?? 0) - (pick(before) ?? 0);
  }

  /** The same per second. */
  rate(seconds, pick) {
    const before = this.since(seconds);
    return before && this.gained(seconds, pick) / (this.latest.uptime_s - before.uptime_s);
  }

  /** The share of the last answers that were of a class; null without answers. */
  shareOf(statusClass) {
    const requests = this.gained(WINDOW_S, (live) => live.requests);
    return requests ? this.gained(WINDOW_S, ({ responses }) => responses[statusClass]) / requests : null;
  }

  #point(at) {
    return {
      at,
      requests: this.rate(0, ({ requests }) => requests),
      clientErrors: this.rate(0, ({ responses }) => responses["4xx"]),
      serverErrors: this.rate(0, ({ responses }) => responses["5xx"]),
      connections: this.latest.connections,
      lag: this.latest.loop_lag_s,
      ...this.#percentiles(),
    };
  }

  #percentiles() {
    const before = this.since(WINDOW_S);
    if (!before) return { p50: null, p90: null, p99: null };
    const { bounds_s: bounds, counts } = this.latest.latency;
    const recent = bucketsSince(counts, before.latency.counts);
    const [p50, p90, p99] = [0.5, 0.9, 0.99].map((q) => quantile(bounds, recent, q));
    return { p50, p90, p99 };
  }
}
