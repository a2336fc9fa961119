"""Defines the Grafana dashboard; `just chart-write` writes it into the chart as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The width of Grafana's grid.
COLUMNS = 24

OURS = 'namespace="$namespace",job="$job"'
DENIED = 'decision="denied"'
UNHEALTHY = 'state=~"forbidden|stale|starting"'
API_SERVER = r'name=~"(mutate|validate)\\.nicplug\\.io"'

SOURCE = {"type": "prometheus", "uid": "${source}"}

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Panel:
    """A panel, with its queries by legend."""

    title: str
    about: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    stacked: bool = False
    # The colour of a value, by its lower bound.
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    # Text to show instead of a value.
    words: dict[int, str] = field(default_factory=dict)


def stat(title: str, about: str, query: str, *steps: tuple[float | None, str], **more: Any) -> Panel:
    """Returns a panel with a single current value."""
    legend = more.pop("legend", "")
    return Panel(
        title, about, {legend: query}, kind="stat", width=4, height=4, steps=steps or ((None, GREEN),), **more
    )


def ours(name: str, *more: str) -> str:
    return f"{name}{{{','.join([OURS, *more])}}}"


def rate(name: str, by: str, *more: str) -> str:
    return f"sum by ({by}) (rate({ours(name, *more)}[$__rate_interval]))"


def quantile(share: float, name: str, by: str, selector: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({name}{{{selector}}}[$__rate_interval])))"


def api_server(name: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}{{{API_SERVER}}}[$__rate_interval]))"


DURATION = "nicplug_request_duration_seconds_bucket"
API_DURATION = "apiserver_admission_webhook_admission_duration_seconds_bucket"

ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Now",
        [
            stat(
                "Pods",
                "Pods that Prometheus can scrape.",
                f"sum({ours('up')})",
                (None, RED),
                (1, YELLOW),
                (2, GREEN),
            ),
            stat(
                "Requests",
                "Reviewed requests per second.",
                f"sum(rate({ours('nicplug_requests_total')}[$__rate_interval]))",
                unit="reqps",
            ),
            stat(
                "Denied",
                "Share of the requests of the last hour that a rule denied.",
                f"sum(rate({ours('nicplug_requests_total', DENIED)}[1h])) / "
                f"sum(rate({ours('nicplug_requests_total')}[1h]))",
                unit="percentunit",
            ),
            stat(
                "Unknown kinds",
                "Kinds of objects that at least one pod cannot watch. Rules that need them warn instead of denying.",
                f"count(count by (kind) ({ours('nicplug_facts_state', UNHEALTHY)} == 1)) or vector(0)",
                (None, GREEN),
                (1, RED),
            ),
            stat(
                "Certificate",
                "Time until the next certificate expires.",
                f"min({ours('nicplug_certificate_expiry_timestamp_seconds')}) - time()",
                (None, RED),
                (86400 * 7, YELLOW),
                (86400 * 14, GREEN),
                unit="s",
            ),
            stat(
                "Settings",
                "Whether all pods use their current settings file.",
                f"min({ours('nicplug_settings_valid')})",
                (None, RED),
                (1, GREEN),
                words={0: "rejected", 1: "in use"},
            ),
        ],
    ),
    (
        "API server",
        [
            Panel(
                "Failed calls, request admitted",
                "With failure policy Ignore the API server admits the request without nicplug.",
                {"{{name}}": api_server("apiserver_admission_webhook_fail_open_count", "name")},
                unit="reqps",
                width=6,
            ),
            Panel(
                "Rejected requests",
                "Denied by a rule (no_error), or rejected because the call failed with failure policy Fail.",
                {
                    "{{name}} {{error_type}}": api_server(
                        "apiserver_admission_webhook_rejection_count", "name, error_type"
                    )
                },
                unit="reqps",
                width=6,
            ),
            Panel(
                "Call duration",
                "As the API server measures it, including the network.",
                {
                    "p50 {{name}}": quantile(0.5, API_DURATION, "name", API_SERVER),
                    "p99 {{name}}": quantile(0.99, API_DURATION, "name", API_SERVER),
                },
                unit="s",
                width=6,
            ),
            Panel(
                "Webhook active",
                "1 if the webhooks are active. While it is 0, nicplug reviews no change.",
                {"active": f"max({ours('nicplug_webhook_active')})"},
                width=6,
            ),
        ],
    ),
    (
        "Requests",
        [
            Panel(
                "Decisions",
                "Requests by decision.",
                {"{{decision}}": rate("nicplug_requests_total", "decision")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Kinds",
                "Requests by operation and kind.",
                {"{{operation}} {{kind}}": rate("nicplug_requests_total", "kind, operation")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Pods",
                "Requests by pod.",
                {"{{pod}}": rate("nicplug_requests_total", "pod")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Response time",
                "Within nicplug, from the header of the request to the response. A recheck is included.",
                {
                    "p50 {{endpoint}}": quantile(0.5, DURATION, "endpoint", OURS),
                    "p99 {{endpoint}}": quantile(0.99, DURATION, "endpoint", OURS),
                    "p99.9 {{endpoint}}": quantile(0.999, DURATION, "endpoint", OURS),
                },
                unit="s",
                width=6,
            ),
            Panel(
                "In flight",
                "Requests that nicplug is reviewing; --max-in-flight limits them.",
                {"{{pod}}": f"sum by (pod) ({ours('nicplug_requests_in_flight')})"},
                width=6,
            ),
            Panel(
                "Bodies in memory",
                "Bytes of all requests that nicplug is reading or reviewing; --max-bodies limits them.",
                {"{{pod}}": f"sum by (pod) ({ours('nicplug_request_body_bytes')})"},
                unit="bytes",
                width=6,
            ),
            Panel(
                "Rejected without review",
                "Requests that were not reviewed, by reason.",
                {"{{reason}}": rate("nicplug_requests_refused_total", "reason")},
                unit="reqps",
                width=6,
            ),
        ],
    ),
    (
        "Rules",
        [
            Panel(
                "Findings",
                "Responses of the last hour with a finding, by rule and enforcement.",
                {
                    "{{rule}} {{enforcement}}": "sum by (rule, enforcement) "
                    f"(increase({ours('nicplug_findings_total')}[1h])) > 0"
                },
                width=6,
                height=9,
            ),
            Panel(
                "Who is denied",
                "Denied requests of the last hour, by the kind of user and, with metrics.denialNamespaces, by "
                "namespace: the ten with the most.",
                {
                    "{{requester}} {{resource_namespace}}": "topk(10, sum by (requester, resource_namespace) "
                    f"(increase({ours('nicplug_denials_total')}[1h])) > 0)"
                },
                width=6,
                height=9,
            ),
            Panel(
                "Unknown facts",
                "Responses that warn of a skipped check, by the kind of object that was unknown.",
                {"{{kind}}": rate("nicplug_unknown_facts_total", "kind")},
                unit="ops",
                width=4,
                height=9,
            ),
            Panel(
                "Internal errors",
                "Responses of the last hour without the verdict of a rule, because the rule failed, by rule.",
                {"{{rule}}": f"sum by (rule) (increase({ours('nicplug_internal_errors_total')}[1h])) > 0"},
                width=4,
                height=9,
            ),
            Panel(
                "Rechecks",
                "Denials that nicplug checked against the API server before it responded, by result.",
                {"{{result}}": rate("nicplug_rechecks_total", "result")},
                unit="ops",
                width=4,
                height=9,
            ),
        ],
    ),
    (
        "Facts about the cluster",
        [
            Panel(
                "Pods with an unhealthy watch",
                "By kind and state. A kind that is not installed counts as healthy.",
                {
                    "{{kind}} {{state}}": "count by (kind, state) "
                    f"({ours('nicplug_facts_state', UNHEALTHY)} == 1)"
                },
                width=6,
            ),
            Panel(
                "Objects",
                "Objects in the memory of a pod.",
                {"{{kind}}": f"max by (kind) ({ours('nicplug_facts_objects')})"},
                width=6,
            ),
            Panel(
                "Age of the last watch event",
                "Maximum of all pods. The API server sends a bookmark once a minute.",
                {"{{kind}}": f"max by (kind) ({ours('nicplug_facts_last_event_age_seconds')})"},
                unit="s",
                width=6,
            ),
            Panel(
                "Watch errors",
                "By kind of object and error.",
                {"{{kind}} {{error}}": f"{rate('nicplug_facts_errors_total', 'kind, error')} > 0"},
                unit="ops",
                width=6,
            ),
        ],
    ),
    (
        "Pending and persisted NICs",
        [
            Panel(
                "NICs not in the guest",
                "NICs that running guests lack, by stage and reason.",
                {
                    "{{stage}}: {{reason}}": "sum by (stage, reason) "
                    f"({ours('nicplug_interfaces_pending')}) > 0",
                },
                stacked=True,
                width=6,
            ),
            Panel(
                "NICs to persist",
                "Objects with NICs to persist.",
                {"pending": f"max({ours('nicplug_persist_pending')})"},
                width=6,
            ),
            Panel(
                "NICs and failures",
                "Persisted NICs and failed reconciliations of the last hour.",
                {
                    "persisted": f"sum(increase({ours('nicplug_persist_interfaces_total')}[1h]))",
                    "failed: {{reason}}": "sum by (reason) "
                    f"(increase({ours('nicplug_persist_failures_total')}[1h])) > 0",
                },
                width=6,
            ),
            Panel(
                "Leader",
                "The pod that persists NICs and reports pending ones.",
                {"{{pod}}": f"max by (pod) ({ours('nicplug_leader')})"},
                stacked=True,
                width=6,
            ),
        ],
    ),
    (
        "Certificates and connections",
        [
            Panel(
                "Time until expiry",
                "nicplug renews its own certificates when a third of their validity is left.",
                {
                    "{{certificate}}": "min by (certificate) "
                    f"({ours('nicplug_certificate_expiry_timestamp_seconds')}) - time()"
                },
                unit="s",
                width=6,
            ),
            Panel(
                "Certificate load failures",
                "New certificates of the last hour that could not be loaded.",
                {"{{pod}}": f"sum by (pod) (increase({ours('nicplug_certificate_load_failures_total')}[1h]))"},
                width=6,
            ),
            Panel(
                "Open connections",
                "Each API server keeps several connections open. The limit is that of the pod with the fewest.",
                {
                    "{{pod}}": f"sum by (pod) ({ours('nicplug_connections')})",
                    "limit": f"min({ours('nicplug_connections_limit')})",
                },
                width=6,
            ),
            Panel(
                "New connections",
                "Opened connections, connections whose TLS handshake failed, and those closed for new ones at the limit.",
                {
                    "opened": f"sum(rate({ours('nicplug_connections_opened_total')}[$__rate_interval]))",
                    "failed": f"sum(rate({ours('nicplug_handshake_failures_total')}[$__rate_interval]))",
                    "removed": f"sum(rate({ours('nicplug_connections_removed_total')}[$__rate_interval]))",
                },
                unit="cps",
                width=6,
            ),
        ],
    ),
    (
        "Process",
        [
            Panel(
                "Memory",
                "Resident memory of each pod.",
                {"{{pod}}": f"sum by (pod) ({ours('process_resident_memory_bytes')})"},
                unit="bytes",
            ),
            Panel(
                "Uptime",
                "Time since the process started.",
                {"{{pod}}": f"time() - max by (pod) ({ours('process_start_time_seconds')})"},
                unit="s",
            ),
            Panel(
                "Versions",
                "Pods by version.",
                {"{{version}} (Rust {{rust}})": f"count by (version, rust) ({ours('nicplug_build_info')})"},
                stacked=True,
            ),
            Panel(
                "Settings reloads",
                "Reloads of the last hour, by result.",
                {"{{result}}": f"sum by (result) (increase({ours('nicplug_settings_reloads_total')}[1h]))"},
                width=6,
            ),
            Panel(
                "Events",
                "Sent and dropped Events of the last hour.",
                {
                    "sent": f"sum(increase({ours('nicplug_events_sent_total')}[1h]))",
                    "dropped": f"sum(increase({ours('nicplug_events_dropped_total')}[1h]))",
                },
                width=6,
            ),
            Panel(
                "Spans",
                "Spans that the trace collector accepted, and dropped spans by reason.",
                {
                    "exported": f"sum(rate({ours('nicplug_spans_exported_total')}[$__rate_interval]))",
                    "dropped: {{reason}}": rate("nicplug_spans_dropped_total", "reason"),
                },
                unit="ops",
                width=6,
            ),
            Panel(
                "Log lines dropped",
                "Lines that were not written because the reader of the log is too slow.",
                {"{{pod}}": f"sum by (pod) (rate({ours('nicplug_log_lines_dropped_total')}[$__rate_interval]))"},
                unit="ops",
                width=6,
            ),
        ],
    ),
]


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def dashboard() -> dict[str, Any]:
    return {
        "annotations": {"list": []},
        "description": "Requests, facts and health of nicplug.",
        "editable": True,
        "graphTooltip": 1,
        "links": [],
        "panels": list(panels()),
        "refresh": "1m",
        "schemaVersion": 39,
        "tags": ["kubevirt", "nicplug"],
        "templating": {"list": variables()},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "title": "nicplug",
        "uid": "nicplug",
        "version": 1,
    }


def variables() -> list[dict[str, Any]]:
    def labels(name: str, label: str, query: str) -> dict[str, Any]:
        query = f"label_values({query}, {name})"
        return {
            "datasource": SOURCE,
            "definition": query,
            "label": label,
            "name": name,
            "query": {"qryType": 1, "query": query},
            "refresh": 2,
            "sort": 1,
            "type": "query",
        }

    return [
        {"label": "Source", "name": "source", "query": "prometheus", "refresh": 1, "type": "datasource"},
        labels("namespace", "Namespace", "nicplug_build_info"),
        labels("job", "Job", 'nicplug_build_info{namespace="$namespace"}'),
    ]


def panels() -> Iterator[dict[str, Any]]:
    """Yields the rows from top to bottom, each followed by its panels from left to right."""
    number, bottom = 0, 0
    for title, row in ROWS:
        number += 1
        yield {
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": bottom},
            "id": number,
            "panels": [],
            "title": title,
            "type": "row",
        }
        bottom += 1
        left = 0
        for panel in row:
            if left + panel.width > COLUMNS:
                left, bottom = 0, bottom + panel.height
            number += 1
            place = {"h": panel.height, "w": panel.width, "x": left, "y": bottom}
            yield panel_json(panel, number, place)
            left += panel.width
        bottom += row[-1].height


def panel_json(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "mappings": [],
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": color, "value": value} for value, color in panel.steps],
        },
        "unit": panel.unit,
    }
    if panel.words:
        words = {str(value): {"text": word} for value, word in panel.words.items()}
        defaults["mappings"] = [{"options": words, "type": "value"}]
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
        }
        # The axis starts at zero, so that the height shows the size of a value.
        defaults["min"] = 0
        options: dict[str, Any] = {
            "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return {
        "datasource": SOURCE,
        "description": panel.about,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "gridPos": place,
        "id": number,
        "options": options,
        "targets": [
            {
                "datasource": SOURCE,
                "expr": query,
                "instant": panel.kind == "stat",
                "legendFormat": legend,
                "range": panel.kind != "stat",
                "refId": chr(ord("A") + place),
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
        "title": panel.title,
        "type": panel.kind,
    }
