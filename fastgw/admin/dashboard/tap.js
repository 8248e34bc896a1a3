// Requests as they end, with headers and bodies: the lines of a tap, which begins and ends with a button.

import { Unanswered, stream } from "./connection.js";
import { byId, make, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { UNKNOWN, countText, secondsText } from "./words.js";

const TAPPED_MOST = 500;
const TAPPED_BODY = 16384;

function wordsOf(id) {
  return byId(id).value.split(/[\s,]+/).filter(Boolean);
}

/** What is wanted, out of the form. Raises `RangeError`. */
function tapWanted() {
  const percent = Number(byId("tap-sample").value);
  if (!(percent > 0 && percent <= 100)) throw new RangeError("The share is not above 0 and at most 100 %.");
  return {
    routes: wordsOf("tap-route"),
    statuses: wordsOf("tap-status"),
    methods: wordsOf("tap-method").map((each) => each.toUpperCase()),
    consumers: wordsOf("tap-consumer"),
    path_prefix: byId("tap-path").value.trim(),
    ratio: percent / 100,
    body_bytes: TAPPED_BODY,
  };
}

function messageText(first, { headers, body, body_bytes: bytes, body_omitted: omitted, body_truncated: cut }) {
  const end = omitted ? [`(${countText(bytes)} bytes are not shown: ${omitted})`] : [body, cut && `(of ${countText(bytes)} bytes)`];
  return [first, ...headers.map(([name, value]) => `${name}: ${value}`), "", ...end].filter((each) => each !== false).join("\n");
}

export class Tap {
  #about = byId("tap-about");
  #begin = byId("tap-begin");
  #rows = [];
  #count = 0;
  #stop = null;
  #table = new Table(byId("table-tap"), {
    caption: "Requests, the latest first",
    noun: "requests",
    key: ({ number }) => number,
    order: { title: "Number", down: true },
    columns: [
      { title: "Request", text: ({ method, path }) => `${method} ${path}`, pick: (number) => this.#open(number) },
      { title: "Status", text: ({ status }) => String(status), value: ({ status }) => status,
        mark: ({ status }) => (status >= 500 ? "badge bad" : status >= 400 ? "badge warn" : "badge good") },
      numberColumn("Took", "duration_s", secondsText),
      { title: "Route", text: ({ route }) => route || UNKNOWN, value: ({ route }) => route },
      { title: "Target", text: ({ target }) => target ?? UNKNOWN, value: ({ target }) => target },
      { title: "Consumer", text: ({ consumer }) => consumer ?? UNKNOWN, value: ({ consumer }) => consumer },
      { title: "Client", text: ({ client }) => client, value: ({ client }) => client },
      numberColumn("Number", "number", countText),
    ],
  });

  constructor() {
    byId("tap-form").addEventListener("submit", (event) => this.#toggle(event));
    byId("tapped-close").addEventListener("click", () => this.#close());
    const search = byId("search-tap");
    search.addEventListener("input", () => this.#table.search(search.value));
    this.#table.show([]);
  }

  /** A tap ends when its view is left: nobody looks. */
  leave() {
    this.#stop?.abort();
  }

  async #toggle(event) {
    event.preventDefault();
    if (this.#stop) {
      this.#stop.abort();
      return;
    }
    this.#rows = [];
    this.#table.show([]);
    this.#stop = new AbortController();
    setText(this.#begin, "Stop");
    try {
      await this.#run(this.#stop.signal);
      setText(this.#about, `Ended after ${countText(this.#count)} requests.`);
    } catch (error) {
      if (!(error instanceof Unanswered || error instanceof RangeError)) throw error;
      setText(this.#about, error.message);
    } finally {
      this.#stop = null;
      setText(this.#begin, "Begin");
    }
  }

  async #run(signal) {
    this.#count = 0;
    for await (const tapped of stream("/tap", tapWanted(), signal)) {
      if (tapped === null) {
        if (this.#count === 0) setText(this.#about, "Waiting for requests.");
        continue;
      }
      this.#count += 1;
      const searched = [tapped.method, tapped.path, tapped.status, tapped.route, tapped.consumer ?? ""].join(" ").toLowerCase();
      this.#rows.unshift({ ...tapped, number: this.#count, searched });
      this.#rows.length = Math.min(this.#rows.length, TAPPED_MOST);
      this.#table.show(this.#rows);
      const dropped = tapped.dropped > 0 ? ` ${countText(tapped.dropped)} more were dropped.` : "";
      setText(this.#about, `${countText(this.#count)} requests.${dropped}`);
    }
  }

  #open(number) {
    const row = this.#rows.find((each) => each.number === number);
    if (!row) return;
    const query = row.query === null ? "" : `?${row.query}`;
    setText(byId("tapped-request"), messageText(`${row.method} ${row.path}${query} ${row.protocol}`, row.request));
    setText(byId("tapped-response"), messageText(String(row.status), row.response));
    const facts = [row.fault && `${row.fault}: ${row.fault_detail ?? ""}`, row.upstream && `${row.upstream} at ${row.target}`,
      row.request_id && `request id ${row.request_id}`, row.trace_id && `trace ${row.trace_id}`];
    byId("tapped-facts").replaceChildren(...facts.filter(Boolean).map((text) => make("li", {}, text)));
    byId("tapped").hidden = false;
    byId("tapped-title").focus();
  }

  #close() {
    byId("tapped").hidden = true;
    byId("search-tap").focus();
  }
}
