"""What tests of the published benchmarks share: images, pins for files that a test wrote, and a server of files."""

import dataclasses
import hashlib
import http.server
import io
import json
import threading
import zipfile
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from PIL import Image

from medvlm_cli.benchmarks.official import Count


def picture(colour="gray", kind="JPEG"):
    """A small image file."""
    out = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, kind)
    return out.getvalue()


def pin(monkeypatch, module, contents, *counts):
    """Let ``module`` take files of these contents, one each, for the published ones, with one ``Count`` a split.

    Returns the contents as the bytes to write.
    """
    files, written, left = [], [], [Count(*count) for count in counts]
    for published, content in zip(module.BENCHMARK.files, contents, strict=True):
        data = json.dumps(content).encode()
        taken, left = left[: len(published.counts)], left[len(published.counts) :]
        files.append(dataclasses.replace(published, sha256=hashlib.sha256(data).hexdigest(), counts=tuple(taken)))
        written.append(data)
    monkeypatch.setattr(module, "BENCHMARK", dataclasses.replace(module.BENCHMARK, files=tuple(files)))
    return written


def take(module, config):
    """Rows and rejects of all keys, by question id; every key accounts for what it found."""
    keys = module.keys(config)
    assert len(set(keys)) == len(keys)
    made = [module.harvest(key, config) for key in keys]
    assert all(one.found == len(one.rows) + len(one.rejects) for one in made)
    rows = {row["question_id"]: row for one in made for row in one.rows}
    rejects = {reject.id: reject for one in made for reject in one.rejects}
    assert len(rows) + len(rejects) == sum(one.found for one in made)
    return rows, rejects


def zipped(members):
    """A zip archive of names and contents."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@contextmanager
def serving(files, headers=None):
    """A server on the loopback that answers these paths, and the list of paths it was asked for.

    ``headers`` go with every answer; they may be a function of path and body (None where there is none).
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body):
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            data = files.get(path)
            self.send_response(404 if data is None else 200)
            for name, value in (headers(path, data) if callable(headers) else headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if body:
                self.wfile.write(data or b"")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hub(monkeypatch, repository, revision, files):
    """A server that answers as the Hugging Face hub does about one data set, and the list of paths it was asked for."""
    from huggingface_hub import constants

    tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()]
    answers = {f"/datasets/{repository}/resolve/{revision}/{name}": data for name, data in files.items()}
    answers[f"/api/datasets/{repository}/tree/{revision}"] = json.dumps(tree).encode()
    with serving(answers, {"X-Repo-Commit": revision, "ETag": '"' + "0" * 40 + '"'}) as (address, asked):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield asked
