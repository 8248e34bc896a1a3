// The page as a whole: which view is shown, what is asked for it, and what is said about the connection.

import { Unanswered, ask, session } from "./connection.js";
import { Actions } from "./actions.js";
import { AnalyticsView } from "./analytics.js";
import { Cache } from "./cache.js";
import { Certificates } from "./certificates.js";
import { showConfiguration } from "./configuration.js";
import { Consumers } from "./consumers.js";
import { byId, setClass, setText } from "./elements.js";
import { Explain } from "./explain.js";
import { History } from "./history.js";
import { Hour } from "./hour.js";
import { Limits } from "./limits.js";
import { Overview } from "./overview.js";
import { Poll } from "./poll.js";
import { Reloads } from "./reloads.js";
import { Routes } from "./routes.js";
import { Stories } from "./stories.js";
import { Tap } from "./tap.js";
import { beginTheme } from "./theme.js";
import { Upstreams } from "./upstreams.js";
import { Versions } from "./versions.js";
import { countText, spanText } from "./words.js";
import { Workers } from "./workers.js";

const VIEWS = ["overview", "analytics", "routes", "upstreams", "workers", "certificates", "consumers", "limits",
  "stories", "tap", "cache", "explain", "reloads", "config"];
const LIVE = "/live";
/** Milliseconds until an answer must be there. That of /live is small, and late only when something is wrong. */
const LIVE_TIMEOUT = 3000;
const TIMEOUT = 15000;
const STATES = {
  serving: { text: "Serving", mark: "badge good", notice: "" },
  draining: {
    text: "Draining",
    mark: "badge warn",
    notice: "This gateway is draining: it finishes requests in flight, then it stops.",
  },
};

/** Of the files that are not what runs. */
const KEPT_SHOWN = 5;

/** What is said of a Redis that is unreachable, and of files that are not what runs: the configuration's own, and the others. */
function noticeText({ shared_state: redis, stale, kept_files: kept }) {
  const away = redis?.reason ? [`The Redis of state at ${redis.server} is unreachable: ${redis.reason}; ${redis.effect}.`] : [];
  const own = stale ? [`The file on disk differs from the active configuration: ${stale.why}.`] : [];
  const more = ({ files }) => (files > 1 ? ` and ${countText(files - 1)} more` : "");
  const others = kept.slice(0, KEPT_SHOWN).map((each) => `${each.file}${more(each)} on disk differs from the active configuration: ${each.why}.`);
  const left = kept.slice(KEPT_SHOWN).reduce((sum, { files }) => sum + files, 0);
  return [...away, ...own, ...others, ...(left > 0 ? [`And ${countText(left)} more files.`] : [])].join(" ");
}

/** Bring a link into the middle of the line that it stands in, as far as that scrolls; the page stays where it is. */
function scrollToMiddle(link) {
  const line = link.parentElement;
  line.scrollLeft = link.offsetLeft - line.offsetLeft - (line.clientWidth - link.offsetWidth) / 2;
}

/** Seconds on the page's clock. */
function pageTime() {
  return performance.now() / 1000;
}

class Dashboard {
  #history = new History();
  #overview = new Overview();
  #routes = new Routes();
  #upstreams = new Upstreams();
  #workers = new Workers();
  #certificates = new Certificates();
  #limits = new Limits();
  #stories = new Stories();
  #cache = new Cache();
  #hour = new Hour();
  #reloads = new Reloads();
  #analytics = new AnalyticsView();
  #consumers = new Consumers();
  #tap = new Tap();
  #actions = new Actions(() => this.#askAll());
  #versions = new Versions((generation) => this.#actions.rollBackTo(generation));
  #view = "overview";
  #troubles = new Map();
  #answeredAt = null;
  #generation = null;
  /** Why the files say something else than what runs; "" when they do not. */
  #notice = "";
  #polls = {
    role: this.#poll("/session", 60000, () => true, ({ role }) => this.#actions.allow(role)),
    live: this.#poll(LIVE, 1000, () => true, (live) => this.#takeLive(live)),
    status: this.#poll("/status", 5000, () => !document.hidden, (status) => this.#takeStatus(status)),
    routes: this.#poll("/routes", 5000, () => this.#shows("routes"), (told) => this.#routes.show(told, pageTime())),
    upstreams: this.#poll("/upstreams", 5000, () => this.#shows("overview", "upstreams"),
      (told) => this.#showUpstreams(told)),
    history: this.#poll("/history", 10000, () => this.#shows("overview"),
      (told) => this.#hour.show(told, pageTime())),
    limits: this.#poll("/limits", 5000, () => this.#shows("limits"), (told) => this.#limits.show(told)),
    stories: new Poll({ every: 5000, wanted: () => !byId("ask").open && this.#shows("stories"), ask: () => this.#askStories() }),
    cache: this.#poll("/cache", 5000, () => this.#shows("cache"), (told) => this.#cache.show(told)),
    analytics: new Poll({ every: 60000, wanted: () => !byId("ask").open && this.#shows("analytics"), ask: () => this.#askAnalytics() }),
    consumers: this.#poll("/consumers", 15000, () => this.#shows("consumers"), (told) => this.#consumers.show(told)),
    versions: this.#poll("/config/history", 15000, () => this.#shows("reloads"), (told) => this.#versions.show(told)),
    config: this.#poll("/config", 60000, () => this.#shows("config"), showConfiguration),
  };

  async begin() {
    const linked = session.linked();
    byId("ask-form").addEventListener("submit", (event) => this.#takeToken(event));
    byId("ask").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it
    byId("forget").addEventListener("click", () => this.#endSession());
    new Explain();
    if (linked) await this.#beginSession(linked); // nothing is asked before
    addEventListener("hashchange", () => this.#turnTo(location.hash.slice(1)));
    this.#turnTo(location.hash.slice(1));
    setInterval(() => this.#tick(), 1000);
  }

  #shows(...views) {
    return !document.hidden && views.includes(this.#view);
  }

  #poll(path, every, isShown, take) {
    const wanted = () => !byId("ask").open && isShown();
    return new Poll({ every, wanted, ask: () => this.#ask(path, take) });
  }

  /** Whether there was an answer. What goes wrong in showing it is a defect, and is seen in the browser's console. */
  async #ask(path, take) {
    let told;
    try {
      told = await ask(path, path === LIVE ? LIVE_TIMEOUT : TIMEOUT);
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      this.#takeTrouble(path, error);
      return false;
    }
    if (this.#troubles.delete(path)) this.#showNotice();
    take(told);
    return true;
  }

  /** A configuration without stories is no trouble. */
  async #askStories() {
    try {
      this.#stories.show(await ask("/stories?limit=1000", TIMEOUT));
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      if (error.status !== 404) {
        this.#takeTrouble("/stories", error);
        return false;
      }
      this.#stories.showNone();
    }
    if (this.#troubles.delete("/stories")) this.#showNotice();
    return true;
  }

  async #askAnalytics() {
    try {
      return await this.#analytics.refresh();
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      this.#takeTrouble("/analytics", error);
      return false;
    }
  }

  #takeTrouble(path, error) {
    const isOfSession = error.status === 401 && error.session === session.number; // not of one before
    if (isOfSession) this.#askForToken(""); // and that is all there is to say
    if (error.status === 401) this.#troubles.delete(path);
    else this.#troubles.set(path, error.message);
    this.#showNotice();
  }

  #takeLive(live) {
    this.#answeredAt = pageTime();
    this.#history.add(live, this.#answeredAt);
    byId("forget").hidden = !session.isBegun();
    if (live.generation !== this.#generation) this.#takeGeneration(live.generation);
    if (!document.hidden) this.#showLive(live);
    this.#showNotice();
  }

  /** What belongs to a generation is asked for anew as soon as there is another. */
  #takeGeneration(generation) {
    const isFirst = this.#generation === null;
    this.#generation = generation;
    setText(byId("generation"), String(generation));
    if (!isFirst) for (const name of ["status", "routes", "upstreams", "config", "versions"]) this.#polls[name].now();
  }

  #showLive(live) {
    setText(byId("uptime"), spanText(live.uptime_s));
    this.#overview.show(this.#history);
    this.#workers.show(this.#history);
    this.#overview.drawCharts(this.#history, this.#answeredAt);
  }

  #takeStatus(status) {
    setText(byId("version"), status.version);
    setText(byId("file"), status.config_file || "none");
    this.#notice = noticeText(status);
    this.#showNotice();
    this.#reloads.show(status);
    this.#certificates.show(status);
  }

  #showUpstreams({ upstreams }) {
    this.#overview.showTargets(upstreams);
    this.#upstreams.show(upstreams);
  }

  /** Between answers: time goes on. */
  #tick() {
    if (document.hidden || !this.#troubles.has(LIVE)) return;
    this.#history.forget(pageTime());
    this.#overview.drawCharts(this.#history, pageTime());
    this.#showNotice();
  }

  /** The age stands beside what is read aloud, or a screen reader would count the seconds. */
  #showNotice() {
    const state = STATES[this.#history.latest?.state] ?? { text: "Connecting", mark: "badge", notice: "" };
    const isAway = this.#troubles.has(LIVE);
    const { text, mark } = isAway ? { text: "No answer", mark: "badge bad" } : state;
    const [trouble] = isAway ? [this.#troubles.get(LIVE)] : this.#troubles.values();
    const age = isAway && this.#answeredAt !== null ? `Last data ${spanText(pageTime() - this.#answeredAt)} ago.` : "";
    setText(byId("state"), text);
    setClass(byId("state"), mark);
    const notice = trouble ?? (state.notice || this.#notice);
    setText(byId("notice-text"), notice);
    setText(byId("notice-age"), age);
    byId("notice").classList.toggle("empty", !notice);
  }

  #turnTo(view) {
    if (VIEWS.includes(view)) this.#view = view; // anything else is a place within the page
    if (this.#view !== "tap") this.#tap.leave();
    for (const path of [...this.#troubles.keys()].filter((each) => each !== LIVE)) this.#troubles.delete(path);
    for (const name of VIEWS) byId(`view-${name}`).hidden = name !== this.#view;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${this.#view}`) {
        link.setAttribute("aria-current", "page");
        scrollToMiddle(link);
      } else link.removeAttribute("aria-current");
    }
    for (const poll of Object.values(this.#polls)) poll.now();
  }

  #askAll() {
    for (const poll of Object.values(this.#polls)) poll.now();
  }

  #askForToken(why) {
    const dialog = byId("ask");
    setText(byId("ask-why"), why);
    if (!dialog.open) dialog.showModal();
  }

  async #takeToken(event) {
    event.preventDefault();
    const token = byId("ask-token").value.trim();
    byId("ask-token").value = "";
    await this.#beginSession(token);
  }

  async #beginSession(token) {
    try {
      await session.begin(token, TIMEOUT);
    } catch (error) {
      if (!(error instanceof Unanswered)) throw error;
      this.#askForToken(error.status === 401 ? "The token is wrong." : error.message);
      return;
    }
    byId("ask").close();
    this.#askAll();
  }

  async #endSession() {
    try {
      await session.end(TIMEOUT);
    } finally {
      location.reload(); // nothing that was told for the token stays on the page
    }
  }
}

beginTheme(byId("theme"));
new Dashboard().begin();
