"""Stands for the ``vllm`` command in the tests of ``--launch``: a server, and an engine that it starts.

How both behave is in the environment variable FAKE:

    serves      healthy at once; both end when they are asked to
    slow        healthy at the third look
    sick        never healthy
    silent      does not even listen
    dies        ends with status 3, after a cause and forty more lines
    mute        ends with status 1 and no word
    killed      ends by SIGKILL, as where memory is short
    polite      both take their time to end, and say that they did
    stubborn    neither ends when it is asked to
    clinging    the engine does not
    apart       nor does it in a session of its own
    orphan      nor where the process that started it is gone
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

HOW = os.environ["FAKE"]
ENGINES = ("stubborn", "clinging", "apart", "orphan")
"""Behaviours in which the engine does not end when it is asked to."""


def main():
    quiet = [os.environ.get(name) for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")]
    if HOW == "mute":
        sys.exit(1)
    print(json.dumps({"arguments": sys.argv[1:], "quiet": quiet}), flush=True)
    if HOW == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if HOW == "dies":
        die()
    end_politely_or_not("server", stubborn=HOW == "stubborn")
    ready, tell = os.pipe()
    subprocess.Popen([sys.executable, __file__, "engine", str(tell)], pass_fds=[tell])
    os.read(ready, 1)
    if HOW == "silent":
        time.sleep(600)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    HTTPServer(("127.0.0.1", port), Health).serve_forever()


def die():
    print("\x1b[0;36m(Engine pid=7)\x1b[0;0m ValueError: no room for \x1b]0;x\x07weights", flush=True)
    print("\n".join(f"line {number}" for number in range(40)), flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(3)


def engine(tell):
    if HOW == "apart":
        os.setsid()
    if HOW == "orphan" and os.fork():
        os._exit(0)
    end_politely_or_not("engine", stubborn=HOW in ENGINES)
    os.write(tell, b".")
    time.sleep(600)


def end_politely_or_not(name, *, stubborn):
    def goodbye(number, frame):
        time.sleep(0.2)
        os.write(1, f"{name} ended\n".encode())
        os._exit(0)

    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif HOW == "polite":
        signal.signal(signal.SIGTERM, goodbye)


class Health(BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self):
        Health.looks += 1
        well = self.path == "/health" and HOW != "sick" and (HOW != "slow" or Health.looks > 2)
        self.send_response(200 if well else 503)
        self.end_headers()

    def log_message(self, *told):
        pass


if __name__ == "__main__":
    engine(int(sys.argv[2])) if sys.argv[1] == "engine" else main()
