// What clients are shown over TLS, and what their own certificates are verified by: until when each is good.

import { byId } from "./elements.js";
import { Table } from "./table.js";
import { UNKNOWN, dateText } from "./words.js";

const DAY_S = 86400;
const SOON_DAYS = 14;

function daysText(days) {
  if (days === null) return "never expires";
  return days < 0 ? "expired" : `${Math.floor(days)} d`;
}

function markOf(days) {
  if (days === null) return "badge good";
  if (days < 0) return "badge bad";
  return days < SOON_DAYS ? "badge warn" : "badge good";
}

function orderText({ problem, ordered_by: by }) {
  const order = by && (by === "waits_for_redis" ? "its order waits for Redis" : `${by.replace("_", " ")} orders it`);
  return [problem, order].filter(Boolean).join("; ");
}

export class Certificates {
  #table = new Table(byId("table-certificates"), {
    caption: "Server certificates, and CA certificates and CRLs for clients",
    noun: "certificates",
    key: ({ place }) => place,
    order: { title: "Days left", down: false },
    columns: [
      { title: "Listener", text: ({ listener }) => listener, value: ({ listener }) => listener },
      { title: "Kind", text: ({ kind }) => kind },
      { title: "Names", text: ({ names }) => names || UNKNOWN },
      { title: "File", text: ({ file }) => file },
      { title: "Expires", text: ({ date }) => dateText(date), value: ({ date }) => date ?? Infinity },
      {
        title: "Days left",
        text: ({ days }) => daysText(days),
        value: ({ days }) => days ?? Infinity,
        mark: ({ days }) => markOf(days),
      },
      { title: "Problem", text: ({ problem }) => problem, mark: () => "warn" },
    ],
  });

  show({ certificates, verifiers, acme, ocsp }) {
    const issued = new Map(acme.map((each) => [each.certificate, each]));
    const unstapled = new Map(ocsp.map(({ certificate, problem }) => [certificate, problem && `OCSP: ${problem}`]));
    const shown = certificates.map(({ listener, names, certificate, expires_date: date, problem }) => {
      const by = issued.get(certificate);
      const kind = by === undefined ? "certificate" : by.issued ? "certificate (ACME)" : "placeholder (ACME)";
      const found = [problem || (by ? orderText(by) : ""), unstapled.get(certificate)].filter(Boolean).join("; ");
      return { listener, names: names.join(" "), file: certificate, date, problem: found, kind };
    });
    const ordered = acme.filter((each) => each.on_demand && each.issued).map((each) => (
      {
        listener: "", names: each.names.join(" "), file: each.certificate, date: each.expires_date,
        problem: orderText(each), kind: "certificate (ACME, on demand)",
      }
    ));
    const verified = verifiers.map(({ listener, kind, file, expires_date: date, problem }) => (
      { listener, names: "", file, date, problem, kind: kind === "ca" ? "client authority" : "revocation list" }
    ));
    const now = Date.now() / 1000;
    this.#table.show([...shown, ...ordered, ...verified].map((each, place) => (
      { ...each, place, days: each.date === null ? null : (each.date - now) / DAY_S }
    )));
  }
}
