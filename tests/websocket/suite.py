"""Runs the cases of `cases.py` against a server, over sockets and with the standard library alone.

A client that uses a WebSocket library could not send half of these bytes, and would forgive the server too much.
Everything that the server sends is checked as well: never a mask, no reserved bit, lengths in their shortest form,
control frames whole and small, text in UTF-8, nothing after a close frame.
"""

import concurrent.futures
import socket
import struct
import threading
import time
from dataclasses import dataclass

import cases
from cases import BINARY, CLOSE, CONTINUE, PING, PONG, SAMPLE_KEY, TEXT

OK, LOOSE, FAILED = "OK", "LOOSE", "FAILED"
LINGER = 3.0  # seconds that a server may take to close the connection after the close frames


@dataclass
class Result:
    """LOOSE: the RFC says "should", and the server does not."""

    case: object
    verdict: str
    note: str = ""


class Violation(Exception):
    """The server sent what it must not send."""


def run(host, port, stream, echo, only=None):
    """Runs every case, or those whose id begins with `only`: handshakes with the path `stream`, one after another
    because each opens one, frames with the path `echo`, several at a time because most of them wait."""
    handshakes = [case for case in cases.all_handshakes() if not only or case.id.startswith(only)]
    chosen = [case for case in cases.all_cases() if not only or case.id.startswith(only)]
    results = [judge(case, host, port, stream) for case in handshakes]
    heavy = [case for case in chosen if case.within > 30]
    light = [case for case in chosen if case.within <= 30]
    with concurrent.futures.ThreadPoolExecutor(16) as workers:
        results += workers.map(lambda case: judge(case, host, port, echo), light)
    results += [judge(case, host, port, echo) for case in heavy]
    order = {case.id: number for number, case in enumerate([*handshakes, *chosen])}
    return sorted(results, key=lambda result: order[result.case.id])


def judge(case, host, port, path):
    try:
        if isinstance(case, cases.Handshake):
            return _judge_handshake(case, host, port, path)
        return _judge_frames(case, host, port, path)
    except Violation as violation:
        return Result(case, FAILED, str(violation))
    except OSError as error:
        return Result(case, FAILED, f"{type(error).__name__}: {error}")


# Handshakes


def _judge_handshake(case, host, port, path):
    with socket.create_connection((host, port), timeout=5) as connection:
        _send_quietly(connection, _request(case.start.format(path=path), host, port, case.lines))
        status, headers, _ = _response(connection)
    if status not in case.status:
        wanted = " or ".join(map(str, case.status))
        return Result(case, FAILED, f"answered {status} instead of {wanted}")
    for name, wanted in case.headers.items():
        got = headers.get(name.lower())
        if got != wanted and not (wanted and got and got.lower() == wanted.lower() and name != "Sec-WebSocket-Accept"):
            return Result(case, FAILED, f"{status} with {name}: {got}")
    return Result(case, OK, str(status))


def _request(start, host, port, changes):
    lines = {
        "Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": SAMPLE_KEY,
        "Sec-WebSocket-Version": "13", **changes,
    }  # fmt: skip
    text = "".join([start + "\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items() if v is not None), "\r\n"])
    return text.encode("latin-1")


def _response(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            more = connection.recv(65_536)
        except ConnectionResetError:
            more = b""
        if not more:
            raise Violation(f"the connection ended in the head of the answer: {data[:80]!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}, rest


# Frames


def _judge_frames(case, host, port, path):
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_request(f"GET {path} HTTP/1.1", host, port, {}))
        status, _, rest = _response(connection)
        if status != 101:
            return Result(case, FAILED, f"no WebSocket: {status}")
        sender = threading.Thread(target=_send, args=(connection, case.steps), daemon=True)
        sender.start()
        reader = _Reader(connection, rest, time.monotonic() + case.within)
        messages, code, end = reader.everything()
        _shut(connection)
        sender.join(5)
    return _compare(case, messages, code, end)


def _compare(case, messages, code, end):
    wants, got = list(case.wants), list(messages)
    if case.skim:
        # All data has to be there, and the pongs that are there have to be in order.
        if not _is_subsequence([m for m in got if m[0] == PONG], [m for m in wants if m[0] == PONG]):
            return Result(case, FAILED, "pongs that answer no ping, or in another order")
        wants, got = ([m for m in side if m[0] != PONG] for side in (wants, got))
    if got != wants:
        return Result(case, FAILED, f"expected {_brief(wants)}, got {_brief(got)}; end: {end}, code {code}")
    if end == "open":
        return Result(case, FAILED, f"the connection is still open (close code: {code})")
    codes = case.code if isinstance(case.code, tuple) else (case.code,)
    if code in codes:
        return Result(case, OK, f"{code}" if code else end)
    if code is None and 1000 not in codes and case.code is not None:
        return Result(case, LOOSE, f"ended ({end}) without a close frame; 7.1.7 wants {case.code}")
    return Result(case, FAILED, f"close code {code} instead of {case.code}; end: {end}")


def _is_subsequence(few, many):
    rest = iter(many)
    return all(item in rest for item in few)


def _brief(messages):
    shown = [f"{op}:{data[:20]!r}{'…' if len(data) > 20 else ''}({len(data)})" for op, data in messages[:4]]
    return "[" + ", ".join(shown) + ("…" if len(messages) > 4 else "") + f"] ({len(messages)})"


def _send(connection, steps):
    try:
        for step in steps:
            if isinstance(step, cases.Chop):
                for at in range(0, len(step.data), step.size):
                    connection.sendall(step.data[at : at + step.size])
                    time.sleep(step.pause)
            elif isinstance(step, cases.Wait):
                time.sleep(step.seconds)
            elif isinstance(step, cases.HalfClose):
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.sendall(step)
    except OSError:
        pass  # the server has closed, which the reader judges


def _send_quietly(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        pass  # an answer may have come before all was sent


def _shut(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class _Reader:
    """Takes in all that the server sends, until it closes or the time is over."""

    def __init__(self, connection, rest, deadline):
        self._connection, self._deadline = connection, deadline
        self._data = bytearray(rest)

    def everything(self):
        """Messages and pongs in order, the close code if there was a close frame, and how it ended."""
        messages, open_message, code, closed = [], None, None, False
        while True:
            got = self._frame()
            if isinstance(got, str):
                return messages, code, got
            fin, op, data = got
            if closed:
                raise Violation("a frame after the close frame")
            if op == CLOSE:
                closed, code = True, _close_code(data)
                self._deadline = min(self._deadline, time.monotonic() + LINGER)
            elif op in (PING, PONG):
                if op == PONG:
                    messages.append((PONG, data))
            elif op in (TEXT, BINARY) and open_message is None:
                open_message = [op, bytearray(data)]
            elif op == CONTINUE and open_message is not None:
                open_message[1] += data
            else:
                raise Violation(f"opcode {op} in the wrong place")
            if op < 8 and fin:
                kind, whole = open_message
                if kind == TEXT:
                    _check_text(whole)
                messages.append((kind, bytes(whole)))
                open_message = None

    def _frame(self):
        head = self._take(2)
        if isinstance(head, str):
            return head
        fin, rsv, op, masked, size = head[0] >> 7, head[0] >> 4 & 7, head[0] & 15, head[1] >> 7, head[1] & 127
        if masked:
            raise Violation("a masked frame (5.1)")
        if rsv:
            raise Violation("a reserved bit (5.2)")
        if op >= 8 and (size > 125 or not fin):
            raise Violation("a control frame that is large or fragmented (5.5)")
        if size > 125:
            width, least = (2, 126) if size == 126 else (8, 65_536)
            field = self._take(width)
            if isinstance(field, str):
                return field
            size = int.from_bytes(field, "big")
            if size < least:
                raise Violation("a length that is not in its shortest form (5.2)")
        data = self._take(size)
        return data if isinstance(data, str) else (bool(fin), op, data)

    def _take(self, size):
        while len(self._data) < size:
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "open"
            self._connection.settimeout(left)
            try:
                more = self._connection.recv(1 << 18)
            except (socket.timeout, TimeoutError):
                return "open"
            except ConnectionResetError:
                return "reset"
            if not more:
                return "closed"
            self._data += more
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken


def _close_code(data):
    if not data:
        return None
    if len(data) == 1:
        raise Violation("a close frame with one byte (5.5.1)")
    _check_text(data[2:])
    (code,) = struct.unpack(">H", data[:2])
    if code in (1005, 1006, 1015) or not 1000 <= code < 5000:
        raise Violation(f"close code {code} (7.4)")
    return code


def _check_text(data):
    try:
        bytes(data).decode()
    except UnicodeDecodeError:
        raise Violation("text that is no UTF-8 (8.1)") from None
