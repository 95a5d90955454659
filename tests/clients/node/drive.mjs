// Starts the servers that the tests need, runs the tests, stops the servers: `node drive.mjs SERVER FOLDER`, which is
// what `run` calls once the packages are in FOLDER.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";

import { selfSigned } from "./certificate.mjs";

const HERE = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const READY_WITHIN = 120_000; // A debug build unpacks and loads the bundled model on a busy machine.
const STOPS_WITHIN = 20_000;
const SUITE_WITHIN = 900_000;
const KEY = "a-key-for-this-run-only";

const [server, folder] = process.argv.slice(2).map((argument) => path.resolve(argument));
const secrets = mkdtempSync(path.join(folder, "run-"));
const started = [];

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    for (const child of started) child.kill();
    rmSync(secrets, { recursive: true, force: true });
    process.exit(1);
  });
}

let passed = false;
try {
  passed = await judge();
} catch (error) {
  say(error.message);
} finally {
  await Promise.all(started.map(stop));
  rmSync(secrets, { recursive: true, force: true });
}
if (!passed) say(`what the servers said is in ${folder}/*.log`);
process.exitCode = passed ? 0 : 1;

/** Whether every test passed, and every server outlived them. */
async function judge() {
  const { certificate, key } = selfSigned();
  const [certificateFile, keyFile] = ["certificate.pem", "key.pem"].map((name) => path.join(secrets, name));
  writeFileSync(certificateFile, certificate);
  writeFileSync(keyFile, key, { mode: 0o600 });
  const tls = ["--tls-cert", certificateFile, "--tls-key", keyFile];
  const bundled = ["--model", "bundled", "--offline", "--max-streams", "8"];
  const script = ["--engine", "script", "--max-streams", "8"];

  const [BUNDLED, SECURE, SCRIPT, KEYED] = await Promise.all([
    start("bundled", ...bundled),
    start("secure", ...bundled, ...tls),
    start("script", ...script),
    start("keyed", ...script, ...tls, "--api-key", KEY),
  ]);
  const environment = {
    ...cleanEnvironment(),
    // How an administrator tells Node of a certificate; no line of the package or of the tests has to know of it.
    NODE_EXTRA_CA_CERTS: certificateFile,
    WHISPERWIRE_PACKAGES: path.join(folder, "package.json"),
    WHISPERWIRE_BUNDLED: BUNDLED,
    WHISPERWIRE_SECURE: SECURE,
    WHISPERWIRE_SCRIPT: SCRIPT,
    WHISPERWIRE_KEYED: KEYED,
    WHISPERWIRE_KEY: KEY,
  };
  const suites = readdirSync(HERE).filter((name) => name.endsWith(".test.mjs"));
  const options = ["--test", "--test-reporter=spec", "--test-concurrency=1"];
  const tests = spawn(process.execPath, [...options, ...suites], { cwd: HERE, env: environment, stdio: "inherit" });
  started.push(tests);
  const late = setTimeout(() => {
    say(`the tests took longer than ${SUITE_WITHIN / 1000} s`);
    tests.kill();
  }, SUITE_WITHIN);
  const [code] = await once(tests, "exit");
  clearTimeout(late);

  const dead = started.filter((child) => child !== tests && ended(child));
  for (const child of dead) say(`the server \`${child.called}\` ended under test\n${tail(child.called)}`);
  return code === 0 && dead.length === 0;
}

/** A server on a free port of the loopback: its address, once it says that it listens. */
async function start(name, ...flags) {
  const home = path.join(folder, name);
  mkdirSync(home, { recursive: true });
  const log = openSync(`${home}.log`, "w");
  const command = ["serve", "--host", "127.0.0.1", "--port", "0", ...flags];
  const child = spawn(server, command, { cwd: home, env: cleanEnvironment(), stdio: ["ignore", "pipe", log] });
  child.called = name;
  started.push(child);

  let late;
  const listening = new Promise((resolve, reject) => {
    const failed = (why) => reject(new Error(`the server \`${name}\` ${why}\n${tail(name)}`));
    late = setTimeout(() => failed(`did not listen within ${READY_WITHIN / 1000} s`), READY_WITHIN);
    createInterface({ input: child.stdout }).on("line", (line) => {
      const address = /listening on (https?:\/\/\S+)/.exec(line)?.[1];
      if (address) resolve(address.replace(/\/$/, "").replace("127.0.0.1", "localhost"));
    });
    child.on("error", (error) => failed(`could not be started: ${error.message}`));
    child.on("exit", (code) => failed(`ended with ${code} before it listened`));
  });
  return listening.finally(() => clearTimeout(late));
}

async function stop(child) {
  if (ended(child) || child.pid === undefined) return;
  const exit = once(child, "exit");
  const late = setTimeout(() => {
    say(`${child.called ?? "the test runner"} did not stop within ${STOPS_WITHIN / 1000} s and was killed`);
    child.kill("SIGKILL");
  }, STOPS_WITHIN);
  child.kill();
  await exit;
  clearTimeout(late);
}

function ended(child) {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Ours without what a developer's shell would configure the server or the package with, and without proxies. */
function cleanEnvironment() {
  const configuring = /^(whisper\w*|hf_\w+|openai_\w+|node_\w+|host|port|api_key|\w*_proxy)$/i;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !configuring.test(name)));
}

function tail(name) {
  return readFileSync(path.join(folder, `${name}.log`), "utf8").split("\n").slice(-15).join("\n");
}

function say(message) {
  console.error(`node: ${message}`);
}
