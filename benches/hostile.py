"""Attacks `nicplug serve` on loopback, and measures what a well-behaved client notices: hostile.py NICPLUG [WORD...]

A client in a process of its own sends one review after the other on 4 connections, before, during and after an attack.
The attackers have the lowest priority: on machines of their own they would take no processor from the server.
After an attack the resident memory and the open files of the server are compared with those before. Each attack has a
fixed number of connections, and ends after some seconds. The program fails if the server ends or panics, if a
well-behaved request fails, if the p99, memory or open files are beyond P99 and LEFT, or if the goodput under overload
is too low. WORDs select attacks by their names. docs/reliability.md has the figures.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

# A forked process has the objects of this one.
FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).resolve().parent.parent
REVIEW = ROOT / "tests/data/reviews/vm-update-merge-patch-add-nic.json"

# The time of each measurement and of each attack.
SECONDS = 6
# The p99 during an attack, by the p99 before and after it; and the memory that an attack may leave, in MiB.
P99 = 1.5
LEFT = 5.0
# The goodput under overload, by the peak.
GOODPUT = 0.7
# The connections of the well-behaved client, and the pause between two of its requests.
CLIENTS = 4
PAUSE = 0.005


def post(body: bytes, headers: str = "", length: bool = True) -> bytes:
    length_line = f"content-length: {len(body)}\r\n" if length else ""
    head = f"POST /validate?timeout=10s HTTP/1.1\r\nhost: nicplug\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}{length_line}\r\n".encode() + body


class Server:
    """A running `nicplug serve`."""

    def __init__(self, nicplug: str, folder: Path, wrapper: Sequence[str] = (), flags: Sequence[str] = ()) -> None:
        folder.mkdir()
        subprocess.run([nicplug, "certs", folder], check=True, capture_output=True)
        self.ca = folder / "ca.crt"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, nicplug, "serve", *flags, "--log-format", "json"]
                + ["--facts", ROOT / "examples/bench_server.yaml"]
                + ["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"]
                + ["--tls-cert", folder / "tls.crt", "--tls-key", folder / "tls.key"],
                stderr=log,
            )
        self.health = self.address("health checks")
        self.port = int(self.address("serving").rsplit(":", 1)[1])
        while self.get("/readyz") != 200:
            time.sleep(0.05)

    def address(self, message: str) -> str:
        for _ in range(200):
            for line in self.log.read_text().splitlines():
                entry = json.loads(line)
                if entry["message"] == message:
                    return entry["address"]
            time.sleep(0.05)
        raise SystemExit(f"nicplug does not start:\n{self.log.read_text()}")

    def get(self, path: str) -> int:
        try:
            return urllib.request.urlopen(f"http://{self.health}{path}", timeout=1).status
        except (OSError, urllib.error.URLError):
            return 0

    def memory(self) -> float:
        """Returns the resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1024

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def context(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


# === The well-behaved client ===


def measure(port: int, ca: Path, seconds: float) -> tuple[list[float], list[str]]:
    """Returns the times of the requests, in milliseconds, and the errors."""
    times, errors = [], []
    tls = context(ca)
    request = post(REVIEW.read_bytes())

    def connect():
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(raw, server_hostname="127.0.0.1")

    connections = [connect() for _ in range(CLIENTS)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for index in range(CLIENTS):
            time.sleep(PAUSE)
            start = time.monotonic()
            try:
                status, closes = exchange(connections[index], request)
                times.append((time.monotonic() - start) * 1000)
                if status != 200:
                    errors.append(f"status {status}")
                if closes:
                    connections[index] = connect()
            except OSError as error:
                errors.append(repr(error))
                connections[index] = connect()
    return times, errors


def p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def exchange(connection, request: bytes) -> tuple[int, bool]:
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("closed without an answer")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split(b" ", 2)[1]), b"connection: close" in head


class Client:
    """A well-behaved client in a process of its own."""

    def __init__(self, server: Server) -> None:
        self.pipe, other = FORK.Pipe()
        self.process = FORK.Process(target=self.serve, args=(other, server.port, server.ca), daemon=True)
        self.process.start()

    @staticmethod
    def serve(pipe, port: int, ca: Path) -> None:
        while True:
            pipe.send(measure(port, ca, pipe.recv()))

    async def measure(self) -> tuple[list[float], list[str]]:
        """Returns the times of the requests, in milliseconds, and the errors."""
        self.pipe.send(SECONDS)
        return await asyncio.to_thread(self.pipe.recv)


# === The attacks ===


class Attacker:
    """The connections of one attack."""

    def __init__(self, server: Server) -> None:
        self.port, self.tls = server.port, context(server.ca)
        self.writers: list[asyncio.StreamWriter] = []
        self.end = asyncio.Event()
        self.notes: dict[str, int] = {}

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    async def plain(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def open(self):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname="127.0.0.1", limit=1 << 20
        )
        self.writers.append(writer)
        return reader, writer

    async def status(self, reader) -> str:
        """Returns the status of the next answer, or how the connection ends."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            return head.split(b" ", 2)[1].decode()
        except asyncio.TimeoutError:
            return "no answer in 15 s"
        except (asyncio.IncompleteReadError, OSError):
            return "closed"

    async def many(self, count: int, one) -> None:
        """Runs `count` attackers, 50 of which connect at once."""
        places = asyncio.Semaphore(50)
        ready = [asyncio.Event() for _ in range(count)]

        async def run(index: int) -> None:
            async with places:
                try:
                    connection = await one(index)
                except (OSError, asyncio.IncompleteReadError):
                    connection = None
                ready[index].set()
            if connection is not None:
                try:
                    await connection
                except (OSError, asyncio.IncompleteReadError):
                    pass

        tasks = [asyncio.create_task(run(index)) for index in range(count)]
        for event in ready:
            await event.wait()
        self.tasks = tasks

    async def until_end(self, seconds: float) -> bool:
        """Waits; returns whether the attack goes on."""
        try:
            await asyncio.wait_for(self.end.wait(), seconds)
            return False
        except asyncio.TimeoutError:
            return True

    async def close(self) -> None:
        self.end.set()
        for task in getattr(self, "tasks", []):
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0.5)


async def idle(attacker: Attacker) -> None:
    async def one(_: int):
        await attacker.open()

    await attacker.many(2000, one)


async def half_handshakes(attacker: Attacker) -> None:
    async def one(_: int):
        _, writer = await attacker.plain()
        writer.write(bytes([22, 3, 1]))

    await attacker.many(1000, one)


async def drip(attacker: Attacker) -> None:
    request = post(REVIEW.read_bytes())

    async def one(index: int):
        _, writer = await attacker.open()
        # Half of them do not complete the header, the others not the body.
        position = 10 if index % 2 else request.index(b"\r\n\r\n") + 4

        async def feed() -> None:
            connection = writer
            while True:
                connection.write(request[:position])
                for byte in request[position:]:
                    if not await attacker.until_end(0.2):
                        return
                    if connection.transport.is_closing():
                        break
                    connection.write(bytes([byte]))
                attacker.note("connected again")
                _, connection = await attacker.open()

        return feed()

    await attacker.many(200, one)


async def header_bombs(attacker: Attacker) -> None:
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(10_000))
    bombs = [lines, b"x: " + b"y" * 1_000_000 + b"\r\n", b"POST /" + b"a" * 1_000_000]

    async def one(index: int):
        async def bomb() -> None:
            while await attacker.until_end(0.5):
                reader, writer = await attacker.open()
                start = b"" if index % 3 == 2 else b"POST /validate HTTP/1.1\r\nhost: x\r\n"
                writer.write(start + bombs[index % 3])
                attacker.note(await attacker.status(reader))
                writer.transport.abort()

        return bomb()

    await attacker.many(6, one)


async def endless_bodies(attacker: Attacker) -> None:
    async def one(_: int):
        reader, writer = await attacker.open()

        async def feed() -> None:
            writer.write(post(b"", "transfer-encoding: chunked\r\n", length=False))
            chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
            # About 80 KiB/s, so that the minimum rate does not end it.
            while await attacker.until_end(0.2) and not writer.transport.is_closing():
                writer.write(chunk)

        return feed()

    await attacker.many(50, one)


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
# Each is one request whose length two servers could read differently; the rest would be a second request.
FORMS = {
    "content-length and chunked": "content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "chunked and content-length": "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "two lengths": "content-length: 5\r\ncontent-length: 41\r\n",
    "a list of lengths": "content-length: 5, 41\r\n",
    "a sign": "content-length: +5\r\n",
    "a negative length": "content-length: -1\r\n",
    "a hexadecimal length": "content-length: 0x5\r\n",
    "a length beyond 64 bits": "content-length: 99999999999999999999\r\n",
    "space before the colon": "transfer-encoding : chunked\r\n",
    "chunked is not last": "transfer-encoding: chunked, identity\r\n",
    "chunked twice": "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "an unknown coding": "transfer-encoding: xchunked\r\n",
    "a vertical tab": "transfer-encoding: \x0bchunked\r\n",
    "a folded line": "transfer-encoding:\r\n chunked\r\n",
    "a bare line feed": "x: y\ntransfer-encoding: chunked\r\n",
    "a bare carriage return": "x: y\rtransfer-encoding: chunked\r\n",
    "a NUL": "x: \x00\r\n",
    "a chunk size beyond 64 bits": "transfer-encoding: chunked\r\n",
}


async def smuggling(attacker: Attacker) -> None:
    async def one(_: int):
        async def smuggle() -> None:
            while await attacker.until_end(0.1):
                for name, headers in FORMS.items():
                    reader, writer = await attacker.open()
                    start = b"10000000000000005" if name.startswith("a chunk size") else b"0"
                    writer.write(post(b"", headers, length=False) + start + b"\r\n\r\n" + SMUGGLED)
                    first = await attacker.status(reader)
                    second = await attacker.status(reader) if first not in ("closed", "no answer in 15 s") else "closed"
                    attacker.note(f"{name}: {first}, then {second}")
                    writer.transport.abort()

        return smuggle()

    await attacker.many(1, one)


async def pipelining(attacker: Attacker) -> None:
    request = post(REVIEW.read_bytes())

    async def one(_: int):
        async def pipeline() -> None:
            while await attacker.until_end(1):
                reader, writer = await attacker.open()
                writer.write(request * 100)
                for _ in range(100):
                    attacker.note(await attacker.status(reader))
                writer.transport.abort()

        return pipeline()

    await attacker.many(2, one)


def malformed(random_source: random.Random) -> bytes:
    """Returns a body that is no valid review, of one of several kinds."""
    review = REVIEW.read_bytes()
    position = random_source.randrange(len(review))
    match random_source.randrange(10):
        case 0:
            return review[:position]
        case 1:
            return review[:position] + bytes([random_source.randrange(256)]) + review[position + 1 :]
        case 2:
            return random_source.randbytes(1000)
        case 3:
            return review.replace(b'"', b"'", random_source.randrange(1, 50))
        case 4:
            return re.sub(rb'"[^"]{1,20}"', lambda _: random_source.choice([b"1e999", b"[]", b"{}", b"null"]), review)
        case 5:
            return review.replace(b"{", b'{"a":1,"a":2,', 3)
        case 6:
            return review[:position] + b"\xff\xfe\x00" + review[position:]
        case 7:
            return b"[" * random_source.randrange(1, 2000) + review
        case 8:
            return review.replace(b":", b"::", 1)
        case _:
            return review + review[:position]


async def malformed_bodies(attacker: Attacker) -> None:
    random_source = random.Random(14)
    left = iter(range(10_000))

    async def one(_: int):
        async def send() -> None:
            reader, writer = await attacker.open()
            for _ in left:
                writer.write(post(malformed(random_source)))
                attacker.note(await attacker.status(reader))
                await asyncio.sleep(0.002)

        return send()

    await attacker.many(4, one)


async def depth(attacker: Attacker) -> None:
    review = REVIEW.read_bytes()
    deep = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000]
    bodies = deep + [review.replace(b'"template":', b'"deep":' + body + b',"template":') for body in deep]

    async def one(_: int):
        async def send() -> None:
            while await attacker.until_end(0.05):
                for body in bodies:
                    reader, writer = await attacker.open()
                    writer.write(post(body))
                    attacker.note(await attacker.status(reader))
                    writer.transport.abort()

        return send()

    await attacker.many(1, one)


# === Overload ===

# The server has a part of one processor, beside a busy loop, so that this client can send ten times what it can answer.
# Its limits and the seats of the API servers are a tenth of the usual ones, so that as many requests wait for it.
SLOW = ["--max-connections", "100", "--max-in-flight", "26", "--max-body", "1MiB", "--max-bodies", "6MiB"]
# The requests that an API server handles at once by default (400 that read and 200 that write), by ten.
API_SERVER = 60
# The limit of time of the validating webhook in the chart, in seconds.
TIMEOUT = 5


def many_nics(count: int) -> bytes:
    """Returns the review of a VM with many NICs: the most that KubeVirt's schema permits is 256."""
    review = json.loads(REVIEW.read_bytes())
    spec = review["request"]["object"]["spec"]["template"]["spec"]
    spec["domain"]["devices"]["interfaces"] = [
        {"name": f"nic{number}", "bridge": {}, "macAddress": f"02:00:00:00:00:{number:02x}"} for number in range(count)
    ]
    spec["networks"] = [
        {"name": f"nic{number}", "multus": {"networkName": f"net{number}"}} for number in range(count)
    ]
    return json.dumps(review).encode()


class Exchange(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self.answer, self.status = b"", None
        self.is_open = True

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, part: bytes) -> None:
        self.answer += part
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if end and len(body) == int(re.search(rb"content-length: (\d+)", head)[1]):
            self.is_open = b"connection: close" not in head
            self.end(head.split(b" ", 2)[1].decode())

    def connection_lost(self, _) -> None:
        self.is_open = False
        self.end("closed")

    def end(self, status: str) -> None:
        if self.status is not None and not self.status.done():
            self.status.set_result(status)

    async def send(self, request: bytes) -> str:
        self.answer, self.status = b"", asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.status


class Load:
    """Requests that arrive at a rate, as long as their senders have seats."""

    def __init__(self, server: Server, body: bytes, seats: int, keep: bool) -> None:
        self.port, self.tls = server.port, context(server.ca)
        self.seats, self.keep = seats, keep
        self.request = post(body, "" if keep else "connection: close\r\n")
        self.idle: list[Exchange] = []
        self.answers: list[tuple[str, float]] = []
        self.kept_back = 0

    async def connect(self) -> Exchange:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Exchange, "127.0.0.1", self.port, ssl=self.tls, server_hostname="127.0.0.1", ssl_handshake_timeout=60
        )
        return connection

    async def one(self) -> None:
        loop = asyncio.get_running_loop()
        start, connection = loop.time(), None
        try:
            async with asyncio.timeout(TIMEOUT):
                connection = self.idle.pop() if self.idle else await self.connect()
                status = await connection.send(self.request)
        except TimeoutError:
            status = "no answer"
        except OSError:
            status = "closed"
        self.answers.append((status, loop.time() - start))
        if connection is not None:
            if self.keep and connection.is_open and status in ("200", "503"):
                self.idle.append(connection)
            else:
                connection.transport.abort()

    def close(self) -> None:
        for connection in self.idle:
            connection.transport.abort()

    async def closed_loop(self, clients: int, seconds: float) -> None:
        """Sends the next request of a client when it has the answer to the one before."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds

        async def client() -> None:
            while loop.time() < end:
                await self.one()

        await asyncio.gather(*(client() for _ in range(clients)))
        self.close()

    async def open_loop(self, rate: float, seconds: float) -> None:
        """Sends requests at the rate, whatever the answers; one that finds no seat is kept back."""
        if self.keep:
            self.idle = list(await asyncio.gather(*(self.connect() for _ in range(self.seats))))
        loop = asyncio.get_running_loop()
        start, arrived, tasks = loop.time(), 0, set()
        while loop.time() < start + seconds:
            due = int((loop.time() - start) * rate)
            tasks = {task for task in tasks if not task.done()}
            count = min(due - arrived, self.seats - len(tasks))
            self.kept_back += due - arrived - count
            arrived = due
            tasks |= {asyncio.ensure_future(self.one()) for _ in range(count)}
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        self.close()


def processor_time(server: Server) -> float:
    """Returns the processor time of the server in seconds, which other programs hardly change."""
    threads = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def run_load(server: Server, load: Load, name: str, run) -> tuple[float, float, list[str]]:
    """Runs a load, prints its line, and returns the good answers a second, the processor time of each, and failures."""
    before, start = processor_time(server), time.monotonic()
    asyncio.run(run(load))
    seconds, used = time.monotonic() - start, processor_time(server) - before
    times: dict[str, list[float]] = {}
    for status, duration in load.answers:
        times.setdefault(status, []).append(duration)
    good = times.pop("200", [])
    slow = p99(good) if good else float("nan")
    refused = times.pop("503", [])
    slowest = f"{max(refused):.2f}" if refused else "-"
    failed = {status: len(durations) for status, durations in times.items()}
    rate, cost = len(good) / seconds, used / max(len(good), 1)
    share = used / seconds * 100
    print(
        f"    {name:24} {rate:9.1f} {cost * 1e6:10.0f} {share:9.1f} {slow:8.2f} {len(refused):7} {slowest:>8}"
        f" {load.kept_back:10} {failed or 'none'}",
        flush=True,
    )
    return rate, cost, [f"{count} × {status}" for status, count in failed.items()]


def overload(nicplug: str, folder: Path) -> list[str]:
    """Sends ten times what the server can answer."""
    processor = min(os.sched_getaffinity(0))
    busy = subprocess.Popen(["taskset", "-c", str(processor), sys.executable, "-c", "while True: pass"])
    faults = []
    try:
        server = Server(nicplug, folder, ["taskset", "-c", str(processor), "nice", "-n", "10"], SLOW)
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {processor} or {processor})
        try:
            review, large = REVIEW.read_bytes(), many_nics(250)
            for name, body, seats, keep in [
                ("a review on a kept connection", review, 100, True),
                ("a review on a new connection, one API server", review, API_SERVER, False),
                ("a review on a new connection, three API servers", review, 3 * API_SERVER, False),
                ("a review of 250 NICs on a new connection, one API server", large, API_SERVER, False),
                ("a review of 250 NICs on a new connection, three API servers", large, 3 * API_SERVER, False),
            ]:
                print(f"{name}; load {os.getloadavg()[0]:.1f}")
                columns = f"{'200/s':>9} {'µs of each':>10} {'% of one':>9} {'p99, s':>8} {'503':>7} {'slowest':>8}"
                print(f"{'':28} {columns} {'kept back':>10} other ends")
                peak, least = 0.0, float("inf")
                for clients in (4, 16):
                    load = Load(server, body, seats, keep)
                    rate, cost, _ = run_load(
                        server, load, f"{clients} clients", lambda it, count=clients: it.closed_loop(count, SECONDS)
                    )
                    peak, least = max(peak, rate), min(least, cost)
                load = Load(server, body, seats, keep)
                rate, cost, failed = run_load(
                    server, load, "ten times the peak", lambda it, ten=10 * peak: it.open_loop(ten, SECONDS)
                )
                print(f"    goodput: {least / cost:.2f} of the peak by processor time, {rate / peak:.2f} by the clock")
                if least / cost < GOODPUT:
                    faults.append(f"overload, {name}: the goodput is {least / cost:.2f} of the peak")
                faults += [f"overload, {name}: {what}" for what in failed]
        finally:
            server.process.kill()
            server.process.wait()
    finally:
        busy.kill()
        busy.wait()
    return faults


ATTACKS = {
    "2,000 idle connections": idle,
    "1,000 half handshakes": half_handshakes,
    "200 drip-feeders": drip,
    "header bombs": header_bombs,
    "50 bodies that never end": endless_bodies,
    "smuggling": smuggling,
    "pipelining": pipelining,
    "10,000 malformed bodies": malformed_bodies,
    "depth 100,000": depth,
}


async def attack(server: Server, client: Client, name: str) -> list[str]:
    """Runs one attack, prints its line and returns what went wrong."""
    before, _ = await client.measure()
    memory, files = server.memory(), server.files()
    attacker = Attacker(server)
    await ATTACKS[name](attacker)
    during, errors = await client.measure()
    peak_memory, peak_files, livez = server.memory(), server.files(), server.get("/livez")
    if name.startswith("10,000"):
        await asyncio.wait(attacker.tasks, timeout=60)
    await attacker.close()
    for _ in range(40):
        if server.files() <= files:
            break
        await asyncio.sleep(0.25)
    # The allocator returns memory when it is used again.
    after, _ = await client.measure()
    left, files_left = server.memory() - memory, server.files() - files
    p99_without, p99_during = p99(before + after), p99(during)
    ratio = p99_during / p99_without
    print(
        f"{name:26} {p99_without:9.2f} {p99_during:9.2f} {ratio:6.2f} {len(errors):7} {peak_memory:8.1f} {left:8.1f}"
        f" {peak_files:6} {files_left:6}",
        flush=True,
    )
    for what, count in sorted(attacker.notes.items()):
        print(f"    {count:6} × {what}")
    faults = [f"{name}: {error}" for error in errors[:3]]
    if ratio > P99:
        faults.append(f"{name}: the p99 is {ratio:.2f} of that without it")
    if left > LEFT:
        faults.append(f"{name}: {left:.1f} MiB are left")
    if files_left > 0:
        faults.append(f"{name}: {files_left} more open files than before")
    if livez != 200:
        faults.append(f"{name}: /livez did not answer")
    if any(what.startswith("5") for what in attacker.notes):
        faults.append(f"{name}: a status 5xx")
    return faults


def attack_in_process(server: Server, client: Client, name: str) -> list[str]:
    """Runs one attack in a process with the lowest priority."""
    pipe, other = FORK.Pipe(duplex=False)

    def run() -> None:
        os.nice(19)
        other.send(asyncio.run(attack(server, client, name)))

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return pipe.recv() if process.exitcode == 0 else [f"{name}: the attack has failed"]


def main() -> None:
    nicplug, *names = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(nicplug, Path(folder) / "attacks")
        try:
            client = Client(server)
            asyncio.run(client.measure())
            print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {nicplug}")
            columns = f"{'during':>8} {'ratio':>6} {'errors':>7} {'MiB':>8} {'left':>8} {'files':>6} {'left':>6}"
            print(f"{'p99 in ms, without':>36} {columns}")
            faults = []
            for name in ATTACKS:
                if not names or any(word in name for word in names):
                    faults += attack_in_process(server, client, name)
            if server.process.poll() is not None:
                faults.append(f"nicplug has ended: {server.process.returncode}")
            if "panicked" in server.log.read_text():
                faults.append("nicplug has panicked")
        finally:
            server.process.kill()
            server.process.wait()
        if not names or "overload" in names:
            faults += overload(nicplug, Path(folder) / "overload")
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
