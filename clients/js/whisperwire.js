// @ts-check
/**
 * Live captions from a whisperwire server, for browsers and Node: one module, no dependencies, no build step.
 *
 * `LiveStream` sends audio over a WebSocket and tells what the server says. When the connection is lost it comes
 * back to the same stream: it keeps the last minute of audio and sends on from where the server stopped hearing.
 * Nothing is left out silently; audio that is too old to be sent again is reported as `lost`.
 * `Captions` is pure: it folds the server's messages into text, and writes that as plain text, SubRip or WebVTT.
 *
 * Deliberately absent: the microphone and the page (see `clients/web`), and any resampling: the server takes
 * every sample rate. Node 20 has no WebSocket of its own; pass a class with the browser's interface.
 *
 *     const stream = connect("http://127.0.0.1:8080", { sample_rate: 48000 });
 *     const captions = new Captions();
 *     stream.addEventListener("message", ({ detail }) => console.log(captions.fold(detail).toText()));
 *     stream.sendAudio(samples); // Int16Array, as often as wanted, also before the server has answered
 *     stream.end();
 *     await stream.closed;
 */

/**
 * What is wanted of a stream; all of it may be left out.
 * @typedef {object} Settings
 * @property {"pcm_s16le"|"pcm_f32le"|"mulaw"|"alaw"|"opus"|"ogg_opus"|"webm_opus"|"container"} [encoding]
 * @property {number} [sample_rate] Samples per second, for raw samples only.
 * @property {number} [channels] Interleaved; the server mixes them into one.
 * @property {string} [model]
 * @property {string} [language] A code or an English name. Empty: the server finds out.
 * @property {string[]} [languages] What may be spoken.
 * @property {string} [prompt] Text that stands before the audio, for style and spelling.
 * @property {string[]} [keywords] Terms to expect.
 * @property {"transcribe"|"translate"} [task]
 * @property {boolean} [partials] Whether to tell what is being said before it is final. Default: yes.
 * @property {boolean} [words] Whether finals bring their words with times. Default: no.
 * @property {number} [vad_threshold] 0 to 1.
 * @property {number} [silence_ms] Silence that ends an utterance.
 * @property {number} [prefix_ms] Audio taken along from before speech was noticed.
 * @property {number} [grace] Seconds that the stream outlives its connection. Here the default is 30.
 */

/** @typedef {{word: string, start: number, end: number, confidence: number}} TimedWord Times in seconds. */
/** @typedef {{bytes: number, samples: number, messages: number}} Received What the server has heard so far. */

/**
 * A message of the server. Which fields there are depends on `type`; the protocol's `STREAM.md` lists them.
 * @typedef {{type: string, seq?: number, [field: string]: any}} ServerMessage
 */

/**
 * How a stream ended. `done`: everything was told. `refused`: it never began. `error`: the server ended it.
 * `lost`: the connection broke and the stream could not be resumed. `closed`: `close()` was called.
 * @typedef {object} Ending
 * @property {"done"|"refused"|"error"|"lost"|"closed"} reason
 * @property {LiveError} [error] Always there with `refused`, `error` and `lost`.
 * @property {ServerMessage} [done] The account of the audio, where the server has told it.
 */

/**
 * @typedef {object} Options
 * @property {string} [key] The API key.
 * @property {any} [WebSocket] A class with the browser's interface. Default: the global one.
 * @property {typeof fetch} [fetch] Default: the global one. Only used to learn why a connection was refused.
 * @property {number} [keepSeconds] How much audio is kept to be sent again. Default: 60.
 * @property {number} [retryDelay] The first wait before coming back, in ms; it doubles up to 4 s. Default: 250.
 * @property {number} [pingEvery] How often a silent connection is tried, in ms. Default: 5000.
 * @property {number} [deadAfter] How long the server may take to answer before the connection counts as lost,
 *   in ms. Default: 10000.
 */

/** The version of the protocol that is spoken here. */
const VERSION = 1;
const PROTOCOL = "whisperwire.v1";
const KEY_PROTOCOL = "whisperwire.key.";
/** The close code that says "back soon" to the server. */
const BACK_SOON = 4000;
/** Larger pieces of audio are sent as several messages; the server refuses those over 4 MiB. */
const LARGEST_MESSAGE = 1 << 20;
/** What is kept of audio whose rate in bytes is not known. */
const KEEP_BYTES = 8 << 20;
/** A file is sent on when less than this waits in the socket. */
const HIGH_WATER = 1 << 20;
const FILE_CHUNK = 128 << 10;
const END = JSON.stringify({ type: "end" });
const SAMPLE_BYTES = { pcm_s16le: 2, pcm_f32le: 4, mulaw: 1, alaw: 1 };
/** The byte that means silence in each coding. */
const SILENCE = { pcm_s16le: 0, pcm_f32le: 0, mulaw: 0xff, alaw: 0xd5 };
const CONNECTIONS_TO_START = 4;
/** Longer texts are sent after the handshake, whose size servers and proxies limit. */
const LONGEST_IN_QUERY = 1000;

/** Why something did not work: the server's own error where there is one. */
export class LiveError extends Error {
  /**
   * @param {string} code A code of the protocol's table, or `unreachable`, `connection_lost`, `audio_lost`,
   *   `version`.
   * @param {string} message One sentence for people.
   * @param {{status?: number, retryAfter?: number, param?: string | null}} [more]
   */
  constructor(code, message, more = {}) {
    super(message);
    this.name = "LiveError";
    this.code = code;
    /** The HTTP status, or the close code less 4000. */
    this.status = more.status;
    /** Seconds after which trying again may help, where the server has named them. */
    this.retryAfter = more.retryAfter;
    /** The setting that was wrong, where one was. */
    this.param = more.param ?? undefined;
  }
}

/**
 * Opens a stream.
 * @param {string | URL} url The server's address, such as `http://127.0.0.1:8080`.
 * @param {Settings} [settings]
 * @param {Options} [options]
 * @returns {LiveStream}
 */
export function connect(url, settings, options) {
  return new LiveStream(url, settings, options);
}

/**
 * One stream to the server. Its events, each a `CustomEvent` with `detail`:
 *
 * - one per message of the server, under its type: `ready`, `speech_started`, `partial`, `final`, `speech_stopped`,
 *   `utterance_done`, `flushed`, `gap`, `lag`, `error`, `done`; and `message` for each of them. A numbered message
 *   is told once.
 * - `state`: `{state, attempt, error}`, whenever `state` changes and at each attempt to come back.
 * - `resumed`: the `ready` message with which a lost connection came back.
 * - `lost`: `{bytes, messages, seconds}`, audio that was too old to be sent again. Raw samples are replaced by as
 *   much silence, so that times stay right.
 * - `closed`: an `Ending`; the same that the promise `closed` brings.
 */
export class LiveStream extends EventTarget {
  /** @type {"connecting"|"open"|"reconnecting"|"closed"} */
  state = "connecting";
  /** The last `ready` message. @type {ServerMessage | undefined} */
  ready;
  /** The number of the last numbered message. */
  lastSeq = 0;
  /** Brings how the stream ended; it never rejects. @type {Promise<Ending>} */
  closed;

  #address;
  #settings;
  #options;
  /** @type {any} */ #socket;
  /** @type {Log} */ #log;
  /** Whether more may be said. */
  #ended = false;
  /** Whether the server was told so on this connection. */
  #saidEnd = false;
  #attempt = 0;
  #lostAt = 0;
  #lifeSign = 0;
  /** Since when a sign of life is awaited; 0 while none is. */
  #waiting = 0;
  #buffered = 0;
  /** @type {any} */ #timer;
  /** @type {any} */ #pulse;
  /** @type {ServerMessage | undefined} */ #done;
  /** @type {LiveError | undefined} */ #fatal;
  /** @type {(ending: Ending) => void} */ #settle = () => {};
  /** @type {{blob: Blob, sent: number, ended: boolean} | undefined} */ #file;
  /** Resolves at the next `ready` or at the end. @type {Promise<void>} */ #turn;
  /** @type {() => void} */ #turned = () => {};
  #online = () => this.#hurry();
  #offline = () => this.#suspect();

  /**
   * @param {string | URL} url
   * @param {Settings} [settings]
   * @param {Options} [options]
   */
  constructor(url, settings = {}, options = {}) {
    super();
    const base = new URL(url);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.#address = new URL("v1/stream", base);
    this.#settings = { grace: 30, ...settings };
    this.#options = {
      WebSocket: globalThis.WebSocket,
      keepSeconds: 60,
      retryDelay: 250,
      pingEvery: 5000,
      deadAfter: 10000,
      ...options,
    };
    if (!this.#options.WebSocket) {
      throw new TypeError("There is no WebSocket here; pass a class as options.WebSocket.");
    }
    this.#log = new Log(this.#settings, this.#options.keepSeconds);
    const unfit = Object.entries(this.#settings).filter(([, value]) => !fitsQuery(value));
    if (unfit.length) this.#say({ type: "configure", ...Object.fromEntries(unfit) });
    this.closed = new Promise((resolve) => (this.#settle = resolve));
    this.#turn = new Promise((resolve) => (this.#turned = resolve));
    globalThis.addEventListener?.("online", this.#online);
    globalThis.addEventListener?.("offline", this.#offline);
    this.#pulse = setInterval(() => this.#beat(), Math.min(1000, this.#options.pingEvery));
    this.#open();
  }

  /** The stream's name, once the server has given it one. It is a secret. @returns {string | undefined} */
  get id() {
    return this.ready?.stream;
  }

  /** Bytes that wait in the socket. A sender that is faster than real time should let it fall now and then. */
  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /**
   * Sends audio, at once or when the connection stands. The bytes are copied.
   * @param {ArrayBuffer | ArrayBufferView} audio With `opus`, exactly one packet.
   * @returns {boolean} Whether it was taken; false after `end` and after the end of the stream.
   */
  sendAudio(audio) {
    if (this.#ended || this.state === "closed") return false;
    const bytes = copied(audio);
    const step = this.#settings.encoding === "opus" ? bytes.length : LARGEST_MESSAGE;
    for (let at = 0; at < bytes.length; at += step) {
      const piece = bytes.subarray(at, at + step);
      this.#log.push(piece);
      this.#transmit(piece);
    }
    return true;
  }

  /**
   * Sends a whole recording as fast as the server takes it, and ends the stream. The stream must have been opened
   * with `encoding: "container"` and without other audio.
   * @param {Blob} blob
   * @param {(sent: number, size: number) => void} [progress]
   * @returns {Promise<Ending>}
   */
  async sendFile(blob, progress = () => {}) {
    /** @type {{blob: Blob, sent: number, ended: boolean}} */
    const file = { blob, sent: this.ready?.received.bytes ?? 0, ended: false };
    this.#file = file;
    this.#ended = true;
    while (this.state !== "closed") {
      if (this.state !== "open" || file.ended) {
        await this.#turn;
      } else if (file.sent >= blob.size) {
        file.ended = this.#transmit(END);
      } else if (this.bufferedAmount > HIGH_WATER) {
        await wait(20);
      } else {
        const from = file.sent;
        const chunk = await blob.slice(from, from + FILE_CHUNK).arrayBuffer();
        // While the chunk was read the connection may have been lost, and the place to go on from have changed.
        if (file.sent === from && this.#transmit(chunk)) {
          file.sent += chunk.byteLength;
          progress(file.sent, blob.size);
        }
      }
    }
    return this.closed;
  }

  /** Changes settings; what is left out stays. @param {Settings} settings */
  configure(settings) {
    this.#say({ type: "configure", ...settings });
  }

  /** Asks for the open utterance to be finished now, as if a pause had been heard. */
  flush() {
    this.#say({ type: "flush" });
  }

  /** Says that no more audio will come. The remaining finals follow, then `done` and `closed`. */
  end() {
    if (this.#ended) return;
    this.#say({ type: "end" });
    this.#ended = true;
  }

  /** Hangs up at once; what is not final yet will not be told. */
  close() {
    this.#finish({ reason: "closed" }, 1000);
  }

  // ---- the connection ----------------------------------------------------------------------------------------

  #query() {
    const address = new URL(this.#address);
    const entries = this.id
      ? [["stream", this.id], ["after", String(this.lastSeq)]]
      : Object.entries(this.#settings).filter(([, value]) => (value ?? "") !== "" && fitsQuery(value));
    for (const [name, value] of entries) {
      for (const item of Array.isArray(value) ? value : [value]) address.searchParams.append(name, String(item));
    }
    return address;
  }

  #open() {
    const address = this.#query();
    address.protocol = address.protocol.replace("http", "ws");
    const { key, WebSocket } = this.#options;
    let socket;
    try {
      socket = new WebSocket(address.href, key ? [PROTOCOL, KEY_PROTOCOL + key] : [PROTOCOL]);
    } catch (cause) {
      const message = key
        ? "This key holds characters that a browser cannot send."
        : `This address cannot be reached: ${/** @type {Error} */ (cause).message}`;
      // The constructor has not returned yet; listeners are added after it.
      queueMicrotask(() => this.#finish({ reason: "refused", error: new LiveError("invalid_request", message) }));
      return;
    }
    let opened = false;
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#saidEnd = false;
    this.#lifeSign = this.#waiting = Date.now();
    socket.onopen = () => {
      opened = true;
      this.#lifeSign = this.#waiting = Date.now();
    };
    socket.onmessage = (/** @type {any} */ event) => {
      if (this.#socket === socket && typeof event.data === "string") this.#hear(event.data);
    };
    socket.onerror = () => {};
    socket.onclose = (/** @type {any} */ event) => {
      if (this.#socket === socket) this.#hungUp(opened, event.code, event.reason);
    };
  }

  /** @param {boolean} opened @param {number} code @param {string} reason */
  async #hungUp(opened, code, reason) {
    this.#socket = undefined;
    if (this.state === "closed") return;
    if (this.#done) return this.#finish({ reason: "done" });
    if (this.#fatal) return this.#finish({ reason: this.ready ? "error" : "refused", error: this.#fatal });
    if (code > BACK_SOON && code < 5000) {
      const error = new LiveError(closeName(code), reason || "The server has ended the stream.", {
        status: code - 4000,
      });
      return this.#finish({ reason: this.ready ? "error" : "refused", error });
    }
    if (this.ready && !this.#grace()) {
      return this.#finish({ reason: "lost", error: lostConnection() });
    }
    const since = this.#turn;
    if (!opened) {
      const error = await this.#askWhy();
      if (since !== this.#turn || this.#socket) return; // Closed in the meantime.
      // Coming back, only a plain no is an answer: a proxy may say 502 while its server starts again.
      const status = error?.status ?? 0;
      if (error && status && (!this.ready || (status < 500 && status !== 429))) {
        return this.#finish({ reason: this.ready ? "lost" : "refused", error });
      }
      return this.#comeBack(error);
    }
    this.#comeBack();
  }

  /** A browser is not told why a connection was refused; the same request over plain HTTP is. */
  async #askWhy() {
    const address = this.#query();
    address.protocol = address.protocol.replace("ws", "http");
    const { key } = this.#options;
    const ask = this.#options.fetch ?? globalThis.fetch;
    try {
      const limit = AbortSignal.timeout?.(this.#options.deadAfter);
      const headers = key ? { Authorization: `Bearer ${key}` } : undefined;
      const answer = await ask(address.href, { headers, cache: "no-store", signal: limit });
      if (answer.ok || answer.status === 426) return undefined;
      const body = await answer.json().catch(() => ({}));
      const after = Number.parseFloat(answer.headers.get("retry-after") ?? "");
      return new LiveError(body.error?.code ?? closeName(4000 + answer.status),
        body.error?.message ?? `The server answered with status ${answer.status}.`,
        { status: answer.status, param: body.error?.param, retryAfter: after >= 0 ? after : undefined });
    } catch {
      return new LiveError("unreachable", "The server cannot be reached.");
    }
  }

  /** @param {LiveError} [error] Why the last attempt failed, where that is known. */
  #comeBack(error) {
    this.#lostAt ||= Date.now();
    const tooLate = this.ready
      ? Date.now() - this.#lostAt > this.#grace() * 1000 + this.#options.deadAfter
      : this.#attempt + 1 >= CONNECTIONS_TO_START;
    if (tooLate) {
      const reason = this.ready ? "lost" : "refused";
      const missing = this.ready ? lostConnection() : new LiveError("unreachable", "The server cannot be reached.");
      return this.#finish({ reason, error: error ?? missing });
    }
    this.#attempt += 1;
    this.#become(this.ready ? "reconnecting" : "connecting", error);
    const pause = Math.min(4000, this.#options.retryDelay * 2 ** (this.#attempt - 1)) * (0.75 + Math.random() / 4);
    this.#timer = setTimeout(() => this.#open(), Math.max(pause, (error?.retryAfter ?? 0) * 1000));
  }

  /** The network is back: the next attempt need not wait. */
  #hurry() {
    if (this.state === "reconnecting" && !this.#socket) {
      clearTimeout(this.#timer);
      this.#open();
    }
  }

  /** The browser says that the network is gone. Where nothing can be resumed, it may still be wrong. */
  #suspect() {
    if (!this.ready || this.#grace()) this.#giveUp();
  }

  /** The connection is as good as lost: leave it, and come back on a new one. */
  #giveUp() {
    const socket = this.#socket;
    if (!socket || this.state === "closed") return;
    if (this.#done) return this.#finish({ reason: "done" });
    if (this.ready && !this.#grace()) return this.#finish({ reason: "lost", error: lostConnection() }, BACK_SOON);
    this.#socket = undefined;
    closeQuietly(socket, BACK_SOON);
    this.#comeBack();
  }

  /** Notices a connection that died without a word, and keeps a silent one from the server's idle timeout. */
  #beat() {
    const socket = this.#socket;
    if (!socket) return;
    const now = Date.now();
    // Audio that leaves the socket is a sign of life too: the server may be behind, and answer late.
    if (socket.bufferedAmount < this.#buffered) this.#waiting &&= now;
    this.#buffered = socket.bufferedAmount;
    const { pingEvery, deadAfter } = this.#options;
    const silent = now - this.#lifeSign;
    if (this.#saidEnd && this.state === "open") {
      // Nothing may be said after the end; the server has as long as it takes to decode what it holds.
      if (silent > 6 * deadAfter) this.#giveUp();
    } else if (this.#waiting) {
      if (now - this.#waiting > deadAfter) this.#giveUp();
    } else if (silent >= pingEvery && this.#transmit(JSON.stringify({ type: "ping" }))) {
      this.#waiting = now;
    }
  }

  #grace() {
    return Number(this.ready?.settings?.grace ?? 0);
  }

  // ---- what is said ------------------------------------------------------------------------------------------

  /** Says something now or on the next connection, at its place between the audio. @param {object} message */
  #say(message) {
    if (this.#ended || this.state === "closed") return;
    const text = JSON.stringify(message);
    this.#log.mark(text);
    this.#transmit(text);
  }

  /** Returns whether there was a connection to send it on. @param {string | ArrayBuffer | Uint8Array} data */
  #transmit(data) {
    if (this.state !== "open" || this.#socket?.readyState !== 1) return false;
    if (data === END) this.#saidEnd = true;
    this.#socket.send(data);
    return true;
  }

  /** Sends everything that the server has not heard yet. @param {Received} received */
  #catchUp(received) {
    if (this.#file) {
      this.#file.sent = received.bytes;
      this.#file.ended = false;
      return;
    }
    const missing = this.#log.missing(received);
    if (missing) {
      const silence = this.#log.silence(missing.bytes);
      if (!silence && this.#settings.encoding !== "opus") {
        // A container with a hole in it cannot be read.
        const error = new LiveError("audio_lost", "The connection was away for longer than audio is kept.");
        return this.#finish({ reason: "lost", error }, 1000);
      }
      this.#emit("lost", missing);
      for (const piece of silence ?? []) this.#transmit(piece);
    }
    for (const entry of this.#log.after(received)) this.#transmit(entry);
  }

  // ---- what is heard -----------------------------------------------------------------------------------------

  /** @param {string} text */
  #hear(text) {
    /** @type {ServerMessage} */
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // Not of this protocol; a newer server may know more than we do.
    }
    this.#lifeSign = Date.now();
    this.#waiting = 0;
    if (message.seq !== undefined) {
      if (message.seq <= this.lastSeq) return;
      this.lastSeq = message.seq;
    }
    if (message.type === "ready") return this.#welcome(message);
    if (message.type === "done") this.#done = message;
    if (message.type === "error" && message.fatal) {
      const { code, message: why, param } = message.error;
      this.#fatal = new LiveError(code, why, { param });
    }
    this.#tell(message);
  }

  /** @param {ServerMessage} ready */
  #welcome(ready) {
    if (ready.version > VERSION) {
      const message = `The server speaks version ${ready.version} of the protocol; this client knows ${VERSION}.`;
      return this.#finish({ reason: "refused", error: new LiveError("version", message) });
    }
    const first = !this.ready;
    const greeting = this.state !== "open";
    this.ready = ready;
    this.#log.adopt(ready.settings);
    if (greeting) {
      this.#attempt = 0;
      this.#lostAt = 0;
      this.#become("open");
      this.#catchUp(ready.received);
      this.#nextTurn();
    }
    this.#tell(ready);
    if (greeting && !first) this.#emit("resumed", ready);
  }

  /** @param {ServerMessage} message */
  #tell(message) {
    this.#emit(message.type, message);
    this.#emit("message", message);
  }

  /** @param {LiveStream["state"]} state @param {LiveError} [error] */
  #become(state, error) {
    this.state = state;
    this.#emit("state", { state, attempt: this.#attempt, error });
  }

  /** @param {Ending} ending @param {number} [code] */
  #finish(ending, code = 1000) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    clearInterval(this.#pulse);
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.removeEventListener?.("offline", this.#offline);
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket) closeQuietly(socket, code);
    if (this.#done) ending.done = this.#done;
    this.#log.clear();
    this.#become("closed", ending.error);
    this.#emit("closed", ending);
    this.#settle(ending);
    this.#nextTurn();
  }

  #nextTurn() {
    this.#turned();
    this.#turn = new Promise((resolve) => (this.#turned = resolve));
  }

  /** @param {string} type @param {any} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** What was sent lately, in order: audio, and the messages between it. */
class Log {
  /** @type {{data: Uint8Array | string, bytes: number, messages: number, at: number}[]} */
  #entries = [];
  /** Entries before this one are forgotten. */
  #first = 0;
  /** All audio ever sent, and how many messages that was. */
  #bytes = 0;
  #messages = 0;
  #kept = 0;
  #settings;
  #seconds;

  /** @param {Settings} settings @param {number} seconds */
  constructor(settings, seconds) {
    this.#settings = settings;
    this.#seconds = seconds;
  }

  /** Takes over what the server has filled in. @param {Settings} settings */
  adopt(settings) {
    this.#settings = settings;
  }

  /** @param {Uint8Array} data */
  push(data) {
    this.#entries.push({ data, bytes: this.#bytes, messages: this.#messages, at: Date.now() });
    this.#bytes += data.length;
    this.#messages += 1;
    this.#kept += data.length;
    const rate = this.#rate();
    const most = rate ? rate * this.#seconds : KEEP_BYTES;
    const oldest = rate ? -Infinity : Date.now() - this.#seconds * 1000;
    while (this.#first < this.#entries.length - 1) {
      const { data: old, at } = this.#entries[this.#first];
      if (this.#kept <= most && at >= oldest) break;
      if (typeof old !== "string") this.#kept -= old.length;
      this.#first += 1;
    }
    // In large steps, because taking the first of a list away moves all others.
    if (this.#first > 256) {
      this.#entries.splice(0, this.#first);
      this.#first = 0;
    }
  }

  /** @param {string} text */
  mark(text) {
    this.#entries.push({ data: text, bytes: this.#bytes, messages: this.#messages, at: Date.now() });
  }

  clear() {
    this.#entries = [];
    this.#first = 0;
    this.#kept = 0;
  }

  /**
   * What the server has not heard and we have no more.
   * @param {Received} received
   * @returns {{bytes: number, messages: number, seconds: number | undefined} | undefined}
   */
  missing(received) {
    const first = this.#entries[this.#first] ?? { bytes: this.#bytes, messages: this.#messages };
    const bytes = first.bytes - received.bytes;
    const messages = first.messages - received.messages;
    const some = this.#settings.encoding === "opus" ? messages > 0 : bytes > 0;
    const rate = this.#rate();
    return some ? { bytes, messages, seconds: rate && bytes / rate } : undefined;
  }

  /** As much silence, in pieces; undefined where silence cannot be made. @param {number} bytes */
  silence(bytes) {
    const value = SILENCE[/** @type {keyof typeof SILENCE} */ (this.#settings.encoding ?? "pcm_s16le")];
    if (value === undefined) return undefined;
    const pieces = [];
    for (let left = bytes; left > 0; left -= LARGEST_MESSAGE) {
      pieces.push(new Uint8Array(Math.min(left, LARGEST_MESSAGE)).fill(value));
    }
    return pieces;
  }

  /**
   * Everything from there on. Messages that stand exactly there come again; they do no harm.
   * @param {Received} received
   */
  *after(received) {
    const packets = this.#settings.encoding === "opus";
    for (const { data, bytes, messages } of this.#entries.slice(this.#first)) {
      const heard = packets ? received.messages - messages : received.bytes - bytes;
      if (typeof data === "string" ? heard <= 0 : heard < (packets ? 1 : data.length)) {
        yield typeof data === "string" || packets || heard <= 0 ? data : data.subarray(heard);
      }
    }
  }

  /** Bytes per second, for raw samples. */
  #rate() {
    const { encoding = "pcm_s16le", sample_rate = 16000, channels = 1 } = this.#settings;
    const bytes = SAMPLE_BYTES[/** @type {keyof typeof SAMPLE_BYTES} */ (encoding)];
    return bytes && bytes * sample_rate * channels;
  }
}

// ---- text --------------------------------------------------------------------------------------------------------

/**
 * @typedef {object} Segment
 * @property {number} start In seconds.
 * @property {number} end In seconds.
 * @property {string} text
 * @property {number} [utterance]
 * @property {number} [confidence]
 * @property {string} [language]
 * @property {TimedWord[]} [words]
 */

/** @typedef {{utterance: number, stable: string, tentative: string, start: number, end: number}} Partial */
/** @typedef {{start: number, end: number, reason: string}} Gap A stretch without text, and why. */

/** The transcript of a stream, made of the server's messages. */
export class Captions {
  /** Text that will not change. @type {Segment[]} */
  segments = [];
  /** Text that is not final yet, one entry per open utterance. @type {Partial[]} */
  partials = [];
  /** @type {Gap[]} */
  gaps = [];
  /** The length of the audio, once the stream is done. @type {number | undefined} */
  duration;
  #lastSeq = 0;

  /**
   * Takes a message in. Numbered messages that it knows already, and types that it does not know, change nothing.
   * @param {ServerMessage} message
   * @returns {this}
   */
  fold(message) {
    if (message.seq !== undefined) {
      if (message.seq <= this.#lastSeq) return this;
      this.#lastSeq = message.seq;
    }
    const { type, seq, ...fields } = message;
    if (type === "final") {
      this.#withdraw(fields.utterance);
      if (fields.text) this.segments.push(/** @type {any} */ (fields));
    } else if (type === "partial") {
      this.#withdraw(fields.utterance);
      if (fields.stable || fields.tentative) {
        this.partials.push(/** @type {any} */ (fields));
        this.partials.sort((a, b) => a.utterance - b.utterance);
      }
    } else if (type === "utterance_done") {
      this.#withdraw(fields.utterance);
    } else if (type === "gap") {
      this.gaps.push(/** @type {any} */ (fields));
    } else if (type === "done") {
      this.partials = [];
      this.duration = fields.duration;
    }
    return this;
  }

  /** @param {number} utterance */
  #withdraw(utterance) {
    this.partials = this.partials.filter((partial) => partial.utterance !== utterance);
  }

  /** The bare words of the finals and one line break. */
  toText() {
    return toText(this.segments);
  }

  /** The finals as SubRip. */
  toSrt() {
    return toSrt(this.segments);
  }

  /** The finals as WebVTT. */
  toVtt() {
    return toVtt(this.segments);
  }
}

/** Letters of writing systems that put no space between words, and their punctuation. */
const SCRIPTS = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"];
const LETTERS = SCRIPTS.map((name) => `\\p{Script=${name}}`).join("");
const UNSPACED = new RegExp(`[${LETTERS}\u3000-\u303f\uff00-\uffef]`, "u");

/**
 * Joins finals into a text that ends with a line break.
 * @param {Pick<Segment, "text">[]} segments
 */
export function toText(segments) {
  let out = "";
  for (const { text } of segments) {
    const words = text.trim();
    if (!words) continue;
    const joined = UNSPACED.test(out.slice(-1)) && UNSPACED.test(words.slice(0, 1));
    out += (out && !joined ? " " : "") + words;
  }
  return `${out}\n`;
}

/** SubRip: numbered from 1, hours always, a comma before the milliseconds. @param {Segment[]} segments */
export function toSrt(segments) {
  return cues(segments)
    .map(({ start, end, text }, n) => `${n + 1}\n${clock(start, ",", true)} --> ${clock(end, ",", true)}\n${text}\n\n`)
    .join("");
}

/** WebVTT: a header, hours only where there are any, a point before the milliseconds. @param {Segment[]} segments */
export function toVtt(segments) {
  const written = cues(segments).map(
    ({ start, end, text }) => `${clock(start, ".", start >= HOUR)} --> ${clock(end, ".", end >= HOUR)}\n${text}\n\n`,
  );
  return `WEBVTT\n\n${written.join("")}`;
}

const HOUR = 3_600_000;

/**
 * Captions ready to be written: in milliseconds, on one line, without what reads as a cue's arrow.
 * @param {Segment[]} segments
 */
function cues(segments) {
  return segments
    .filter(({ text }) => text.trim())
    .map((segment) => {
      const start = millis(segment.start);
      let text = segment.text.trim().replace(/\r\n|\n|\r/g, " ");
      while (text.includes("-->")) text = text.replaceAll("-->", "->");
      return { start, end: Math.max(millis(segment.end), start), text };
    });
}

/** The nearest millisecond, halves to the even one; what is no time is zero. @param {number} seconds */
function millis(seconds) {
  const exact = seconds * 1000;
  if (!(exact > 0)) return 0;
  const below = Math.floor(exact);
  const up = exact - below > 0.5 || (exact - below === 0.5 && below % 2 === 1);
  return Math.min(below + (up ? 1 : 0), Number.MAX_SAFE_INTEGER);
}

/** @param {number} ms @param {string} point @param {boolean} hours */
function clock(ms, point, hours) {
  /** @param {number} value @param {number} width */
  const digits = (value, width) => String(Math.floor(value)).padStart(width, "0");
  const rest = `${digits((ms / 60_000) % 60, 2)}:${digits((ms / 1000) % 60, 2)}${point}${digits(ms % 1000, 3)}`;
  return hours ? `${digits(ms / HOUR, 2)}:${rest}` : rest;
}

// ---- small things ------------------------------------------------------------------------------------------------

/** @param {ArrayBuffer | ArrayBufferView} audio */
function copied(audio) {
  if (ArrayBuffer.isView(audio)) return new Uint8Array(audio.buffer, audio.byteOffset, audio.byteLength).slice();
  return new Uint8Array(audio).slice();
}

/** The name of an error of which only the close code is known. @param {number} code */
function closeName(code) {
  /** @type {Record<number, string>} */
  const names = {
    4400: "invalid_request", 4401: "unauthorized", 4403: "forbidden", 4404: "not_found", 4408: "idle_timeout",
    4409: "conflict", 4413: "too_large", 4415: "unsupported_audio", 4422: "corrupt_audio", 4429: "rate_limited",
    4500: "internal", 4503: "overloaded",
  };
  return names[code] ?? "error";
}

function lostConnection() {
  return new LiveError("connection_lost", "The connection was lost.");
}

/** Whether a setting can stand in a query, where commas separate the items of a list. @param {unknown} value */
function fitsQuery(value) {
  const items = Array.isArray(value) ? value : [value];
  const long = items.reduce((sum, item) => sum + String(item ?? "").length, 0) > LONGEST_IN_QUERY;
  return !long && !(Array.isArray(value) && value.some((item) => item.includes(",")));
}

/** @param {any} socket @param {number} code */
function closeQuietly(socket, code) {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.onerror = () => {};
  try {
    socket.close(code);
  } catch {
    // Some classes refuse to close what is not open yet.
  }
}

/** @param {number} ms */
function wait(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
