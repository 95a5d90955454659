// What an application sees that sends recordings through the `openai` package.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KEY, client, entry, openai, recording, spoken, transcribe, wav, words } from "./support.mjs";

const RECORDINGS = ["sentence-04-slt.flac", "sentence-08-slt.flac", "sentence-10-espeak.flac"];

for (const name of RECORDINGS) {
  test(`json has the words of ${name}`, async () => {
    const answer = await transcribe(name);
    assert.deepEqual(words(answer.text), spoken(name));
    assert.equal(answer.usage.type, "duration");
    assert.ok(Math.abs(answer.usage.seconds - entry(name).seconds) <= 1);
  });
}

test("verbose_json has segments and, when asked, words with their times", async () => {
  const answer = await transcribe(undefined, {
    response_format: "verbose_json",
    timestamp_granularities: ["word", "segment"],
  });
  assert.deepEqual(words(answer.text), spoken());
  assert.equal(answer.language, "english");
  assert.equal(typeof answer.duration, "number");
  assert.ok(Math.abs(answer.duration - entry().seconds) < 0.1);
  assert.deepEqual(words(answer.segments.map(({ text }) => text).join(" ")), spoken());
  assert.deepEqual(answer.words.flatMap(({ word }) => words(word)), spoken());
  let before = 0;
  for (const { start, end } of answer.words) {
    assert.ok(before <= start && start <= end && end <= answer.duration);
    before = end;
  }
});

test("text, srt and vtt are strings in their formats", async () => {
  const text = await transcribe(undefined, { response_format: "text" });
  assert.equal(typeof text, "string");
  assert.equal(text, `${text.trim()}\n`);
  assert.deepEqual(words(text), spoken());

  const srt = await transcribe(undefined, { response_format: "srt" });
  assert.match(srt, /^1\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n/);
  assert.deepEqual(words(captionText(srt)), spoken());

  const vtt = await transcribe(undefined, { response_format: "vtt" });
  assert.match(vtt, /^WEBVTT\n\n\d\d:\d\d\.\d{3} --> \d\d:\d\d\.\d{3}\n/);
  assert.deepEqual(words(captionText(vtt)), spoken());
});

test("log probabilities spell the text", async () => {
  const answer = await transcribe(undefined, { response_format: "json", include: ["logprobs"] });
  assert.deepEqual(words(answer.logprobs.map(({ token }) => token).join("")), spoken());
  assert.ok(answer.logprobs.every(({ logprob }) => logprob <= 0));
});

test("hints of every kind are taken", async () => {
  const answer = await transcribe(undefined, {
    server: "SCRIPT",
    model: "gpt-transcribe",
    prompt: "The quarterly report.",
    keywords: ["report", "day"],
    languages: ["en", "de"],
    chunking_strategy: { type: "server_vad", threshold: 0.5, prefix_padding_ms: 300, silence_duration_ms: 500 },
  });
  assert.ok(answer.text);
});

test("a buffer, a stream and a Response are the same file", async () => {
  const bytes = Buffer.concat(await recording().toArray());
  for (const file of [
    await openai.toFile(bytes, "mislabelled.mp3", { type: "audio/mpeg" }),
    recording(),
    new Response(bytes),
  ]) {
    const answer = await client().audio.transcriptions.create({ file, model: "gpt-4o-transcribe" });
    assert.deepEqual(words(answer.text), spoken());
  }
});

for (const server of ["BUNDLED", "SECURE"]) {
  test(`the deltas of a stream make the final text (${server.toLowerCase()})`, async () => {
    const events = [];
    for await (const event of await transcribe(undefined, { server, stream: true })) events.push(event);
    const done = events.pop();
    assert.ok(events.length > 0);
    assert.deepEqual(new Set(events.map(({ type }) => type)), new Set(["transcript.text.delta"]));
    assert.equal(done.type, "transcript.text.done");
    assert.equal(events.map(({ delta }) => delta).join(""), done.text);
    assert.deepEqual(words(done.text), spoken());
    assert.equal(typeof done.usage.total_tokens, "number");
    assert.equal(done.usage.input_tokens + done.usage.output_tokens, done.usage.total_tokens);
  });
}

test("a stream has log probabilities when asked", async () => {
  const events = [];
  const fields = { stream: true, include: ["logprobs"] };
  for await (const event of await transcribe(undefined, fields)) events.push(event);
  const done = events.pop();
  assert.ok(events.every(({ logprobs }) => logprobs.length > 0));
  assert.deepEqual(done.logprobs, events.flatMap(({ logprobs }) => logprobs));
});

test("whoever leaves a stream early leaves the server well", async () => {
  const stream = await transcribe("dialogue-mono.flac", { stream: true });
  for await (const event of stream) {
    assert.equal(event.type, "transcript.text.delta");
    break; // The package hangs up.
  }
  assert.deepEqual(words((await transcribe()).text), spoken());
});

test("translations come in their formats", async () => {
  const translate = (fields) =>
    client("SCRIPT").audio.translations.create({ file: recording(), model: "whisper-1", ...fields });
  assert.ok((await translate()).text);
  const verbose = await translate({ response_format: "verbose_json" });
  assert.equal(verbose.language, "english");
  assert.ok(Math.abs(verbose.duration - entry().seconds) < 0.1);
  assert.ok(verbose.segments.length > 0);
  assert.match(await translate({ response_format: "text" }), /\S\n$/);
  assert.match(await translate({ response_format: "srt" }), /^1\n00:00:/);
});

test("models are listed and found", async () => {
  const models = [];
  for await (const model of client().models.list()) models.push(model);
  assert.ok(models.length > 0);
  for (const model of models) {
    assert.equal(model.object, "model");
    assert.deepEqual(await client().models.retrieve(model.id), model);
  }
});

test("a chat with audio in it is answered with what was said", async () => {
  const data = wav().toString("base64");
  const content = [
    { type: "text", text: "Write down what is said." },
    { type: "input_audio", input_audio: { data, format: "wav" } },
  ];
  const question = { model: "gpt-4o-audio-preview", messages: [{ role: "user", content }] };
  const answer = await client().chat.completions.create(question);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.deepEqual(words(answer.choices[0].message.content), spoken());
  assert.equal(answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage.total_tokens);

  let text = "";
  for await (const chunk of await client().chat.completions.create({ ...question, stream: true })) {
    assert.equal(chunk.object, "chat.completion.chunk");
    text += chunk.choices[0]?.delta.content ?? "";
  }
  assert.equal(text, answer.choices[0].message.content);
});

// ---- errors ------------------------------------------------------------------------------------------------------

/** The call fails with this class of the package, and the error has what the package reads from it. */
async function refused(call, kind, status) {
  const error = await call.then(
    () => assert.fail("it was not refused"),
    (error) => error,
  );
  assert.equal(error.constructor, kind, String(error));
  assert.equal(error.status, status);
  assert.ok(error.requestID);
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  return error;
}

test("bytes that are no audio are a bad request, streamed or not, and the next one works", async () => {
  for (const stream of [false, true]) {
    const file = await openai.toFile(Buffer.from("This is not music. ".repeat(100)), "noise.mp3");
    const call = client().audio.transcriptions.create({ file, model: "whisper-1", stream });
    const error = await refused(call, openai.BadRequestError, 400);
    assert.equal(error.type, "invalid_request_error");
    assert.equal(error.param, "file");
  }
  assert.deepEqual(words((await transcribe()).text), spoken());
});

test("fields that cannot be are a bad request", async () => {
  const format = await refused(transcribe(undefined, { response_format: "yaml" }), openai.BadRequestError, 400);
  assert.equal(format.param, "response_format");
  const granularity = { response_format: "json", timestamp_granularities: ["word"] };
  await refused(transcribe(undefined, granularity), openai.BadRequestError, 400);
});

test("unknown models and routes are not found", async () => {
  const model = await refused(client().models.retrieve("nobody/has-this-one"), openai.NotFoundError, 404);
  assert.equal(model.code, "model_not_found");
  await refused(transcribe(undefined, { model: "nobody-has-this-one" }), openai.NotFoundError, 404);
  await refused(client().post("/audio/whistles", { body: {} }), openai.NotFoundError, 404);
});

test("a wrong key is refused and the right one taken", async () => {
  const error = await refused(client("KEYED", "a-wrong-key").models.list(), openai.AuthenticationError, 401);
  assert.equal(error.code, "invalid_api_key");
  const upload = client("KEYED", "a-wrong-key").audio.transcriptions.create({ file: recording(), model: "whisper-1" });
  await refused(upload, openai.AuthenticationError, 401);
  assert.ok((await client("KEYED", KEY).models.list()).data.length > 0);
});

/** The text lines of SubRip or WebVTT: all but the header, numbers, times and blanks. */
function captionText(captions) {
  return captions.split("\n").filter((line) => !/^(WEBVTT|\d+|.* --> .*|\s*)$/.test(line)).join("\n");
}
