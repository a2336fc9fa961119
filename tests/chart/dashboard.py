"""The Grafana dashboard: `just chart-write` writes it into the chart as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Grafana's grid has so many columns.
COLUMNS = 24

OURS = 'namespace="$namespace",job="$job"'
DENIED = 'verdict="denied"'
NOT_IN_ORDER = 'state=~"forbidden|stale|starting"'
OF_THE_API_SERVER = r'name=~"(mutate|validate)\\.nicplug\\.io"'

SOURCE = {"type": "prometheus", "uid": "${source}"}

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Panel:
    """One picture: its queries by the legend of what they give."""

    title: str
    about: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    stacked: bool = False
    # From which value on a figure has which colour.
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    # Words in place of numbers.
    words: dict[int, str] = field(default_factory=dict)


def stat(title: str, about: str, query: str, *steps: tuple[float | None, str], **more: Any) -> Panel:
    """One figure of now."""
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
    return f"sum by ({by}) (rate({name}{{{OF_THE_API_SERVER}}}[$__rate_interval]))"


DURATION = "nicplug_request_duration_seconds_bucket"
API_DURATION = "apiserver_admission_webhook_admission_duration_seconds_bucket"

ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Now",
        [
            stat("Pods", "That Prometheus can read.", f"sum({ours('up')})", (None, RED), (1, YELLOW), (2, GREEN)),
            stat(
                "Requests",
                "Answered in a second.",
                f"sum(rate({ours('nicplug_requests_total')}[$__rate_interval]))",
                unit="reqps",
            ),
            stat(
                "Denied",
                "The share of the last hour's requests that were refused by a rule.",
                f"sum(rate({ours('nicplug_requests_total', DENIED)}[1h])) / "
                f"sum(rate({ours('nicplug_requests_total')}[1h]))",
                unit="percentunit",
            ),
            stat(
                "Kinds not known",
                "Kinds of objects that some pod cannot watch. Rules that need them warn and do not deny.",
                f"count(count by (kind) ({ours('nicplug_facts_state', NOT_IN_ORDER)} == 1)) or vector(0)",
                (None, GREEN),
                (1, RED),
            ),
            stat(
                "Certificate",
                "How long the first one lasts that ends.",
                f"min({ours('nicplug_certificate_expiry_timestamp_seconds')}) - time()",
                (None, RED),
                (86400 * 7, YELLOW),
                (86400 * 14, GREEN),
                unit="s",
            ),
            stat(
                "Settings",
                "Whether all pods use the settings that they were given.",
                f"min({ours('nicplug_settings_valid')})",
                (None, RED),
                (1, GREEN),
                words={0: "refused", 1: "in use"},
            ),
        ],
    ),
    (
        "As the API server sees it",
        [
            Panel(
                "Calls that failed and let the change through",
                "Failure policy Ignore: the change went on as it was.",
                {"{{name}}": api_server("apiserver_admission_webhook_fail_open_count", "name")},
                unit="reqps",
                width=6,
            ),
            Panel(
                "Refused",
                "By a rule (no_error), or because the call failed and failure policy is Fail.",
                {
                    "{{name}} {{error_type}}": api_server(
                        "apiserver_admission_webhook_rejection_count", "name, error_type"
                    )
                },
                unit="reqps",
                width=6,
            ),
            Panel(
                "Time of a call",
                "With the way there and back.",
                {
                    "p50 {{name}}": quantile(0.5, API_DURATION, "name", OF_THE_API_SERVER),
                    "p99 {{name}}": quantile(0.99, API_DURATION, "name", OF_THE_API_SERVER),
                },
                unit="s",
                width=6,
            ),
            Panel(
                "Called",
                "1 from when on the webhooks are called. While it is 0 no change is judged.",
                {"called": f"max({ours('nicplug_called')})"},
                width=6,
            ),
        ],
    ),
    (
        "Requests",
        [
            Panel(
                "Verdicts",
                "What was answered.",
                {"{{verdict}}": rate("nicplug_requests_total", "verdict")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Kinds",
                "What was asked for.",
                {"{{operation}} {{kind}}": rate("nicplug_requests_total", "kind, operation")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Pods",
                "How the load is spread.",
                {"{{pod}}": rate("nicplug_requests_total", "pod")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Time of an answer",
                "In nicplug alone, from the first byte of the request. A second look at the cluster is part of it.",
                {
                    "p50 {{endpoint}}": quantile(0.5, DURATION, "endpoint", OURS),
                    "p99 {{endpoint}}": quantile(0.99, DURATION, "endpoint", OURS),
                    "p99.9 {{endpoint}}": quantile(0.999, DURATION, "endpoint", OURS),
                },
                unit="s",
            ),
            Panel(
                "In flight",
                "Requests that are being read or judged.",
                {"{{pod}}": f"sum by (pod) ({ours('nicplug_requests_in_flight')})"},
            ),
            Panel(
                "Turned away",
                "Requests that were not judged, by the reason.",
                {"{{reason}}": rate("nicplug_requests_refused_total", "reason")},
                unit="reqps",
            ),
        ],
    ),
    (
        "Judgement",
        [
            Panel(
                "Findings",
                "Of each rule that found something in the last hour.",
                {
                    "{{rule}} {{enforcement}}": "sum by (rule, enforcement) "
                    f"(increase({ours('nicplug_findings_total')}[1h])) > 0"
                },
                width=12,
                height=9,
            ),
            Panel(
                "Not known",
                "Times that a rule had to warn, because it could not know what it needs.",
                {"{{kind}}": rate("nicplug_unknown_facts_total", "kind")},
                unit="ops",
                width=6,
                height=9,
            ),
            Panel(
                "Second looks",
                "Denials that were checked at the cluster before they were given, by what came of it.",
                {"{{result}}": rate("nicplug_second_looks_total", "result")},
                unit="ops",
                width=6,
                height=9,
            ),
        ],
    ),
    (
        "What is known of the cluster",
        [
            Panel(
                "Pods whose watch is not in order",
                "By kind of object. What is not installed is in order.",
                {
                    "{{kind}} {{state}}": "count by (kind, state) "
                    f"({ours('nicplug_facts_state', NOT_IN_ORDER)} == 1)"
                },
                width=6,
            ),
            Panel(
                "Objects",
                "That a pod keeps in memory.",
                {"{{kind}}": f"max by (kind) ({ours('nicplug_facts_objects')})"},
                width=6,
            ),
            Panel(
                "Silence",
                "Since the API server was last heard of, in the pod where it is longest. A bookmark comes each minute.",
                {"{{kind}}": f"max by (kind) ({ours('nicplug_facts_silence_seconds')})"},
                unit="s",
                width=6,
            ),
            Panel(
                "Faults of watches",
                "By kind of object and of fault.",
                {"{{kind}} {{error}}": f"{rate('nicplug_facts_errors_total', 'kind, error')} > 0"},
                unit="ops",
                width=6,
            ),
        ],
    ),
    (
        "Mirroring of NICs",
        [
            Panel("Pending", "Objects that ask for it.", {"pending": f"max({ours('nicplug_persist_pending')})"}),
            Panel(
                "Done and failed",
                "In the last hour.",
                {
                    "done": f"sum(increase({ours('nicplug_persist_done_total')}[1h]))",
                    "failed: {{reason}}": f"sum by (reason) (increase({ours('nicplug_persist_failed_total')}[1h])) > 0",
                },
            ),
            Panel(
                "Leader",
                "The pod that does it.",
                {"{{pod}}": f"max by (pod) ({ours('nicplug_persist_leading')})"},
                stacked=True,
            ),
        ],
    ),
    (
        "Certificates and connections",
        [
            Panel(
                "Until the end of a certificate",
                "It is renewed when a third of its life is left.",
                {
                    "{{certificate}}": "min by (certificate) "
                    f"({ours('nicplug_certificate_expiry_timestamp_seconds')}) - time()"
                },
                unit="s",
                width=6,
            ),
            Panel(
                "Faults of certificates",
                "New ones that could not be used, in the last hour.",
                {"{{pod}}": f"sum by (pod) (increase({ours('nicplug_certificate_faults_total')}[1h]))"},
                width=6,
            ),
            Panel(
                "Open connections",
                "Each API server keeps some.",
                {"{{pod}}": f"sum by (pod) ({ours('nicplug_connections')})"},
                width=6,
                stacked=True,
            ),
            Panel(
                "New connections",
                "And those that ended in the handshake.",
                {
                    "new": f"sum(rate({ours('nicplug_connections_total')}[$__rate_interval]))",
                    "failed": f"sum(rate({ours('nicplug_handshake_failures_total')}[$__rate_interval]))",
                },
                unit="cps",
                width=6,
            ),
        ],
    ),
    (
        "The program",
        [
            Panel(
                "Memory",
                "Resident, of each pod.",
                {"{{pod}}": f"sum by (pod) ({ours('process_resident_memory_bytes')})"},
                unit="bytes",
            ),
            Panel(
                "Age",
                "Since the program started.",
                {"{{pod}}": f"time() - max by (pod) ({ours('process_start_time_seconds')})"},
                unit="s",
            ),
            Panel(
                "Versions",
                "Pods of each version.",
                {"{{version}} (Rust {{rust}})": f"count by (version, rust) ({ours('nicplug_build_info')})"},
                stacked=True,
            ),
            Panel(
                "Settings",
                "Changes in the last hour, by what came of them.",
                {"{{result}}": f"sum by (result) (increase({ours('nicplug_settings_reloads_total')}[1h]))"},
            ),
            Panel(
                "Events",
                "Sent in the last hour, and held back because there were too many.",
                {
                    "sent": f"sum(increase({ours('nicplug_events_sent_total')}[1h]))",
                    "held back": f"sum(increase({ours('nicplug_events_dropped_total')}[1h]))",
                },
            ),
            Panel(
                "Spans",
                "Taken by the collector of traces, and lost on the way, by the reason.",
                {
                    "taken": f"sum(rate({ours('nicplug_spans_exported_total')}[$__rate_interval]))",
                    "lost: {{reason}}": rate("nicplug_spans_lost_total", "reason"),
                },
                unit="ops",
            ),
        ],
    ),
]


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def dashboard() -> dict[str, Any]:
    return {
        "annotations": {"list": []},
        "description": "What nicplug judges, what it knows, and how it is.",
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
    """Rows below one another, and in each row panels from left to right."""
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
        # A scale that begins at nothing shows what is much and what is little.
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
