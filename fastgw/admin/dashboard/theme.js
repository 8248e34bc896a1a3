// Dark or light: as the system says, unless the reader says otherwise, which this browser then keeps.

import { setText } from "./elements.js";

const KEPT = "fastgw-theme";
const NEXT = { auto: "dark", dark: "light", light: "auto" };

export function beginTheme(button) {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    setText(button, `Theme: ${theme}`);
  };
  const kept = localStorage.getItem(KEPT);
  apply(Object.hasOwn(NEXT, kept) ? kept : "auto");
  button.addEventListener("click", () => {
    const theme = NEXT[document.documentElement.dataset.theme];
    localStorage.setItem(KEPT, theme);
    apply(theme);
  });
}
