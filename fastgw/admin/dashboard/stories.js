// Stories of failed and slow requests: the list, and all of one with its attempts on a time axis.

import { Unanswered, ask } from "./connection.js";
import { byId, make, makeSvg, setText } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, dateText, secondsText, UNKNOWN } from "./words.js";

const STORY_TIMEOUT = 15000;
const AXIS = 1000;
/** Parts of an attempt in the order of time: the time at which each begins, and its name. */
const PARTS = [["begun_s", "wait for a connection"], ["sent_s", "wait for the response"], ["first_byte_s", "response"]];

function connectText({ queue_left_s: queue, tcp_s: tcp, tls_s: tls }) {
  const steps = [["left the queue", queue], ["TCP", tcp], ["TLS", tls]];
  return steps.filter(([, at]) => at !== null).map(([name, at]) => `${name} ${secondsText(at)}`);
}

function attemptText(attempt) {
  const times = [["sent", attempt.sent_s], ["first byte", attempt.first_byte_s], ["ended", attempt.ended_s]];
  const said = times.filter(([, at]) => at !== null).map(([name, at]) => `${name} ${secondsText(at)}`);
  return [attempt.reused ? "idle connection" : "new connection", ...connectText(attempt), ...said].join(", ");
}

/** Bars of an attempt on the axis of the whole request. What they say stands in the text beside them, too. */
function bars(attempt, duration) {
  const at = (seconds) => Math.min(AXIS, Math.max(0, (seconds / duration) * AXIS));
  const end = attempt.ended_s ?? duration;
  const begun = PARTS.filter(([field]) => attempt[field] !== null);
  const drawn = begun.map(([field], place) => {
    const from = at(attempt[field]);
    const to = at(place + 1 < begun.length ? attempt[begun[place + 1][0]] : end);
    return makeSvg("rect", { class: field, x: from, y: 0, width: Math.max(to - from, 3), height: 12 });
  });
  return makeSvg("svg", { viewBox: `0 0 ${AXIS} 12`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...drawn);
}

function factsOf(story) {
  const query = story.query === null ? "" : `?${story.query}`;
  return [
    ["Request", `${story.method} ${story.scheme}://${story.host}${story.path}${query}`],
    ["Result", `${story.status} after ${secondsText(story.duration_s)}`],
    ["Fault", [story.fault, story.fault_detail].filter(Boolean).join(": ")],
    ["Route", story.route],
    ["Client", [story.client, story.consumer && `consumer ${story.consumer}`].filter(Boolean).join(", ")],
    ["Listener", story.listener],
    ["Ended", dateText(story.date)],
    ["Bytes", `${countText(story.request_bytes)} received, ${countText(story.response_bytes)} sent`],
    ["Cache", story.cache],
    ["Filters in shadow", story.shadow],
    ["Sub-requests", story.subrequests],
    ["Request id", story.request_id],
    ["Trace", story.trace_id],
  ].filter(([, text]) => text);
}

function filterLine({ name, decision, detail, waited_s: waited }) {
  const said = waited === null ? decision : `${decision} after ${secondsText(waited)}`;
  return make("li", {}, make("strong", {}, name), ` ${said}${detail ? `: ${detail}` : ""}`);
}

function attemptLine(attempt, duration) {
  const outcome = attempt.fault ?? attempt.status ?? "no response";
  const mark = attempt.fault ? "badge bad" : "badge good";
  const where = attempt.upstream ? `${attempt.target} of ${attempt.upstream}` : attempt.target;
  const head = `${attempt.number}. ${attempt.kind} at ${where} `;
  const said = make("p", { class: "more" }, attemptText(attempt));
  return make("li", {}, head, make("span", { class: mark }, String(outcome)), bars(attempt, duration), said);
}

export class Stories {
  #about = byId("stories-about");
  #detail = byId("story");
  #table = new Table(byId("table-stories"), {
    caption: "Failed and slow requests",
    noun: "stories",
    key: ({ number }) => number,
    order: { title: "When", down: true },
    columns: [
      { title: "Request", text: ({ method, path }) => `${method} ${path}`, pick: (number) => this.#open(number) },
      { title: "Status", text: ({ status }) => String(status), value: ({ status }) => status,
        mark: ({ status }) => (status >= 500 ? "badge bad" : "badge warn") },
      numberColumn("Took", "duration_s", secondsText),
      { title: "Route", text: ({ route }) => route ?? UNKNOWN, value: ({ route }) => route },
      { title: "Target", text: ({ target }) => target ?? UNKNOWN, value: ({ target }) => target },
      { title: "Fault", text: ({ fault }) => fault ?? UNKNOWN, value: ({ fault }) => fault },
      { title: "Consumer", text: ({ consumer }) => consumer ?? UNKNOWN, value: ({ consumer }) => consumer },
      numberColumn("Attempts", "attempts", countText),
      { title: "When", text: ({ date }) => dateText(date), value: ({ date }) => date },
    ],
  });

  constructor() {
    const search = byId("search-stories");
    search.addEventListener("input", () => this.#table.search(search.value));
    byId("story-close").addEventListener("click", () => this.#close());
  }

  show({ stories, dropped }) {
    const names = ["method", "path", "status", "route", "target", "fault", "consumer", "reason", "request_id", "trace_id"];
    const searched = (story) => names.map((name) => story[name] ?? "").join(" ").toLowerCase();
    this.#table.show(stories.map((story) => ({ ...story, searched: searched(story) })));
    setText(this.#about, dropped > 0 ? `${countText(dropped)} more were dropped: there were too many at a time.` : "");
  }

  /** The configuration keeps no stories. */
  showNone() {
    this.#table.show([]);
    setText(this.#about, "No stories are kept; the setting “stories” of the configuration begins them.");
  }

  async #open(number) {
    let story;
    try {
      story = await ask(`/stories/${number}`, STORY_TIMEOUT);
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      setText(this.#about, error.message);
      return;
    }
    const facts = factsOf(story).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
    byId("story-facts").replaceChildren(...facts);
    byId("story-filters").replaceChildren(...story.filters.map(filterLine));
    byId("story-attempts").replaceChildren(...story.attempts.map((each) => attemptLine(each, story.duration_s || 1)));
    byId("story-no-attempts").hidden = story.attempts.length > 0;
    this.#detail.hidden = false;
    byId("story-title").focus();
  }

  #close() {
    this.#detail.hidden = true;
    byId("search-stories").focus();
  }
}
