// Numbers as people read them. All durations are seconds, all sizes bytes; what is unknown is a dash.

export const UNKNOWN = "–";
const grouped = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" }); // 2026-01-31 09:30:00

/** Whether there is a number to show. JSON has no NaN, but a difference may have none. */
function isKnown(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/** Three significant digits at most: more would only flicker. */
function short(value) {
  if (value >= 100) return grouped.format(value);
  return String(Number(value.toPrecision(3)));
}

export function countText(value) {
  return isKnown(value) ? grouped.format(value) : UNKNOWN;
}

export function rateText(value) {
  return isKnown(value) ? `${short(value)}/s` : UNKNOWN;
}

export function percentText(share) {
  return isKnown(share) ? `${short(share * 100)} %` : UNKNOWN;
}

/** The share of requests that a cache has answered without a request of their own; null without a cache. */
export function hitShare(results) {
  const sum = (names) => names.reduce((total, name) => total + (results[name] ?? 0), 0);
  const all = sum(Object.keys(results));
  return all > 0 ? sum(["hit", "stale", "collapsed"]) / all : null;
}

export function secondsText(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (value === 0) return "0 s";
  if (value < 0.001) return `${short(value * 1e6)} µs`;
  return value < 1 ? `${short(value * 1e3)} ms` : `${short(value)} s`;
}

export function bytesText(value) {
  if (!isKnown(value)) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${short(value / 1024 ** step)} ${units[step]}`;
}

/** How long something has lasted, in its two largest units. */
export function spanText(value) {
  if (!isKnown(value)) return UNKNOWN;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(parts.findIndex(([size]) => value >= size), 0);
  const shown = value < 1 ? parts.slice(-1) : parts.slice(first, first + 2);
  let left = value;
  return shown.map(([size, unit]) => {
    const whole = Math.floor(left / size);
    left -= whole * size;
    return `${whole} ${unit}`;
  }).join(" ");
}

/** A round span of time in its largest unit, as `names` call days, hours and minutes. */
export function wholeSpanText(seconds, names = ["d", "h", "min"]) {
  if (seconds > 172800) return `${seconds / 86400} ${names[0]}`;
  return seconds > 7200 ? `${seconds / 3600} ${names[1]}` : `${seconds / 60} ${names[2]}`;
}

/** What failed, by fault, the most frequent first. */
export function errorsText(counts) {
  const sorted = Object.entries(counts).sort(([, one], [, other]) => other - one);
  return sorted.map(([name, count]) => `${name} ${countText(count)}`).join(", ") || "none";
}

/** An instant (epoch seconds) in the reader's own time. */
export function dateText(value) {
  return isKnown(value) ? clock.format(new Date(value * 1000)) : UNKNOWN;
}

/** When and why something failed last; null = it never has. */
export function lastErrorText(error) {
  return error ? `${dateText(error.date)} ${error.fault}${error.reason ? ` (${error.reason})` : ""}` : "none";
}
