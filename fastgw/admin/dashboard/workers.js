// The worker processes.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { bytesText, countText, percentText, rateText, secondsText, spanText } from "./words.js";

const RATE_S = 5;
const MARKS = { ready: "badge good", silent: "badge bad", starting: "badge", draining: "badge warn" };

export class Workers {
  #table;

  constructor() {
    this.#table = new Table(byId("table-workers"), {
      caption: "Workers",
      noun: "workers",
      key: ({ slot, pid }) => `${slot} ${pid}`,
      order: { title: "Slot", down: false },
      columns: [
        numberColumn("Slot", "slot", countText),
        { title: "Process", numeric: true, text: ({ pid }) => String(pid), value: ({ pid }) => pid },
        { title: "State", text: ({ state }) => state, mark: ({ state }) => MARKS[state] ?? "badge" },
        { ...numberColumn("Generation", "generation", countText), mark: ({ isBehind }) => (isBehind ? "warn" : "") },
        numberColumn("Up", "uptime_s", spanText),
        numberColumn("Connections", "connections", countText),
        numberColumn("Per second", "rate", rateText),
        numberColumn("Requests", "requests", countText),
        numberColumn("Memory", "memory_bytes", bytesText),
        numberColumn("CPU", "cpu", percentText),
        numberColumn("Loop lag", "loop_lag_s", secondsText),
      ],
    });
  }

  show(history) {
    this.#table.show(history.latest.workers.map((worker) => ({
      ...worker,
      rate: rateOf(worker, history, ({ requests }) => requests),
      cpu: rateOf(worker, history, ({ cpu_s: cpu }) => cpu),
      isBehind: worker.generation !== history.latest.generation,
    })));
  }
}

/** Per second, of one process; null where it was not there before, or began anew. */
function rateOf(worker, history, pick) {
  const same = ({ workers }) => workers.find(({ slot, pid }) => slot === worker.slot && pid === worker.pid);
  const before = history.since(RATE_S);
  if (!before || !same(before) || pick(worker) < pick(same(before))) return null;
  return (pick(worker) - pick(same(before))) / (history.latest.uptime_s - before.uptime_s);
}
