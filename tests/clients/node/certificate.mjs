// A self-signed certificate for the loopback, made anew in every run, so that nothing secret is kept anywhere and no
// tool is needed for it. It is written by hand because Node makes keys and signatures, but no certificates.

import { generateKeyPairSync, randomBytes, sign } from "node:crypto";

const ECDSA_WITH_SHA256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME = [0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME = [0x55, 0x1d, 0x11];
const HOUR = 3_600_000;

/** A certificate for `localhost`, 127.0.0.1 and ::1, valid for some hours, and its key; both as PEM. */
export function selfSigned() {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const algorithm = sequence(oid(ECDSA_WITH_SHA256));
  const name = sequence(tag(0x31, sequence(oid(COMMON_NAME), tag(0x0c, Buffer.from("localhost")))));
  const names = sequence(
    tag(0x82, Buffer.from("localhost")),
    tag(0x87, Buffer.from([127, 0, 0, 1])),
    tag(0x87, Buffer.from([...new Array(15).fill(0), 1])),
  );
  const now = Date.now();
  const contents = sequence(
    tag(0xa0, tag(0x02, Buffer.from([2]))), // Version 3, which is written as 2.
    tag(0x02, Buffer.concat([Buffer.from([0x40]), randomBytes(15)])), // A serial number is positive.
    algorithm,
    name,
    sequence(time(now - HOUR), time(now + 24 * HOUR)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    tag(0xa3, sequence(sequence(oid(SUBJECT_ALT_NAME), tag(0x04, names)))),
  );
  const signature = Buffer.concat([Buffer.from([0]), sign("sha256", contents, privateKey)]);
  return {
    certificate: pem("CERTIFICATE", sequence(contents, algorithm, tag(0x03, signature))),
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
  };
}

const sequence = (...parts) => tag(0x30, ...parts);
const oid = (bytes) => tag(0x06, Buffer.from(bytes));
// Two digits for the year, which is how certificates write it up to 2049.
const time = (when) => tag(0x17, Buffer.from(new Date(when).toISOString().replace(/^..|[-:T]|\.\d+/g, "")));

/** One DER element: its tag, how long it is, its content. */
function tag(number, ...parts) {
  const content = Buffer.concat(parts);
  const length = [];
  for (let rest = content.length; rest > 0; rest >>= 8) length.unshift(rest & 0xff);
  const head = content.length < 0x80 ? [content.length] : [0x80 | length.length, ...length];
  return Buffer.concat([Buffer.from([number, ...head]), content]);
}

function pem(label, bytes) {
  const lines = bytes.toString("base64").match(/.{1,64}/g).join("\n");
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
