// A line chart of the last minutes, in SVG. Its coordinates are CSS pixels, so that letters and lines keep their size
// on a phone. No animation: a new point is a new picture.

import { make, makeSvg, setText } from "./elements.js";
import { SHOWN_S } from "./history.js";
import { UNKNOWN, wholeSpanText } from "./words.js";

const HEIGHT = 150;
const TOP = 20; // room for the highest label
const BOTTOM = 18; // room for the times
const GRID = [0, 0.5, 1];

/** The next round number: 1, 2 or 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((each) => each >= value * 0.999) ?? 10 * power;
}

/** Seconds that a chart of minutes shows exactly. */
function agoText(seconds) {
  return seconds < 7200 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 3600)} h`;
}

export class Chart {
  #lines;
  #format;
  #least;
  #shown;
  #svg = makeSvg("svg", { role: "img", height: HEIGHT });
  #cursor = makeSvg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  #grid;
  #plot = make("div", {}, this.#svg);
  #title;
  #moment = make("li", { class: "moment" });
  #points = [];
  #begin = makeSvg("text", { x: 0, y: HEIGHT - 4 });
  #end = makeSvg("text", { y: HEIGHT - 4, "text-anchor": "end" }, "now");
  #now = 0;
  #pointed = null;

  /**
   * `lines`: {key, label} each, drawn in this order; `key` is the point's field and the class that gives the colour.
   * `format` makes text of a value. `least`: the axis never ends below it, or idle noise would look like a mountain. `shown`: seconds.
   */
  constructor(figure, { lines, format, least, shown = SHOWN_S }) {
    this.#shown = shown;
    this.#title = figure.querySelector("figcaption").firstChild.textContent.trim();
    this.#svg.setAttribute("aria-label", this.#title); // until something is drawn
    this.#format = format;
    this.#least = least;
    this.#lines = lines.map((line) => this.#line(line));
    this.#grid = GRID.map(() => this.#gridLine());
    const [rules, labels] = ["rule", "label"].map((part) => this.#grid.map((each) => each[part]));
    const paths = this.#lines.map(({ path }) => path);
    this.#svg.append(...rules, ...paths, this.#cursor, ...labels, ...this.#times());
    const legend = make("ul", { class: "legend" }, ...this.#lines.map(({ item }) => item), this.#moment);
    figure.append(this.#plot, legend);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.#render()).observe(this.#plot);
  }

  /** Show so many seconds from the next drawing on. */
  span(seconds) {
    this.#shown = seconds;
  }

  draw(points, now) {
    this.#points = points;
    this.#now = now;
    this.#render();
  }

  #line({ key, label }) {
    const value = make("b");
    const swatch = makeSvg("svg", { class: "swatch", width: 18, height: 8, "aria-hidden": "true" });
    swatch.append(makeSvg("path", { class: `line ${key}`, d: "M0 4H18" }));
    const item = make("li", {}, swatch, make("span", {}, label), " ", value);
    return { key, label, value, item, path: makeSvg("path", { class: `line ${key}` }) };
  }

  #gridLine() {
    return { rule: makeSvg("line", { class: "rule", x1: 0 }), label: makeSvg("text", { x: 0 }) };
  }

  #times() {
    return [this.#begin, this.#end];
  }

  #point(x) {
    this.#pointed = x;
    this.#render();
  }

  #render() {
    const width = this.#plot.clientWidth;
    if (width === 0) return; // not shown
    this.#svg.setAttribute("width", width);
    this.#end.setAttribute("x", width);
    setText(this.#begin, `${wholeSpanText(this.#shown)} ago`);
    const top = this.#highest();
    const toX = (at) => width * (1 - (this.#now - at) / this.#shown);
    const toY = (value) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value / top);
    this.#renderGrid(width, top, toY);
    for (const { key, path } of this.#lines) path.setAttribute("d", this.#trace(key, toX, toY));
    this.#renderLegend(toX);
  }

  #highest() {
    let highest = this.#least;
    for (const point of this.#points) for (const { key } of this.#lines) highest = Math.max(highest, point[key] ?? 0);
    return roundUp(highest);
  }

  #renderGrid(width, top, toY) {
    for (const [place, { rule, label }] of this.#grid.entries()) {
      const value = GRID[place] * top;
      const y = toY(value);
      for (const [name, at] of [["x2", width], ["y1", y], ["y2", y]]) rule.setAttribute(name, at);
      label.setAttribute("y", y - 4);
      setText(label, place === 0 ? "" : this.#format(value));
    }
  }

  /** The line as a path; a gap begins it anew, and a point between two gaps is a dot. */
  #trace(key, toX, toY) {
    let path = "";
    let pen = "M";
    for (const point of this.#points) {
      const value = point[key];
      if (value === null) {
        pen = "M";
        continue;
      }
      const place = `${toX(point.at).toFixed(1)} ${toY(value).toFixed(1)}`;
      path += pen === "M" ? `M${place}h0` : `L${place}`;
      pen = "L";
    }
    return path;
  }

  /** The values under the pointer; without one, the latest. */
  #renderLegend(toX) {
    const shown = this.#pointed === null ? this.#points.at(-1) : this.#nearest(toX);
    this.#cursor.toggleAttribute("hidden", this.#pointed === null || !shown);
    if (shown) for (const name of ["x1", "x2"]) this.#cursor.setAttribute(name, toX(shown.at));
    const ago = shown && this.#pointed !== null ? `${agoText(this.#now - shown.at)} ago` : "";
    setText(this.#moment, ago);
    const texts = this.#lines.map(({ key, label, value }) => {
      setText(value, shown ? this.#format(shown[key]) : UNKNOWN);
      return `${label} ${value.textContent}`;
    });
    const about = `${this.#title}, line chart of ${wholeSpanText(this.#shown, ["days", "hours", "minutes"])}. ${ago || "Now"}: ${texts.join(", ")}`;
    this.#svg.setAttribute("aria-label", about);
  }

  #nearest(toX) {
    const distance = (point) => Math.abs(toX(point.at) - this.#pointed);
    return this.#points.reduce((best, point) => (best && distance(best) <= distance(point) ? best : point), undefined);
  }
}
