// The effective configuration as the API tells it: secrets are already left out there.

import { byId, setText } from "./elements.js";
import { countText } from "./words.js";

/** Characters; a browser stalls on more in one piece. */
const SHOWN = 200000;

export function showConfiguration({ generation, hash, config }) {
  const text = JSON.stringify(config, null, 2);
  const cut = `The first ${countText(SHOWN)} of ${countText(text.length)} characters; GET /config has all.`;
  setText(byId("config-about"), `Generation ${generation}${hash ? `, hash ${hash}` : ""}. ${text.length > SHOWN ? cut : ""}`);
  setText(byId("config-text"), text.slice(0, SHOWN));
}
