"""What a WebSocket server must do, as data: bytes that a client sends, and what has to come back.

Every case names the section of RFC 6455 that decides it. Groups 1 to 10 follow the groups of the Autobahn suite and
are strict where that suite is lenient: when a connection fails, the right close code is wanted and not only an end.
Groups H and X are what Autobahn does not have: the opening handshake, and clients that mean no good.

Deliberately absent: compression, because the server offers none (H.8 sees to that it says so).
"""

import itertools
import struct
from dataclasses import dataclass, field

TEXT, BINARY, CONTINUE, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
MIB = 1 << 20
LIMIT = 32 * MIB  # the largest message of the echo route


@dataclass
class Case:
    """`steps` are bytes to send, or one of Chop, Wait and HalfClose. `wants` are the messages and pongs that have to
    come back, in order. `code` is the close code: of the answer to our close frame, or of the failure."""

    id: str
    title: str
    rfc: str
    steps: list
    wants: list = field(default_factory=list)
    code: object = 1000  # a number, a tuple of numbers that are all right, or None for an end without a close frame
    within: float = 10.0  # seconds in which all this has to be over
    skim: bool = False  # pongs may be left out, as 5.5.3 allows


@dataclass
class Handshake:
    """`lines` replace header lines of a good request, None takes one away; `status` is what has to come back."""

    id: str
    title: str
    rfc: str
    lines: dict
    status: tuple
    start: str = "GET {path} HTTP/1.1"
    headers: dict = field(default_factory=dict)  # what the answer must have; None: must not have


@dataclass
class Chop:
    """Bytes sent in pieces of `size`, each in a packet of its own."""

    data: bytes
    size: int = 1
    pause: float = 0.0


@dataclass
class Wait:
    seconds: float


class HalfClose:
    """The client sends no more, but goes on listening."""


def mask(data, key=MASK):
    if not data:
        return b""
    stretched = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stretched, "big")).to_bytes(len(data), "big")


def frame(op, data=b"", fin=True, rsv=0, masked=True, length=None, wide=0):
    """`length` lies about the length; `wide` is the size of a length field that is larger than need be."""
    size = len(data) if length is None else length
    flag = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | op])
    if size < 126 and not wide:
        head += bytes([flag | size])
    elif size < 65_536 and wide < 8:
        head += bytes([flag | 126]) + struct.pack(">H", size)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", size)
    return head + (MASK + mask(data) if masked else data)


def close(code=1000, reason=b""):
    return frame(CLOSE, (b"" if code is None else struct.pack(">H", code)) + reason)


def fragments(op, data, size):
    """A message in frames of `size`."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return [
        frame(op if number == 0 else CONTINUE, part, fin=number == len(parts) - 1) for number, part in enumerate(parts)
    ]


def pattern(size, op=BINARY):
    """Bytes that show when a piece is missing or moved; letters where it has to be text."""
    block = bytes(range(97, 123)) if op == TEXT else bytes(range(251))
    return (block * (size // len(block) + 1))[:size]


def echo(id, title, rfc, steps, *messages, **more):
    """A case in which all is well: the messages come back, then both sides close."""
    return Case(id, title, rfc, [*steps, close()], list(messages), 1000, **more)


KINDS = {TEXT: "text", BINARY: "binary"}
HELLO = (TEXT, b"Hello")

VALID_UTF8 = {
    "kosme, in Greek": "κόσμε",
    "2 bytes, first": "\u0080",
    "2 bytes, last": "\u07ff",
    "3 bytes, first": "\u0800",
    "before the surrogates": "\ud7ff",
    "after the surrogates": "\ue000",
    "replacement character": "\ufffd",
    "3 bytes, last": "\uffff",
    "4 bytes, first": "\U00010000",
    "4 bytes, last": "\U0010ffff",
    "NUL": "\u0000",
    "noncharacters": "\ufdd0\ufffe\U0001fffe",
    "byte order mark inside": "a\ufeffb",
    "many widths": "Hello-µ@ßöäüàá-UTF-8!! \u4f60\u597d \U0001f600" * 50,
}
INVALID_UTF8 = {
    "continuation alone": b"\x80",
    "two continuations": b"\x80\xbf",
    "2 bytes, cut": b"\xc3",
    "3 bytes, cut": b"\xe2\x82",
    "4 bytes, cut": b"\xf0\x9f\x98",
    "cut before a letter": b"\xe2\x82a",
    "overlong slash, 2": b"\xc0\xaf",
    "overlong slash, 3": b"\xe0\x80\xaf",
    "overlong slash, 4": b"\xf0\x80\x80\xaf",
    "overlong, largest of 2": b"\xc1\xbf",
    "overlong, largest of 3": b"\xe0\x9f\xbf",
    "overlong, largest of 4": b"\xf0\x8f\xbf\xbf",
    "overlong NUL": b"\xc0\x80",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "above the last": b"\xf4\x90\x80\x80",
    "5 bytes": b"\xf8\x88\x80\x80\x80",
    "6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
    "good, then bad": "κόσμε".encode() + b"\xed\xa0\x80edited",
}
GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
NEWER_CODES = [1012, 1013, 1014]  # registered after the RFC
BAD_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]


def all_cases():
    for group in (framing, pings, reserved, opcodes, fragmentation, utf8, closing, limits, fragmented_sizes, hostile):
        yield from group()


def framing():
    numbers = itertools.count(1)
    for op, size in itertools.product((TEXT, BINARY), (0, 1, 125, 126, 127, 128, 65_535, 65_536)):
        data = pattern(size, op)
        title = f"{KINDS[op]} of {size} bytes"
        yield echo(f"1.{next(numbers)}", title, "5.2", [frame(op, data)], (op, data))
    for op, size in itertools.product((TEXT, BINARY), (1, 125, 126, 65_536)):
        data = pattern(size, op)
        step = 1 if size < 1000 else 997
        title = f"{KINDS[op]} of {size} bytes, {step} at a time"
        yield echo(f"1.{next(numbers)}", title, "5.2", [Chop(frame(op, data), step)], (op, data))
    many = [frame(TEXT, b"%d" % n) for n in range(500)]
    messages = [(TEXT, b"%d" % n) for n in range(500)]
    yield echo(f"1.{next(numbers)}", "500 messages in one packet", "5.4", [b"".join(many)], *messages)


def pings():
    yield echo("2.1", "ping without payload", "5.5.2", [frame(PING)], (PONG, b""))
    yield echo("2.2", "ping with text", "5.5.3", [frame(PING, b"Hello")], (PONG, b"Hello"))
    yield echo(
        "2.3", "ping with bytes that are no UTF-8", "5.5.3", [frame(PING, b"\x00\xff\xfe")], (PONG, b"\x00\xff\xfe")
    )
    yield echo("2.4", "ping of 125 bytes", "5.5", [frame(PING, pattern(125))], (PONG, pattern(125)))
    yield Case("2.5", "ping of 126 bytes", "5.5", [frame(PING, pattern(126))], [], 1002)
    yield echo("2.6", "ping of 125 bytes, byte by byte", "5.5", [Chop(frame(PING, pattern(125)))], (PONG, pattern(125)))
    yield echo("2.7", "pong that nobody asked for", "5.5.3", [frame(PONG)])
    yield echo("2.8", "pong with payload, then ping", "5.5.3", [frame(PONG, b"a"), frame(PING, b"b")], (PONG, b"b"))
    ten = [Chop(frame(PING, b"%d" % n), 100) for n in range(10)]
    yield echo("2.9", "ten pings", "5.5.3", ten, *[(PONG, b"%d" % n) for n in range(10)], skim=True)
    yield Case("2.10", "pong of 126 bytes", "5.5", [frame(PONG, pattern(126))], [], 1002)


def reserved():
    numbers = itertools.count(1)
    for op, rsv in itertools.product((TEXT, BINARY, PING, CLOSE), range(1, 8)):
        name = {**KINDS, PING: "ping", CLOSE: "close"}[op]
        steps = [frame(TEXT, b"Hello"), frame(op, b"", rsv=rsv)]
        yield Case(f"3.{next(numbers)}", f"text, then {name} with RSV {rsv:03b}", "5.2", steps, [HELLO], 1002)
    steps = [Chop(frame(TEXT, b"Hello") + frame(TEXT, b"Hello", rsv=4))]
    yield Case(f"3.{next(numbers)}", "RSV 100, byte by byte", "5.2", steps, [HELLO], 1002)
    steps = [frame(TEXT, b"a", fin=False), frame(CONTINUE, b"b", rsv=2)]
    yield Case(f"3.{next(numbers)}", "RSV 010 in a continuation", "5.2", steps, [], 1002)


def opcodes():
    for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        steps = [frame(TEXT, b"Hello"), frame(op, b"" if op % 2 else b"payload"), frame(PING)]
        yield Case(f"4.{op}", f"text, then opcode {op}", "5.2", steps, [HELLO], 1002)
    yield Case("4.16", "opcode 5, byte by byte", "5.2", [Chop(frame(5, b"payload"))], [], 1002)


def fragmentation():
    yield Case("5.1", "ping in two fragments", "5.4", [*fragments(PING, b"ab", 1)], [], 1002)
    yield Case("5.2", "pong in two fragments", "5.4", [*fragments(PONG, b"ab", 1)], [], 1002)
    yield Case("5.3", "close in two fragments", "5.4", [*fragments(CLOSE, b"\x03\xe8", 1)], [], 1002)
    numbers = itertools.count(4)
    for op in (TEXT, BINARY):
        two = fragments(op, b"fragment1fragment2", 9)
        whole = (op, b"fragment1fragment2")
        kind = KINDS[op]
        yield echo(f"5.{next(numbers)}", f"{kind} in two fragments", "5.4", two, whole)
        yield echo(f"5.{next(numbers)}", f"{kind} in two fragments, one packet", "5.4", [b"".join(two)], whole)
        yield echo(f"5.{next(numbers)}", f"{kind} in two fragments, byte by byte", "5.4", [Chop(b"".join(two))], whole)
        steps = [two[0], frame(PING, b"p"), two[1]]
        yield echo(f"5.{next(numbers)}", f"{kind} with a ping between", "5.4", steps, (PONG, b"p"), whole)
        yield echo(f"5.{next(numbers)}", f"{kind} with a pong between", "5.4", [two[0], frame(PONG), two[1]], whole)
        empty = [frame(op, b"", fin=False), frame(CONTINUE, b"", fin=False), frame(CONTINUE, b"")]
        yield echo(f"5.{next(numbers)}", f"{kind} in three empty fragments", "5.4", empty, (op, b""))
        edges = [frame(op, b"", fin=False), frame(CONTINUE, b"middle", fin=False), frame(CONTINUE, b"")]
        yield echo(f"5.{next(numbers)}", f"{kind}: empty, middle, empty", "5.4", edges, (op, b"middle"))
    for fin in (True, False):
        alone = frame(CONTINUE, b"x", fin=fin)
        name = f"continuation (FIN={fin:d})"
        yield Case(f"5.{next(numbers)}", f"{name} of nothing", "5.4", [alone, frame(TEXT, b"Hello")], [], 1002)
        steps = [frame(TEXT, b"Hello"), alone]
        yield Case(f"5.{next(numbers)}", f"{name} after a whole message", "5.4", steps, [HELLO], 1002)
    for op in (TEXT, BINARY):
        steps = [frame(op, b"a", fin=False), frame(op, b"b"), frame(CONTINUE, b"c")]
        yield Case(f"5.{next(numbers)}", f"new {KINDS[op]} inside a message", "5.4", steps, [], 1002)
    steps = [frame(TEXT, b"a", fin=False), frame(PING, b"1"), Wait(0.2), frame(CONTINUE, b"b", fin=False)]
    steps += [frame(PING, b"2"), Wait(0.2), frame(CONTINUE, b"c")]
    wants = [(PONG, b"1"), (PONG, b"2"), (TEXT, b"abc")]
    yield echo(f"5.{next(numbers)}", "slow fragments with pings between", "5.4", steps, *wants)
    steps = [frame(TEXT, b"a", fin=False), close()]
    yield Case(f"5.{next(numbers)}", "close inside a message", "5.4, 5.5.1", steps, [], 1000)


def utf8():
    numbers = itertools.count(1)
    for name, text in VALID_UTF8.items():
        data = text.encode("utf-8", "surrogatepass")
        yield echo(f"6.{next(numbers)}", f"valid: {name}", "8.1", [frame(TEXT, data)], (TEXT, data))
    for name, text in VALID_UTF8.items():
        data = text.encode()
        if 1 < len(data) < 100:
            steps = fragments(TEXT, data, 1)
            yield echo(f"6.{next(numbers)}", f"valid, a byte per fragment: {name}", "5.6", steps, (TEXT, data))
    data = VALID_UTF8["many widths"].encode()
    for size in (2, 3, 5, 7):
        steps = fragments(TEXT, data, size)
        yield echo(f"6.{next(numbers)}", f"valid, {size} bytes per fragment: many widths", "5.6", steps, (TEXT, data))
    for name, data in INVALID_UTF8.items():
        yield Case(f"6.{next(numbers)}", f"invalid: {name}", "8.1", [frame(TEXT, data)], [], 1007)
    for name, data in INVALID_UTF8.items():
        if len(data) > 1:
            steps = fragments(TEXT, data, 1)
            yield Case(f"6.{next(numbers)}", f"invalid, a byte per fragment: {name}", "8.1", steps, [], 1007)
    for name in ("overlong slash, 2", "first surrogate", "above the last", "good, then bad"):
        steps = [frame(TEXT, INVALID_UTF8[name], fin=False)]
        title = f"fails before the message ends: {name}"
        yield Case(f"6.{next(numbers)}", title, "8.1", steps, [], 1007, within=2)
    steps = [frame(TEXT, "κόσμε".encode(), fin=False), frame(CONTINUE, b"\xf4\x90", fin=False)]
    yield Case(f"6.{next(numbers)}", "fails at the bytes that cannot go on", "8.1", steps, [], 1007, within=2)
    steps = [frame(TEXT, "κόσμε".encode() + b"\xf4\x90\x80\x80" + bytes(20))[:-20]]
    yield Case(f"6.{next(numbers)}", "fails before the frame ends", "8.1", steps, [], 1007, within=2)
    data = INVALID_UTF8["good, then bad"]
    yield echo(f"6.{next(numbers)}", "binary may be anything", "5.6", [frame(BINARY, data)], (BINARY, data))


def closing():
    yield echo("7.1", "text, then close", "5.5.1", [frame(TEXT, b"Hello")], HELLO)
    yield Case("7.2", "two closes", "5.5.1", [close(), close()])
    yield Case("7.3", "ping after close", "5.5.1", [close(), frame(PING, b"p")])
    yield Case("7.4", "text after close", "5.5.1", [close(), frame(TEXT, b"Hello")])
    steps = [frame(TEXT, b"a", fin=False), close(), frame(CONTINUE, b"b")]
    yield Case("7.5", "rest of a message after close", "5.5.1", steps)
    large = pattern(65_536, TEXT)
    steps = [frame(TEXT, large) + close() + frame(PING)]
    yield Case("7.6", "64 KiB, close and more in one packet", "5.5.1", steps, [(TEXT, large)])
    yield Case("7.7", "close without payload", "5.5.1", [close(None)], [], (None, 1000, 1005))
    yield Case("7.8", "close with one byte", "5.5.1", [frame(CLOSE, b"\x03")], [], 1002)
    yield Case("7.9", "close with a reason", "5.5.1", [close(1000, "Grüße".encode())])
    yield Case("7.10", "close with a reason of 123 bytes", "5.5", [close(1000, pattern(123, TEXT))])
    yield Case("7.11", "close with a reason of 124 bytes", "5.5", [close(1000, pattern(124, TEXT))], [], 1002)
    yield Case(
        "7.12", "close with a reason that is no UTF-8", "5.5.1", [close(1000, b"\xed\xa0\x80")], [], (1007, 1002)
    )
    yield Case("7.13", "close, byte by byte", "5.5.1", [Chop(close(4321, b"bye"))], [], 4321)
    numbers = itertools.count(14)
    for code in GOOD_CODES:
        yield Case(f"7.{next(numbers)}", f"code {code} is answered with itself", "7.4", [close(code)], [], code)
    for code in NEWER_CODES:
        title = f"code {code} is answered with itself, or refused"
        yield Case(f"7.{next(numbers)}", title, "7.4.2", [close(code)], [], (code, 1002))
    for code in BAD_CODES:
        yield Case(f"7.{next(numbers)}", f"code {code} must not be sent", "7.4", [close(code)], [], 1002)


def limits():
    numbers = itertools.count(1)
    for op, size in itertools.product((TEXT, BINARY), (64 << 10, 256 << 10, MIB, 4 * MIB, 8 * MIB, 16 * MIB)):
        data = pattern(size, op)
        title = f"{KINDS[op]} of {size >> 10} KiB"
        yield echo(f"9.{next(numbers)}", title, "5.2", [frame(op, data)], (op, data), within=60)
    for op, size in itertools.product((TEXT, BINARY), (64, 1 << 10, 64 << 10, MIB)):
        data = pattern(4 * MIB, op)
        title = f"{KINDS[op]} of 4 MiB in fragments of {size} bytes"
        yield echo(f"9.{next(numbers)}", title, "5.4", fragments(op, data, size), (op, data), within=60)
    data = pattern(MIB)
    for size in (64, 1 << 10):
        title = f"binary of 1 MiB in packets of {size} bytes"
        yield echo(f"9.{next(numbers)}", title, "5.2", [Chop(frame(BINARY, data), size)], (BINARY, data), within=60)
    for size in (0, 16, 1 << 10, 16 << 10):
        data = pattern(size)
        steps, wants = [frame(BINARY, data)] * 1000, [(BINARY, data)] * 1000
        yield echo(f"9.{next(numbers)}", f"1,000 messages of {size} bytes", "5.4", steps, *wants, within=60)
    data = pattern(LIMIT)
    yield echo(f"9.{next(numbers)}", "as large as the limit", "10.4", [frame(BINARY, data)], (BINARY, data), within=60)
    steps = [frame(BINARY, b"", length=LIMIT + 1)]
    yield Case(f"9.{next(numbers)}", "one byte too large: refused at its header", "7.4.1", steps, [], 1009, within=2)
    half = pattern(LIMIT // 2 + 1)
    steps = [frame(BINARY, half, fin=False), frame(CONTINUE, half)]
    yield Case(f"9.{next(numbers)}", "two halves that are too large together", "7.4.1", steps, [], 1009, within=30)


def fragmented_sizes():
    data = pattern(65_536, TEXT)
    yield echo("10.1", "64 KiB in fragments of 1,300 bytes", "5.4", fragments(TEXT, data, 1300), (TEXT, data))
    yield echo("10.2", "64 KiB in fragments of 1,300 bytes, packets of 536", "5.4",
               [Chop(b"".join(fragments(TEXT, data, 1300)), 536)], (TEXT, data))  # fmt: skip


def hostile():
    yield Case("X.1", "frame without a mask", "5.1", [frame(TEXT, b"Hello", masked=False)], [], 1002)
    yield Case("X.2", "ping without a mask", "5.1", [frame(PING, b"", masked=False)], [], 1002)
    yield Case("X.3", "length of 2^63 - 1", "10.4", [frame(BINARY, b"", length=(1 << 63) - 1)], [], 1009, within=2)
    steps = [frame(BINARY, b"", length=1 << 63)]
    yield Case("X.4", "length with its first bit set", "5.2", steps, [], (1002, 1009), within=2)
    steps = [Chop(frame(TEXT, b"Hello") + frame(BINARY, pattern(130)) + frame(PING, b"p"), 1, 0.003)]
    wants = [HELLO, (BINARY, pattern(130)), (PONG, b"p")]
    yield echo("X.5", "a byte every 3 ms", "5.2", steps, *wants)
    data = pattern(20_000, TEXT)
    yield echo("X.6", "20,000 fragments of one byte", "10.4", fragments(TEXT, data, 1), (TEXT, data), within=30)
    steps = [frame(TEXT, b"a", fin=False), frame(CONTINUE, b"", fin=False) * 50_000, frame(CONTINUE, b"z")]
    yield echo("X.7", "50,000 empty fragments", "10.4", steps, (TEXT, b"az"), within=30)
    steps = [b"".join(frame(PING, b"%d" % n) for n in range(20_000)), frame(TEXT, b"Hello")]
    wants = [*[(PONG, b"%d" % n) for n in range(20_000)], HELLO]
    yield echo("X.8", "20,000 pings at once", "5.5.3", steps, *wants, within=30, skim=True)
    yield Case("X.9", "no more bytes, between messages", "7.1.1", [frame(TEXT, b"Hello"), Wait(0.2), HalfClose()],
               [HELLO], None, within=5)  # fmt: skip
    steps = [frame(TEXT, b"Hello")[:-2], HalfClose()]
    yield Case("X.10", "no more bytes, inside a frame", "7.1.1", steps, [], None, within=5)
    steps = [frame(TEXT, b"Hello", fin=False), HalfClose()]
    yield Case("X.11", "no more bytes, inside a message", "7.1.1", steps, [], None, within=5)
    steps = [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    yield Case("X.12", "another HTTP request instead of a frame", "5.1, 5.2", steps, [], 1002)
    for number, wide in ((13, 2), (14, 8)):
        # 5.2 forbids a client to send this and does not tell a server to mind. Both ways are sound.
        steps = [frame(TEXT, b"Hello", wide=wide)]
        yield Case(
            f"X.{number}", f"{wide} bytes of length where none is needed", "5.2", [*steps, close()], [HELLO], 1000
        )


SAMPLE_KEY, SAMPLE_ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def all_handshakes():
    good = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": SAMPLE_ACCEPT}
    refused = (400, 426)
    number = ("H.%d" % n for n in itertools.count(1))

    def case(title, rfc, lines, status, **more):
        return Handshake(next(number), title, rfc, lines, status, **more)

    yield case("as in the RFC", "1.3", {}, (101,), headers={**good, "Sec-WebSocket-Protocol": None})
    yield case("names in other cases", "4.2.1", {"Upgrade": "WebSocket", "Connection": "UPGRADE"}, (101,), headers=good)
    yield case("Connection: keep-alive, Upgrade", "4.2.1", {"Connection": "keep-alive, Upgrade"}, (101,), headers=good)
    unknown = {"Sec-WebSocket-Protocol": "chat, superchat"}
    yield case("only unknown subprotocols", "4.2.2", unknown, (101,), headers={"Sec-WebSocket-Protocol": None})
    known = {"Sec-WebSocket-Protocol": "chat, whisperwire.v1, whisperwire.key.abc"}
    yield case("ours among subprotocols", "4.2.2", known, (101,), headers={"Sec-WebSocket-Protocol": "whisperwire.v1"})
    yield case("Origin of another site, without a browser's rights", "10.2", {"Origin": "null"}, (403,))
    deflate = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, x-unknown"}
    yield case("unknown header lines", "4.1", {"X-Something": "\xe4" * 40}, (101,), headers=good)
    yield case("extensions that are not offered", "9.1", deflate, (101,), headers={"Sec-WebSocket-Extensions": None})
    yield case("no key", "4.2.1", {"Sec-WebSocket-Key": None}, (400,))
    yield case("key of 15 bytes", "4.2.1", {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAA"}, (400,))
    yield case("key that is no base64", "4.2.1", {"Sec-WebSocket-Key": "!!!!!!!!!!!!!!!!!!!!!!=="}, (400,))
    yield case("empty key", "4.2.1", {"Sec-WebSocket-Key": ""}, (400,))
    offered = {"Sec-WebSocket-Version": "13"}
    yield case("version 8", "4.4", {"Sec-WebSocket-Version": "8"}, (426,), headers=offered)
    yield case("version 99", "4.4", {"Sec-WebSocket-Version": "99"}, (426,), headers=offered)
    yield case("no version", "4.4", {"Sec-WebSocket-Version": None}, refused, headers=offered)
    yield case("no Upgrade", "4.2.1", {"Upgrade": None}, refused)
    yield case("Upgrade to something else", "4.2.1", {"Upgrade": "h2c"}, refused)
    yield case("no Connection", "4.2.1", {"Connection": None}, refused)
    yield case("Connection: close", "4.2.1", {"Connection": "close"}, refused)
    yield case("Connection: noupgrade", "4.2.1", {"Connection": "noupgrade"}, refused)
    yield case("no Host", "4.2.1", {"Host": None}, (400,))
    yield case("POST", "4.2.1", {"Content-Length": "0"}, (200, 400, 405, 415, 426), start="POST {path} HTTP/1.1")
    yield case("HEAD", "4.2.1", {}, (400, 405, 426), start="HEAD {path} HTTP/1.1")
    yield case("HTTP/1.0", "4.2.1", {}, (400, 426, 505), start="GET {path} HTTP/1.0")
    yield case("a path that is none", "4.2.2", {}, (404,), start="GET {path}/none HTTP/1.1")
    yield case("100 KiB of header lines", "4.2.1", {"X-Large": "x" * 100_000}, (101, 400, 431))
    yield case("no HTTP at all", "4.2.1", {}, (400,), start="\x16\x03\x01\x02")
