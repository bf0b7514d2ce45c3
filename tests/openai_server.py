"""A server that says what a test tells it to, in the words of OpenAI's API; and what is left of a tree of processes."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "llama"


def completion(text="Yes.", finish="stop", **changed):
    """An answer of ``/v1/chat/completions``."""
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "model": MODEL, "choices": [choice], "usage": usage} | changed


def models(*entries):
    """An answer of ``/v1/models``: names, or names with what is behind them."""
    pairs = (entry if isinstance(entry, tuple) else (entry, None) for entry in entries)
    return {"object": "list", "data": [{"id": name, "root": root} for name, root in pairs]}


class OpenAIServer:
    """Answers on a free port of this machine; a context manager.

    ``answers`` are given one after the other, the last one again and again: a status, a body (bytes as they are, else
    as JSON) and headers.  A status of 0 closes the connection without a word.
    """

    def __init__(self, *answers, served=None, hold=None):
        self.answers = list(answers) or [(200, completion(), {})]
        self.served = served or (200, models(MODEL), {})
        self.hold = hold
        """Where given, an answer waits for this event."""
        self.bodies, self.headers, self.paths = [], [], []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def _next(self, handler, body):
        with self._lock:
            self.paths.append(handler.path)
            self.headers.append(dict(handler.headers))
            if handler.command == "GET":
                return self.served
            self.bodies.append(body)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _handler(self):
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or every answer, written in two pieces, takes 40 ms

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                status, told, headers = ours._next(self, self.rfile.read(length))
                if ours.hold is not None and self.command == "POST":
                    ours.hold.wait(30)
                if not status:
                    self.close_connection = True
                    return
                data = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *told):
                pass

        return Handler


def alive_below(pid):
    """Processes that ``pid`` started, and theirs, zombies left out."""
    found, parents = [], _parents()
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
        found += more
    return found


def gone_within(pids, seconds):
    """Whether all of these processes end in time."""
    end = time.monotonic() + seconds
    while set(pids) & _parents().keys():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _parents():
    """Every living process and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if state not in "ZX":
            found[int(path.parent.name)] = int(parent)
    return found
