"""Measures what nicplug adds to a request at a real API server: apiserver.py APISERVER NICPLUG [PAIRS] [ROUNDS]

A user updates a running VM in a namespace that nicplug judges and in one that it does not, in turns. Beside nicplug
a stand-in for KubeVirt's validating webhook answers after 8 ms in both namespaces, the time that virt-api takes.
nicplug watches the cluster, and its webhooks are those of deploy/install.yaml, with a URL instead of the Service
and without the second namespace. The result is the p50 of both namespaces, the difference, and how long each
webhook took by the histogram of the API server. The recipe is `just bench-apiserver`.
"""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import multiprocessing
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).parent.parent
JUDGED = "judged"
PLAIN = "plain"
# How long KubeVirt's validating webhook takes.
ANSWER_SECONDS = 0.008
PAIRS = 100
ROUNDS = 3
WARM_UP = 20
# No run takes longer.
LIMIT_SECONDS = 600
# The paths of the groups.
KUBEVIRT = "/apis/kubevirt.io/v1"
NADS = "/apis/k8s.cni.cncf.io/v1"
# The histograms of the API server, by what they count of each webhook.
HISTOGRAMS = {
    "match conditions": "apiserver_admission_match_condition_evaluation_seconds",
    "calls": "apiserver_admission_webhook_admission_duration_seconds",
}
STAND_IN = "virt-api.example.com"


class Api:
    """The API server, as its admin, on one connection."""

    def __init__(self, announcement: dict[str, str]) -> None:
        config = yaml.safe_load(Path(announcement["kubeconfig"]).read_text())
        user = config["users"][0]["user"]
        context = ssl.create_default_context(cafile=announcement["ca"])
        if "client-certificate" in user:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        self.headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self.connection = http.client.HTTPSConnection(
            urlsplit(announcement["address"]).netloc, context=context, timeout=30
        )

    def send(self, method: str, path: str, body: object = None, content: str = "application/json") -> bytes:
        """Sends a request, which must succeed."""
        code, text = self.try_send(method, path, body, content)
        if code >= 300:
            raise RuntimeError(f"{method} {path}: {code} {text.decode()[:800]}")
        return text

    def try_send(self, method: str, path: str, body: object, content: str) -> tuple[int, bytes]:
        text = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        self.connection.request(method, path, text, {**self.headers, "Content-Type": content})
        response = self.connection.getresponse()
        return response.status, response.read()

    def patch(self, path: str, change: object) -> None:
        self.send("PATCH", path, change, "application/merge-patch+json")

    def durations(self, histogram: str) -> dict[tuple[str, str], tuple[float, int]]:
        """The seconds and the number of what a histogram counts of each webhook, by its name and type."""
        page = self.send("GET", "/metrics").decode()
        found: dict[tuple[str, str], list[float]] = {}
        for line in page.splitlines():
            if match := re.match(histogram + r"_(sum|count)\{(.*)\} (\S+)$", line):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                entry = found.setdefault((labels["name"], labels["type"]), [0, 0])
                entry[match[1] == "count"] += float(match[3])
        return {name: (total, int(count)) for name, (total, count) in found.items()}


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers like KubeVirt's webhook: allowed, after the time that it takes."""

    protocol_version = "HTTP/1.1"
    # A small answer would otherwise wait for the acknowledgement of its header.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        start = time.perf_counter()
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response = {"uid": request["uid"], "allowed": True}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        text = json.dumps(review).encode()
        time.sleep(max(0.0, ANSWER_SECONDS - (time.perf_counter() - start)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def serve_stand_in(folder: str, ports: multiprocessing.Queue[int]) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    ports.put(server.server_address[1])
    server.serve_forever()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def review(name: str) -> dict:
    return json.loads((ROOT / "tests/data/reviews" / f"{name}.json").read_text())["request"]


def without_server_fields(entry: dict, namespace: str) -> dict:
    """An object as its user wrote it, as vm-fedora in this namespace."""
    annotations = entry["metadata"].get("annotations", {})
    metadata = {"name": "vm-fedora", "namespace": namespace, "annotations": annotations}
    return {**{key: entry[key] for key in ("apiVersion", "kind", "spec")}, "metadata": metadata}


def install(api: Api) -> None:
    """Creates the definitions, KubeVirt, and in both namespaces a network and a running VM."""
    for file in (ROOT / "tests/data/crds").glob("*.yaml"):
        for definition in yaml.safe_load_all(file.read_text()):
            api.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    paths = [f"{KUBEVIRT}/{plural}" for plural in ("kubevirts", "virtualmachines", "virtualmachineinstances")]
    for path in [*paths, f"{NADS}/network-attachment-definitions"]:
        wait_until(path, lambda path=path: api.try_send("GET", path, None, "application/json")[0] == 200)
    for name in (JUDGED, PLAIN, "kubevirt", "nicplug-system"):
        api.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    metadata = {"name": "kubevirt", "namespace": "kubevirt"}
    spec = {
        "configuration": {"vmRolloutStrategy": "LiveUpdate"},
        "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]},
    }
    kubevirt = {"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": metadata, "spec": spec}
    api.send("POST", f"{KUBEVIRT}/namespaces/kubevirt/kubevirts", kubevirt)
    status = {"observedKubeVirtVersion": "v1.9.0", "phase": "Deployed"}
    api.patch(f"{KUBEVIRT}/namespaces/kubevirt/kubevirts/kubevirt/status", {"status": status})

    vm, vmi = review("vm-update-merge-patch-add-nic")["oldObject"], review("vmi-update-status-heartbeat")["object"]
    for namespace in (JUDGED, PLAIN):
        network = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "new-fancy-net"},
            "spec": {"config": '{"cniVersion": "0.3.1", "type": "bridge", "bridge": "br1"}'},
        }
        api.send("POST", f"{NADS}/namespaces/{namespace}/network-attachment-definitions", network)
        own = without_server_fields(vm, namespace)
        api.send("POST", f"{KUBEVIRT}/namespaces/{namespace}/virtualmachines", own)
        # The guest runs with the NICs of the VM.
        guest = without_server_fields(vmi, namespace)
        guest["spec"] = {**guest["spec"], **own["spec"]["template"]["spec"]}
        conditions = [{"type": "LiveMigratable", "status": "True"}]
        guest["status"] = {**vmi["status"], "phase": "Running", "conditions": conditions}
        guest["status"]["interfaces"] = [{"name": "defaultnetwork", "podInterfaceName": "eth0"}]
        api.send("POST", f"{KUBEVIRT}/namespaces/{namespace}/virtualmachineinstances", guest)
    activate(api)


def chart() -> list[dict]:
    return [entry for entry in yaml.safe_load_all((ROOT / "deploy/install.yaml").read_text()) if entry]


def activate(api: Api) -> None:
    """Grants the permission that the match conditions ask for, as nicplug does when it is ready."""
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/nicplug-system"
    for entry in chart():
        if entry["kind"] == "RoleBinding" and not entry.get("subjects"):
            name = entry["metadata"]["name"]
            subject = {"kind": "ServiceAccount", "name": name, "namespace": "nicplug-system"}
            api.send("POST", f"{path}/rolebindings", {**entry, "subjects": [subject]})
        elif entry["kind"] == "Role" and entry["metadata"]["name"] == "nicplug-call":
            api.send("POST", f"{path}/roles", entry)


def register(api: Api, folder: str, port: int, stand_in: int) -> None:
    """Creates the webhooks: those of the chart, without the second namespace, and the stand-in."""
    bundle = base64.b64encode((Path(folder) / "ca.crt").read_bytes()).decode()
    root = "/apis/admissionregistration.k8s.io/v1"
    for entry in chart():
        if entry["kind"] not in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            continue
        for webhook in entry["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
            webhook["failurePolicy"] = "Fail"
            webhook["namespaceSelector"]["matchExpressions"][0]["values"].append(PLAIN)
        api.send("POST", f"{root}/{entry['kind'].lower()}s", entry)
    rules = [
        {
            "apiGroups": ["kubevirt.io"],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["virtualmachines", "virtualmachineinstances"],
        }
    ]
    webhook = {
        "name": STAND_IN,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"url": f"https://127.0.0.1:{stand_in}/validate", "caBundle": bundle},
        "rules": rules,
    }
    configuration = {"metadata": {"name": "virt-api"}, "webhooks": [webhook]}
    api.send("POST", f"{root}/validatingwebhookconfigurations", configuration)


class Case(NamedTuple):
    """A change that is measured, and the one that takes it back, which is not."""

    title: str
    plural: str
    change: object
    back: object


def guest_of(interfaces: list[dict], networks: list[dict]) -> dict:
    spec = {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}
    return {"spec": {"template": {"spec": spec}}}


def cases() -> list[Case]:
    default = ({"name": "defaultnetwork", "masquerade": {}}, {"name": "defaultnetwork", "pod": {}})
    network = {"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}
    before = guest_of([default[0]], [default[1]])

    def add(interface: dict) -> dict:
        return guest_of([default[0], {"name": "dyniface1", **interface}], [default[1], network])

    def grace(seconds: int) -> dict:
        return {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": seconds}}}}

    def label(value: str) -> dict:
        return {"metadata": {"labels": {"example.com/team": value}}}

    def heartbeat(address: str) -> dict:
        return {"status": {"interfaces": [{"name": "defaultnetwork", "ipAddress": address}]}}

    request = {"metadata": {"annotations": {"nicplug.io/add-interfaces": "dyniface1=new-fancy-net"}}}
    return [
        Case("VM update: a label", "virtualmachines", label("a"), label("b")),
        Case("VM update: another field of the template", "virtualmachines", grace(1), grace(0)),
        Case("VM update: a NIC with its binding", "virtualmachines", add({"bridge": {}}), before),
        Case("VM update: a NIC without a binding", "virtualmachines", add({}), before),
        Case("VM update: a NIC by annotation", "virtualmachines", request, before),
        Case("VMI update: a heartbeat", "virtualmachineinstances", heartbeat("10.0.0.1"), heartbeat("10.0.0.2")),
    ]


def measure(api: Api, case: Case, pairs: int) -> dict[str, list[float]]:
    """Makes the change so often in each namespace, and returns the seconds of each request.

    Between two writes of one object the API server gets its own event about the first: otherwise it retries the second,
    and calls every webhook twice.
    """
    times: dict[str, list[float]] = {JUDGED: [], PLAIN: []}
    for number in range(pairs):
        order = (JUDGED, PLAIN) if number % 2 else (PLAIN, JUDGED)
        paths = {name: f"{KUBEVIRT}/namespaces/{name}/{case.plural}/vm-fedora" for name in order}
        for namespace, path in paths.items():
            start = time.perf_counter()
            api.patch(path, case.change)
            times[namespace].append(time.perf_counter() - start)
        for path in paths.values():
            api.patch(path, case.back)
    return times


def wait_until(what: str, is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_true():
        if time.monotonic() > end:
            sys.exit(f"{what}: not there after 60 s")
        time.sleep(0.05)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def read_histograms(api: Api) -> dict[str, dict[tuple[str, str], tuple[float, int]]]:
    return {what: api.durations(histogram) for what, histogram in HISTOGRAMS.items()}


def run(api: Api, pairs: int, rounds: int) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    print(f"{'p50 of a request, ms':44}{'plain':>8}{'judged':>8}{'added':>8}   added % (each round)")
    for case in cases():
        measure(api, case, WARM_UP)
        before, measured = read_histograms(api), []
        for _ in range(rounds):
            if time.monotonic() > deadline:
                sys.exit(f"the measurements are not done after {LIMIT_SECONDS} s: fewer PAIRS or ROUNDS")
            measured.append(measure(api, case, pairs))
        after = read_histograms(api)

        medians = [{name: statistics.median(times) for name, times in one.items()} for one in measured]
        whole = {name: statistics.median(time for one in measured for time in one[name]) for name in (PLAIN, JUDGED)}
        shares = [100 * (one[JUDGED] / one[PLAIN] - 1) for one in medians]
        added = whole[JUDGED] - whole[PLAIN]
        print(
            f"{case.title:44}{milliseconds(whole[PLAIN]):>8}{milliseconds(whole[JUDGED]):>8}{milliseconds(added):>8}"
            f"   {100 * added / whole[PLAIN]:+.1f} ({', '.join(f'{share:+.1f}' for share in shares)})"
        )
        requests = 4 * pairs * rounds
        for what in HISTOGRAMS:
            for key, (seconds, count) in sorted(after[what].items()):
                seconds_before, count_before = before[what].get(key, (0.0, 0))
                if more := count - count_before:
                    mean = f"{1e6 * (seconds - seconds_before) / more:.0f} µs on average"
                    print(f"    {key[0]} ({key[1]}): {more} {what} for {requests} requests, {mean}")


def main() -> None:
    apiserver, nicplug, *numbers = sys.argv[1:]
    pairs, rounds = [*(int(number) for number in numbers), *(PAIRS, ROUNDS)[len(numbers) :]]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--host", "127.0.0.1"]
        subprocess.run([nicplug, "certs", folder, *flags], check=True, stdout=subprocess.DEVNULL)
        # Before the API server: a copy of the standard input of that would keep it running.
        ports: multiprocessing.Queue[int] = multiprocessing.Queue()
        stand_in = multiprocessing.Process(target=serve_stand_in, args=(folder, ports), daemon=True)
        stand_in.start()
        server = subprocess.Popen(
            [apiserver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        webhook = None
        try:
            announcement = json.loads(server.stdout.readline())
            print(f"measured: {nicplug}, Kubernetes {announcement['version']}", flush=True)
            api = Api(announcement)
            install(api)
            port, health = free_port(), free_port()
            command = [nicplug, "serve", "--kubeconfig", announcement["kubeconfig"], "--persist", "off"]
            command += ["--listen", f"127.0.0.1:{port}", "--health-listen", f"127.0.0.1:{health}"]
            command += ["--tls-cert", f"{folder}/tls.crt", "--tls-key", f"{folder}/tls.key"]
            with open(f"{folder}/log", "w") as log:
                webhook = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
            wait_until("nicplug is ready", lambda: is_ready(health))
            register(api, folder, port, ports.get(timeout=60))
            # The API server reads the webhooks by a watch, a moment after it has stored them.
            wait_until("the webhooks are called", lambda: are_called(api))
            run(api, pairs, rounds)
        finally:
            if webhook:
                webhook.terminate()
                webhook.wait()
            server.stdin.close()
            server.wait()
            stand_in.terminate()


def is_ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def are_called(api: Api) -> bool:
    measure(api, next(case for case in cases() if "annotation" in case.title), 1)
    called = {(name, kind) for (name, kind), (_, count) in api.durations(HISTOGRAMS["calls"]).items() if count}
    wanted = {(STAND_IN, "validating"), ("validate.nicplug.io", "validating"), ("mutate.nicplug.io", "admit")}
    return wanted <= called


if __name__ == "__main__":
    main()
