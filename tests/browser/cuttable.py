"""A TCP relay to the server whose connections a test can cut, to see what the page makes of it."""

import socket
import struct
import threading


class Relay:
    """Listens on a free port of the loopback and passes everything on, until the end of the `with` block."""

    def __init__(self, host, port):
        self.target = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.pairs = []
        self.down = False
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.reset()

    def reset(self):
        """Breaks all connections at once, as when a host goes away, and refuses new ones until `mend`."""
        return self.part(struct.pack("ii", 1, 0))

    def end(self):
        """Ends all connections as TCP does, without a word of the protocol above it; then as `reset`."""
        return self.part(struct.pack("ii", 0, 0))

    def part(self, linger):
        with self.lock:
            self.down = True
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            pair.part(linger)
        return len(pairs)

    def mend(self):
        """Takes connections again."""
        with self.lock:
            self.down = False

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                try:
                    if self.down:
                        raise ConnectionRefusedError
                    self.pairs.append(Pair(client, socket.create_connection(self.target)))
                except OSError:
                    client.close()


class Pair:
    """A connection and what it is passed on to."""

    def __init__(self, client, server):
        self.ends = (client, server)
        self.parted = False
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            if not self.parted:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def part(self, linger):
        self.parted = True
        for end in self.ends:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end.shutdown(socket.SHUT_RD)  # Wakes the thread that reads; only then `close` reaches the other side.
            except OSError:
                pass
            end.close()
