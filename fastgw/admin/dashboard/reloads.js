// The last reloads: what was applied, what was refused, and why.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { countText, dateText } from "./words.js";

/** file:line:column: path: what is wrong; a hint, and what was expected. A line or column that is not known is 0. */
function problemText({ file, line, column, path, wrong, expected, hint }) {
  const place = [file, line, column].filter(Boolean).join(":");
  const advice = [hint, expected && `expected ${expected}`].filter(Boolean).join(" ");
  const said = [wrong, advice].filter(Boolean).join("; ");
  return [place, path, said].filter(Boolean).join(": ");
}

function whyText({ summary, problems }) {
  return problems.length ? problems.map(problemText).join("\n") : summary;
}

export class Reloads {
  #table = new Table(byId("table-reloads"), {
    caption: "Last reloads",
    noun: "reloads",
    key: ({ place }) => place,
    order: { title: "When", down: true },
    columns: [
      { title: "When", text: ({ date }) => dateText(date), value: ({ date }) => date },
      {
        title: "Result",
        text: ({ ok }) => (ok ? "applied" : "refused"),
        mark: ({ ok }) => (ok ? "badge good" : "badge bad"),
      },
      numberColumn("Generation", "generation", countText),
      { title: "Source", text: ({ source }) => source },
      { title: "Details", text: whyText, mark: () => "lines" },
    ],
  });

  show({ reloads }) {
    this.#table.show(reloads.last.map((reload, place) => ({ ...reload, place })));
  }
}
