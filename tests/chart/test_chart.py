"""The chart against Helm's own engine, its schema, and the code that it starts."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
import typing
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chart
import helm_python as helm
from chart import CHART, NAMESPACE, ROOT, render, sets

CLI = "".join(file.read_text() for file in sorted((ROOT / "src/cli").rglob("*.rs")))


def by_kind(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = (item for item in chart.objects(render(values)) if item["kind"] == kind)
    return found


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return by_kind(values, "Deployment")["spec"]["template"]["spec"]


def args(values: dict[str, Any]) -> list[str]:
    return pod(values)["containers"][0]["args"]


def webhooks(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [hook for item in chart.objects(render(values)) for hook in item.get("webhooks", [])]


class Everywhere(unittest.TestCase):
    """What holds for each set of values in charts/nicplug/ci."""

    def each(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        for name, values in sets().items():
            with self.subTest(name):
                yield values, chart.objects(render(values))

    def test_helm_finds_nothing_to_complain_of(self) -> None:
        for values, _ in self.each():
            report = helm.lint(CHART, values, strict=True)
            # Severity 1 is advice: there is no icon.
            loud = [message for message in report["messages"] if message["severity"] > 1]
            self.assertEqual((loud, report["errors"]), ([], []))

    def test_it_is_the_same_to_the_byte_each_time(self) -> None:
        for values, _ in self.each():
            self.assertEqual(render(values), render(values))

    def test_nothing_is_secret_and_no_authority_is_made_up(self) -> None:
        for values, objects in self.each():
            for item in objects:
                self.assertFalse({"data", "stringData"} & item.keys() if item["kind"] == "Secret" else {})
            given = values.get("certificates", {}).get("secret", {}).get("caBundle")
            for hook in webhooks(values):
                bundle = hook["clientConfig"].get("caBundle")
                self.assertEqual(bundle and base64.b64decode(bundle).decode(), given)

    def test_names_are_told_once(self) -> None:
        for _, objects in self.each():
            keys = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
            self.assertEqual(len(keys), len(set(keys)))

    def test_only_what_belongs_to_the_cluster_has_no_namespace(self) -> None:
        cluster = {"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
        for _, objects in self.each():
            for item in objects:
                expected = None if item["kind"] in cluster else NAMESPACE
                self.assertEqual(item["metadata"].get("namespace"), expected, item["kind"])

    def test_pods_are_as_the_restricted_standard_wants_them(self) -> None:
        for values, _ in self.each():
            spec = pod(values)
            (container,) = spec["containers"]
            security = container["securityContext"]
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
            self.assertTrue(security["readOnlyRootFilesystem"])
            self.assertFalse(security["allowPrivilegeEscalation"] or security["privileged"])
            self.assertTrue({"configMap", "secret"}.issuperset(key for v in spec["volumes"] for key in v if key != "name"))
            self.assertFalse({"hostPID", "hostIPC"} & spec.keys())

    def test_a_volume_is_mounted_whole_so_that_changes_arrive(self) -> None:
        for values, _ in self.each():
            spec = pod(values)
            mounts = spec["containers"][0]["volumeMounts"]
            self.assertEqual([mount["name"] for mount in mounts], [volume["name"] for volume in spec["volumes"]])
            self.assertTrue(all("subPath" not in mount and mount["readOnly"] for mount in mounts))

    def test_a_pod_is_killed_only_after_it_has_ended_by_itself(self) -> None:
        for values, _ in self.each():
            (deadline,) = (int(arg.removeprefix("--drain-deadline=")[:-1]) for arg in args(values) if "deadline" in arg)
            self.assertGreater(pod(values)["terminationGracePeriodSeconds"], deadline)

    def test_neither_its_own_namespace_nor_kube_system_is_judged(self) -> None:
        for values, _ in self.each():
            for hook in webhooks(values):
                expressions = hook["namespaceSelector"]["matchExpressions"]
                (excluded,) = (e["values"] for e in expressions if e["key"] == "kubernetes.io/metadata.name")
                self.assertLessEqual({"kube-system", NAMESPACE}, set(excluded))

    def test_selectors_select_the_pods(self) -> None:
        for values, objects in self.each():
            labels = by_kind(values, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
            for item in objects:
                selector = item.get("spec", {}).get({"NetworkPolicy": "podSelector"}.get(item["kind"], "selector"), {})
                self.assertGreaterEqual(labels, selector.get("matchLabels", selector).items(), item["kind"])

    def test_what_has_no_definition_in_the_api_server_is_known_to_its_models(self) -> None:
        from cloudcoil.models.cert_manager import v1 as cert_manager
        from cloudcoil.models.prometheus_operator import v1 as monitoring

        models = {
            "Certificate": cert_manager.Certificate,
            "Issuer": cert_manager.Issuer,
            "PrometheusRule": monitoring.PrometheusRule,
            "ServiceMonitor": monitoring.ServiceMonitor,
        }
        seen = set()
        for _, objects in self.each():
            for item in objects:
                if model := models.get(item["kind"]):
                    self.assertEqual(list(unknown_fields(model, item, item["kind"])), [])
                    model.model_validate(item)
                    seen.add(item["kind"])
        self.assertEqual(seen, models.keys())


def unknown_fields(model: Any, value: Any, path: str) -> Iterator[str]:
    """The fields that a model does not have: it would skip them."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from unknown_fields(model, entry, f"{path}[{index}]")
    elif isinstance(value, dict) and (fields := fields_of(model)):
        for key, inner in value.items():
            if key in fields:
                yield from unknown_fields(fields[key], inner, f"{path}.{key}")
            else:
                yield f"{path}.{key}"


def fields_of(annotation: Any) -> dict[str, Any]:
    """The fields of a model, or of the one in an optional, annotated or listed type, by their names in the API."""
    if hasattr(annotation, "model_fields"):
        fields = annotation.model_fields
        return {field.alias or name: field.annotation for name, field in fields.items()}
    return next((fields for inner in typing.get_args(annotation) if (fields := fields_of(inner))), {})


class Templates(unittest.TestCase):
    def test_nothing_is_looked_up_or_made_at_random(self) -> None:
        for file in (CHART / "templates").iterdir():
            self.assertNotRegex(file.read_text(), r"\b(lookup|gen[A-Z]\w+|rand[A-Z]\w+|now|uuidv4|derivePassword)\b")

    def test_whoever_names_the_release_gets_names_that_the_api_takes(self) -> None:
        for name, expected in [
            ("nicplug", "nicplug"),
            ("my-nicplug", "my-nicplug"),
            ("judge", "judge-nicplug"),
            ("a" * 53, "a" * 50),
            ("a" * 49 + "-bbb", "a" * 49),
        ]:
            objects = chart.objects(render({}, name=name))
            self.assertIn(expected, {item["metadata"]["name"] for item in objects})
            self.assertLessEqual(max(len(item["metadata"]["name"]) for item in objects), 63)

    def test_the_certificate_is_for_the_name_that_the_api_server_calls(self) -> None:
        for name, values in sets().items():
            with self.subTest(name):
                for hook in webhooks(values):
                    service = hook["clientConfig"]["service"]
                    self.assertEqual(by_kind(values, "Service")["metadata"]["name"], service["name"])
                    host = f"{service['name']}.{service['namespace']}.svc"
                    self.assertRegex(render(values) + chart.render_notes(values), rf"(--cert-dns-name=|- |for ){host}\b")

    def test_words_that_yaml_takes_for_truth_values_stay_words(self) -> None:
        for text, expected in [("off", "off"), ('"off"', "off"), ("warn", "warn"), ("deny", "deny")]:
            values = chart.read_yaml(f"settings: {{rules: {{NP103: {text}}}}}")
            self.assertEqual(settings(values)["rules"], {"NP103": expected})
        for text in ["auto", "yes", "no", '"yes"', '"no"']:
            values = chart.read_yaml(f"settings: {{attachment: {{dynamicNetworks: {text}}}}}")
            self.assertEqual(settings(values)["attachment"]["dynamicNetworks"], text.strip('"'))

    def test_match_conditions_are_there_where_kubernetes_has_them(self) -> None:
        for version, choice, expected in [
            ("v1.26.15", "auto", False),
            ("v1.27.16", "auto", False),
            ("v1.28.0", "auto", True),
            ("v1.28.0-alpha.1", "auto", True),
            ("v1.36.1-gke.100", "auto", True),
            ("v1.27.16", "always", True),
            ("v1.36.1", "never", False),
        ]:
            with self.subTest(version=version, choice=choice), tempfile.TemporaryDirectory() as folder:
                # The engine renders for the version that it was built for, so another one is written into a copy.
                copy = Path(shutil.copytree(CHART, f"{folder}/nicplug"))
                for file in copy.glob("templates/*"):
                    file.write_text(file.read_text().replace(".Capabilities.KubeVersion.Version", f'"{version}"'))
                manifest = render({"webhooks": {"matchConditions": choice}}, copy)
                self.assertEqual("matchConditions:" in manifest, expected)
                self.assertEqual("unhealthyPodEvictionPolicy" in manifest, not version.startswith("v1.26"))

    def test_nothing_asks_for_a_right_that_nobody_writes(self) -> None:
        for values, name in [
            ({}, "nicplug-call"),
            ({"webhooks": {"callWhenReady": False}}, None),
            ({"webhooks": {"matchConditions": "never"}}, None),
            ({"rbac": {"create": False}}, None),
            ({"fullnameOverride": "other"}, "other-call"),
        ]:
            with self.subTest(values):
                objects = chart.objects(render(values))
                asked = [".serviceAccount(" in json.dumps(hook) for hook in webhooks(values)]
                self.assertEqual(set(asked), {name is not None})
                found = {(item["kind"], item["metadata"]["name"]) for item in objects}
                (container,) = by_kind(values, "Deployment")["spec"]["template"]["spec"]["containers"]
                written = [flag.split("=")[1] for flag in container["args"] if flag.startswith("--call-binding=")]
                self.assertEqual(written, [name] if name else [])
                for kind in ("Role", "RoleBinding"):
                    self.assertEqual((kind, f"{name}") in found, name is not None)
                if name:
                    binding = next(item for item in objects if (item["kind"], item["metadata"]["name"]) == ("RoleBinding", name))
                    self.assertNotIn("subjects", binding)
                    self.assertIn(f"'{name}'", json.dumps(webhooks(values)))

    def test_what_cannot_work_is_refused_with_what_to_do(self) -> None:
        for values, words in [
            ({"shutdown": {"graceSeconds": 30}}, "shutdown.deadlineSeconds 25 is shorter than shutdown.graceSeconds 30"),
            ({"certificates": {"source": "secret"}}, "certificates.secret.name: name the Secret"),
        ]:
            with self.assertRaisesRegex(helm.HelmRenderError, re.escape(words)):
                render(values)

    def test_a_network_policy_lets_nothing_out_but_to_the_api_server(self) -> None:
        api_server = {"cidrs": ["10.0.0.0/24"], "ports": [6443]}
        spec = by_kind({"networkPolicy": {"enabled": True, "apiServer": api_server}}, "NetworkPolicy")["spec"]
        self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
        blocks = [{"ipBlock": {"cidr": "10.0.0.0/24"}}]
        self.assertEqual(spec["egress"], [{"ports": [{"port": 6443, "protocol": "TCP"}], "to": blocks}])
        webhook, _ = spec["ingress"]
        self.assertEqual(webhook, {"ports": [{"port": 8443, "protocol": "TCP"}], "from": blocks})

    def test_what_is_switched_off_has_no_rights(self) -> None:
        without = {
            "persist": {"enabled": False},
            "certificates": {"source": "certManager"},
            "webhooks": {"callWhenReady": False},
        }
        self.assertFalse({"Role", "RoleBinding"} & {item["kind"] for item in chart.objects(render(without))})
        for rule in by_kind(without, "ClusterRole")["rules"]:
            writes = set(rule["verbs"]) - {"get", "list", "watch"}
            self.assertEqual(writes, {"create"} if rule["resources"] == ["events"] else set())


def settings(values: dict[str, Any]) -> dict[str, Any]:
    return chart.read_yaml(by_kind(values, "ConfigMap")["data"]["settings.yaml"])


class Schema(unittest.TestCase):
    def refuses(self, values: dict[str, Any], word: str) -> None:
        with self.assertRaisesRegex(helm.HelmError, re.escape(word)):
            render(values)

    def test_a_key_with_a_typo_is_refused_wherever_it_stands(self) -> None:
        schema = json.loads(chart.SCHEMA.read_text())
        places = list(closed_objects(schema, schema))
        self.assertGreater(len(places), 30)
        for path in places:
            with self.subTest(".".join(path)):
                values: dict[str, Any] = {"tpyo": {}}
                for key in reversed(path):
                    values = {key: values}
                self.refuses(values, "tpyo")

    def test_a_value_that_means_nothing_is_refused(self) -> None:
        for text, word in [
            ("replicas: 0", "replicas"),
            ('replicas: "2"', "replicas"),
            ("image: {pullPolicy: Allways}", "pullPolicy"),
            ("image: {digest: latest}", "digest"),
            ("settings: {rules: {NP999: warn}}", "NP999"),
            ("settings: {rules: {NP103: on}}", "NP103"),
            ("settings: {rules: {NP103: loud}}", "NP103"),
            ("settings: {attachment: {dynamicNetworks: maybe}}", "dynamicNetworks"),
            ("settings: {namespaces: {override: loosen}}", "override"),
            ("settings: {reservePorts: 256}", "reservePorts"),
            ("webhooks: {timeoutSeconds: 31}", "timeoutSeconds"),
            ("webhooks: {matchConditions: true}", "matchConditions"),
            ("webhooks: {validating: {failurePolicy: fail}}", "failurePolicy"),
            ("webhooks: {mutating: {reinvocationPolicy: Always}}", "reinvocationPolicy"),
            ("webhooks: {namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}", "operator"),
            ("certificates: {source: selfSigned}", "source"),
            ("certificates: {certManager: {duration: 90d}}", "duration"),
            ("certificates: {certManager: {issuerRef: {kind: ClusterIssuer}}}", "issuerRef"),
            ("certificates: {secret: {caBundle: LS0tLS1CRUdJTg==}}", "caBundle"),
            ("ports: {webhook: 443}", "webhook"),
            ("listenAddress: localhost", "listenAddress"),
            ("extraArgs: [max-in-flight=1]", "extraArgs"),
            ("resources: {limits: {memory: 64MiB}}", "memory"),
            ("tolerations: [{effect: NoSchedul}]", "effect"),
            ("networkPolicy: {apiServer: {cidrs: [10.0.0.1]}}", "cidrs"),
            ("metrics: {serviceMonitor: {interval: 30}}", "interval"),
            ("podLabels: {example.com/team: no way}", "podLabels"),
        ]:
            with self.subTest(text):
                self.refuses(chart.read_yaml(text), word)

    def test_a_parent_chart_may_have_globals(self) -> None:
        self.assertEqual(render({"global": {"registry": "example.com"}}), render({}))

    def test_every_value_has_a_schema_and_every_schema_a_value(self) -> None:
        values = chart.read_yaml(chart.VALUES.read_text())
        schema = json.loads(chart.SCHEMA.read_text())
        del schema["properties"]["global"]
        documented = [key for _, keys in chart.documented_values(chart.VALUES.read_text()) for key, _ in keys]
        for path in closed_objects(schema, schema):
            key = ".".join(path)
            # What belongs to Kubernetes is documented there.
            if not any(f"{key}.".startswith(f"{known}.") for known in documented):
                described = chart.value_at(values, key) if path else values
                self.assertEqual(described.keys(), resolve(schema, path)["properties"].keys(), key)


def closed_objects(schema: dict[str, Any], root: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the objects whose keys are all known."""
    schema = dereference(schema, root)
    if schema.get("additionalProperties") is False:
        yield path
    for key, inner in schema.get("properties", {}).items():
        yield from closed_objects(inner, root, (*path, key))


def dereference(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    return root["definitions"][schema["$ref"].rsplit("/")[-1]] if "$ref" in schema else schema


def resolve(root: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    schema = root
    for key in path:
        schema = dereference(schema["properties"][key], root)
    return schema


class Code(unittest.TestCase):
    """Facts that the chart and the program both know."""

    def test_every_flag_is_one_of_the_program(self) -> None:
        # Every flag has a twin in the environment, by nicplug's name or by that of OpenTelemetry.
        twins = re.findall(r'env = "(?:NICPLUG|OTEL_EXPORTER)_([A-Z_]+)"', CLI)
        known = {f"--{name.lower().replace('_', '-')}" for name in twins}
        for name, values in sets().items():
            with self.subTest(name):
                command, *flags = args(values)
                self.assertEqual(command, "serve")
                self.assertLessEqual({flag.split("=")[0] for flag in flags}, known)

    def test_ports_and_shutdown_are_those_of_the_program_unless_they_are_chosen(self) -> None:
        limits = (ROOT / "src/server/limits.rs").read_text()
        seconds = r"Duration::from_secs\((\d+)\)"
        grace, deadline = re.search(rf"grace: {seconds}, deadline: {seconds}", limits).groups()
        self.assertIn(f"--drain-grace={grace}s", args({}))
        self.assertIn(f"--drain-deadline={deadline}s", args({}))
        for flag, port in re.findall(r'NICPLUG_(LISTEN|HEALTH_LISTEN)", default_value = "127.0.0.1:(\d+)"', CLI):
            self.assertIn(f"--{flag.lower().replace('_', '-')}=0.0.0.0:{port}", args({}))

    def test_paths_are_those_that_the_program_serves(self) -> None:
        routes = (ROOT / "src/server/routes.rs").read_text()
        self.assertEqual({hook["clientConfig"]["service"]["path"] for hook in webhooks({})}, {"/validate", "/mutate"})
        for hook in webhooks({}):
            self.assertIn(f'.route("{hook["clientConfig"]["service"]["path"]}", post(', routes)
        health = (ROOT / "src/server/health.rs").read_text()
        container = pod({})["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertIn(f'.route("{container[probe]["httpGet"]["path"]}", get(', health)

    def test_an_annotation_that_is_read_is_one_that_match_conditions_compare(self) -> None:
        views = (ROOT / "src/api/vm.rs").read_text()
        fields = re.search(r"fields! \{\n    Annotations \{(.*?)\n    \}", views, re.DOTALL)[1]
        read = set(re.findall(r'"([^"]+)" => ', fields))
        self.assertIn("nicplug.io/persist", read)
        for hook in webhooks({}):
            (condition,) = hook["matchConditions"]
            compared = re.search(r"\|\|\s+\[\s([^]]+)\]\.exists", condition["expression"])[1]
            self.assertEqual(set(re.findall(r"'([^']+)'", compared)), read)

    def test_a_kind_that_is_read_is_one_that_is_sent(self) -> None:
        review = (ROOT / "src/api/review.rs").read_text()
        read = set(re.findall(r'\("((?:pool\.)?kubevirt\.io)", "(\w+)"\) =>', review))
        (validating,) = (hook for hook in webhooks({}) if hook["name"].startswith("validate."))
        sent = {
            (rule["apiGroups"][0], resource)
            for rule in validating["rules"]
            for resource in rule["resources"]
            if "/" not in resource
        }
        self.assertEqual({(group, f"{kind.lower()}s") for group, kind in read}, sent)

    def test_the_version_is_that_of_the_program(self) -> None:
        version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "Cargo.toml").read_text())[1]
        metadata = chart.read_yaml((CHART / "Chart.yaml").read_text())
        self.assertEqual((metadata["version"], str(metadata["appVersion"])), (version, version))
        images = metadata["annotations"]["artifacthub.io/images"]
        self.assertIn(f"image: {pod({})['containers'][0]['image']}\n", images)


class Documents(unittest.TestCase):
    def test_what_is_made_from_the_chart_is_fresh(self) -> None:
        for path, text in chart.made().items():
            self.assertEqual(path.read_text(), text, f"{path.relative_to(ROOT)}: `just chart-write` writes it anew")

    def test_each_permission_has_its_reason(self) -> None:
        page = (ROOT / "docs/rbac.md").read_text()
        told = set()
        for line in page.splitlines():
            cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
            if line.startswith("| `") and len(cells) == 6:
                scope, group, resource, name, verbs, reason = cells
                self.assertTrue(reason, line)
                told |= {(scope, group, resource, name, verb) for verb in verbs.split(", ")}
        self.assertEqual(told, set(permissions({})))

    def test_each_alert_has_its_chapter(self) -> None:
        runbook = (ROOT / "docs/runbook.md").read_text()
        chapters = {title.lower() for title in re.findall(r"(?m)^## (\w+)$", runbook)}
        watched = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
        groups = by_kind({"metrics": watched}, "PrometheusRule")["spec"]["groups"]
        urls = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
        for alert, url in urls.items():
            self.assertEqual(url.rsplit("#")[-1], alert.lower())
        self.assertEqual({alert.lower() for alert in urls}, chapters)


def permissions(values: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    for item in chart.objects(render(values)):
        if item["kind"] in ("ClusterRole", "Role"):
            scope = {"ClusterRole": "cluster", "Role": "namespace"}[item["kind"]]
            for rule in item["rules"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", ["any"]):
                        for verb in rule["verbs"]:
                            yield scope, rule["apiGroups"][0] or "core", resource, name, verb


if __name__ == "__main__":
    unittest.main()
