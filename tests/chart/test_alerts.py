"""Tests the alerts with promtool, and that the alerts and the dashboard use existing metrics."""

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
    """Returns a series of a pod of this release, with the labels that its ServiceMonitor adds."""
    own = {"namespace": NAMESPACE, "service": "nicplug", "job": "nicplug", "instance": f"{pod}:8444", "pod": pod}
    return series(name, {**own, **labels})


def of_api_server(name: str, webhook: str, **labels: str) -> str:
    return series(name, {"job": "apiserver", "name": webhook, **labels})


def series(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={json.dumps(value)}' for key, value in labels.items())}}}"


@dataclass(frozen=True)
class Case:
    """Scraped series with a value per minute, in promtool's notation: `0+60x10` increases by 60 ten times."""

    # Series for which the alert fires, with the labels and the description that it must have.
    fires: dict[str, str]
    labels: dict[str, str]
    description: str
    # Series for which it must not fire: below the threshold, for too short a time, or of another program.
    silent: dict[str, str]
    # Minutes after which both are evaluated.
    after: int = 30


VALIDATE, MUTATE = "validate.nicplug.io", "mutate.nicplug.io"
REJECTED = "apiserver_admission_webhook_rejection_count"
PASSED = "apiserver_admission_webhook_fail_open_count"
DURATION = "apiserver_admission_webhook_admission_duration_seconds_bucket"
CERTIFICATE_EXPIRY = "nicplug_certificate_expiry_timestamp_seconds"
CONNECTIONS = "nicplug_connections_opened_total"
HANDSHAKE_FAILURES = "nicplug_handshake_failures_total"


def duration(webhook: str, fast: str, slow: str) -> dict[str, str]:
    """Returns the calls that took less than half a second, and those that took less than a second."""
    return {
        of_api_server(DURATION, webhook, le="0.5"): fast,
        of_api_server(DURATION, webhook, le="1"): slow,
        of_api_server(DURATION, webhook, le="+Inf"): slow,
    }


CASES = {
    "NicplugUnreachable": Case(
        fires={of_api_server(REJECTED, VALIDATE, error_type="calling_webhook_error"): "0+6x30"},
        labels={"name": VALIDATE},
        description="0.10 calls per second of validate.nicplug.io fail. With failure policy Fail, the API server "
        "rejects each of these requests.",
        silent={
            # A denial by a rule, and another program's failing webhook.
            of_api_server(REJECTED, VALIDATE, error_type="no_error"): "0+6x30",
            of_api_server(REJECTED, "validate.example.com", error_type="calling_webhook_error"): "0+6x30",
        },
    ),
    "NicplugBypassed": Case(
        fires={of_api_server(PASSED, MUTATE): "0+6x30"},
        labels={"name": MUTATE},
        description="0.10 calls per second of mutate.nicplug.io fail. With failure policy Ignore, the API server "
        "admits these requests without nicplug.",
        silent={of_api_server(PASSED, MUTATE): "7x30", of_api_server(PASSED, "mutate.example.com"): "0+6x30"},
    ),
    "NicplugSlow": Case(
        fires=duration(VALIDATE, "0+90x30", "0+100x30"),
        labels={"name": VALIDATE},
        description="The 99th percentile of the calls of validate.nicplug.io takes 950ms. The API server times out "
        "after 5 seconds.",
        silent=duration(VALIDATE, "0+999x30", "0+1000x30"),
    ),
    "NicplugDown": Case(
        fires={ours("up"): "0x30"},
        labels={},
        description="Prometheus cannot scrape any nicplug pod in nicplug-system. If no pod runs and the failure policy "
        "is Fail, users cannot change virtual machines.",
        silent={ours("up"): "0x30", ours("up", "b"): "1x30"},
    ),
    "NicplugRestarts": Case(
        fires={ours("process_start_time_seconds"): "10x10 700x10 1400x10"},
        labels={"pod": "a"},
        description="Pod a restarted 2 times within 30 minutes.",
        # A single restart, and a rolling update.
        silent={
            ours("process_start_time_seconds"): "10x10 700x20",
            ours("process_start_time_seconds", "b"): "_x15 900x15",
        },
    ),
    "NicplugMemory": Case(
        fires={ours("process_resident_memory_bytes"): f"{250 << 20}x30"},
        labels={"pod": "a"},
        description="Pod a uses 250MiB of memory, more than 90% of its limit of 256Mi.",
        silent={ours("process_resident_memory_bytes"): f"{230 << 20}x30"},
    ),
    "NicplugRefusing": Case(
        fires={ours("nicplug_requests_refused_total", reason="overload"): "0+30x30"},
        labels={"reason": "overload"},
        description="0.50 requests per second are rejected without review. Reason: overload.",
        silent={ours("nicplug_requests_refused_total", reason="overload"): "0x10 30x20"},
    ),
    "NicplugConnectionsAtLimit": Case(
        fires={ours("nicplug_connections"): "990x30", ours("nicplug_connections_limit"): "1000x30"},
        labels={"pod": "a"},
        description="Pod a uses 99% of the connections that it may have open."
        " At the limit it closes idle connections for new ones.",
        silent={
            ours("nicplug_connections"): "900x30",
            ours("nicplug_connections", "b"): "990x15 10x15",
            ours("nicplug_connections_limit"): "1000x30",
            ours("nicplug_connections_limit", "b"): "1000x30",
        },
    ),
    "NicplugFactsStale": Case(
        fires={
            ours("nicplug_facts_state", pod, kind="VirtualMachine", state=state): value
            for pod in ("a", "b")
            for state, value in [("stale", "1x30"), ("synced", "0x30")]
        },
        labels={"kind": "VirtualMachine", "state": "stale"},
        description="2 pods cannot watch objects of kind VirtualMachine. State: stale.",
        silent={
            ours("nicplug_facts_state", kind="VirtualMachine", state="stale"): "0x24 1x6",
            ours("nicplug_facts_state", kind="VirtualMachine", state="synced"): "1x24 0x6",
            ours("nicplug_facts_state", kind="DaemonSet", state="not_installed"): "1x30",
        },
    ),
    "NicplugFactsUnknown": Case(
        fires={ours("nicplug_unknown_facts_total", kind="Node"): "0+6x40"},
        labels={"kind": "Node"},
        description="0.10 responses per second warn that a check was skipped, because facts of kind Node were unknown.",
        silent={ours("nicplug_unknown_facts_total", kind="Node"): "0+6x5 30x35"},
        after=40,
    ),
    "NicplugInternalError": Case(
        fires={ours("nicplug_internal_errors_total", rule="NP107"): "0x10 1x20"},
        labels={"rule": "NP107"},
        description="A fault in rule NP107 of nicplug: requests are answered without its verdict. The log has the place "
        "of the fault.",
        silent={ours("nicplug_internal_errors_total", rule="NP107"): "0x30"},
    ),
    "NicplugWebhookInactive": Case(
        fires={ours("nicplug_webhook_active"): "0x30", ours("nicplug_webhook_active", "b"): "0x30"},
        labels={},
        description="The webhooks are registered, but their match condition is false, so the API server does not call "
        "them. No change of a virtual machine is reviewed.",
        # One pod has not read the RoleBinding yet.
        silent={ours("nicplug_webhook_active"): "1x30", ours("nicplug_webhook_active", "b"): "0x30"},
    ),
    "NicplugInterfacesPending": Case(
        fires={
            ours("nicplug_interfaces_pending", stage="vmi", reason="manual-migration"): "0x5 2x85",
            ours("nicplug_interfaces_pending", "b", stage="vmi", reason="manual-migration"): "0x90",
        },
        labels={"stage": "vmi", "reason": "manual-migration"},
        description="2 NICs have not reached their running guests for an hour. Stage: vmi. Reason: manual-migration. An "
        "Event on each VM says what to do.",
        # A NIC that comes at the next restart may wait for it.
        silent={
            ours("nicplug_interfaces_pending", stage="vmi", reason="migration"): "2x50 0x1 2x39",
            ours("nicplug_interfaces_pending", stage="template", reason="restart"): "2x90",
        },
        after=90,
    ),
    "NicplugPersistStuck": Case(
        fires={ours("nicplug_persist_pending"): "0x5 2x85", ours("nicplug_persist_pending", "b"): "0x90"},
        labels={},
        description="2 objects have NICs to persist, and there have been such objects for an hour. A NIC that is not "
        "persisted is lost when its VM restarts.",
        silent={ours("nicplug_persist_pending"): "2x50 0x1 2x39"},
        after=90,
    ),
    "NicplugLeader": Case(
        fires={ours("nicplug_leader"): "1x30", ours("nicplug_leader", "b"): "1x30"},
        labels={},
        description="2 pods report that they are the leader; there must be exactly one.",
        # One pod releases the Lease, and the other acquires it three minutes later.
        silent={ours("nicplug_leader"): "1x15 0x15", ours("nicplug_leader", "b"): "0x18 1x12"},
    ),
    "NicplugCertificateExpiring": Case(
        fires={
            ours(CERTIFICATE_EXPIRY, certificate="server"): f"{30 * MINUTE + 86400 * 10}x30",
            ours(CERTIFICATE_EXPIRY, certificate="ca"): f"{86400 * 100}x30",
        },
        labels={"certificate": "server"},
        description="The server certificate expires in 10d 0h 0m 0s. After that every call of nicplug fails.",
        silent={ours(CERTIFICATE_EXPIRY, certificate="server"): f"{86400 * 15}x30"},
    ),
    "NicplugCertificateLoadFailed": Case(
        fires={ours("nicplug_certificate_load_failures_total"): "0x20 1x10"},
        labels={},
        description="A pod cannot load a new certificate. It serves the previous certificate until that expires.",
        silent={ours("nicplug_certificate_load_failures_total"): "3x30"},
    ),
    "NicplugHandshakesFailing": Case(
        fires={ours(HANDSHAKE_FAILURES): "0+8x30", ours(CONNECTIONS): "0+10x30"},
        labels={},
        description="80% of the new connections to nicplug fail in the TLS handshake.",
        silent={ours(HANDSHAKE_FAILURES): "0+4x30", ours(CONNECTIONS): "0+10x30"},
    ),
    "NicplugSettingsRefused": Case(
        fires={ours("nicplug_settings_valid"): "1x20 0x10", ours("nicplug_settings_valid", "b"): "1x30"},
        labels={"pod": "a"},
        description="Pod a rejected its settings file and keeps the previous settings.",
        silent={ours("nicplug_settings_valid"): "1x10 0x5 1x15"},
    ),
    "NicplugVersionsMixed": Case(
        fires={
            ours("nicplug_build_info", version="0.1.0"): "1x90",
            ours("nicplug_build_info", "b", version="0.2.0"): "1x90",
        },
        labels={},
        description="Pods of 2 versions have run side by side for an hour.",
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
                self.fail("promtool is missing: run `just promtool`")
            self.skipTest("promtool is missing: run `just promtool`")

    def test_each_has_a_case(self) -> None:
        self.assertEqual(alerts().keys(), CASES.keys())

    def test_promtool_accepts_them(self) -> None:
        for name, values in [*chart.sets().items(), ("watched", WATCHED)]:
            if values.get("metrics", {}).get("prometheusRule", {}).get("enabled"):
                with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                    file = write(folder, "rules.json", {"groups": groups(values)})
                    self.promtool("check", "rules", "--lint-fatal", file)

    def test_each_fires_when_it_should_and_says_why(self) -> None:
        for name, case in CASES.items():
            with self.subTest(name):
                rule = alerts()[name]
                annotations = {**rule["annotations"], "description": case.description}
                labels = {**case.labels, **rule["labels"]}
                self.check(name, case, case.fires, [{"exp_labels": labels, "exp_annotations": annotations}])

    def test_none_fires_below_its_threshold(self) -> None:
        for name, case in CASES.items():
            with self.subTest(name):
                self.check(name, case, case.silent, [])

    def test_metrics_of_another_namespace_fire_nothing(self) -> None:
        for name, case in CASES.items():
            # NicplugDown fires if the series are absent, and the metrics of the API server have no namespace.
            if name != "NicplugDown" and not any("apiserver" in key for key in case.fires):
                with self.subTest(name):
                    moved = {key.replace(NAMESPACE, "elsewhere"): values for key, values in case.fires.items()}
                    self.check(name, case, moved, [])

    def check(self, name: str, case: Case, scraped: dict[str, str], expected: list[dict[str, Any]]) -> None:
        test = {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in scraped.items()],
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
    """Writes a YAML document, as JSON, and returns its path."""
    file = Path(folder) / name
    file.write_text(json.dumps(document))
    return str(file)


class Metrics(unittest.TestCase):
    """The expressions of the alerts and the dashboard use existing metrics and labels."""

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

    def test_the_chart_contains_it_if_enabled(self) -> None:
        def found(values: dict[str, Any]) -> list[dict[str, Any]]:
            return [item for item in chart.objects(render(values)) if item["metadata"]["name"] == "nicplug-dashboard"]

        self.assertEqual(found({}), [])
        (config_map,) = found({"metrics": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "VMs"}}}})
        self.assertEqual(config_map["metadata"]["labels"]["grafana_dashboard"], "1")
        self.assertEqual(config_map["metadata"]["annotations"], {"grafana_folder": "VMs"})
        self.assertEqual(json.loads(config_map["data"]["nicplug.json"]), dashboard.dashboard())


class Values(unittest.TestCase):
    def test_the_memory_limit_is_read_in_every_common_unit(self) -> None:
        for limit, expected in [
            ("256Mi", 256 << 20),
            ("2Gi", 2 << 30),
            ("300M", 300_000_000),
            ("268435456", 256 << 20),
        ]:
            rule = alerts({**WATCHED, "resources": {"limits": {"memory": limit}}})["NicplugMemory"]
            self.assertTrue(rule["expr"].endswith(f"> 0.9 * {expected}"), rule["expr"])
        for limits in [{"memory": "1.5Gi"}, {"memory": None}]:
            self.assertNotIn("NicplugMemory", alerts({**WATCHED, "resources": {"limits": limits}}))

    def test_a_disabled_feature_has_no_alert(self) -> None:
        unscraped = alerts({"metrics": {"prometheusRule": {"enabled": True}}})
        self.assertEqual(set(unscraped), {"NicplugBypassed", "NicplugSlow", "NicplugUnreachable"})
        without = alerts({**WATCHED, "persist": {"enabled": False}})
        self.assertEqual(alerts().keys() - without.keys(), {"NicplugPersistStuck"})
        without = alerts({**WATCHED, "pendingEvents": {"enabled": False}})
        self.assertEqual(alerts().keys() - without.keys(), {"NicplugInterfacesPending"})
        # Either feature needs the leader.
        without = alerts({**WATCHED, "persist": {"enabled": False}, "pendingEvents": {"enabled": False}})
        led = {"NicplugInterfacesPending", "NicplugLeader", "NicplugPersistStuck"}
        self.assertEqual(alerts().keys() - without.keys(), led)


if __name__ == "__main__":
    unittest.main()
