"""Attacks `nicplug serve` on loopback, and measures what a well-behaved client notices: hostile.py NICPLUG [WORD...]

A client in a process of its own sends one review after the other on 4 connections, without and during each attack.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REVIEW = ROOT / "tests/data/reviews/vm-update-merge-patch-add-nic.json"

# The time of each measurement and of each attack.
SECONDS = 6
# The p99 during an attack, by the p99 before it; and the memory that an attack may leave, in MiB.
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

    def __init__(self, nicplug: str, folder: Path) -> None:
        subprocess.run([nicplug, "certs", folder], check=True, capture_output=True)
        self.ca = folder / "ca.crt"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [nicplug, "serve", "--log-format", "json", "--facts", ROOT / "examples/bench_server.yaml"]
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


def measure(port: int, ca: Path, seconds: float, result) -> None:
    """Sends the times of its requests, in milliseconds, and its errors."""
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
    result.send((times, errors))


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


class Measurement:
    """A well-behaved client in a process of its own."""

    def __init__(self, server: Server, seconds: float = SECONDS) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=measure, args=(server.port, server.ca, seconds, other))
        self.process.start()

    def result(self) -> tuple[float, list[str]]:
        """Returns the p99 in milliseconds, and the errors."""
        times, errors = self.pipe.recv()
        self.process.join()
        times.sort()
        return times[len(times) * 99 // 100], errors


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

# The padding of a body, so that the server and not this client is the slower one.
PADDING = 1 << 20


def overload_client(port: int, ca: Path, count: int, seconds: float, result) -> None:
    """Keeps `count` connections busy, and sends the statuses and the times of its requests."""
    result.send(asyncio.run(busy_connections(port, ca, count, seconds)))


async def busy_connections(port: int, ca: Path, count: int, seconds: float) -> list[tuple[str, float]]:
    request = post(REVIEW.read_bytes() + b" " * PADDING)
    tls, answers = context(ca), []
    loop = asyncio.get_running_loop()

    async def run() -> None:
        end = loop.time() + seconds
        writer = None
        while loop.time() < end:
            start = loop.time()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1", ssl_handshake_timeout=10
                    )
                start = loop.time()
                writer.write(request)
                status = await asyncio.wait_for(answer(reader, writer), 10)
            except asyncio.TimeoutError:
                status = "no answer in 10 s"
            except (asyncio.IncompleteReadError, OSError):
                status = "closed"
            answers.append((status, loop.time() - start))
            if status not in ("200", "503"):
                if writer is not None:
                    writer.transport.abort()
                writer = None
            if status == "503":
                # `Retry-After: 1`; this client waits less, so that the overload lasts.
                await asyncio.sleep(0.1)

    await asyncio.gather(*(run() for _ in range(count)))
    return answers


async def answer(reader, writer) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
    await writer.drain()
    return head.split(b" ", 2)[1].decode()


def load(server: Server, count: int) -> list[tuple[str, float]]:
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.Process(target=overload_client, args=(server.port, server.ca, count, SECONDS, other))
    process.start()
    answers = pipe.recv()
    process.join()
    return answers


def overload(server: Server) -> list[str]:
    """Compares the answers with ten times the connections that the server can serve at once with its peak."""
    columns = f"{'200/s':>9} {'503/s':>8} {'p99 of 200':>11} {'p99 of 503':>11} {'others':>7}"
    print(f"\n{'connections, 1 MiB bodies':26} {columns}")
    good = {}
    # All bodies together have 64 MiB: 60 of them fit.
    for count in (4, 16, 60, 600):
        answers = load(server, count)
        p99 = {}
        for status in ("200", "503"):
            times = sorted(seconds for code, seconds in answers if code == status)
            p99[status] = f"{times[len(times) * 99 // 100] * 1000:.0f} ms" if times else "-"
        counts = {status: sum(code == status for code, _ in answers) for status in ("200", "503")}
        others = len(answers) - sum(counts.values())
        good[count] = counts["200"] / SECONDS
        print(
            f"{count:26} {good[count]:9.1f} {counts['503'] / SECONDS:8.1f} {p99['200']:>11} {p99['503']:>11}"
            f" {others:7}",
            flush=True,
        )
    ratio = good[600] / max(good[4], good[16], good[60])
    print(f"goodput at 600 connections: {ratio:.2f} of the peak")
    return [] if ratio >= GOODPUT else [f"overload: the goodput is {ratio:.2f} of the peak"]


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


async def attack(server: Server, name: str) -> list[str]:
    """Runs one attack, prints its line and returns what went wrong."""
    p99_before, _ = await asyncio.to_thread(lambda: Measurement(server).result())
    memory, files = server.memory(), server.files()
    attacker = Attacker(server)
    await ATTACKS[name](attacker)
    p99, errors = await asyncio.to_thread(lambda: Measurement(server).result())
    peak_memory, peak_files, livez = server.memory(), server.files(), server.get("/livez")
    if name.startswith("10,000"):
        await asyncio.wait(attacker.tasks, timeout=60)
    await attacker.close()
    for _ in range(40):
        if server.files() <= files:
            break
        await asyncio.sleep(0.25)
    left, files_left = server.memory() - memory, server.files() - files
    ratio = p99 / p99_before
    print(
        f"{name:26} {p99_before:9.2f} {p99:9.2f} {ratio:6.2f} {len(errors):7} {peak_memory:8.1f} {left:8.1f}"
        f" {peak_files:6} {files_left:6}",
        flush=True,
    )
    for what, count in sorted(attacker.notes.items()):
        print(f"    {count:6} × {what}")
    faults = [f"{name}: {error}" for error in errors[:3]]
    if ratio > P99:
        faults.append(f"{name}: the p99 is {ratio:.2f} of that before")
    if left > LEFT:
        faults.append(f"{name}: {left:.1f} MiB are left")
    if files_left > 0:
        faults.append(f"{name}: {files_left} more open files than before")
    if livez != 200:
        faults.append(f"{name}: /livez did not answer")
    if any(what.startswith("5") for what in attacker.notes):
        faults.append(f"{name}: a status 5xx")
    return faults


def main() -> None:
    nicplug, *names = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(nicplug, Path(folder))
        try:
            Measurement(server).result()
            print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {nicplug}")
            columns = f"{'during':>8} {'ratio':>6} {'errors':>7} {'MiB':>8} {'left':>8} {'files':>6} {'left':>6}"
            print(f"{'p99 in ms, before':>36} {columns}")
            faults = []
            for name in ATTACKS:
                if not names or any(word in name for word in names):
                    faults += asyncio.run(attack(server, name))
            if not names or "overload" in names:
                faults += overload(server)
            if server.process.poll() is not None:
                faults.append(f"nicplug has ended: {server.process.returncode}")
            if "panicked" in server.log.read_text():
                faults.append("nicplug has panicked")
        finally:
            server.process.kill()
            server.process.wait()
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
