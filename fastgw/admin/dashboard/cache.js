// The stores of the response cache, and what in them is found most often.

import { byId } from "./elements.js";
import { Table, numberColumn } from "./table.js";
import { UNKNOWN, bytesText, countText } from "./words.js";

function diskText({ disk }) {
  if (!disk) return UNKNOWN;
  return disk.is_up ? `${bytesText(disk.bytes)} of ${bytesText(disk.most_bytes)}` : "not used";
}

/** The disk tier has trouble, or is not used any more. */
function diskMark({ disk }) {
  if (!disk) return "";
  if (!disk.is_up) return "bad";
  return disk.errors > 0 || disk.damaged > 0 ? "warn" : "";
}

export class Cache {
  #stores = new Table(byId("table-stores"), {
    caption: "Stores, counted since the start",
    key: ({ name }) => name,
    columns: [
      { title: "Store", text: ({ name }) => name },
      numberColumn("Objects", "objects", countText),
      numberColumn("Memory", "bytes", bytesText),
      numberColumn("Of", "most_bytes", bytesText),
      numberColumn("Evicted", "evicted", countText),
      { title: "Disk", text: diskText, mark: diskMark },
      { title: "On disk", numeric: true, text: ({ disk }) => (disk ? countText(disk.objects) : UNKNOWN) },
      { title: "Found on disk", numeric: true, text: ({ disk }) => (disk ? countText(disk.hits) : UNKNOWN) },
      { title: "Found in Redis", numeric: true, text: ({ redis }) => (redis ? countText(redis.hits) : UNKNOWN) },
    ],
  });

  #objects = new Table(byId("table-cache"), {
    caption: "Objects that are found most often",
    noun: "objects",
    key: ({ place }) => place,
    order: { title: "Found", down: true },
    columns: [
      { title: "URL", text: ({ url }) => url, value: ({ url }) => url },
      { title: "Store", text: ({ store }) => store, value: ({ store }) => store },
      numberColumn("Found", "found", countText),
      numberColumn("Size", "bytes", bytesText),
    ],
  });

  show({ stores, objects }) {
    this.#stores.show(stores);
    this.#objects.show(objects.map((object, place) => ({ ...object, place })));
  }
}
