"""Tests the page of `nicplug audit -o html` in headless Chromium, with 1,000 VMs.

The program reads them from a server that answers as an API server does. With SCREENSHOTS, pictures are written into that
folder. Without Chromium the tests are skipped, unless CI is set.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import tempfile
import threading
import unittest
import urllib.parse
from pathlib import Path
from typing import Any

import chromium

PROGRAM = Path(os.environ["NICPLUG"]).resolve()
VMS = 1000

# Sizes of the view: width, height, and whether it is that of a phone.
DESK = (1280, 900, False)
PHONE = (360, 740, True)
SMALL_PHONE = (320, 568, True)


def vm(number: int) -> dict[str, Any]:
    """Returns a VM: one of seven has a network that does not exist, one of ten a NIC without a network."""
    interfaces: list[dict[str, Any]] = [{"name": "default", "masquerade": {}}, {"name": "blue", "bridge": {}}]
    if number % 10 == 0:
        interfaces.append({"name": "lost", "bridge": {}})
    network = "missing" if number % 7 == 0 else "blue"
    networks = [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": network}}]
    # A name that would be markup if the page did not escape it, and the longest that an object can have.
    name = {1: "a" * 253, 2: "b-" + "long-name-" * 12 + "x"}.get(number, f"vm-{number:04}")
    spec = {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": f"team-{number % 5}", "uid": f"vm-{number}"},
        "spec": {"runStrategy": "Always" if number % 3 else "Halted", "template": {"spec": spec}},
    }


def vmi(machine: dict[str, Any]) -> dict[str, Any]:
    """Returns the VMI of a running VM, whose guest has all NICs."""
    spec = machine["spec"]["template"]["spec"]
    nics = [{"name": nic["name"], "infoSource": "domain, multus-status"} for nic in spec["domain"]["devices"]["interfaces"]]
    metadata = {
        **machine["metadata"],
        "annotations": {"nicplug.io/boot-slots": "v1:port=2,nics=2,disks=0"},
        "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "x", "uid": "x"}],
    }
    status = {"phase": "Running", "nodeName": "node-a", "interfaces": nics}
    return {**machine, "kind": "VirtualMachineInstance", "metadata": metadata, "spec": spec, "status": status}


MACHINES = sorted((vm(number) for number in range(VMS)), key=lambda one: (one["metadata"]["namespace"], one["metadata"]["name"]))

LISTS = {
    "virtualmachines": MACHINES,
    "virtualmachineinstances": [vmi(one) for one in MACHINES if one["spec"]["runStrategy"] == "Always"],
    "network-attachment-definitions": [
        {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "blue", "namespace": f"team-{team}"},
            "spec": {"config": '{"cniVersion": "0.4.0", "type": "bridge"}'},
        }
        for team in range(5)
    ],
    "kubevirts": [
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
            "status": {"observedKubeVirtVersion": "v1.9.0"},
        }
    ],
}


class ApiServer(http.server.BaseHTTPRequestHandler):
    """Lists the VMs, their VMIs, one network and a KubeVirt; other lists are empty."""

    def do_GET(self) -> None:
        plural = urllib.parse.urlsplit(self.path).path.rsplit("/", 1)[1]
        body = {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": LISTS.get(plural, [])}
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def write_page(folder: Path) -> Path:
    """Writes the page of an audit."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [],
    }))
    command = [PROGRAM, "audit", "--all-namespaces", "--output=html", f"--kubeconfig={kubeconfig}"]
    run = subprocess.run(command, capture_output=True, check=False)
    server.shutdown()
    server.server_close()
    assert run.returncode == 1, run.stderr.decode()
    page = folder / "audit.html"
    page.write_bytes(run.stdout)
    return page


@unittest.skipUnless(chromium.path() or os.environ.get("CI"), "there is no Chromium")
class AuditPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.page = write_page(Path(folder.name)).as_uri()
        cls.browser = chromium.Chromium()
        cls.addClassCleanup(cls.browser.close)

    def open(self, size: tuple[int, int, bool] = DESK, scheme: str = "light") -> None:
        width, height, is_phone = size
        self.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        self.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.browser.open(self.page)

    def tearDown(self) -> None:
        # What each test does must neither fail in the page nor load anything.
        self.assertEqual(self.browser.errors(), [])
        self.assertEqual(self.browser.requests(), [self.page])

    def shown(self) -> str:
        return self.browser.value("document.getElementById('shown').textContent")

    def names(self) -> list[str]:
        return self.browser.value("[...document.querySelectorAll('.guest .name')].map(name => name.textContent)")

    def type(self, text: str) -> None:
        """Types into the field of the search, as a user does."""
        self.browser.value("document.getElementById('search').focus()")
        self.browser.call("Input.insertText", text=text)

    def choose(self, field: str, value: str) -> None:
        self.browser.value(
            f"{{const field = document.getElementById({field!r}); field.value = {value!r};"
            "field.dispatchEvent(new Event('change'))}"
        )

    def click(self, selector: str) -> None:
        """Clicks the middle of an element with the mouse."""
        x, y = self.browser.value(
            f"(async () => {{const it = document.querySelector({selector!r});"
            "for (let place = '', still = 0, frame = 0; frame < 300; frame += 1) {"
            # What comes into view gets its height only when it is drawn, and moves what is below.
            "it.scrollIntoView({block: 'center'}); await new Promise(requestAnimationFrame);"
            "const box = it.getBoundingClientRect();"
            "const middle = [box.x + box.width / 2, box.y + box.height / 2];"
            "still = place === String(middle) ? still + 1 : 0; place = String(middle);"
            "if (still > 5 && it.contains(document.elementFromPoint(...middle))) return middle}})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def until(self, condition: str) -> None:
        """Waits until a condition is true: what a click changes may follow it."""
        is_true = self.browser.value(
            "(async () => {for (let frame = 0; frame < 600; frame += 1) {"
            f"if ({condition}) return true; await new Promise(requestAnimationFrame)}} return false}})()"
        )
        self.assertTrue(is_true, condition)

    def open_first(self) -> None:
        self.click(".guest summary .name")
        self.until("document.querySelector('.guest .body')")

    def picture(self, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            self.browser.value("window.scrollTo(0, 0)")
            picture = self.browser.call("Page.captureScreenshot", format="png")["data"]
            (Path(folder) / f"audit-{name}.png").write_bytes(base64.b64decode(picture))

    def test_all_vms_are_shown_in_steps_the_worst_first(self) -> None:
        self.open()
        self.assertRegex(self.shown(), rf"^{VMS} guests, \d+ with findings$")
        self.assertEqual(len(self.names()), 200)
        first, last = self.browser.value(
            "[...document.querySelectorAll('.guest summary')].map(one => one.className)"
            ".reduce(([first], level) => [first || level, level], [])"
        )
        self.assertEqual((first, last), ("error", "warning"))
        self.picture("desk")
        for count in (400, 600, 800, VMS):
            self.click("#more")
            self.until(f"document.querySelectorAll('.guest').length === {count}")
        self.assertEqual(len(set(self.names())), VMS)
        self.assertTrue(self.browser.value("document.getElementById('more').hidden"))

    def test_the_search_reads_names_networks_rules_and_messages(self) -> None:
        for words, count in [("vm-0123", 1), ("VM-0123 team-3", 1), ("vm-0123 team-4", 0), ("np003", 100), ("<b>", 0)]:
            with self.subTest(words):
                self.open()
                self.type(words)
                self.assertRegex(self.shown(), rf"^{count} of {VMS} guests, \d+ with findings$")
                self.assertEqual(len(self.names()), count)

    def test_filters_and_orders_work_together(self) -> None:
        self.open()
        self.choose("namespace", "team-1")
        self.assertRegex(self.shown(), r"^200 of 1000 ")
        self.choose("state", "false")
        halted = sum(1 for number in range(VMS) if number % 5 == 1 and number % 3 == 0)
        self.assertRegex(self.shown(), rf"^{halted} of 1000 ")
        self.choose("sort", "name")
        self.assertEqual(self.names(), sorted(self.names()))
        self.choose("namespace", "")
        self.choose("state", "")
        self.click("#found")
        both = self.shown()
        self.assertLess(int(both.split()[0]), VMS)
        self.click("#topics .chip")
        self.assertEqual(self.browser.value("document.querySelector('#topics .chip').getAttribute('aria-pressed')"), "true")
        count = int(self.browser.value("document.querySelector('#topics .chip b').textContent"))
        self.assertRegex(self.shown(), rf"^{count} of 1000 guests, {count} with findings$")
        self.click("#topics .chip")
        self.assertEqual(self.shown(), both)

    def test_a_guest_opens_with_its_findings_its_nics_and_its_bus(self) -> None:
        self.open()
        self.type("vm-0070")
        self.open_first()
        text = self.browser.value("document.querySelector('.guest .body').innerText")
        for part in ("NP003", "To do: ", "missing", "PCI bus after the next restart", "root ports"):
            self.assertIn(part, text)
        self.assertGreater(self.browser.value("document.querySelectorAll('.bus .slot.free').length"), 0)
        self.picture("open")

    def test_dark_mode_has_its_own_colours(self) -> None:
        colours = {}
        for scheme in ("light", "dark"):
            self.open(scheme=scheme)
            self.open_first()
            colours[scheme] = self.browser.value(
                "(() => {const of = one => getComputedStyle(one);"
                "return [of(document.body).backgroundColor, of(document.body).color,"
                "...[...document.querySelectorAll('.muted, .error, .warning, .note, .ok, .slot i')]"
                ".map(one => of(one).color)]})()"
            )
            page, *inks = ([int(part) for part in colour[4:-1].split(",")] for colour in colours[scheme])
            for ink in inks:
                self.assertGreaterEqual(contrast(page, ink), 4.5, f"{scheme}: {ink} on {page}")
        self.assertNotEqual(colours["light"][0], colours["dark"][0])
        self.picture("dark")

    def test_a_phone_shows_everything_without_scrolling_sideways(self) -> None:
        for name, size in [("phone", PHONE), ("small-phone", SMALL_PHONE)]:
            with self.subTest(name):
                self.open(size)
                widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                self.assertEqual(self.browser.value(widths), [size[0], size[0]])
                self.picture(name)
                # One of the longest names, with a table and a bus.
                self.type("a" * 200)
                self.open_first()
                self.assertEqual(self.browser.value(widths), [size[0], size[0]])
                self.picture(f"{name}-open")

    def test_the_page_is_quick_with_all_vms(self) -> None:
        self.open()
        milliseconds = self.browser.value(
            "{const begin = performance.now(); for (const text of ['v', 'vm', 'vm-', '']) {"
            "document.getElementById('search').value = text; refresh(); document.body.offsetHeight}"
            "(performance.now() - begin) / 4}"
        )
        # A search takes some 20 ms on a machine without other load.
        self.assertLess(milliseconds, 1000)


def contrast(one: list[int], other: list[int]) -> float:
    """Returns the contrast of two colours: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""

    def luminance(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


if __name__ == "__main__":
    unittest.main()
