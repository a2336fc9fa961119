#!/usr/bin/env python3
"""Has a binary do what nicplug does in a cluster, so that the compiler can lay it out by what is counted meanwhile.

    train.py BINARY [--emulator FILE] [--requests COUNT]

The binary was built to count how often each part of it runs, and writes that down when it ends, to where
LLVM_PROFILE_FILE says. It serves the real reviews of tests/data over TLS, over connections that stay open and over
new ones; it watches a cluster, which is played here, list its guests and their heartbeats; and it plays its own demo,
which has most denials in it. What does not run here is taken for rare, and laid out of the way.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import re
import signal
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
# Nothing here takes as long, unless it hangs.
PATIENCE = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--emulator", help="a static qemu-user, for a binary of another architecture")
    parser.add_argument("--requests", type=int, default=1500, help="how often each review is sent to each endpoint")
    args = parser.parse_args()
    command = [*filter(None, [args.emulator]), str(args.binary.resolve())]
    with tempfile.TemporaryDirectory() as folder:
        certificates = Path(folder) / "certificates"
        subprocess.run([*command, "certs", str(certificates)], check=True, stdout=subprocess.DEVNULL)
        with serve(command, certificates, "--facts", str(FACTS)) as (port, _):
            ask(port, certificates / "ca.crt", args.requests)
        with cluster(beats=args.requests // 10) as server:
            kubeconfig = Path(folder) / "kubeconfig"
            kubeconfig.write_text(json.dumps(config(server)))
            with serve(command, certificates, "--kubeconfig", str(kubeconfig), "--persist", "off") as (_, health):
                until(lambda: known(health) == GUESTS + 1)
    subprocess.run([*command, "demo", "--once"], check=True, stdout=subprocess.DEVNULL)


# === The server ===


@contextmanager
def serve(command: list[str], certificates: Path, *flags: str) -> Iterator[tuple[int, int]]:
    """Its ports: of the webhook, and of health checks. It has ended well when this is left."""
    pair = ["--tls-cert", str(certificates / "tls.crt"), "--tls-key", str(certificates / "tls.key")]
    listen = ["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--drain-grace", "0s"]
    log = certificates.parent / "log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, "serve", *pair, *listen, "--log-format", "json", *flags], stdout=out, stderr=out)
    try:
        until(lambda: len(ports(log)) == 2 or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"it ended at once:\n{log.read_text()}")
        found = ports(log)
        until(lambda: get(found["health checks"], "/readyz").status == 200)
        yield found["serving"], found["health checks"]
        process.send_signal(signal.SIGTERM)
        if process.wait(PATIENCE) != 0:
            raise SystemExit(f"it ended with status {process.returncode}:\n{log.read_text()}")
    finally:
        process.kill()
        process.wait()


def ports(log: Path) -> dict[str, int]:
    """Where it says that it listens, by what it says."""
    # The last line may not be whole yet.
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    found = {line["message"]: line["address"].rsplit(":", 1)[-1] for line in lines if "address" in line}
    return {message: int(port) for message, port in found.items()}


def get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    return connection.getresponse()


def known(health: int) -> int:
    """How many VMIs it has seen."""
    text = get(health, "/metrics").read().decode()
    found = re.search(r'(?m)^nicplug_facts_objects\{kind="VirtualMachineInstance"\} (\d+)$', text)
    return int(found[1]) if found else 0


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"what was waited for did not come to pass within {PATIENCE} seconds")
        time.sleep(0.05)


# === Who asks ===


def ask(port: int, authority: Path, requests: int) -> None:
    context = ssl.create_default_context(cafile=str(authority))
    bodies = [json.dumps(json.loads(path.read_text()), separators=(",", ":")).encode() for path in REVIEWS]
    faults: list[str] = []

    def client() -> None:
        try:
            # A connection is closed after a number of requests, and then the next one is opened.
            connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE)
            for _ in range(requests // CONNECTIONS):
                for body in bodies:
                    for endpoint in ENDPOINTS:
                        post(connection, endpoint, body)
            for number in range(requests // CONNECTIONS // 4):
                connection.close()
                post(connection, ENDPOINTS[0], bodies[number % len(bodies)])
        except (OSError, http.client.HTTPException, AssertionError) as error:
            faults.append(f"{type(error).__name__}: {error}")

    clients = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    if faults:
        raise SystemExit("\n".join(faults))


def post(connection: http.client.HTTPSConnection, path: str, body: bytes) -> None:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer


# === The cluster ===


def guest(kind: str, review: str) -> dict[str, Any]:
    request = json.loads((ROOT / f"tests/data/reviews/{review}.json").read_text())["request"]
    return {"apiVersion": "kubevirt.io/v1", **request["object"], "kind": kind}


def named(template: dict[str, Any], number: int, version: int) -> dict[str, Any]:
    guest = copy.deepcopy(template)
    guest["metadata"] |= {"name": f"guest-{number}", "uid": f"uid-{number}", "resourceVersion": str(version)}
    return guest


@contextmanager
def cluster(beats: int) -> Iterator[int]:
    """The port of an API server that lists guests, and tells of `beats` heartbeats of each and of one guest more."""
    machine = guest("VirtualMachine", "vm-update-merge-patch-add-nic")
    instance = guest("VirtualMachineInstance", "vmi-update-status-heartbeat")
    templates = {"virtualmachines": machine, "virtualmachineinstances": instance}
    is_over = threading.Event()

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
                self.tell(plural)
            else:
                template = templates.get(plural)
                items = [named(template, number, 1) for number in range(GUESTS)] if template else []
                body = json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def tell(self, plural: str) -> None:
            """The events of a watch, which then stays open."""
            if plural == "virtualmachineinstances":
                for beat in range(beats):
                    for number in range(GUESTS):
                        self.event("MODIFIED", named(instance, number, beat + 2))
                self.event("ADDED", named(instance, GUESTS, beats + 2))
            is_over.wait()

        def event(self, kind: str, thing: dict[str, Any]) -> None:
            line = json.dumps({"type": kind, "object": thing}, separators=(",", ":")).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        is_over.set()
        server.shutdown()


def config(port: int) -> dict[str, Any]:
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
