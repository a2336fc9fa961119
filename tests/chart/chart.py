"""The chart by Helm's own engine: rendered, and what is written from it.

    chart.py render             renders each set of values in charts/nicplug/ci into target/chart/SET.yaml
    chart.py write              writes what is made from the chart: the table of values in its README, the ids of rules
                                in its schema, deploy/install.yaml; and the dashboard that is in it
    chart.py install KUBECONFIG [SET]
    chart.py upgrade KUBECONFIG [SET]
    chart.py uninstall KUBECONFIG
                                does with a cluster what `helm` does
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Iterator

import dashboard
import helm_python as helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/nicplug"
README = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"
VALUES = CHART / "values.yaml"
DASHBOARD = CHART / "dashboards/nicplug.json"
INSTALL = ROOT / "deploy/install.yaml"
RENDERED = ROOT / "target/chart"

RELEASE = "nicplug"
NAMESPACE = "nicplug-system"

INSTALL_HEAD = f"""\
# nicplug without Helm: kubectl apply --server-side -f install.yaml
# It is the chart charts/nicplug with the values that it comes with, written by `just chart-write`. docs/install.md tells
# the rest.
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def sets() -> dict[str, dict[str, Any]]:
    """The sets of values in charts/nicplug/ci, by name."""
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    return {file.name.removesuffix("-values.yaml"): read_yaml(file.read_text()) for file in files}


def read_yaml(text: str) -> Any:
    """Reads one document as Helm does."""
    # Helm reads values, which are a mapping; any other document can be the value of one.
    indented = "".join(f"  {line}\n" for line in text.splitlines())
    return helm.values_from_yaml(f"document:\n{indented}")["document"]


def render(values: dict[str, Any], chart: Path = CHART, name: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """The manifest of a release, as `helm template` prints it, in the order of the templates' names."""
    templates = render_templates(values, chart, name, namespace)
    return "".join(text for path, text in sorted(templates.items()) if path.endswith(".yaml"))


def render_notes(values: dict[str, Any]) -> str:
    """What `helm install` says at its end."""
    return render_templates(values, CHART, RELEASE, NAMESPACE)["nicplug/templates/NOTES.txt"]


def render_templates(values: dict[str, Any], chart: Path, name: str, namespace: str) -> dict[str, str]:
    with helm.Chart.load(chart) as loaded:
        rendered = loaded.render(values, name=name, namespace=namespace)
    return {path: documents(text) if path.endswith(".yaml") else text for path, text in rendered.items()}


def documents(text: str) -> str:
    """The documents of a template, without the empty lines that it leaves where it says nothing."""
    parts = (document.strip() for document in re.split(r"(?m)^---$", text))
    return "".join(f"---\n{part}\n" for part in parts if part)


def objects(manifest: str) -> list[dict[str, Any]]:
    """The objects of a manifest."""
    return [read_yaml(document) for document in re.split(r"(?m)^---$", manifest) if document.strip()]


# === What is made from the chart ===


def install_yaml() -> str:
    """The chart with its own values for those who have no Helm: nobody is to think that Helm manages it."""
    lines = render({}).splitlines(keepends=True)
    return INSTALL_HEAD + "".join(line for line in lines if not is_of_helm(line))


def is_of_helm(line: str) -> bool:
    return line.strip().startswith(("app.kubernetes.io/managed-by: Helm", "helm.sh/chart: "))


def schema() -> str:
    """The schema, with the ids of all rules."""
    document = json.loads(SCHEMA.read_text())
    ids = re.findall(r"(?m)^## (NP\d{3})\b", (ROOT / "docs/rules.md").read_text())
    rules = {rule: {"$ref": "#/definitions/enforcement"} for rule in ids}
    document["properties"]["settings"]["properties"]["rules"]["properties"] = rules
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    """The README of the chart, with the table of all values."""
    begin, end = "<!-- values: begin -->\n", "<!-- values: end -->"
    before, rest = README.read_text().split(begin)
    _, after = rest.split(end)
    return before + begin + values_table() + end + after


def values_table() -> str:
    """One table for each section of values.yaml."""
    text = VALUES.read_text()
    values = read_yaml(text)
    table = ""
    for title, keys in documented_values(text):
        table += f"\n### {title}\n\n| value | default | what it is |\n| --- | --- | --- |\n"
        for key, comment in keys:
            default = json.dumps(value_at(values, key), ensure_ascii=False)
            table += f"| `{key}` | `{default}` | {comment} |\n"
    return table + "\n"


def value_at(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value


def documented_values(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The keys of values.yaml that have a comment, by section, in their order.

    A key without a comment is one whose own keys have one each. One that has a comment speaks for all below it.
    """
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    path: list[tuple[int, str]] = []
    comment = ""
    spoken_for: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            # What is said before an empty line is said of the file.
            comment = ""
        elif title := re.fullmatch(r"# === (.+) ===", line):
            sections.append((title[1], []))
        elif line.lstrip().startswith("#"):
            comment = f"{comment} {line.lstrip('# ')}".strip()
        elif spoken_for is not None and (indent > spoken_for or line.lstrip().startswith("- ")):
            pass
        elif key := re.match(r"\s*([A-Za-z]+):", line):
            spoken_for = None
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key[1])]
            if comment:
                sections[-1][1].append((".".join(name for _, name in path), comment))
                spoken_for = indent
            elif not line.rstrip().endswith(":"):
                raise ValueError(f"values.yaml: {line.strip()!r} has no comment above it")
            comment = ""
        else:
            raise ValueError(f"values.yaml: {line!r} is no key")
    return sections


def made() -> dict[Path, str]:
    """What is made from the chart or for it, and what it has to be."""
    return {SCHEMA: schema(), DASHBOARD: dashboard.text(), README: readme(), INSTALL: install_yaml()}


# === Commands ===


@contextlib.contextmanager
def cluster(kubeconfig: str) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=kubeconfig, namespace=NAMESPACE) as config:
        yield config


def main(command: str, *arguments: str) -> None:
    match (command, *arguments):
        case ("render",):
            RENDERED.mkdir(parents=True, exist_ok=True)
            for name, values in sets().items():
                (RENDERED / f"{name}.yaml").write_text(render(values))
                (RENDERED / f"{name}.txt").write_text(render_notes(values))
        case ("write",):
            # The schema comes first: what is rendered is checked against it.
            SCHEMA.write_text(schema())
            for path, text in made().items():
                path.write_text(text)
        case ("install", kubeconfig, *rest):
            with cluster(kubeconfig) as config:
                config.install(str(CHART), RELEASE, values_of(rest), create_namespace=True)
        case ("upgrade", kubeconfig, *rest):
            with cluster(kubeconfig) as config:
                # Else a release that is given no values keeps those that it was given before.
                config.upgrade(str(CHART), RELEASE, values_of(rest), reset_values=True)
        case ("uninstall", kubeconfig):
            with cluster(kubeconfig) as config:
                config.uninstall(RELEASE)
        case _:
            sys.exit(__doc__)


def values_of(arguments: list[str]) -> dict[str, Any]:
    return sets()[arguments[0]] if arguments else {}


if __name__ == "__main__":
    main(*(sys.argv[1:] or [""]))
