"""A server in the user's own network that an attack would like to reach: it counts who connects."""

import socket
import threading
from contextlib import contextmanager


class Listener:
    """Counts connections, reads a little of each, and answers with what it was given."""

    def __init__(self, answer=b""):
        self.answer, self.connections, self.asked = answer, 0, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def serve(self):
        """Until the socket is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(5)
                self._reply(connection)

    def _reply(self, connection):
        try:
            self.asked.append(connection.recv(65536))
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.answer)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + self.answer)
        except OSError:
            pass

    def close(self):
        """Stop listening; wakes ``serve``."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def listening(answer=b""):
    """A ``Listener`` on loopback, in a thread."""
    listener = Listener(answer)
    thread = threading.Thread(target=listener.serve, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.close()
        thread.join(10)
