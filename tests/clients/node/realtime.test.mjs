// Realtime transcription as an application sees it through the package's own sockets, which speak TLS and nothing else.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import {
  KEY,
  OpenAIBetaRealtimeWS,
  OpenAIRealtimeWS,
  OpenAIRealtimeWebSocket,
  SERVER_VAD,
  Session,
  WebSocket,
  address,
  client,
  openai,
  samples,
  spoken,
  transcribe,
  transcription,
  words,
} from "./support.mjs";

const COMPLETED = "conversation.item.input_audio_transcription.completed";
const DELTA = "conversation.item.input_audio_transcription.delta";

const sessions = [];
afterEach(() => Promise.all(sessions.splice(0).map((session) => session.close())));

/** A session with these settings, closed after its test whatever becomes of that: a server has a place for so many. */
async function listen(settings, { server = "SECURE", key = "any", query = { intent: "transcription" } } = {}) {
  const session = new Session(new OpenAIRealtimeWS(query, client(server, key)));
  sessions.push(session);
  return session.open(settings);
}

test("a session says what it is before and after it is set", async () => {
  const session = await listen();
  const created = session.events[0];
  assert.equal(created.type, "session.created");
  assert.equal(created.session.type, "transcription");
  assert.match(created.session.id, /^sess_/);

  const fields = { include: ["item.input_audio_transcription.logprobs"] };
  session.send({ type: "session.update", session: transcription(SERVER_VAD, fields) });
  const { session: now } = await session.event("session.updated");
  assert.equal(now.id, created.session.id);
  assert.equal(now.object, "realtime.transcription_session");
  assert.deepEqual(now.audio.input.format, { type: "audio/pcm", rate: 24_000 });
  assert.equal(now.audio.input.transcription.model, "gpt-4o-transcribe");
  assert.equal(now.audio.input.transcription.language, "en");
  assert.equal(now.audio.input.turn_detection.type, "server_vad");
  assert.equal(now.audio.input.turn_detection.silence_duration_ms, 500);
  assert.deepEqual(now.include, fields.include);

  // What an update leaves away stays as it was, and null takes away.
  session.send({ type: "session.update", session: { type: "transcription", audio: { input: { turn_detection: null } } } });
  const { session: then } = await session.event("session.updated", 2);
  assert.equal(then.audio.input.turn_detection, null);
  assert.equal(then.audio.input.transcription.language, "en");
  assert.equal(await session.close(), 1000);
  assert.deepEqual(session.errors, []);
});

test("a transcription model in place of the intent makes the same session", async () => {
  const session = await listen(transcription(SERVER_VAD), { query: { model: "gpt-4o-transcribe" } });
  assert.equal(session.events[0].session.type, "transcription");
  assert.equal(await session.close(), 1000);
});

test("what is said is told while it is said, once, and as an upload would have it", async () => {
  const session = await listen(transcription(SERVER_VAD));
  await session.feed(samples(undefined, { silence: 1.5 }), { paced: true });
  const [transcript] = await session.transcripts();
  assert.equal(transcript.trim(), (await transcribe(undefined, { server: "SECURE" })).text.trim());
  assert.deepEqual(words(transcript), spoken());

  const started = session.all("input_audio_buffer.speech_started");
  const stopped = session.all("input_audio_buffer.speech_stopped");
  const committed = session.all("input_audio_buffer.committed");
  assert.deepEqual([started.length, stopped.length, committed.length], [1, 1, 1]);
  const { item_id } = started[0];
  assert.deepEqual([stopped[0].item_id, committed[0].item_id], [item_id, item_id]);
  assert.equal(committed[0].previous_item_id, null);
  assert.ok(started[0].audio_start_ms < stopped[0].audio_end_ms);
  assert.equal((await session.event("conversation.item.done")).item.id, item_id);
  const order = ["speech_started", "speech_stopped", "committed"].map((name) => `input_audio_buffer.${name}`);
  const positions = [...order, COMPLETED].map((type) => session.position(type));
  assert.deepEqual(positions, positions.toSorted((one, other) => one - other));

  const ids = session.events.map(({ event_id }) => event_id);
  assert.ok(ids.every(Boolean));
  assert.equal(new Set(ids).size, ids.length, "no two events have the same id");
  assert.deepEqual(session.errors, []);
  assert.equal(await session.close(), 1000);
});

test("deltas come before the end of speech, are whole words, and make the transcript", async () => {
  const session = await listen(transcription(SERVER_VAD));
  // Twenty seconds without a pause: long enough that some of it is certain long before the end.
  await session.feed(samples("monologue-no-pause.flac", { silence: 1.5 }), { paced: true });
  await session.transcripts();
  assert.ok(session.position(DELTA) < session.position("input_audio_buffer.speech_stopped"));
  for (const { item_id, transcript } of session.all(COMPLETED)) {
    const deltas = session.deltas(item_id);
    assert.equal(deltas.join("").trim(), transcript.trim());
    assert.ok(deltas.slice(1).every((delta) => /^\s/.test(delta)), `not whole words: ${JSON.stringify(deltas)}`);
  }
  assert.ok(session.deltas(session.all(COMPLETED)[0].item_id).length > 1);
  assert.deepEqual(session.errors, []);
});

test("a second turn is an item of its own behind the first", async () => {
  const session = await listen(transcription(SERVER_VAD));
  await session.feed(samples(undefined, { silence: 1.5 }), { paced: true });
  await session.event(COMPLETED, 1);
  await session.feed(samples("sentence-12-awb.flac", { silence: 1.5 }), { paced: true });
  await session.event(COMPLETED, 2);
  const transcripts = await session.transcripts();
  assert.deepEqual(transcripts.map(words), [spoken(), spoken("sentence-12-awb.flac")]);
  const [first, second] = session.all("input_audio_buffer.committed");
  assert.equal(second.previous_item_id, first.item_id);
});

for (const [type, format, rate] of [
  ["audio/pcm", "s16le", 16_000],
  ["audio/pcmu", "mulaw", 8000],
  ["audio/pcma", "alaw", 8000],
]) {
  test(`${type} at ${rate} Hz is heard`, async () => {
    const settings = transcription(null);
    settings.audio.input.format = type === "audio/pcm" ? { type, rate } : { type };
    const session = await listen(settings);
    assert.equal(session.all("session.updated")[0].session.audio.input.format.type, type);
    // One that the bundled model hears right in that quality.
    const name = "sentence-12-awb.flac";
    await session.feed(samples(name, { rate, format }));
    session.send({ type: "input_audio_buffer.commit" });
    const [transcript] = await session.transcripts();
    assert.deepEqual(words(transcript), spoken(name));
    assert.deepEqual(session.errors, []);
  });
}

test("a client that commits by itself decides what an item is", async () => {
  const session = await listen(transcription(null));
  await session.feed(samples());
  session.send({ type: "input_audio_buffer.commit" });
  await session.feed(samples("sentence-12-awb.flac"));
  session.send({ type: "input_audio_buffer.commit" });
  await session.event("input_audio_buffer.committed", 2);
  const transcripts = await session.transcripts();
  assert.deepEqual(transcripts.map(words), [spoken(), spoken("sentence-12-awb.flac")]);
  assert.deepEqual(session.all("input_audio_buffer.speech_started"), [], "nobody asked for turns to be detected");

  // What is cleared is not heard.
  await session.feed(samples());
  session.send({ type: "input_audio_buffer.clear" });
  await session.event("input_audio_buffer.cleared");
  await session.feed(samples("sentence-08-slt.flac"));
  session.send({ type: "input_audio_buffer.commit" });
  await session.event("input_audio_buffer.committed", 3);
  assert.deepEqual(words((await session.transcripts())[2]), spoken("sentence-08-slt.flac"));
  assert.deepEqual(session.errors, []);
});

test("audio that comes before the settings is kept", async () => {
  // Some clients send from the first moment and set the session as soon as they hear of it.
  const session = await listen();
  const pcm = samples();
  await session.feed(pcm.subarray(0, 48_000));
  session.send({ type: "session.update", session: transcription(null) });
  await session.event("session.updated");
  await session.feed(pcm.subarray(48_000));
  session.send({ type: "input_audio_buffer.commit" });
  const [transcript] = await session.transcripts();
  assert.deepEqual(words(transcript), spoken());
  assert.deepEqual(session.errors, []);
});

test("what is wrong is said, and the session goes on", async () => {
  const session = await listen(transcription(null));
  session.send({ type: "input_audio_buffer.commit", event_id: "too-soon" });
  const empty = await session.error(1);
  assert.ok(empty instanceof openai.OpenAIError);
  assert.equal(empty.error.code, "input_audio_buffer_commit_empty");
  assert.equal(empty.error.type, "invalid_request_error");
  assert.equal(empty.error.event_id, "too-soon");

  const wrong = [
    { type: "response.create", event_id: "answer-me" },
    { type: "sing.a.song", event_id: "sing" },
    { type: "input_audio_buffer.append", audio: "this is not base64!", event_id: "no-base64" },
    { type: "conversation.item.retrieve", item_id: "item_nobody_has", event_id: "no-item" },
    { event_id: "no-type" },
  ];
  for (const [position, event] of wrong.entries()) {
    session.send(event);
    const { error } = await session.error(position + 2);
    assert.equal(error.event_id ?? undefined, event.event_id);
    assert.ok(error.message && error.type);
  }
  session.socket.socket.send("{ this is no JSON");
  await session.error(wrong.length + 2);

  await session.feed(samples());
  session.send({ type: "input_audio_buffer.commit" });
  const [transcript] = await session.transcripts();
  assert.deepEqual(words(transcript), spoken());
  assert.equal(session.errors.length, wrong.length + 2);
  assert.equal(await session.close(), 1000);
});

// ---- keys --------------------------------------------------------------------------------------------------------

test("the key decides who may open a session", async () => {
  const session = await listen(undefined, { server: "KEYED", key: KEY });
  assert.equal(await session.close(), 1000);

  const stranger = new Session(new OpenAIRealtimeWS({ intent: "transcription" }, client("KEYED", "a-wrong-key")));
  const error = await stranger.error();
  assert.match(error.message, /401/);
  assert.deepEqual(stranger.events, []);
});

test("a browser brings its key as a subprotocol", async () => {
  const accepted = await knock(["realtime", `openai-insecure-api-key.${KEY}`]);
  assert.equal(accepted.protocol, "realtime");
  assert.equal(accepted.event.type, "session.created");

  const beta = await knock(["realtime", `openai-insecure-api-key.${KEY}`, "openai-beta.realtime-v1"]);
  assert.equal(beta.protocol, "realtime");
  assert.equal(beta.event.type, "transcription_session.created");

  for (const protocols of [["realtime", "openai-insecure-api-key.wrong"], ["realtime"], []]) {
    const refused = await knock(protocols);
    assert.equal(refused.status, 401);
    assert.equal(refused.body.error.code, "invalid_api_key");
  }
});

test("an ephemeral key opens the session that it was made for", async () => {
  const secret = await client("KEYED", KEY).realtime.clientSecrets.create({
    expires_after: { anchor: "created_at", seconds: 60 },
    session: transcription({ ...SERVER_VAD, silence_duration_ms: 700 }),
  });
  assert.match(secret.value, /^ek_/);
  const seconds = secret.expires_at - Date.now() / 1000;
  assert.ok(0 < seconds && seconds <= 61);
  assert.equal(secret.session.type, "transcription");
  assert.equal(secret.session.audio.input.turn_detection.silence_duration_ms, 700);

  const session = await listen(undefined, { server: "KEYED", key: secret.value });
  assert.equal(session.events[0].session.audio.input.turn_detection.silence_duration_ms, 700);
  assert.equal(await session.close(), 1000);

  // In a page, by the package's socket for browsers, which finds its WebSocket where a browser has it.
  const own = globalThis.WebSocket;
  globalThis.WebSocket = WebSocket;
  try {
    const page = new Session(new OpenAIRealtimeWebSocket({ intent: "transcription" }, client("KEYED", secret.value)));
    sessions.push(page);
    await page.open();
    assert.equal(page.events[0].session.audio.input.turn_detection.silence_duration_ms, 700);
    assert.equal(await page.close(), 1000);
  } finally {
    globalThis.WebSocket = own;
  }

  await assert.rejects(
    client("KEYED", "a-wrong-key").realtime.clientSecrets.create({ session: transcription(null) }),
    openai.AuthenticationError,
  );
});

// ---- the beta shape ----------------------------------------------------------------------------------------------

test("the package's beta socket gets the beta's events", async () => {
  const session = new Session(new OpenAIBetaRealtimeWS({ model: "gpt-4o-transcribe" }, client("SECURE")));
  sessions.push(session);
  const created = await session.event("transcription_session.created");
  assert.equal(created.session.object, "realtime.transcription_session");
  session.send({
    type: "transcription_session.update",
    session: {
      input_audio_format: "pcm16",
      input_audio_transcription: { model: "gpt-4o-transcribe", language: "en", prompt: "" },
      turn_detection: { type: "server_vad", threshold: 0.5, prefix_padding_ms: 300, silence_duration_ms: 500 },
    },
  });
  const { session: now } = await session.event("transcription_session.updated");
  assert.equal(now.input_audio_format, "pcm16");
  assert.equal(now.input_audio_transcription.language, "en");
  assert.equal(now.turn_detection.silence_duration_ms, 500);

  await session.feed(samples(undefined, { silence: 1.5 }), { paced: true });
  const [transcript] = await session.transcripts();
  assert.deepEqual(words(transcript), spoken());
  const [{ item_id }] = session.all("input_audio_buffer.committed");
  assert.equal((await session.event("conversation.item.created")).item.id, item_id);
  assert.equal(session.deltas(item_id).join("").trim(), transcript.trim());
  assert.deepEqual(session.errors, []);
  assert.equal(await session.close(), 1000);
});

test("the beta's ephemeral key opens the session that it was made for", async () => {
  const made = await client("KEYED", KEY).beta.realtime.transcriptionSessions.create({
    input_audio_format: "g711_ulaw",
    input_audio_transcription: { model: "gpt-4o-transcribe", language: "en" },
  });
  assert.equal(made.input_audio_format, "g711_ulaw");
  assert.match(made.client_secret.value, /^ek_/);
  const props = { model: "gpt-4o-transcribe" };
  const session = new Session(new OpenAIBetaRealtimeWS(props, client("KEYED", made.client_secret.value)));
  sessions.push(session);
  const created = await session.event("transcription_session.created");
  assert.equal(created.session.input_audio_format, "g711_ulaw");
  assert.equal(await session.close(), 1000);
});

/** A handshake with these subprotocols and no header of ours: the first event, or the status and body of a refusal. */
function knock(protocols) {
  const url = `${address("KEYED").replace(/^http/, "ws")}/v1/realtime?intent=transcription`;
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols, { handshakeTimeout: 30_000 });
    socket.on("message", (data) => {
      socket.close();
      resolve({ protocol: socket.protocol, event: JSON.parse(data) });
    });
    socket.on("unexpected-response", async (_, response) => {
      const body = Buffer.concat(await response.toArray()).toString();
      resolve({ status: response.statusCode, body: JSON.parse(body) });
    });
    socket.on("close", (code) => reject(new Error(`closed with ${code}`)));
    socket.on("error", reject);
  });
}
