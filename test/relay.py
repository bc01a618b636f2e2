"""Milvus behind a network that can be frozen, cut and opened again."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Relay:
    """Milvus behind a network that can be frozen, cut and opened again."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.running = threading.Event()
        self.running.set()
        self.sockets: list[socket.socket] = []
        self.bytes_per_s = 0.0  # 0 is without limit
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before."""
        self.listener = socket.create_server(('127.0.0.1', self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        for each in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(('127.0.0.1', self.target))
                self.sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                self.running.wait()
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)


@contextlib.contextmanager
def milvus_server(folder: Path) -> Iterator[Relay]:
    """A server of this process, of Milvus Lite, and the way to it."""
    from milvus_lite.server_manager import server_manager_instance as manager

    address = manager.start_and_get_uri(str(folder))
    assert address is not None
    way = Relay(int(address.rpartition(':')[2]))
    try:
        yield way
    finally:
        way.running.set()
        way.cut()
        manager.release_server(str(folder))


def importing(test_file: Path) -> dict[str, str]:
    """Environment of a process that can import a file of tests, as this one does."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join([str(test_file.parent), *sys.path])}
