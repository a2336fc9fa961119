"""Lists the known metrics, and finds the metrics that a PromQL expression uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

LIST = Path(__file__).with_name("metrics.txt")

# Documents the metrics of nicplug; a Rust test compares it with the code. LIST has the metrics of other programs.
PAGE = Path(__file__).parents[2] / "docs/metrics.md"

# The labels that Prometheus adds to each series of a ServiceMonitor's target. The ServiceMonitor drops `endpoint`.
TARGET_LABELS = frozenset({"container", "instance", "job", "namespace", "pod", "service"})


def known() -> dict[str, frozenset[str]]:
    """Returns the names of all series, each with its possible labels."""
    listed = re.findall(r"(?m)^(\w+)(?:\{([\w,]+)\})?( histogram)?$", LIST.read_text())
    listed += re.findall(r"(?m)^\| `(\w+)` \| ([^|]*) \| (\w+) \|", PAGE.read_text())
    series = {}
    for name, labels, kind in listed:
        own = TARGET_LABELS.union(re.findall(r"\w+", labels))
        if kind.strip() == "histogram":
            series |= {f"{name}_bucket": own | {"le"}, f"{name}_count": own, f"{name}_sum": own}
        else:
            series[name] = own
    return series


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Returns the series that an expression selects, each with the labels that it is selected or grouped by.

    Every series needs braces: without a selector it would include the series of other releases and programs.
    """
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]+)\)", expression) for label in labels.split(",")}
    for name, selector in re.findall(r"\b([a-z_]\w*)\{([^}]*)\}", expression):
        yield name, grouped | set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def unselected(expression: str) -> list[str]:
    """Returns the words that look like a series but have no braces."""
    return re.findall(r"\b(?:nicplug|process|apiserver)_\w+\b(?!\{)", re.sub(r'"[^"]*"', "", expression))
