/**
 * The page: one microphone or file at a time, its captions as they come, and what can be done with them.
 *
 * `listen` is the whole life of a recording, from the press of the button to the last word; everything else is what
 * it needs, or the controls around it. All requests go to the server that the page came from, below the page's own
 * address. The API key lives in this tab's session storage, other settings in the browser's local storage; the audio
 * and the text are kept nowhere.
 */

import { Captions, connect, toSrt, toText, toVtt } from "./whisperwire.js";
import { Microphone, recordsOpus } from "./microphone.js";
import { Timing } from "./timing.js";
import { Transcript, clock } from "./transcript.js";

const HOME = new URL(".", document.baseURI);
/** Refusals after which waiting helps. */
const FULL = ["overloaded", "model_loading", "draining", "rate_limited"];
const WAIT_WHEN_FULL = 5; // seconds, where the server names none
/** A microphone that has never been louder than this, as root mean square, after so many ms is muted. */
const QUIET = 0.0006;
const MUTED_AFTER = 6000;

const $ = (id) => document.getElementById(id);
const transcript = new Transcript({
  scroller: $("transcript"), lines: $("lines"), spoken: $("spoken"), latest: $("latest"),
});

/** All recordings on the page: `{label, captions}`, each with its own clock. */
let takes = [];
/** The recording that runs: what the buttons act on. */
let running;
/** What the server has told about its models. */
let models = [];

// ---- a recording -------------------------------------------------------------------------------------------------

/** Listens to the microphone, or to a file, until it ends; waits and tries again while the server is full. */
async function listen(file) {
  if (running) return;
  const run = (running = { cancelled: false, stop: () => (run.cancelled = true) });
  document.body.classList.add("busy");
  hideNotice();
  try {
    let ending;
    do {
      ending = await (file ? hearFile(run, file) : hearMicrophone(run));
    } while (FULL.includes(ending.error?.code) && ending.reason === "refused" && (await untilFree(run, ending.error)));
    conclude(run, ending);
  } catch (error) {
    enter("error", "Not listening");
    notify(explain(error));
  }
  running = undefined;
  meter.rest();
  document.body.classList.remove("busy");
  enable();
}

async function hearMicrophone(run) {
  enter("asking", "Allow the microphone");
  const microphone = await Microphone.open({
    device: $("device").value,
    opus: $("format").value === "opus",
    cleanUp: $("clean").checked,
  });
  if (run.cancelled) {
    await microphone.stop();
    return { reason: "closed" };
  }
  listDevices(); // Only now does the browser tell their names.
  const stream = open(run, `${time()}, microphone`, microphone.settings);
  const { sample_rate: rate } = microphone.settings;
  const began = performance.now();
  let samples = 0;
  microphone.onaudio = (audio) => {
    stream.sendAudio(audio);
    samples += audio.byteLength / 2;
    const now = performance.now();
    run.timing.heard(rate ? samples / rate : (now - began) / 1000, now);
  };
  let muted = true;
  microphone.onlevel = (level) => {
    meter.push(level);
    if (level > QUIET) muted = false;
    else if (muted && performance.now() - began > MUTED_AFTER) {
      muted = false; // Said once is enough.
      notify("No sound is coming from the microphone. Is it muted, or is another one meant?");
    }
  };
  run.stop = async () => {
    if (run.cancelled) return stream.close();
    run.cancelled = true;
    enter("finishing", "Finishing");
    await microphone.stop();
    stream.end();
  };
  microphone.onlost = () => {
    if (run.cancelled) return;
    notify("The microphone has gone away.");
    run.stop();
  };
  const awake = await navigator.wakeLock?.request("screen").catch(() => undefined);
  await microphone.start();
  const ending = await stream.closed;
  await microphone.stop();
  await awake?.release();
  return ending;
}

async function hearFile(run, file) {
  const stream = open(run, file.name, { encoding: "container" });
  run.stop = () => {
    run.cancelled = true;
    stream.close();
  };
  const progress = $("progress");
  progress.hidden = false;
  $("level").hidden = true;
  const began = performance.now();
  const ending = await stream.sendFile(file, (sent, size) => (progress.value = sent / size));
  progress.hidden = true;
  $("level").hidden = false;
  ending.seconds = (performance.now() - began) / 1000;
  return ending;
}

/** Opens a stream, and shows what comes of it. */
function open(run, label, settings) {
  enter("connecting", "Connecting");
  const stream = connect(HOME, { ...wishes(), ...settings, grace: 30 }, { key: $("key").value.trim() || undefined });
  const captions = new Captions();
  const take = { label, captions };
  const timing = settings.encoding === "container" ? new Timing() : (run.timing = new Timing());
  Object.assign(run, { stream, captions, heard: false });
  stream.addEventListener("message", ({ detail }) => {
    const now = performance.now();
    captions.fold(detail);
    transcript.show(detail, captions);
    timing.fold(detail, now);
    showDelay(timing);
    run.heard ||= captions.segments.length > 0;
    enable();
  });
  stream.addEventListener("ready", ({ detail }) => {
    if (!takes.includes(take)) {
      takes.push(take);
      transcript.begin(label);
      $("welcome").hidden = true;
    }
    showCaveat(detail.caveat);
  });
  stream.addEventListener("state", ({ detail }) => {
    if (detail.state === "open" && run.cancelled) enter("finishing", "Finishing");
    else if (detail.state === "open") showListening(settings);
    else if (detail.state === "reconnecting") enter("reconnecting", "Reconnecting");
  });
  stream.addEventListener("resumed", () => {
    if (!run.cancelled) $("status-text").textContent += ", connected again";
  });
  stream.addEventListener("lost", ({ detail }) => {
    transcript.note(`${detail.seconds?.toFixed(1) ?? "Some"} s of audio could not be sent; it stands here as silence.`);
  });
  stream.addEventListener("lag", ({ detail }) => {
    $("lag-row").hidden = detail.seconds === 0;
    $("lag").textContent = `${detail.seconds.toFixed(1)} s`;
  });
  stream.addEventListener("error", ({ detail }) => {
    if (!detail.fatal) notify(detail.error.message);
  });
  return stream;
}

function showListening(settings) {
  if (settings.encoding === "container") enter("file", "Reading the recording");
  else enter("listening", "Listening");
}

/** Counts down until the next try. Returns whether there is to be one. */
async function untilFree(run, error) {
  const seconds = Math.max(1, Math.ceil(error.retryAfter ?? WAIT_WHEN_FULL));
  enter("full", error.code === "model_loading" ? "Model is loading" : "Server full");
  let skip = false;
  let wake = () => {};
  run.stop = () => {
    run.cancelled = true;
    wake();
  };
  notify(`${error.message} Trying again by itself in ${seconds} s.`, "Try now", () => {
    skip = true;
    wake();
  });
  for (let left = seconds; left > 0 && !run.cancelled && !skip; left -= 1) {
    $("countdown").textContent = `, ${left} s`;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 1000);
    });
  }
  hideNotice();
  return !run.cancelled;
}

function conclude(run, ending) {
  transcript.finish();
  $("lag-row").hidden = true;
  if (ending.reason === "done") {
    enter("finished", "Finished");
    if (!ending.seconds && !run.cancelled) {
      return notify("The server is shutting down and has ended the stream. What was said until then stands above.");
    }
    const length = ending.done.duration;
    const speed = (length / ending.seconds).toFixed(1);
    if (!run.heard) notifyCalm("No speech was found.");
    else if (ending.seconds) notifyCalm(`${clock(length)} of audio, read ${speed} times as fast as it was spoken.`);
  } else if (ending.reason === "closed" || (run.cancelled && ending.reason === "refused")) {
    enter("idle", "Stopped");
  } else {
    enter("error", ending.reason === "refused" ? "Not listening" : "Interrupted");
    notify(explain(ending.error));
    if (ending.error?.code === "unauthorized") askForKey();
  }
}

/** What went wrong, in words that say what to do. */
function explain(error) {
  const words = {
    NotAllowedError: "The microphone was not allowed. The browser's address bar is where that can be changed.",
    NotFoundError: "There is no microphone.",
    OverconstrainedError: "The chosen microphone is not there any more.",
    NotReadableError: "The microphone is in use by another program.",
    SecurityError: "Browsers give the microphone only to pages over https, or on localhost.",
    unauthorized: "This server wants an API key. It is under Settings, Advanced.",
    connection_lost: "The connection was lost, and the stream could not be resumed. What was final stands above.",
    unreachable: "The server cannot be reached.",
  };
  return words[error?.code] ?? words[error?.name] ?? error?.message ?? "Something went wrong.";
}

// ---- settings ----------------------------------------------------------------------------------------------------

/** What the form says, as settings of a stream. */
function wishes() {
  const keywords = $("keywords").value.split(",").map((word) => word.trim()).filter(Boolean);
  return {
    model: $("model").value || undefined,
    language: $("language").value || undefined,
    prompt: $("prompt").value.trim() || undefined,
    keywords: keywords.length ? keywords : undefined,
    silence_ms: $("silence").valueAsNumber || undefined,
    task: !$("translate-row").hidden && $("translate").checked ? "translate" : undefined,
  };
}

/** What can be changed while the stream runs is changed at once. */
function reconfigure({ target }) {
  if (target.checkValidity?.() === false) return target.reportValidity();
  remember();
  if (target.id === "key") return loadModels();
  if (target.id === "model") return showModel();
  const { language, prompt, keywords, silence_ms } = wishes();
  const changed = {
    language: { language: language ?? "" },
    prompt: { prompt: prompt ?? "" },
    keywords: { keywords: keywords ?? [] },
    silence: silence_ms ? { silence_ms } : undefined,
  }[target.id];
  if (changed) running?.stream?.configure(changed);
}

async function loadModels() {
  const key = $("key").value.trim();
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const answer = await fetch(new URL("v1/models", HOME), { headers });
    if (answer.status === 401) {
      notify(explain({ code: "unauthorized" }));
      return askForKey();
    }
    const { data } = await answer.json();
    // The same model goes by many names, because other programs ask for those; its own name is the one to show.
    const own = data.filter(({ id, whisperwire }) => whisperwire && (whisperwire.model ?? id) === id);
    models = own.length ? own : data.filter(({ whisperwire }) => whisperwire).slice(0, 1);
  } catch {
    models = []; // The choice stays empty, and the server's default is taken.
  }
  const names = models.map(({ id }) => new Option(id, id));
  $("model").replaceChildren(...(names.length ? names : [new Option("The server's choice", "")]));
  recall("model");
  showModel();
}

function showModel() {
  const details = models.find(({ id }) => id === $("model").value)?.whisperwire;
  const codes = details?.languages ?? [];
  const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
  const label = (code) => {
    try {
      return names.of(code);
    } catch {
      return code;
    }
  };
  const listed = codes.map((code) => new Option(label(code), code)).sort((a, b) => a.text.localeCompare(b.text));
  $("language").replaceChildren(...(codes.length === 1 ? [] : [new Option("Find out by itself", "")]), ...listed);
  recall("language");
  $("translate-row").hidden = !details?.translates;
  showCaveat(details?.caveat);
}

function showCaveat(caveat) {
  $("caveat").hidden = !caveat;
  $("caveat-text").textContent = caveat ? caveat[0].toUpperCase() + caveat.slice(1) : "";
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  const inputs = devices.filter(({ kind }) => kind === "audioinput");
  const microphones = inputs.filter(({ deviceId }) => !["", "default"].includes(deviceId));
  const before = $("device").value;
  $("device").replaceChildren(
    new Option("Default microphone", ""),
    ...microphones.map(({ deviceId, label }, n) => new Option(label || `Microphone ${n + 1}`, deviceId)),
  );
  $("device").value = before;
  recall("device");
}

function askForKey() {
  $("advanced").open = true;
  if (matchMedia("(max-width: 860px)").matches) openSheet();
  $("key").focus();
}

const REMEMBERED = ["model", "language", "device", "format", "silence"];

function remember() {
  sessionStorage.setItem("whisperwire.key", $("key").value.trim());
  const kept = Object.fromEntries(REMEMBERED.map((id) => [id, $(id).value]));
  localStorage.setItem("whisperwire.settings", JSON.stringify({ ...kept, clean: $("clean").checked }));
}

/** Chooses again what was chosen on the last visit, where it is still there. */
function recall(id) {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem("whisperwire.settings")) ?? {};
  } catch {
    // Somebody else wrote there; the defaults will do.
  }
  const field = $(id);
  if (field.type === "checkbox") field.checked = kept[id] ?? field.checked;
  else if (field.tagName !== "SELECT") field.value = kept[id] ?? "";
  else if ([...field.options].some(({ value }) => value === kept[id])) field.value = kept[id];
}

// ---- what is shown -----------------------------------------------------------------------------------------------

function enter(state, text) {
  document.body.dataset.state = state;
  $("status-text").textContent = text;
  $("countdown").textContent = "";
  const busy = { finishing: "Stop now", full: "Cancel" }[state] ?? "Stop";
  $("listen-text").textContent = running ? busy : "Start listening";
  enable();
}

/** Which buttons have something to act on. */
function enable() {
  const some = takes.some(({ captions }) => captions.segments.length > 0);
  for (const button of [$("copy"), ...document.querySelectorAll("[data-save]")]) button.disabled = !some;
  $("clear").disabled = !takes.length;
  $("flush").disabled = !["listening", "reconnecting"].includes(document.body.dataset.state);
  $("choose").disabled = Boolean(running);
  for (const field of document.querySelectorAll("[data-fixed]")) field.disabled = Boolean(running);
  if (!running) $("listen-text").textContent = "Start listening";
}

function showDelay(timing) {
  for (const name of ["partial", "pause", "decided"]) {
    const { last, median } = timing[name];
    const target = $(`delay-${name}`);
    if (last === undefined) {
      target.textContent = "–";
      continue;
    }
    const usual = document.createElement("small");
    usual.textContent = `median ${duration(median)}`;
    target.replaceChildren(duration(last), usual);
  }
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function notify(text, action, act) {
  $("notice").classList.remove("calm");
  $("notice-text").textContent = text;
  $("notice-action").hidden = !action;
  $("notice-action").textContent = action ?? "";
  $("notice-action").onclick = act ?? null;
  $("notice").hidden = false;
}

function notifyCalm(text, action, act) {
  notify(text, action, act);
  $("notice").classList.add("calm");
}

function hideNotice() {
  $("notice").hidden = true;
}

/** The last seconds of loudness, as bars. */
const meter = {
  levels: [],

  push(level) {
    this.levels.push(level);
    if (this.levels.length > 64) this.levels.shift();
    this.asked ??= requestAnimationFrame(() => this.draw());
  },

  rest() {
    this.levels = [];
    this.draw();
  },

  draw() {
    this.asked = undefined;
    const canvas = $("level");
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.fillStyle = getComputedStyle(canvas).getPropertyValue("--accent");
    const [bar, step] = [3 * ratio, 6 * ratio];
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const levels = still ? Array(64).fill(this.levels.at(-1) ?? 0) : this.levels;
    for (let n = 0; n * step < width && n < levels.length; n += 1) {
      // Decibels, from -60 to 0, because that is how loudness is heard.
      const loud = Math.max(0, 1 + Math.log10(levels[levels.length - 1 - n] + 1e-6) / 3);
      const tall = Math.max(bar, loud * height);
      context.globalAlpha = Math.max(0.15, 1 - (n * step) / width);
      context.beginPath();
      context.roundRect(n * step, (height - tall) / 2, bar, tall, bar / 2);
      context.fill();
    }
  },
};

// ---- what can be done with the text ------------------------------------------------------------------------------

/** All takes one after the other, on one clock. */
function joined() {
  let base = 0;
  return takes.flatMap(({ captions }) => {
    const from = base;
    const end = Math.max(captions.duration ?? 0, captions.segments.at(-1)?.end ?? 0);
    base += end;
    return captions.segments.map((segment) => ({ ...segment, start: segment.start + from, end: segment.end + from }));
  });
}

const WRITERS = {
  txt: () => takes.map(({ captions }) => captions.toText()).filter((text) => text.trim()).join("\n"),
  srt: () => toSrt(joined()),
  vtt: () => toVtt(joined()),
};
const MEDIA = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt" };

function save(format) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([WRITERS[format]()], { type: `${MEDIA[format]};charset=utf-8` }));
  link.download = `captions-${new Date().toISOString().slice(0, 16).replace("T", "-").replace(":", "")}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(toText(joined()));
    notifyCalm("Copied.");
  } catch {
    notify("The browser did not allow copying; save the text instead.");
  }
}

/** Empties the page, until it is undone. A recording that runs goes on, with an empty page. */
function clear() {
  const before = takes;
  const texts = takes.map(({ captions }) => captions.segments.splice(0));
  const nodes = transcript.clear();
  takes = takes.filter(({ captions }) => captions === running?.captions);
  $("welcome").hidden = Boolean(running);
  notifyCalm("Cleared.", "Undo", () => {
    before.forEach(({ captions }, n) => captions.segments.unshift(...texts[n]));
    takes = [...before, ...takes.filter((take) => !before.includes(take))];
    transcript.restore(nodes);
    $("welcome").hidden = true;
    hideNotice();
    enable();
  });
  enable();
}

function time() {
  return new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

// ---- controls ----------------------------------------------------------------------------------------------------

function toggle() {
  if (running) running.stop();
  else listen();
}

function flush() {
  if (!$("flush").disabled) running?.stream?.flush();
}

function openSheet() {
  document.body.classList.add("sheet");
  $("settings-toggle").setAttribute("aria-expanded", "true");
  for (const part of [document.querySelector("header"), document.querySelector("main")]) part.inert = true;
  $("settings-close").focus();
}

function closeSheet() {
  if (!document.body.classList.contains("sheet")) return;
  document.body.classList.remove("sheet");
  $("settings-toggle").setAttribute("aria-expanded", "false");
  for (const part of [document.querySelector("header"), document.querySelector("main")]) part.inert = false;
  $("settings-toggle").focus();
}

function take(files) {
  if (running) notify("One recording at a time: stop this one first.");
  else if (files.length) listen(files[0]);
}

$("listen").addEventListener("click", toggle);
$("flush").addEventListener("click", flush);
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  take([...$("file").files]);
  $("file").value = "";
});
$("copy").addEventListener("click", copy);
$("clear").addEventListener("click", clear);
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => save(button.dataset.save));
}
$("notice-close").addEventListener("click", hideNotice);
$("settings-toggle").addEventListener("click", openSheet);
$("settings-close").addEventListener("click", closeSheet);
// Only a window grown wide has no sheet: one that has become narrow may have had it opened already.
matchMedia("(max-width: 860px)").addEventListener("change", (width) => width.matches || closeSheet());
$("form").addEventListener("change", reconfigure);
$("form").addEventListener("submit", (event) => event.preventDefault());
navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);

addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeSheet();
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.repeat) return;
  const act = { Enter: toggle, ".": flush }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

addEventListener("beforeunload", (event) => {
  if (running && document.body.dataset.state !== "full") event.preventDefault();
});

addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  take([...event.dataTransfer.files]);
});

for (const id of ["format", "silence", "clean"]) recall(id);
$("key").value = sessionStorage.getItem("whisperwire.key") ?? "";
if (!recordsOpus()) $("format").querySelector("[value=opus]").disabled = true;
enable();
loadModels();
listDevices();
