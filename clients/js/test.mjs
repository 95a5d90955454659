// Tests of whisperwire.js, to be run with `node --test`. They speak to a server that is a class in this file, in the
// messages that the protocol's own fixtures hold; no network, no packages.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";

import { Captions, connect, toSrt, toText, toVtt } from "./whisperwire.js";

const FIXTURES = new URL("../../protocol/fixtures/stream/", import.meta.url);
const fixture = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, FIXTURES), "utf8"));
const names = readdirSync(FIXTURES).map((name) => name.replace(/\.json$/, ""));
const READY = { ...fixture("server_ready"), settings: { ...fixture("server_ready").settings, grace: 30 } };

// ---- captions ----------------------------------------------------------------------------------------------------

test("a conversation folds into its transcript", () => {
  const captions = new Captions();
  const seen = [];
  for (const { from, message } of fixture("conversation")) {
    if (from === "server") {
      captions.fold(message);
      seen.push(captions.partials.map(({ stable, tentative }) => stable + tentative).join(" | "));
    }
  }
  assert.deepEqual(captions.segments.map(({ text, start, end }) => [text, start, end]), [
    ["The harbour opens at six in the morning, and the first boats come back from the night's fishing", 0.42, 9.36],
    ["before the market is awake.", 9.4, 12.9],
    ["Thank you for listening.", 17.4, 18.84],
  ]);
  assert.ok(seen.includes("The harbour opens at six in the morning"));
  assert.ok(seen.includes("before the market was"), "a final leaves room for the partial that follows it");
  assert.deepEqual(captions.partials, []);
  assert.deepEqual(captions.gaps, [{ start: 14.88, end: 16.58, reason: "engine" }]);
  assert.equal(captions.duration, 19);
  assert.equal(captions.segments[2].words.length, 4);
});

test("every message of the server can be folded alone", () => {
  const messages = names.filter((name) => name.startsWith("server_"));
  assert.ok(messages.length >= 10, "the fixtures are there");
  for (const name of messages) {
    const message = fixture(name);
    const captions = new Captions().fold(message);
    assert.equal(captions.segments.length, message.type === "final" ? 1 : 0, name);
    assert.equal(captions.gaps.length, message.type === "gap" ? 1 : 0, name);
    const shows = message.type === "partial" && message.stable + message.tentative !== "";
    assert.equal(captions.partials.length, shows ? 1 : 0, name);
  }
});

test("a message that is told again changes nothing, and an unknown one neither", () => {
  const final = fixture("server_final");
  const captions = new Captions().fold(final).fold(final).fold({ type: "weather", seq: 3 }).fold({ type: "weather" });
  assert.equal(captions.segments.length, 1);
});

test("an utterance that is done shows no partial any more", () => {
  const captions = new Captions().fold(fixture("server_partial"));
  captions.fold({ type: "utterance_done", seq: 9, utterance: 7 });
  assert.equal(captions.partials.length, 1);
  captions.fold({ type: "utterance_done", seq: 10, utterance: 0 });
  assert.deepEqual(captions.partials, []);
});

test("partials of two utterances stand side by side until their own final", () => {
  const partial = (utterance, stable) => ({ type: "partial", utterance, stable, tentative: "", start: 0, end: 1 });
  const captions = new Captions().fold(partial(1, "two")).fold(partial(0, "one")).fold(partial(0, "one!"));
  assert.deepEqual(captions.partials.map(({ stable }) => stable), ["one!", "two"]);
  captions.fold({ type: "final", seq: 1, utterance: 0, text: "One.", start: 0, end: 1, confidence: 1 });
  assert.deepEqual(captions.partials.map(({ stable }) => stable), ["two"]);
  assert.equal(captions.toText(), "One.\n");
});

test("SubRip and WebVTT are written byte for byte as the server writes them", () => {
  const captions = [
    { start: 0, end: 4, text: " Text" },
    { start: 4, end: 3725.0626, text: " a --> b\n\nc " },
    { start: 5, end: 6, text: "  " },
  ];
  assert.equal(
    toSrt(captions),
    "1\n00:00:00,000 --> 00:00:04,000\nText\n\n2\n00:00:04,000 --> 01:02:05,063\na -> b  c\n\n",
  );
  assert.equal(toSrt([]), "");
  assert.equal(
    toVtt([{ start: 0, end: 4, text: " Text" }, { start: 3599.9996, end: 3600.5, text: " more ---> text" }]),
    "WEBVTT\n\n00:00.000 --> 00:04.000\nText\n\n01:00:00.000 --> 01:00:00.500\nmore -> text\n\n",
  );
  assert.equal(toVtt([]), "WEBVTT\n\n");
});

test("nonsense times do no harm, and halves go to the even millisecond", () => {
  const written = toSrt([
    { start: 2, end: 1, text: "back" },
    { start: -3, end: NaN, text: "nowhere" },
    { start: 0.0125, end: 0.0135, text: "halves" },
    { start: 0, end: Infinity, text: "forever" },
  ]);
  assert.ok(written.startsWith("1\n00:00:02,000 --> 00:00:02,000\nback\n\n2\n00:00:00,000 --> 00:00:00,000\n"));
  assert.ok(written.includes("00:00:00,012 --> 00:00:00,014\nhalves"));
  assert.equal(written.match(/ --> /g).length, 4);
});

test("text is joined with spaces only where the writing has them", () => {
  const text = (...texts) => toText(texts.map((text) => ({ text })));
  assert.equal(text("Good", "day."), "Good day.\n");
  assert.equal(text("今日", "は。", "いい"), "今日は。いい\n");
  assert.equal(text("今日は", "OK"), "今日は OK\n");
  assert.equal(text(), "\n");
});

// ---- the stream --------------------------------------------------------------------------------------------------

test("settings, key and stream travel in the handshake", async () => {
  const server = new Server();
  const settings = { sample_rate: 48000, keywords: ["quay", "pier"], language: "" };
  const stream = connect("https://example.test/captions", settings, server.options({ key: "k1" }));
  const { url, protocols } = server.socket;
  assert.equal(url.origin + url.pathname, "wss://example.test/captions/v1/stream");
  assert.deepEqual([...url.searchParams], [
    ["grace", "30"], ["sample_rate", "48000"], ["keywords", "quay"], ["keywords", "pier"],
  ]);
  assert.deepEqual(protocols, ["whisperwire.v1", "whisperwire.key.k1"]);
  server.socket.say(READY);
  assert.equal(stream.id, READY.stream);
  assert.equal(stream.state, "open");
  stream.close();
  assert.equal((await stream.closed).reason, "closed");
  assert.equal(server.socket.closedWith, 1000);
});

test("audio and messages go in order, also those from before the server was ready", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  stream.sendAudio(new Int16Array([1, 2]));
  stream.flush();
  stream.sendAudio(new Uint8Array([5]).buffer);
  assert.deepEqual(server.socket.heard, []);
  server.socket.say(READY);
  stream.configure({ silence_ms: 300 });
  stream.end();
  assert.equal(stream.sendAudio(new Uint8Array(2)), false, "nothing is taken after the end");
  assert.deepEqual(server.socket.heard, [
    [1, 0, 2, 0], { type: "flush" }, [5], { type: "configure", silence_ms: 300 }, { type: "end" },
  ]);
  const events = [];
  stream.addEventListener("message", ({ detail }) => events.push(detail.type));
  server.socket.say(fixture("server_done"));
  server.socket.drop(1000);
  const ending = await stream.closed;
  assert.equal(ending.reason, "done");
  assert.equal(ending.done.account.received, 304000);
  assert.deepEqual(events, ["done"]);
});

test("what a query cannot hold is sent right after the handshake", () => {
  const server = new Server();
  const settings = { keywords: ["Smith, John"], prompt: "p".repeat(2000), languages: ["en", "de"] };
  const stream = connect("http://h", settings, server.options());
  assert.deepEqual([...server.socket.url.searchParams.keys()], ["grace", "languages", "languages"]);
  stream.sendAudio(new Uint8Array([1, 2]));
  server.socket.say(READY);
  const { keywords, prompt } = settings;
  assert.deepEqual(server.socket.heard, [{ type: "configure", keywords, prompt }, [1, 2]]);
  stream.close();
});

test("a newer version of the protocol is not guessed at", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say({ ...READY, version: 2 });
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["refused", "version"]);
});

test("nothing is said after the end, however long the server takes", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options({ pingEvery: 5, deadAfter: 200 }));
  server.socket.say(READY);
  stream.end();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(server.socket.heard, [{ type: "end" }]);
  stream.close();
});

test("large audio is cut into messages that the server takes", () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say(READY);
  stream.sendAudio(new Uint8Array(5 << 19));
  assert.deepEqual(server.socket.heard.map(({ length }) => length), [1 << 20, 1 << 20, 1 << 19]);
  stream.close();
});

test("a lost connection is resumed: nothing twice, nothing left out", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  const captions = new Captions();
  const states = [];
  let resumed = 0;
  stream.addEventListener("message", ({ detail }) => captions.fold(detail));
  stream.addEventListener("state", ({ detail }) => states.push(detail.state));
  stream.addEventListener("resumed", () => (resumed += 1));
  server.socket.say(READY);
  stream.sendAudio(new Uint8Array([0, 1, 2, 3]));
  server.socket.say(fixture("server_speech_started"));
  server.socket.say(fixture("server_final_plain"));
  stream.sendAudio(new Uint8Array([4, 5, 6, 7]));
  const second = server.next();
  server.socket.drop(1006);
  stream.sendAudio(new Uint8Array([8, 9]));
  stream.flush();
  assert.equal(stream.state, "reconnecting");
  const socket = await second;
  assert.deepEqual([...socket.url.searchParams], [["stream", READY.stream], ["after", "2"]]);
  // Six bytes had arrived; the first final is told again, as if the server had not known that we have it.
  socket.say({ ...READY, received: { bytes: 6, samples: 3, messages: 2 }, last_seq: 4 });
  socket.say(fixture("server_final_plain"));
  socket.say(fixture("server_speech_stopped"));
  socket.say(fixture("server_final"));
  assert.deepEqual(socket.heard, [[6, 7], [8, 9], { type: "flush" }]);
  assert.equal(captions.segments.length, 2);
  assert.equal(resumed, 1);
  stream.end();
  socket.say({ ...fixture("server_done"), seq: 5 });
  socket.drop(1000);
  assert.equal((await stream.closed).reason, "done");
  assert.deepEqual(states, ["open", "reconnecting", "open", "closed"]);
});

test("an `end` that was lost with its connection is said again", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say(READY);
  stream.sendAudio(new Uint8Array(4));
  stream.end();
  const second = server.next();
  server.socket.drop(1006);
  const socket = await second;
  socket.say({ ...READY, received: { bytes: 4, samples: 2, messages: 1 } });
  assert.deepEqual(socket.heard, [{ type: "end" }]);
  stream.close();
});

test("Opus is resumed by packets", async () => {
  const server = new Server();
  const stream = connect("http://h", { encoding: "opus" }, server.options());
  const ready = { ...READY, settings: { ...READY.settings, encoding: "opus" } };
  server.socket.say(ready);
  for (const n of [1, 2, 3]) stream.sendAudio(new Uint8Array(n).fill(n));
  const second = server.next();
  server.socket.drop(1006);
  const socket = await second;
  socket.say({ ...ready, received: { bytes: 3, samples: 0, messages: 2 } });
  assert.deepEqual(socket.heard, [[3, 3, 3]]);
  stream.close();
});

test("audio that is too old to be sent again becomes silence and is reported", async () => {
  const server = new Server();
  const stream = connect("http://h", { sample_rate: 1000 }, server.options({ keepSeconds: 1 }));
  const ready = { ...READY, settings: { ...READY.settings, sample_rate: 1000 } };
  const lost = [];
  stream.addEventListener("lost", ({ detail }) => lost.push(detail));
  server.socket.say(ready);
  const second = server.next();
  server.socket.drop(1006);
  for (let n = 1; n <= 6; n += 1) stream.sendAudio(new Uint8Array(500).fill(n));
  const socket = await second;
  socket.say(ready);
  assert.deepEqual(lost, [{ bytes: 1000, messages: 2, seconds: 0.5 }]);
  assert.deepEqual(socket.heard.map((bytes) => [bytes.length, bytes[0]]), [
    [1000, 0], [500, 3], [500, 4], [500, 5], [500, 6],
  ]);
  stream.close();
});

test("without grace a lost connection is the end", async () => {
  const server = new Server();
  const stream = connect("http://h", { grace: 0 }, server.options());
  server.socket.say(fixture("server_ready"));
  server.socket.drop(1006);
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["lost", "connection_lost"]);
  assert.equal(server.sockets.length, 1);
});

test("a refused stream tells why, and when to try again", async () => {
  const server = new Server();
  const asked = [];
  const fetch = async (url, { headers }) => {
    asked.push([url, headers]);
    return answer(503, { message: "All slots are taken.", code: "overloaded" }, { "retry-after": "7" });
  };
  const stream = connect("http://h", {}, server.options({ fetch, key: "k" }));
  server.socket.drop(1006);
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code, error.status, error.retryAfter], ["refused", "overloaded", 503, 7]);
  assert.deepEqual(asked, [["http://h/v1/stream?grace=30", { Authorization: "Bearer k" }]]);
});

test("a server that cannot be reached is tried a few times", async () => {
  const server = new Server({ refuse: true });
  const fetch = async () => { throw new TypeError("fetch failed"); };
  const stream = connect("http://h", {}, server.options({ fetch }));
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["refused", "unreachable"]);
  assert.equal(server.sockets.length, 4);
});

test("a stream that is over on the server is not asked for again", async () => {
  const server = new Server();
  const fetch = async () => answer(404, { message: "There is no such stream.", code: "not_found" });
  const stream = connect("http://h", {}, server.options({ fetch }));
  server.socket.say(READY);
  const second = server.next();
  server.socket.drop(1006);
  (await second).drop(1006);
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["lost", "not_found"]);
  assert.equal(server.sockets.length, 2);
});

test("a full server is asked again while the stream lives", async () => {
  const server = new Server();
  const fetch = async () => answer(503, { message: "Full.", code: "overloaded" }, { "retry-after": "0" });
  const stream = connect("http://h", {}, server.options({ fetch }));
  server.socket.say(READY);
  const second = server.next();
  server.socket.drop(1006);
  const third = (await second, server.next());
  (await second).drop(1006);
  (await third).say(READY);
  assert.equal(stream.state, "open");
  stream.close();
});

test("a fatal error ends the stream with the server's own words", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say(READY);
  server.socket.say(fixture("server_error"));
  assert.equal(stream.state, "open", "an error that is not fatal ends nothing");
  server.socket.say(fixture("server_error_fatal"));
  server.socket.drop(4408);
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["error", "idle_timeout"]);
  assert.equal(error.message, "Nothing was heard from the client for too long.");
});

test("a close code alone is understood", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say(READY);
  server.socket.drop(4409);
  const { reason, error } = await stream.closed;
  assert.deepEqual([reason, error.code], ["error", "conflict"]);
});

test("a connection that died without a word is noticed and resumed", async () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options({ pingEvery: 10, deadAfter: 30 }));
  const first = server.socket;
  const second = server.next();
  first.say(READY);
  const socket = await second;
  assert.deepEqual(first.heard, [{ type: "ping" }]);
  assert.equal(first.closedWith, 4000, "which tells the server that we come back");
  socket.say(READY);
  assert.equal(stream.state, "open");
  stream.close();
});

test("a file is read as it is sent, and from the right place after a lost connection", async () => {
  const server = new Server();
  const size = 300_000;
  const blob = new Blob([Uint8Array.from({ length: size }, (_, n) => n % 251)]);
  const stream = connect("http://h", { encoding: "container" }, server.options());
  const progress = [];
  const ending = stream.sendFile(blob, (sent) => progress.push(sent));
  server.socket.say(READY);
  await server.socket.until(() => server.socket.heard.length >= 2);
  const second = server.next();
  server.socket.drop(1006);
  const socket = await second;
  socket.say({ ...READY, received: { bytes: 200_001, samples: 0, messages: 1 } });
  await socket.until(() => socket.heard.at(-1)?.type === "end");
  const rest = socket.heard.slice(0, -1).flat();
  assert.equal(rest.length, size - 200_001);
  assert.equal(rest[0], 200_001 % 251);
  assert.equal(progress.at(-1), size);
  socket.say(fixture("server_done"));
  socket.drop(1000);
  assert.equal((await ending).reason, "done");
});

test("messages that are not JSON or not known are left alone", () => {
  const server = new Server();
  const stream = connect("http://h", {}, server.options());
  server.socket.say(READY);
  server.socket.onmessage({ data: "{" });
  server.socket.say({ type: "weather" });
  assert.equal(stream.state, "open");
  stream.close();
});

// ---- a server without a network ----------------------------------------------------------------------------------

function answer(status, error, headers = {}) {
  return new Response(JSON.stringify({ error }), { status, headers });
}

/** Makes a WebSocket class of its own, and remembers what was opened. */
class Server {
  sockets = [];
  #waiting = [];

  constructor({ refuse = false } = {}) {
    const server = this;
    this.WebSocket = class {
      readyState = 0;
      bufferedAmount = 0;
      heard = [];

      constructor(url, protocols) {
        this.url = new URL(url);
        this.protocols = protocols;
        server.sockets.push(this);
        server.#waiting.shift()?.(this);
        if (refuse) queueMicrotask(() => this.drop(1006));
      }

      send(data) {
        assert.equal(this.readyState, 1, "only an open socket can send");
        this.heard.push(typeof data === "string" ? JSON.parse(data) : [...new Uint8Array(
          ArrayBuffer.isView(data) ? data.slice().buffer : data)]);
      }

      close(code) {
        this.closedWith = code;
        this.readyState = 3;
      }

      /** The server says something; the first word opens the connection. */
      say(message) {
        if (this.readyState === 0) {
          this.readyState = 1;
          this.onopen();
        }
        this.onmessage({ data: JSON.stringify(message) });
      }

      /** The connection ends. */
      drop(code) {
        this.readyState = 3;
        this.onclose({ code, reason: "" });
      }

      async until(condition) {
        for (let n = 0; n < 500 && !condition(); n += 1) await new Promise((resolve) => setTimeout(resolve, 2));
        assert.ok(condition(), "it did not happen within a second");
      }
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** The next connection that is made. */
  next() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  options(more = {}) {
    return { WebSocket: this.WebSocket, retryDelay: 1, ...more };
  }
}
