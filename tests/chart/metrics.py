"""The metrics that there are, and those that an expression of PromQL uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

LIST = Path(__file__).with_name("metrics.txt")

# Compared with the code by a test of it. The list has those of others.
PAGE = Path(__file__).parents[2] / "docs/metrics.md"

# What Prometheus puts on each series of a target that a ServiceMonitor selects. `endpoint` is dropped there.
OF_THE_TARGET = frozenset({"container", "instance", "job", "namespace", "pod", "service"})


def known() -> dict[str, frozenset[str]]:
    """The names of all series, with the labels that each can have."""
    listed = re.findall(r"(?m)^(\w+)(?:\{([\w,]+)\})?( histogram)?$", LIST.read_text())
    listed += re.findall(r"(?m)^\| `(\w+)` \| ([^|]*) \| (\w+) \|", PAGE.read_text())
    series = {}
    for name, labels, kind in listed:
        own = OF_THE_TARGET.union(re.findall(r"\w+", labels))
        if kind.strip() == "histogram":
            series |= {f"{name}_bucket": own | {"le"}, f"{name}_count": own, f"{name}_sum": own}
        else:
            series[name] = own
    return series


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The series that an expression asks for, each with the labels that it is selected and grouped by.

    A series that is selected by nothing would be that of whatever else runs in the cluster, so each has its braces.
    """
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]+)\)", expression) for label in labels.split(",")}
    for name, selector in re.findall(r"\b([a-z_]\w*)\{([^}]*)\}", expression):
        yield name, grouped | set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def unselected(expression: str) -> list[str]:
    """Words that look like a series and have no braces."""
    return re.findall(r"\b(?:nicplug|process|apiserver)_\w+\b(?!\{)", re.sub(r'"[^"]*"', "", expression))
