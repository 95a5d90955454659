/**
 * Draws the transcript: finals with their times, gaps, and the open utterance, whose stable words look like final ones
 * and whose tentative words do not. Screen readers are told finals and gaps only, through a region of their own.
 *
 * A page holds several takes, one per recording; each has its own clock. It scrolls along until the reader scrolls up.
 */

const GAP_REASONS = {
  corrupt: "the audio could not be read",
  engine: "the recogniser failed",
  overload: "the server could not keep up",
};
const SPOKEN_LINES = 6;

export class Transcript {
  #scroller;
  #lines;
  #spoken;
  #latest;
  #open;
  #follows = true;

  /** @param {{scroller: HTMLElement, lines: HTMLElement, spoken: HTMLElement, latest: HTMLButtonElement}} parts */
  constructor({ scroller, lines, spoken, latest }) {
    this.#scroller = scroller;
    this.#lines = lines;
    this.#spoken = spoken;
    this.#latest = latest;
    scroller.addEventListener("scroll", () => {
      this.#follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
      if (this.#follows) latest.hidden = true;
    }, { passive: true });
    // A message below, a keyboard on the screen, a turned phone: the place for the text changes its size.
    new ResizeObserver(() => this.#follows && this.#keepUp()).observe(scroller);
    latest.addEventListener("click", () => {
      this.#follows = true;
      latest.hidden = true;
      this.#keepUp();
      scroller.focus();
    });
  }

  /** Begins a take under a heading of its own. */
  begin(label) {
    this.#open = undefined;
    this.#add(element("li", "take", label));
  }

  /** Shows what a message has changed in the captions it was folded into. */
  show(message, captions) {
    if (message.type === "final" && message.text) {
      this.#add(line(message.start, element("p", "final", message.text), message.language));
      this.#say(message.text);
    } else if (message.type === "gap") {
      const reason = GAP_REASONS[message.reason] ?? message.reason;
      const text = `No text for ${(message.end - message.start).toFixed(1)} s: ${reason}.`;
      this.#add(line(message.start, element("p", "gap", text)));
      this.#say(text);
    }
    this.#showOpen(captions.partials);
  }

  /** Something that happened to the recording, which the reader should know of. */
  note(text) {
    this.#add(line(undefined, element("p", "gap", text)));
    this.#say(text);
  }

  /** The stream is over. What was not final stays, and says so. */
  finish() {
    if (this.#open) {
      this.#open.classList.replace("open", "unfinished");
      this.#open.append(element("p", "remark", "The stream ended before this was final."));
    }
    this.#open = undefined;
  }

  /** Takes everything off the page, and hands it back for `restore`. */
  clear() {
    const nodes = [...this.#lines.childNodes];
    this.#lines.replaceChildren();
    this.#spoken.replaceChildren();
    if (this.#open) this.#lines.append(this.#open);
    this.#follows = true;
    this.#latest.hidden = true;
    return nodes.filter((node) => node !== this.#open);
  }

  /** Puts back what `clear` has taken away. */
  restore(nodes) {
    this.#lines.prepend(...nodes);
    this.#keepUp();
  }

  #showOpen(partials) {
    if (!partials.length) {
      this.#open?.remove();
      this.#open = undefined;
      return;
    }
    if (!this.#open) {
      this.#open = line(0, element("p"));
      this.#open.classList.add("open");
      this.#lines.append(this.#open);
    }
    const [time, text] = this.#open.children;
    time.textContent = clock(partials[0].start);
    text.replaceChildren(
      ...partials.flatMap(({ stable, tentative }, n) => {
        // The space between them is not underlined.
        const [space] = /^\s*/.exec(tentative);
        return [
          element("span", "stable", (n ? " " : "") + stable + space),
          element("span", "tentative", tentative.slice(space.length)),
        ];
      }),
    );
    this.#keepUp();
  }

  #add(item) {
    if (this.#open) this.#open.before(item);
    else this.#lines.append(item);
    this.#keepUp();
  }

  #keepUp() {
    if (this.#follows) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else this.#latest.hidden = false;
  }

  #say(text) {
    this.#spoken.append(element("p", "", text));
    while (this.#spoken.childElementCount > SPOKEN_LINES) this.#spoken.firstElementChild.remove();
  }
}

/** A time such as 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function line(start, text, language) {
  const item = element("li", "line");
  if (language) text.lang = language;
  item.append(element("time", "", start === undefined ? "" : clock(start)), text);
  return item;
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
