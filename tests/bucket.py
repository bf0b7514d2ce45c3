"""A bucket and NCBI's E-utilities on loopback, slow and faulty on demand; it remembers every request.

``python -m tests.bucket --articles 1000 --latency 0.05 --faults 0.05`` serves until its stdin is closed.
"""

import argparse
import asyncio
import bisect
import itertools
import json
import random
import sys
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.corpus import Article, md5, objects_of

FAULTS = (
    "429", "429 until", "500", "503", "cut", "unannounced cut", "chunked cut", "reset", "flip", "html", "empty", "drip",
)  # fmt: skip
_PAGE = 1000


class Bucket:
    """Objects by key, served over HTTP/1.1.

    Args:
        objects: what is there.
        latency: seconds before each answer.
        faults: share of requests that go wrong.
        seed: which ones.
        kinds: what goes wrong.
        ids: what every search of the E-utilities finds; numbers.
        found: what a search finds that has these words in it.
    """

    def __init__(self, objects, *, latency=0.0, faults=0.0, seed=0, kinds=FAULTS, ids=(), found=None, log=None):
        self.objects, self.latency, self.faults, self.kinds = dict(objects), latency, faults, kinds
        self.ids, self.found = list(ids), found or {}
        self.frozen = {}
        """Sets on the history server, by WebEnv."""
        self.searches = []
        """(seconds, query) of every search."""
        self.log = []
        """(seconds, path with query, what was answered)."""
        self.answered = []
        """(seconds, path with query) of what was handed to the network whole."""
        self.log_file = log
        self._random = random.Random(seed)
        self._sorted = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def asked(self, ending=""):
        """Keys that were asked for with GET and answered whole, in order."""
        return [path[1:] for _, path, what in self.log if what == "ok" and "?" not in path and path.endswith(ending)]

    async def serve(self):
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode("latin-1")
                if not await self._answer(target, reader, writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, target, reader, writer):
        began = time.monotonic()
        if self.latency:
            await asyncio.sleep(self.latency)
        if reader.at_eof():  # killed while it waited: no answer reaches it
            return False
        fault = self._random.choice(self.kinds) if self._random.random() < self.faults else "ok"
        status, body, headers = self._find(target)
        entry = (began, unquote(target), fault if status == 200 else f"{status}")
        if fault != "ok":  # who is dripped at may hang up
            self._note(entry)
        kept = await self._send(fault, status, body, headers, writer)
        if fault == "ok":
            self._note(entry)
            if status == 200:
                self.answered.append((time.monotonic(), entry[1]))
        return kept

    def _note(self, entry):
        self.log.append(entry)
        if self.log_file:
            self.log_file.write(json.dumps(entry) + "\n")
            self.log_file.flush()

    async def _send(self, fault, status, body, headers, writer):
        length = len(body)
        if fault[:3] in ("429", "500", "503"):
            pause = {"429": "1", "429 until": formatdate(time.time() + 1, usegmt=True)}.get(fault)
            status, body, headers = int(fault[:3]), b"<Error/>", {"Retry-After": pause} if pause else {}
            length = len(body)
        elif fault == "reset":
            writer.transport.abort()
            return False
        elif fault == "flip" and body:
            at = self._random.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        elif fault == "html":
            body = b"<html><body>Sorry, the service is unavailable.</body></html>"
            length = len(body)
        elif fault == "empty":
            body, length = b"", 0
        cut = fault.endswith("cut") and len(body) > 1
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        told = {"unannounced cut": "Connection: close", "chunked cut": "Transfer-Encoding: chunked"}
        lines += [told.get(fault, f"Content-Length: {length}")]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if fault == "chunked cut":
            writer.write(f"{length:x}\r\n".encode())
        if fault == "drip":
            for at in range(min(60, len(body))):
                writer.write(body[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0.3)
            return False
        writer.write(body[: len(body) // 2] if cut else body)
        await writer.drain()
        return not cut and not fault.endswith("cut")

    def _find(self, target):
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/esearch.fcgi"):
            return self._search(query)
        if query.get("list-type") == "2":
            return 200, self._list(query), {"Content-Type": "application/xml"}
        key = unquote(parts.path)[1:]
        if key not in self.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        return 200, self.objects[key], {"ETag": f'"{md5(self.objects[key])}"'}

    def _list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, folders = [], {}
        if self._sorted is None or len(self._sorted) != len(self.objects):
            self._sorted = sorted(self.objects)
        first = bisect.bisect_left(self._sorted, prefix)
        for key in itertools.takewhile(lambda key: key.startswith(prefix), itertools.islice(self._sorted, first, None)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders[prefix + rest.split(delimiter)[0] + delimiter] = None
            else:
                keys.append(key)
        after = query.get("continuation-token", "")
        page = [key for key in keys if key > after][:_PAGE]
        more = bool(page) and page[-1] != keys[-1]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{md5(self.objects[key])}&quot;</ETag></Contents>"
            for key in page
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}{prefixes}</ListBucketResult>"
        ).encode()

    def _search(self, query):
        """As ESearch: a set kept with ``usehistory`` is read by its WebEnv and ``term=#1``, whatever changed since."""
        self.searches.append((time.monotonic(), query))
        term, environment = query.get("term", ""), query.get("WebEnv", f"MCID_{len(self.frozen)}")
        if term == "#1":
            ids = self.frozen.get(environment, [])
        else:
            ids = next((ids for words, ids in self.found.items() if words in term), self.ids)
        if query.get("usehistory") == "y":
            self.frozen.setdefault(environment, list(ids))
        start, most = int(query.get("retstart", 0)), int(query.get("retmax", 20))
        result = {
            "count": str(len(ids)), "retmax": str(most), "retstart": str(start), "querykey": "1",
            "webenv": environment, "idlist": [str(one) for one in ids[start : start + most]],
        }  # fmt: skip
        return 200, json.dumps({"header": {}, "esearchresult": result}).encode(), {}


@contextmanager
def serving(objects, *, bucket=None, **options):
    """A ``Bucket``, or the one given, in a thread of this process."""
    bucket = bucket or Bucket(objects, **options)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def run():
        async with await bucket.serve():
            bucket.end = asyncio.Event()
            started.set()
            await bucket.end.wait()
        open_connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield bucket
    finally:
        loop.call_soon_threadsafe(bucket.end.set)
        thread.join(10)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--articles", type=int, default=1000)
    parser.add_argument("--figures", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 48))
    parser.add_argument("--words", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=argparse.FileType("a"))
    given = parser.parse_args()
    articles = [
        Article(n, figures=given.figures, size=tuple(given.size), words=given.words)
        for n in range(1, given.articles + 1)
    ]
    bucket = Bucket(
        objects_of(articles), latency=given.latency, faults=given.faults, seed=given.seed,
        ids=range(1, given.articles + 1), log=given.log,
    )  # fmt: skip

    async def run():
        async with await bucket.serve():
            print(bucket.url, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(run())


if __name__ == "__main__":
    main()
