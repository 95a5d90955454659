// What the tests share: the package from the folder that `run` installed it into, recordings, and a realtime session
// that remembers what it was told.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createReadStream, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const require = createRequire(process.env.WHISPERWIRE_PACKAGES);
export const openai = require("openai");
export const { OpenAIRealtimeWS } = require("openai/realtime/ws");
export const { OpenAIRealtimeWebSocket } = require("openai/realtime/websocket");
export const { OpenAIRealtimeWS: OpenAIBetaRealtimeWS } = require("openai/beta/realtime/ws");
export const { WebSocket } = require("ws");

export const KEY = process.env.WHISPERWIRE_KEY;
const AUDIO = fileURLToPath(new URL("../../audio/", import.meta.url));
const MANIFEST = JSON.parse(readFileSync(path.join(AUDIO, "manifest.json"), "utf8"));
const ANSWERS_WITHIN = 90_000; // A debug build on a busy machine; nothing here is measured.

export const RECORDING = "sentence-04-slt.flac";
export const RATE = 24_000; // What a realtime session listens to unless it is told otherwise.

/** A client as an application makes it: the address is changed, nothing else. */
export function client(server = "BUNDLED", apiKey = "any") {
  // No retries: a test that passes at the third attempt would hide what it is for.
  return new openai.OpenAI({ baseURL: `${address(server)}/v1`, apiKey, maxRetries: 0, timeout: ANSWERS_WITHIN });
}

export const address = (server) => process.env[`WHISPERWIRE_${server}`];
export const recording = (name = RECORDING) => createReadStream(path.join(AUDIO, name));
export const entry = (name = RECORDING) => MANIFEST.find(({ file }) => file === name);
export const words = (text) => text.toLowerCase().match(/[a-z0-9']+/g) ?? [];
export const spoken = (name = RECORDING) => words(entry(name).text);

export async function transcribe(name = RECORDING, { server, ...fields } = {}) {
  return client(server).audio.transcriptions.create({ file: recording(name), model: "whisper-1", ...fields });
}

/** The recording as the samples that a realtime session is fed with, and `silence` seconds behind it. */
export function samples(name = RECORDING, { silence = 0, rate = RATE, format = "s16le" } = {}) {
  const input = ["-nostdin", "-v", "error", "-i", path.join(AUDIO, name)];
  const padding = silence > 0 ? ["-af", `apad=pad_dur=${silence}`] : [];
  const output = [...padding, "-ac", "1", "-ar", String(rate), "-f", format, "-"];
  return execFileSync("ffmpeg", [...input, ...output], { maxBuffer: 1 << 28 });
}

/** The recording as a WAV file. */
export function wav(name = RECORDING) {
  const pcm = samples(name);
  const header = Buffer.alloc(44);
  header.write("RIFF    WAVEfmt ", "latin1");
  header.writeUInt32LE(36 + pcm.length, 4);
  for (const [at, value] of [[16, 16], [24, RATE], [28, 2 * RATE]]) header.writeUInt32LE(value, at);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) header.writeUInt16LE(value, at);
  header.write("data", 36, "latin1");
  header.writeUInt32LE(pcm.length, 40);
  return Buffer.concat([header, pcm]);
}

/** The transcription settings of a session, in the shape that the API has now. */
export function transcription(turn_detection, fields = {}) {
  const input = {
    format: { type: "audio/pcm", rate: RATE },
    transcription: { model: "gpt-4o-transcribe", language: "en" },
    turn_detection,
  };
  return { type: "transcription", audio: { input }, ...fields };
}

export const SERVER_VAD = { type: "server_vad", threshold: 0.5, prefix_padding_ms: 300, silence_duration_ms: 500 };

/** A realtime socket of the package, and every event that came over it. */
export class Session {
  events = [];
  errors = []; // What the package reports as an error, from the server or of its own.
  closed = null; // The close code, once there is one.
  #waiting = new Set();

  constructor(socket) {
    this.socket = socket;
    socket.on("event", (event) => this.#tell(() => this.events.push(event)));
    socket.on("error", (error) => this.#tell(() => this.errors.push(error)));
    socket.socket.addEventListener("close", ({ code }) => this.#tell(() => (this.closed = code)));
  }

  /** Takes the first event, and gives the session its settings if there are any. */
  async open(settings) {
    await this.event("session.created");
    if (settings) {
      this.send({ type: "session.update", session: settings });
      await this.event("session.updated");
    }
    return this;
  }

  send(event) {
    this.socket.send(event);
  }

  /** Sends samples, in pieces of 100 ms of what a session listens to at first: as fast as that is spoken, or at once. */
  async feed(pcm, { paced = false } = {}) {
    const piece = RATE / 5;
    const began = performance.now();
    for (let at = 0; at < pcm.length; at += piece) {
      this.send({ type: "input_audio_buffer.append", audio: pcm.subarray(at, at + piece).toString("base64") });
      if (paced) await sleep(Math.max(0, began + (at / piece) * 100 - performance.now()));
    }
  }

  /** The `nth` event of this type, now or as soon as it comes. */
  async event(type, nth = 1) {
    return this.#until(`${type} (${nth})`, () => this.all(type)[nth - 1]);
  }

  async error(nth = 1) {
    return this.#until(`error ${nth}`, () => this.errors[nth - 1]);
  }

  /** The texts of all that was committed, once each has been told. */
  async transcripts() {
    await this.event("input_audio_buffer.committed");
    const committed = this.all("input_audio_buffer.committed").map(({ item_id }) => item_id);
    await this.event("conversation.item.input_audio_transcription.completed", committed.length);
    const completed = this.all("conversation.item.input_audio_transcription.completed");
    assert.deepEqual(completed.map(({ item_id }) => item_id), committed, "each item completes once, in order");
    return completed.map(({ transcript }) => transcript);
  }

  all(type) {
    return this.events.filter((event) => event.type === type);
  }

  deltas(item_id) {
    const type = "conversation.item.input_audio_transcription.delta";
    return this.all(type).filter((event) => event.item_id === item_id).map(({ delta }) => delta);
  }

  position(type) {
    return this.events.findIndex((event) => event.type === type);
  }

  /** Closes, and says with which code the other side agreed. */
  async close() {
    this.socket.close();
    return this.#until("the close", () => this.closed);
  }

  async #until(what, look) {
    let late;
    const found = new Promise((resolve, reject) => {
      const seen = () => `${this.events.map(({ type }) => type).join(", ")}; errors: ${this.errors.join(", ")}`;
      const check = () => {
        const value = look();
        if (value === undefined || value === null) {
          if (this.closed === null) return;
          reject(new Error(`closed with ${this.closed} before ${what}; seen: ${seen()}`));
        } else {
          resolve(value);
        }
        this.#waiting.delete(check);
      };
      late = setTimeout(() => reject(new Error(`no ${what} within ${ANSWERS_WITHIN} ms; seen: ${seen()}`)), ANSWERS_WITHIN);
      this.#waiting.add(check);
      check();
    });
    return found.finally(() => clearTimeout(late));
  }

  #tell(note) {
    note();
    for (const check of [...this.#waiting]) check();
  }
}
