// Asking again and again, without being a burden: slower while nobody looks, and ever slower while there is no answer.

const HIDDEN_MS = 10000;
const WORST_MS = 15000;

export class Poll {
  #every;
  #wanted;
  #ask;
  #failures = 0;
  #timer = 0;
  #isAsking = false;

  /** `every`: milliseconds. `wanted()`: whether to ask at all. `ask()`: a promise of whether there was an answer. */
  constructor({ every, wanted, ask }) {
    this.#every = every;
    this.#wanted = wanted;
    this.#ask = ask;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** Ask at once: something is looked at that was not before, or may have changed. */
  async now() {
    if (this.#isAsking) return;
    clearTimeout(this.#timer);
    this.#isAsking = true;
    try {
      if (this.#wanted()) this.#failures = (await this.#ask()) ? 0 : this.#failures + 1;
    } finally { // a defect in what is done with an answer ends that answer, not the asking
      this.#isAsking = false;
      this.#timer = setTimeout(() => this.now(), this.#delay());
    }
  }

  #delay() {
    const every = document.hidden ? Math.max(this.#every, HIDDEN_MS) : this.#every;
    return this.#failures === 0 ? every : Math.max(every, Math.min(this.#every * 2 ** this.#failures, WORST_MS));
  }
}
