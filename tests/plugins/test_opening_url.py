"""Images from addresses: what a stranger's address may do is nothing but send one picture.  Loopback servers only."""

import asyncio
import gzip
import io
import ipaddress
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.errors import ConfigError, DataError, MedVLMError, RemoteError
from medvlm_cli.sources import remote_image
from medvlm_cli.sources.opening import open_place
from medvlm_cli.sources.remote_image import open_url

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8)


def png():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", pnginfo=None)
    return out.getvalue()


class Server:
    """Answers by path: (status, body, headers), or a coroutine that is given the writer; counts connections."""

    def __init__(self, answers):
        self.answers, self.connections, self.asked = answers, 0, []

    @property
    def place(self):
        return f"127.0.0.1:{self.port}"

    def url(self, path):
        return f"http://{self.place}/{path}"

    async def _connection(self, reader, writer):
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.decode("latin-1"))
            answer = self.answers.get(head.split(b" ", 2)[1].decode()[1:], (404, b"", {}))
            if callable(answer):
                await answer(writer)
            else:
                status, body, headers = answer
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
                length = [] if "Content-Length" in headers else [f"Content-Length: {len(body)}"]
                writer.write("\r\n".join([*lines, *length]).encode() + b"\r\n\r\n" + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@contextmanager
def serving(answers):
    server, ready, ended = Server(answers), threading.Event(), asyncio.Event()

    async def main():
        listening = await asyncio.start_server(server._connection, "127.0.0.1", 0)
        server.port, server.loop = listening.sockets[0].getsockname()[1], asyncio.get_running_loop()
        ready.set()
        await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(ended.set)
        thread.join(10)


@pytest.fixture
def forbidden():
    """A server in the user's own network, which would gladly answer."""
    with serving({"": (200, png(), {}), "secret": (200, png(), {})}) as server:
        yield server


def get(server, path="x.png"):
    return open_url(server.url(path), trusted={server.place})


def test_an_image_is_fetched_and_called_by_its_last_name():
    with serving({"a/scan%201.png?token=s3cret": (200, png(), {})}) as server:
        opened = get(server, "a/scan%201.png?token=s3cret")
    assert (opened.name, opened.width, opened.height) == ("scan 1.png", 80, 70)
    assert opened.data == png()
    assert "s3cret" not in repr(opened)


def test_nothing_but_a_program_and_its_wish_is_told_to_the_host():
    with serving({"x.png": (200, png(), {"Set-Cookie": "a=b"})}) as server:
        get(server)
    names = sorted(line.split(":")[0] for line in server.asked[0].splitlines()[1:] if line)
    assert names == ["Accept", "Accept-Encoding", "Host", "User-Agent"]


def test_an_address_needs_to_be_allowed(forbidden):
    with pytest.raises(ConfigError, match="is an address, not a file") as caught:
        open_place(forbidden.url("x.png?token=s3cret"))
    assert "--allow-url" in caught.value.fix
    assert "s3cret" not in str(caught.value)
    assert forbidden.connections == 0


def test_a_path_is_opened_as_a_file(tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    assert open_place(str(tmp_path / "x.png"), allow_url=True).name == "x.png"


ATTACKS = {
    "file": "file:///etc/hostname",
    "ftp": "ftp://127.0.0.1:{port}/x.png",
    "plain http": "http://127.0.0.1:{port}/x.png",
    "plain http to a public host": "http://public.example/x.png",
    "ftp to a public host": "ftp://public.example/x.png",
    "IPv4": "https://127.0.0.1:{port}/x.png",
    "IPv6": "https://[::1]:{port}/x.png",
    "IPv4 in IPv6": "https://[::ffff:127.0.0.1]:{port}/x.png",
    "decimal": "https://2130706433:{port}/x.png",
    "hexadecimal": "https://0x7f000001:{port}/x.png",
    "octal": "https://0177.0.0.1:{port}/x.png",
    "short": "https://127.1:{port}/x.png",
    "unspecified": "https://0.0.0.0:{port}/x.png",
    "user": "https://public.example@127.0.0.1:{port}/x.png",
    "user before a public host": "https://127.0.0.1:{port}@public.example/x.png",
    "backslash": "https://public.example\\@127.0.0.1:{port}/x.png",
    "localhost": "https://localhost:{port}/x.png",
    "name below localhost": "https://a.localhost:{port}/x.png",
    "private": "https://192.168.0.1:{port}/x.png",
    "link-local": "https://169.254.169.254/latest/meta-data/",
    "fullwidth digits": "https://１２７.0.0.1:{port}/x.png",
    "ideographic stops": "https://127。0。0。1:{port}/x.png",
    "new line": "https://public.example\r\nHost: a/x.png",
    "no host": "https:///x.png",
    "broken": "https://[::1/x.png",
    "port": "https://127.0.0.1:99999/x.png",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_address_that_is_not_public_is_refused_before_anybody_is_asked(forbidden, attack):
    with pytest.raises(ConfigError):
        open_place(ATTACKS[attack].format(port=forbidden.port), allow_url=True)
    assert forbidden.connections == 0


REDIRECTS = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata over https": "https://169.254.169.254/latest/meta-data/",
    "plain http": "http://{place}/secret",
    "another port of this machine": "https://{place}/secret",
    "without a scheme": "//{place}/secret",
    "localhost": "https://localhost:{port}/secret",
    "decimal": "https://2130706433:{port}/secret",
    "IPv4 in IPv6": "https://[::ffff:127.0.0.1]:{port}/secret",
    "user": "https://public.example@127.0.0.1:{port}/secret",
    "password": "https://name:word@public.example/x.png",
    "plain http to a public host": "http://public.example/x.png",
    "file": "file:///etc/hostname",
    "data": "data:image/png;base64,AAAA",
}


@pytest.mark.parametrize("where", REDIRECTS)
def test_a_redirect_leads_nowhere_but_to_public_hosts(forbidden, where):
    target = REDIRECTS[where].format(place=forbidden.place, port=forbidden.port)
    with serving({"x.png": (302, b"", {"Location": target})}) as server, pytest.raises(RemoteError, match="redirects"):
        get(server)
    assert (server.connections, forbidden.connections) == (1, 0)


def resolving(monkeypatch, answers):
    """Names resolve to the given addresses, one answer a question."""
    asked = []

    def getaddrinfo(host, port, *_, **__):
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fd00::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_into_a_private_network_is_not_connected_to(forbidden, monkeypatch, address):
    asked = resolving(monkeypatch, [address])
    with pytest.raises(RemoteError, match="private network"):
        open_url(f"https://images.example:{forbidden.port}/secret")
    assert (set(asked), forbidden.connections) == ({"images.example"}, 0)


def test_a_name_that_changes_its_mind_is_asked_once_and_not_connected_to(forbidden, monkeypatch):
    resolving(monkeypatch, ["127.0.0.1", "192.0.2.1"])
    with pytest.raises(RemoteError):
        open_url(f"https://rebind.example:{forbidden.port}/secret")
    assert forbidden.connections == 0


def test_the_socket_has_the_last_word(forbidden, monkeypatch):
    monkeypatch.setattr(remote_image, "is_private", lambda host: False)  # as if a way around the names were found
    with pytest.raises(RemoteError, match="private network"):
        open_url(f"https://127.0.0.1:{forbidden.port}/secret")
    assert forbidden.connections == 0


def test_too_many_redirects_end():
    with (
        serving({"x.png": (302, b"", {"Location": "/x.png"})}) as server,
        pytest.raises(RemoteError, match="more than 3"),
    ):
        get(server)
    assert server.connections == 4


def test_a_redirect_within_a_host_is_followed():
    with serving({"x.png": (301, b"", {"Location": "/y.png"}), "y.png": (200, png(), {})}) as server:
        assert get(server).width == 80


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "image/png"}])
def test_what_is_no_picture_is_refused_whatever_it_says(headers):
    page = b"<html><script>alert(1)</script></html>"
    with serving({"x.png": (200, page, headers)}) as server, pytest.raises(DataError, match="unknown format"):
        get(server)


def test_a_page_that_is_not_there_is_told_without_its_query():
    with serving({}) as server, pytest.raises(RemoteError, match="status 404") as caught:
        get(server, "x.png?token=s3cret")
    assert "s3cret" not in str(caught.value)


def test_an_announced_size_over_the_limit_is_not_read():
    big = {"Content-Length": str(50_000_001)}
    with (
        serving({"x.png": (200, b"", big)}) as server,
        pytest.raises(RemoteError, match="over the limit of 50,000,000"),
    ):
        get(server)


def test_a_body_that_does_not_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(remote_image, "MAX_BYTES", 100_000)

    async def endless(writer):
        writer.write(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(bytes(10_000))
            await writer.drain()

    with serving({"x.png": endless}) as server, pytest.raises(RemoteError, match="over the limit"):
        get(server)


def test_a_body_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(remote_image, "WINDOW", 0.3)

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 9999\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    with serving({"x.png": drip}) as server, pytest.raises(RemoteError, match="too slow"):
        get(server)


def test_a_host_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(remote_image, "SECONDS", 0.3)

    async def silent(writer):
        await asyncio.sleep(30)

    with serving({"x.png": silent}) as server, pytest.raises(RemoteError, match=r"not there after 0\.3 s"):
        get(server)


def test_a_body_that_is_shorter_than_announced_is_refused():
    short = {"Content-Length": "9999"}
    with serving({"x.png": (200, png()[:50], short)}) as server, pytest.raises(MedVLMError):
        get(server)


def test_a_compressed_body_is_not_inflated():
    packed = (200, gzip.compress(png()), {"Content-Encoding": "gzip"})
    with serving({"x.png": packed}) as server, pytest.raises(DataError, match="unknown format"):
        get(server)
