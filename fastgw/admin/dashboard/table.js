// A table that is searched and sorted over all its rows and shows the first of them: ten thousand rows stay quick
// because a hundred are drawn. Rows are kept by key and changed in place, so that what is being read stays where it is.

import { make, setClass, setText } from "./elements.js";
import { countText } from "./words.js";

const PAGE = 100;
const byName = new Intl.Collator("en", { numeric: true }).compare; // route-2 before route-10

function compare(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return -1;
  if (other === null || other === undefined) return 1;
  return typeof one === "string" ? byName(one, other) : one - other;
}

/** A column of numbers; `text` shows what the row has in `field`. */
export function numberColumn(title, field, text) {
  return { title, numeric: true, text: (row) => text(row[field]), value: (row) => row[field] };
}

export class Table {
  #table;
  #columns;
  #key;
  #noun;
  #order;
  #needle = "";
  #limit = PAGE;
  #rows = [];
  #heads = new Map();
  #lines = new Map();
  #body = make("tbody", { role: "rowgroup" });
  #about = make("span");
  #more = make("button", { type: "button" }, `Show ${PAGE} more`);

  /**
   * `columns`: {title, text(row)} each; with `value(row)` it can be sorted by, `numeric` puts it to the right, and
   * `mark(row)` gives the class of a badge; with `pick(key)` it is a button. `key(row)` is unique. `noun`: what the rows are, where they are worth
   * counting. `order`: the title of the column that it is sorted by at first and whether downwards; null leaves the
   * rows as they come.
   */
  constructor(table, { caption, columns, key, noun = null, order = null }) {
    this.#table = table;
    this.#columns = columns;
    this.#key = key;
    this.#noun = noun;
    this.#order = order && { column: columns.find(({ title }) => title === order.title), down: order.down };
    // A phone shows the rows as cards, by CSS that takes a table's meaning away in some browsers: the roles keep it.
    table.setAttribute("role", "table");
    const heads = make("tr", { role: "row" }, ...columns.map((column) => this.#head(column)));
    table.append(make("caption", {}, caption), make("thead", { role: "rowgroup" }, heads), this.#body);
    if (noun) table.after(make("p", { class: "more" }, this.#about, " ", this.#more));
    this.#more.addEventListener("click", () => this.#showMore());
    this.#renderHeads();
  }

  /** Rows come with `searched`, what they are found by in lower case, where the table is searched. */
  show(rows) {
    this.#rows = rows;
    this.#render();
  }

  search(text) {
    this.#needle = text.trim().toLowerCase();
    this.#limit = PAGE;
    this.#render();
  }

  #head(column) {
    const head = make("th", { scope: "col", role: "columnheader" });
    if (column.numeric) head.className = "numeric";
    if (!column.value) {
      head.append(column.title);
      return head;
    }
    const button = make("button", { type: "button" }, column.title);
    button.addEventListener("click", () => this.#sortBy(column));
    head.append(button);
    this.#heads.set(column, head);
    return head;
  }

  /** Numbers are wanted from the largest, names from the first; the same column again turns it round. */
  #sortBy(column) {
    const again = this.#order?.column === column;
    this.#order = { column, down: again ? !this.#order.down : Boolean(column.numeric) };
    this.#limit = PAGE;
    this.#render();
  }

  #showMore() {
    this.#limit += PAGE;
    this.#render();
  }

  #matching() {
    const words = this.#needle.split(/\s+/);
    const isFound = ({ searched }) => words.every((word) => searched.includes(word));
    const found = this.#needle ? this.#rows.filter(isFound) : [...this.#rows];
    if (this.#order) {
      const { column, down } = this.#order;
      found.sort((one, other) => (down ? -1 : 1) * compare(column.value(one), column.value(other)));
    }
    return found;
  }

  #render() {
    const found = this.#matching();
    const lines = found.slice(0, this.#limit).map((row) => this.#line(row));
    const drawn = this.#body.children;
    if (lines.length !== drawn.length || lines.some((line, place) => line !== drawn[place])) {
      this.#body.replaceChildren(...lines);
      this.#lines = new Map(lines.map((line) => [line.key, line]));
    }
    this.#renderHeads();
    this.#renderAbout(found.length);
  }

  #line(row) {
    const key = this.#key(row);
    const line = this.#lines.get(key) ?? this.#newLine(key);
    for (const [place, column] of this.#columns.entries()) {
      const content = line.contents[place];
      setText(content, column.text(row));
      if (column.mark) setClass(content, column.mark(row));
    }
    return line;
  }

  #newLine(key) {
    const contents = this.#columns.map(({ pick }) => (pick ? this.#button(key, pick) : make("span")));
    const cells = this.#columns.map(({ title, numeric }, place) =>
      make("td", { role: "cell", "data-title": title, class: numeric ? "numeric" : "" }, contents[place]),
    );
    const line = make("tr", { role: "row" }, ...cells);
    return Object.assign(line, { key, contents });
  }

  #button(key, pick) {
    const button = make("button", { type: "button", class: "pick" });
    button.addEventListener("click", () => pick(key));
    return button;
  }

  #renderHeads() {
    const direction = this.#order?.down ? "descending" : "ascending";
    for (const [column, head] of this.#heads) {
      head.setAttribute("aria-sort", this.#order?.column === column ? direction : "none");
    }
  }

  #renderAbout(found) {
    const shown = Math.min(found, this.#limit);
    const of = this.#needle ? `${countText(found)} found among ${countText(this.#rows.length)}` : countText(found);
    const many = shown < found ? `${countText(shown)} of ${of} ${this.#noun}` : `${of} ${this.#noun}`;
    setText(this.#about, found === 0 && !this.#needle ? `No ${this.#noun}` : many);
    this.#more.hidden = shown === found;
  }
}
