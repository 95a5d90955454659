/**
 * How far the captions are behind the speaker. Pure: the time of each event is handed in, in milliseconds.
 *
 * A microphone's audio has a place on the wall clock, because each piece is sent as soon as it was heard; from it and
 * the times in the server's messages follows how old what we read is. A file has none, so it has only `decided`.
 */
export class Timing {
  /** From the last audio that the newest partial has heard until the partial was here. */
  partial = new Measure();
  /** From the end of the last word to its final text. */
  pause = new Measure();
  /** From the moment the server noticed the end of speech to the final text. */
  decided = new Measure();

  /** Wall time at which the stream's clock stood at zero. */
  #origin;
  /** Utterances that are over: when the server said so, and when their newest final came. */
  #stopped = new Map();

  /** Audio up to `seconds` of the stream has just been heard. */
  heard(seconds, now) {
    const origin = now - seconds * 1000;
    // The least delayed piece is the most telling one; a slow forgetting follows clocks that drift apart.
    this.#origin = this.#origin === undefined ? origin : Math.min(this.#origin + 0.01, origin);
  }

  /** Takes a message of the server in. */
  fold(message, now) {
    const since = (seconds) => (this.#origin === undefined ? undefined : now - (this.#origin + seconds * 1000));
    if (message.type === "partial" && (message.stable || message.tentative)) {
      this.partial.add(since(message.end));
    } else if (message.type === "speech_stopped") {
      this.#stopped.set(message.utterance, { now });
    } else if (message.type === "final") {
      const stopped = this.#stopped.get(message.utterance);
      if (stopped) Object.assign(stopped, { final: now, end: message.end });
    } else if (message.type === "utterance_done") {
      const stopped = this.#stopped.get(message.utterance);
      this.#stopped.delete(message.utterance);
      if (!stopped?.final) return; // Nothing was said after all, or all of it was final before the pause.
      this.decided.add(stopped.final - stopped.now);
      this.pause.add(since(stopped.end) - (now - stopped.final));
    }
  }
}

/** The newest value and the median of the last hundred, in milliseconds. */
class Measure {
  last;
  #values = [];

  add(value) {
    if (!Number.isFinite(value)) return; // Not known: there is no wall clock.
    this.last = Math.max(0, value);
    this.#values.push(this.last);
    if (this.#values.length > 100) this.#values.shift();
  }

  get median() {
    const sorted = [...this.#values].sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  }
}
