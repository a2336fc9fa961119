#!/usr/bin/env python3
"""Runs an instrumented binary through the work of nicplug in a cluster, to record a profile for the compiler.

    train.py BINARY [--emulator FILE] [--requests COUNT] [--floor FILE]

The binary writes its profile to LLVM_PROFILE_FILE when it ends. It serves the real reviews of tests/data over TLS, on
persistent and on new connections; it lists and watches the VMs of a fake API server, with their heartbeats; and it runs
its own demo, which contains most denials. The compiler treats code that does not run here as cold.

With --floor the instrumented floor of the benchmark (examples/floor.rs) gets the same reviews instead, and BINARY only
makes its certificate.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REVIEWS = sorted((ROOT / "tests/data/reviews").glob("*.json"))
FACTS = ROOT / "examples/bench_server.yaml"

ENDPOINTS = ("/validate?timeout=10s", "/mutate?timeout=10s")
CONNECTIONS = 4
GUESTS = 100
# In seconds. No step takes that long unless it hangs.
TIMEOUT = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--emulator", help="a static qemu-user, for a binary of another architecture")
    parser.add_argument("--requests", type=int, default=1500, help="how often each review is sent to each endpoint")
    parser.add_argument("--floor", type=Path, help="train this floor instead of the binary")
    args = parser.parse_args()
    command = [*filter(None, [args.emulator]), str(args.binary.resolve())]
    with tempfile.TemporaryDirectory() as folder:
        certificates = Path(folder) / "certificates"
        subprocess.run([*command, "certs", str(certificates)], check=True, stdout=subprocess.DEVNULL)
        if args.floor:
            with serve_floor(args.floor.resolve(), certificates) as port:
                send_reviews(port, certificates / "ca.crt", args.requests, ENDPOINTS[:1])
            return
        with serve(command, certificates, "--facts", str(FACTS)) as (port, _):
            send_reviews(port, certificates / "ca.crt", args.requests)
        with api_server(heartbeats=args.requests // 10) as api_port:
            kubeconfig = Path(folder) / "kubeconfig"
            kubeconfig.write_text(json.dumps(kubeconfig_for(api_port)))
            with serve(command, certificates, "--kubeconfig", str(kubeconfig), "--persist", "off") as (_, health):
                wait_until(lambda: known_vmis(health) == GUESTS + 1)
    subprocess.run([*command, "demo", "--all"], check=True, stdout=subprocess.DEVNULL)


# === The server ===


@contextmanager
def running(arguments: list[str], log: Path, is_started: Callable[[], bool]) -> Iterator[None]:
    """Runs a server with a log until it has started, and checks that it exits cleanly."""
    with log.open("w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out)
    try:
        wait_until(lambda: is_started() or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"{arguments} ended at once:\n{log.read_text()}")
        yield
        process.send_signal(signal.SIGTERM)
        if process.wait(TIMEOUT) != 0:
            raise SystemExit(f"{arguments} ended with status {process.returncode}:\n{log.read_text()}")
    finally:
        process.kill()
        process.wait()


def certificate(folder: Path) -> list[str]:
    return ["--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")]


@contextmanager
def serve(command: list[str], certificates: Path, *flags: str) -> Iterator[tuple[int, int]]:
    """Runs `nicplug serve`, and yields its webhook and health ports."""
    listen = ["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--drain-grace", "0s"]
    arguments = [*command, "serve", *certificate(certificates), *listen, "--log-format", "json", *flags]
    log = certificates.parent / "log"
    with running(arguments, log, lambda: len(ports(log)) == 2):
        found = ports(log)
        wait_until(lambda: get(found["health checks"], "/readyz").status == 200)
        yield found["serving"], found["health checks"]


@contextmanager
def serve_floor(floor: Path, certificates: Path) -> Iterator[int]:
    """Runs the floor, and yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    arguments = [str(floor), *certificate(certificates), "--listen", f"127.0.0.1:{port}"]
    with running(arguments, certificates.parent / "log", lambda: listens(port)):
        yield port


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    return True


def ports(log: Path) -> dict[str, int]:
    """Returns the ports in the log, by the message that announces each."""
    # The last line may be incomplete.
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    found = {line["message"]: line["address"].rsplit(":", 1)[-1] for line in lines if "address" in line}
    return {message: int(port) for message, port in found.items()}


def get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", path)
    return connection.getresponse()


def known_vmis(health: int) -> int:
    """Returns how many VMIs nicplug has stored."""
    text = get(health, "/metrics").read().decode()
    found = re.search(r'(?m)^nicplug_facts_objects\{kind="VirtualMachineInstance"\} (\d+)$', text)
    return int(found[1]) if found else 0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"a step did not finish within {TIMEOUT} seconds")
        time.sleep(0.05)


# === The client ===


def send_reviews(port: int, ca: Path, requests: int, endpoints: tuple[str, ...] = ENDPOINTS) -> None:
    context = ssl.create_default_context(cafile=str(ca))
    bodies = [json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode() for path in REVIEWS]
    errors: list[str] = []

    def client() -> None:
        try:
            # The server closes a connection after a number of requests; http.client then opens another one.
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=TIMEOUT)
            for _ in range(requests // CONNECTIONS):
                for body in bodies:
                    for endpoint in endpoints:
                        post(connection, endpoint, body)
            for number in range(requests // CONNECTIONS // 4):
                connection.close()
                post(connection, endpoints[0], bodies[number % len(bodies)])
        except (OSError, http.client.HTTPException, AssertionError) as error:
            errors.append(f"{type(error).__name__}: {error}")

    clients = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    if errors:
        raise SystemExit("\n".join(errors))


def post(connection: http.client.HTTPSConnection, path: str, body: bytes) -> None:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content


# === The API server ===


def object_of(kind: str, review: str) -> dict[str, Any]:
    request = json.loads((ROOT / f"tests/data/reviews/{review}.json").read_text())["request"]
    return {"apiVersion": "kubevirt.io/v1", **request["object"], "kind": kind}


def named(template: dict[str, Any], number: int, version: int) -> dict[str, Any]:
    copied = copy.deepcopy(template)
    copied["metadata"] |= {"name": f"guest-{number}", "uid": f"uid-{number}", "resourceVersion": str(version)}
    return copied


@contextmanager
def api_server(heartbeats: int) -> Iterator[int]:
    """Yields the port of a fake API server that lists VMs and VMIs, and sends heartbeats of all VMIs and a new VMI."""
    vm = object_of("VirtualMachine", "vm-update-merge-patch-add-nic")
    vmi = object_of("VirtualMachineInstance", "vmi-update-status-heartbeat")
    templates = {"virtualmachines": vm, "virtualmachineinstances": vmi}
    stopped = threading.Event()

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urllib.parse.urlparse(self.path)
            plural, query = url.path.rsplit("/", 1)[-1], urllib.parse.parse_qs(url.query)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if "watch" in query:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.send_events(plural)
            else:
                template = templates.get(plural)
                items = [named(template, number, 1) for number in range(GUESTS)] if template else []
                body = json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def send_events(self, plural: str) -> None:
            """Sends the events of a watch, and keeps it open."""
            if plural == "virtualmachineinstances":
                for heartbeat in range(heartbeats):
                    for number in range(GUESTS):
                        self.event("MODIFIED", named(vmi, number, heartbeat + 2))
                self.event("ADDED", named(vmi, GUESTS, heartbeats + 2))
            stopped.wait()

        def event(self, kind: str, item: dict[str, Any]) -> None:
            line = json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        stopped.set()
        server.shutdown()


def kubeconfig_for(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }


if __name__ == "__main__":
    main()
