"""The alerts by promtool, and the dashboard: what they ask for exists, and each alert fires when it should and only then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chart
import dashboard
import metrics
from chart import NAMESPACE, ROOT, render

PROMTOOL = shutil.which("promtool", path=f"{ROOT / 'target/tools/bin'}:{os.environ.get('PATH', '')}")

WATCHED = {"metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}

MINUTE = 60


def groups(values: dict[str, Any]) -> list[dict[str, Any]]:
    (found,) = (item for item in chart.objects(render(values)) if item["kind"] == "PrometheusRule")
    return found["spec"]["groups"]


def alerts(values: dict[str, Any] = WATCHED) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in groups(values) for rule in group["rules"]}


def ours(name: str, pod: str = "a", **labels: str) -> str:
    """A series of a pod of this release, as its ServiceMonitor labels it."""
    own = {"namespace": NAMESPACE, "service": "nicplug", "job": "nicplug", "instance": f"{pod}:8444", "pod": pod}
    return series(name, {**own, **labels})


def of_the_api_server(name: str, webhook: str, **labels: str) -> str:
    return series(name, {"job": "apiserver", "name": webhook, **labels})


def series(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels.items())}}}"


@dataclass(frozen=True)
class Case:
    """What Prometheus has read, a value a minute, in the notation of promtool: `0+60x10` goes up by 60 ten times."""

    # The alert fires for these labels, and says this.
    fires: dict[str, str]
    labels: dict[str, str]
    says: str
    # Nothing fires: what is read is nearly as bad, or bad for a shorter time, or of somebody else.
    silent: dict[str, str]
    # Minutes after which both are looked at.
    after: int = 30


VALIDATE, MUTATE = "validate.nicplug.io", "mutate.nicplug.io"
REJECTED = "apiserver_admission_webhook_rejection_count"
PASSED = "apiserver_admission_webhook_fail_open_count"
DURATION = "apiserver_admission_webhook_admission_duration_seconds_bucket"


def duration(webhook: str, fast: str, slow: str) -> dict[str, str]:
    """Calls that took less than half a second, and those that took less than a second."""
    return {
        of_the_api_server(DURATION, webhook, le="0.5"): fast,
        of_the_api_server(DURATION, webhook, le="1"): slow,
        of_the_api_server(DURATION, webhook, le="+Inf"): slow,
    }


CASES = {
    "NicplugUnreachable": Case(
        fires={of_the_api_server(REJECTED, VALIDATE, error_type="calling_webhook_error"): "0+6x30"},
        labels={"name": VALIDATE},
        says="0.10 calls a second of validate.nicplug.io fail. With failure policy Fail each of them is a refused change of "
        "a virtual machine.",
        silent={
            # A refusal by a rule, and the failing webhook of somebody else.
            of_the_api_server(REJECTED, VALIDATE, error_type="no_error"): "0+6x30",
            of_the_api_server(REJECTED, "validate.example.com", error_type="calling_webhook_error"): "0+6x30",
        },
    ),
    "NicplugBypassed": Case(
        fires={of_the_api_server(PASSED, MUTATE): "0+6x30"},
        labels={"name": MUTATE},
        says="0.10 calls a second of mutate.nicplug.io fail, and the change is let through as it is: failure policy Ignore.",
        silent={of_the_api_server(PASSED, MUTATE): "7x30", of_the_api_server(PASSED, "mutate.example.com"): "0+6x30"},
    ),
    "NicplugSlow": Case(
        fires=duration(VALIDATE, "0+90x30", "0+100x30"),
        labels={"name": VALIDATE},
        says="One call in a hundred of validate.nicplug.io takes longer than 950ms. The API server gives up after 5 seconds.",
        silent=duration(VALIDATE, "0+999x30", "0+1000x30"),
    ),
    "NicplugDown": Case(
        fires={ours("up"): "0x30"},
        labels={},
        says="Prometheus reads the metrics of no pod of nicplug in nicplug-system. With failure policy Fail no virtual machine "
        "can be changed if none runs.",
        silent={ours("up"): "0x30", ours("up", "b"): "1x30"},
    ),
    "NicplugRestarts": Case(
        fires={ours("process_start_time_seconds"): "10x10 700x10 1400x10"},
        labels={"pod": "a"},
        says="Pod a has restarted 2 times within 30 minutes.",
        # A restart, and a rolling update.
        silent={ours("process_start_time_seconds"): "10x10 700x20", ours("process_start_time_seconds", "b"): "_x15 900x15"},
    ),
    "NicplugMemory": Case(
        fires={ours("process_resident_memory_bytes"): f"{250 << 20}x30"},
        labels={"pod": "a"},
        says="Pod a has 250MiB in use, more than nine tenths of its limit of 256Mi.",
        silent={ours("process_resident_memory_bytes"): f"{230 << 20}x30"},
    ),
    "NicplugRefusing": Case(
        fires={ours("nicplug_requests_refused_total", reason="overload"): "0+30x30"},
        labels={"reason": "overload"},
        says="0.50 requests a second are turned away unread. The reason: overload.",
        silent={ours("nicplug_requests_refused_total", reason="overload"): "0x10 30x20"},
    ),
    "NicplugFactsStale": Case(
        fires={
            ours("nicplug_facts_state", pod, kind="VirtualMachine", state=state): value
            for pod in ("a", "b")
            for state, value in [("stale", "1x30"), ("synced", "0x30")]
        },
        labels={"kind": "VirtualMachine", "state": "stale"},
        says="2 pods cannot watch objects of kind VirtualMachine. The state: stale.",
        silent={
            ours("nicplug_facts_state", kind="VirtualMachine", state="stale"): "0x24 1x6",
            ours("nicplug_facts_state", kind="VirtualMachine", state="synced"): "1x24 0x6",
            ours("nicplug_facts_state", kind="DaemonSet", state="not_installed"): "1x30",
        },
    ),
    "NicplugFactsUnknown": Case(
        fires={ours("nicplug_unknown_facts_total", kind="Node"): "0+6x40"},
        labels={"kind": "Node"},
        says="0.10 answers a second say that something was not checked, because Node was not known.",
        silent={ours("nicplug_unknown_facts_total", kind="Node"): "0+6x5 30x35"},
        after=40,
    ),
    "NicplugNotCalled": Case(
        fires={ours("nicplug_called"): "0x30", ours("nicplug_called", "b"): "0x30"},
        labels={},
        says="The webhooks are registered, and their match condition does not let the API server call them. No change of a "
        "virtual machine is judged.",
        # A pod that has not heard of it yet, and the first installation.
        silent={ours("nicplug_called"): "1x30", ours("nicplug_called", "b"): "0x30"},
    ),
    "NicplugPersistStuck": Case(
        fires={ours("nicplug_persist_pending"): "0x5 2x85", ours("nicplug_persist_pending", "b"): "0x90"},
        labels={},
        says="2 objects have NICs that are to be kept, and for an hour some have waited. Those NICs are gone after a restart.",
        silent={ours("nicplug_persist_pending"): "2x50 0x1 2x39"},
        after=90,
    ),
    "NicplugPersistLeader": Case(
        fires={ours("nicplug_persist_leading"): "1x30", ours("nicplug_persist_leading", "b"): "1x30"},
        labels={},
        says="2 pods say that they mirror NICs, and it has to be one.",
        # One gives it back, and the other takes it three minutes later.
        silent={ours("nicplug_persist_leading"): "1x15 0x15", ours("nicplug_persist_leading", "b"): "0x18 1x12"},
    ),
    "NicplugCertificateExpiring": Case(
        fires={
            ours("nicplug_certificate_expiry_timestamp_seconds", certificate="server"): f"{30 * MINUTE + 86400 * 10}x30",
            ours("nicplug_certificate_expiry_timestamp_seconds", certificate="authority"): f"{86400 * 100}x30",
        },
        labels={"certificate": "server"},
        says="The certificate of the server ends in 10d 0h 0m 0s, and then no call reaches nicplug.",
        silent={ours("nicplug_certificate_expiry_timestamp_seconds", certificate="server"): f"{86400 * 15}x30"},
    ),
    "NicplugCertificateRefused": Case(
        fires={ours("nicplug_certificate_faults_total"): "0x20 1x10"},
        labels={},
        says="A certificate that was to come next has a fault, and the last good one stays until it ends.",
        silent={ours("nicplug_certificate_faults_total"): "3x30"},
    ),
    "NicplugHandshakesFailing": Case(
        fires={ours("nicplug_handshake_failures_total"): "0+8x30", ours("nicplug_connections_total"): "0+10x30"},
        labels={},
        says="80% of the new connections to nicplug end in the TLS handshake.",
        silent={ours("nicplug_handshake_failures_total"): "0+4x30", ours("nicplug_connections_total"): "0+10x30"},
    ),
    "NicplugSettingsRefused": Case(
        fires={ours("nicplug_settings_valid"): "1x20 0x10", ours("nicplug_settings_valid", "b"): "1x30"},
        labels={"pod": "a"},
        says="Pod a cannot use the settings that it was given, and goes on with those before.",
        silent={ours("nicplug_settings_valid"): "1x10 0x5 1x15"},
    ),
    "NicplugVersionsMixed": Case(
        fires={ours("nicplug_build_info", version="0.1.0"): "1x90", ours("nicplug_build_info", "b", version="0.2.0"): "1x90"},
        labels={},
        says="For an hour pods of 2 versions have judged side by side.",
        silent={
            ours("nicplug_build_info", version="0.1.0"): "1x50 _x40",
            ours("nicplug_build_info", "b", version="0.2.0"): "_x40 1x50",
        },
        after=90,
    ),
}


class Alerts(unittest.TestCase):
    def setUp(self) -> None:
        if PROMTOOL is None:
            if os.environ.get("CI") == "true":
                self.fail("there is no promtool: `just promtool` brings it")
            self.skipTest("there is no promtool: `just promtool` brings it")

    def test_each_has_a_case(self) -> None:
        self.assertEqual(alerts().keys(), CASES.keys())

    def test_prometheus_takes_them(self) -> None:
        for name, values in [*chart.sets().items(), ("watched", WATCHED)]:
            if values.get("metrics", {}).get("prometheusRule", {}).get("enabled"):
                with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                    file = write(folder, "rules.json", {"groups": groups(values)})
                    self.promtool("check", "rules", "--lint-fatal", file)

    def test_each_fires_when_it_should_and_says_why(self) -> None:
        for name, case in CASES.items():
            with self.subTest(name):
                rule = alerts()[name]
                annotations = {**rule["annotations"], "description": case.says}
                labels = {**case.labels, **rule["labels"]}
                self.try_out(name, case, case.fires, [{"exp_labels": labels, "exp_annotations": annotations}])

    def test_none_fires_when_nearly_all_is_well(self) -> None:
        for name, case in CASES.items():
            with self.subTest(name):
                self.try_out(name, case, case.silent, [])

    def test_a_release_of_another_namespace_is_not_heard(self) -> None:
        for name, case in CASES.items():
            # That there is none is what NicplugDown says, and the API server knows webhooks by name alone.
            if name != "NicplugDown" and not any("apiserver" in key for key in case.fires):
                with self.subTest(name):
                    moved = {key.replace(NAMESPACE, "elsewhere"): values for key, values in case.fires.items()}
                    self.try_out(name, case, moved, [])

    def try_out(self, name: str, case: Case, read: dict[str, str], expected: list[dict[str, Any]]) -> None:
        test = {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in read.items()],
            "alert_rule_test": [{"eval_time": f"{case.after}m", "alertname": name, "exp_alerts": expected}],
        }
        with tempfile.TemporaryDirectory() as folder:
            rules = write(folder, "rules.json", {"groups": groups(WATCHED)})
            file = write(folder, "test.json", {"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]})
            self.promtool("test", "rules", file)

    def promtool(self, *arguments: str) -> None:
        run = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


def write(folder: str, name: str, document: Any) -> str:
    """A document of YAML, written as JSON, which is YAML as well."""
    file = Path(folder) / name
    file.write_text(json.dumps(document))
    return str(file)


class Metrics(unittest.TestCase):
    """Whatever is asked for is there to be asked."""

    def expressions(self) -> Iterator[str]:
        for rule in alerts().values():
            yield rule["expr"]
        for panel in dashboard.dashboard()["panels"]:
            for target in panel.get("targets", []):
                yield target["expr"]

    def test_every_series_is_one_that_exists_with_those_labels(self) -> None:
        known = metrics.known()
        for expression in self.expressions():
            with self.subTest(expression):
                used = list(metrics.used(expression))
                self.assertTrue(used)
                self.assertEqual(metrics.unselected(expression), [])
                for name, labels in used:
                    self.assertIn(name, known)
                    if len(used) == 1:
                        self.assertLessEqual(labels, known[name], name)

    def test_every_series_of_nicplug_is_on_the_dashboard(self) -> None:
        targets = [target for panel in dashboard.dashboard()["panels"] for target in panel.get("targets", [])]
        shown = {name for target in targets for name, _ in metrics.used(target["expr"])}
        parts = ("_count", "_sum")
        own = {name for name in metrics.known() if name.startswith("nicplug_") and not name.endswith(parts)}
        self.assertLessEqual(own, shown)

    def test_legends_name_labels_that_the_query_keeps(self) -> None:
        for panel in dashboard.dashboard()["panels"]:
            for target in panel.get("targets", []):
                kept = {label for _, labels in metrics.used(target["expr"]) for label in labels}
                self.assertLessEqual(set(re.findall(r"{{(\w+)}}", target["legendFormat"])), kept, panel["title"])


class Dashboard(unittest.TestCase):
    def test_panels_fill_rows_and_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        ids = set()
        for panel in dashboard.dashboard()["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertLessEqual(at["x"] + at["w"], dashboard.COLUMNS)
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
            ids.add(panel["id"])
        self.assertEqual(len(ids), len(dashboard.dashboard()["panels"]))
        rows: dict[int, int] = {}
        for _, y in taken:
            rows[y] = rows.get(y, 0) + 1
        self.assertEqual(set(rows.values()), {dashboard.COLUMNS})

    def test_the_chart_brings_it_whole_where_it_is_wanted(self) -> None:
        def found(values: dict[str, Any]) -> list[dict[str, Any]]:
            return [item for item in chart.objects(render(values)) if item["metadata"]["name"] == "nicplug-dashboard"]

        self.assertEqual(found({}), [])
        (config_map,) = found({"metrics": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "VMs"}}}})
        self.assertEqual(config_map["metadata"]["labels"]["grafana_dashboard"], "1")
        self.assertEqual(config_map["metadata"]["annotations"], {"grafana_folder": "VMs"})
        self.assertEqual(json.loads(config_map["data"]["nicplug.json"]), dashboard.dashboard())


class Values(unittest.TestCase):
    def test_memory_is_compared_with_the_limit_however_it_is_written(self) -> None:
        for limit, expected in [("256Mi", 256 << 20), ("2Gi", 2 << 30), ("300M", 300_000_000), ("268435456", 256 << 20)]:
            rule = alerts({**WATCHED, "resources": {"limits": {"memory": limit}}})["NicplugMemory"]
            self.assertTrue(rule["expr"].endswith(f"> 0.9 * {expected}"), rule["expr"])
        for limits in [{"memory": "1.5Gi"}, {"memory": None}]:
            self.assertNotIn("NicplugMemory", alerts({**WATCHED, "resources": {"limits": limits}}))

    def test_what_is_not_there_has_no_alert(self) -> None:
        unread = alerts({"metrics": {"prometheusRule": {"enabled": True}}})
        self.assertEqual(set(unread), {"NicplugBypassed", "NicplugSlow", "NicplugUnreachable"})
        without = alerts({**WATCHED, "persist": {"enabled": False}})
        self.assertEqual(alerts().keys() - without.keys(), {"NicplugPersistLeader", "NicplugPersistStuck"})


if __name__ == "__main__":
    unittest.main()
