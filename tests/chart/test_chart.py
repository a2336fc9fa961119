"""Tests the chart with Helm's own engine, against its schema and against the program that it runs."""

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



def source(path: str) -> str:
    """Returns the text of a Rust module and its submodules."""
    module = [ROOT / f"{path}.rs"] if (ROOT / f"{path}.rs").exists() else []
    return "".join(file.read_text() for file in [*module, *sorted((ROOT / path).rglob("*.rs"))])


CLI = source("src/cli")


def by_kind(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns the only object of a kind."""
    (found,) = (item for item in chart.objects(render(values)) if item["kind"] == kind)
    return found


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return by_kind(values, "Deployment")["spec"]["template"]["spec"]


def audit_pod(values: dict[str, Any]) -> dict[str, Any]:
    return by_kind(values, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]


AUDIT = {"audit": {"enabled": True}}


def args(values: dict[str, Any]) -> list[str]:
    return pod(values)["containers"][0]["args"]


def webhooks(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [hook for item in chart.objects(render(values)) for hook in item.get("webhooks", [])]


def match_condition(webhook: str) -> str:
    """The expression of the only match condition of a webhook with the default values."""
    (hook,) = (hook for hook in webhooks({}) if hook["name"].startswith(f"{webhook}."))
    (condition,) = hook["matchConditions"]
    return condition["expression"]


class Everywhere(unittest.TestCase):
    """Tests of each set of values in charts/nicplug/ci."""

    def each(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        for name, values in sets().items():
            with self.subTest(name):
                yield values, chart.objects(render(values))

    def test_helm_finds_nothing_to_complain_of(self) -> None:
        for values, _ in self.each():
            report = helm.lint(CHART, values, strict=True)
            problems = [message for message in report["messages"] if message["severity"] > 0]
            self.assertEqual((problems, report["errors"]), ([], []))

    def test_rendering_twice_gives_the_same_bytes(self) -> None:
        for values, _ in self.each():
            self.assertEqual(render(values), render(values))

    def test_no_secret_data_and_no_ca_bundle_is_rendered_unless_given(self) -> None:
        for values, objects in self.each():
            for item in objects:
                self.assertFalse({"data", "stringData"} & item.keys() if item["kind"] == "Secret" else {})
            given = values.get("certificates", {}).get("secret", {}).get("caBundle")
            for hook in webhooks(values):
                bundle = hook["clientConfig"].get("caBundle")
                self.assertEqual(bundle and base64.b64decode(bundle).decode(), given)

    def test_each_object_is_rendered_once(self) -> None:
        for _, objects in self.each():
            keys = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
            self.assertEqual(len(keys), len(set(keys)))

    def test_only_cluster_scoped_objects_have_no_namespace(self) -> None:
        configurations = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
        cluster_scoped = {"ClusterRole", "ClusterRoleBinding", *configurations}
        for _, objects in self.each():
            for item in objects:
                expected = None if item["kind"] in cluster_scoped else NAMESPACE
                if item["kind"] in ("PodMonitor", "ServiceMonitor"):
                    expected = "monitoring"
                self.assertEqual(item["metadata"].get("namespace"), expected, item["kind"])

    def test_pods_are_as_the_restricted_standard_wants_them(self) -> None:
        for values, _ in self.each():
            tests = chart.objects(chart.render_test(values))
            audit = audit_pod({**values, **AUDIT})["spec"]
            for spec in [pod(values), audit, *(item["spec"] for item in tests if item["kind"] == "Pod")]:
                self.assert_restricted(spec)

    def assert_restricted(self, spec: dict[str, Any]) -> None:
        (container,) = spec["containers"]
        security = container["securityContext"]
        self.assertTrue(spec["securityContext"]["runAsNonRoot"])
        self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
        self.assertTrue(security["readOnlyRootFilesystem"])
        self.assertFalse(security["allowPrivilegeEscalation"] or security["privileged"])
        sources = {key for volume in spec.get("volumes", []) for key in volume if key != "name"}
        self.assertLessEqual(sources, {"configMap", "secret"})
        self.assertFalse({"hostPID", "hostIPC"} & spec.keys())

    def test_volumes_are_mounted_whole_so_that_the_kubelet_updates_them(self) -> None:
        for values, _ in self.each():
            spec = pod(values)
            mounts = spec["containers"][0]["volumeMounts"]
            self.assertEqual([mount["name"] for mount in mounts], [volume["name"] for volume in spec["volumes"]])
            self.assertTrue(all("subPath" not in mount and mount["readOnly"] for mount in mounts))

    def test_the_kubelet_kills_a_pod_only_after_its_own_deadline(self) -> None:
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
            audit = audit_pod({**values, **AUDIT})["metadata"]["labels"].items()
            for item in objects:
                selector = item.get("spec", {}).get({"NetworkPolicy": "podSelector"}.get(item["kind"], "selector"), {})
                selector = selector.get("matchLabels", selector).items()
                is_of_audit = item["metadata"]["name"].endswith("-audit")
                self.assertGreaterEqual(audit if is_of_audit else labels, selector, item["kind"])
                if selector:
                    self.assertFalse(selector <= (labels if is_of_audit else audit), item["kind"])

    def test_objects_of_custom_kinds_match_their_models(self) -> None:
        from cloudcoil.models.cert_manager import v1 as cert_manager
        from cloudcoil.models.prometheus_operator import v1 as monitoring

        models = {
            "Certificate": cert_manager.Certificate,
            "Issuer": cert_manager.Issuer,
            "PodMonitor": monitoring.PodMonitor,
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
    """Yields the fields that a model does not have; model_validate ignores them."""
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
    """Returns the fields, by their API names, of a model or of the model inside an optional, annotated or list type."""
    if hasattr(annotation, "model_fields"):
        fields = annotation.model_fields
        return {field.alias or name: field.annotation for name, field in fields.items()}
    return next((fields for inner in typing.get_args(annotation) if (fields := fields_of(inner))), {})


class Templates(unittest.TestCase):
    def test_templates_look_up_nothing_and_use_nothing_random(self) -> None:
        for file in (CHART / "templates").rglob("*.*"):
            self.assertNotRegex(file.read_text(), r"\b(lookup|gen[A-Z]\w+|rand[A-Z]\w+|now|uuidv4|derivePassword)\b")

    def test_every_release_name_gives_valid_object_names(self) -> None:
        for name, expected in [
            ("nicplug", "nicplug"),
            ("my-nicplug", "my-nicplug"),
            ("review", "review-nicplug"),
            ("a" * 53, "a" * 50),
            ("a" * 49 + "-bbb", "a" * 49),
        ]:
            objects = chart.objects(render(AUDIT, name=name))
            self.assertIn(expected, {item["metadata"]["name"] for item in objects})
            self.assertLessEqual(max(len(item["metadata"]["name"]) for item in objects), 63)
            # The name of a Job has 11 further characters.
            (cron_job,) = (item["metadata"]["name"] for item in objects if item["kind"] == "CronJob")
            self.assertLessEqual(len(cron_job), 52)

    def test_the_certificate_is_for_the_dns_name_that_the_api_server_calls(self) -> None:
        for name, values in sets().items():
            with self.subTest(name):
                for hook in webhooks(values):
                    service = hook["clientConfig"]["service"]
                    self.assertEqual(by_kind(values, "Service")["metadata"]["name"], service["name"])
                    host = f"{service['name']}.{service['namespace']}.svc"
                    rendered = render(values) + chart.render_notes(values)
                    self.assertRegex(rendered, rf"(--cert-dns-name=|- |for ){host}\b")

    def test_strings_that_yaml_reads_as_booleans_stay_strings(self) -> None:
        for text, expected in [("off", "off"), ('"off"', "off"), ("warn", "warn"), ("deny", "deny")]:
            values = chart.read_yaml(f"settings: {{rules: {{NP103: {text}}}}}")
            self.assertEqual(settings(values)["rules"], {"NP103": expected})
        for text in ["auto", "yes", "no", '"yes"', '"no"']:
            values = chart.read_yaml(f"settings: {{attachment: {{dynamicNetworks: {text}}}}}")
            self.assertEqual(settings(values)["attachment"]["dynamicNetworks"], text.strip('"'))

    def test_plugins_and_the_namespace_of_multus_are_settings(self) -> None:
        self.assertEqual(settings({})["attachment"].keys(), {"dynamicNetworks"})
        for key, value in [
            ("neverInPlace", ["kube-ovn"]),
            ("neverByMigration", ["host-device"]),
            ("multusNamespace", "openshift-multus"),
        ]:
            self.assertEqual(settings({"settings": {"attachment": {key: value}}})["attachment"][key], value)
        bindings = {"bindings": ["managedtap"]}
        self.assertEqual(settings({"settings": {"hotplug": bindings}})["hotplug"], bindings)

    def test_each_value_of_the_settings_is_in_the_file(self) -> None:
        values = sets()["every-value"]
        # The values have the words that YAML reads as Booleans.
        expected = values["settings"] | {"rules": settings(values)["rules"]}
        expected["attachment"] |= {"dynamicNetworks": "no"}
        self.assertEqual(settings(values), expected)

    def test_live_changes_are_a_word_or_a_map(self) -> None:
        for text in ["deny", "warn", "{default: warn}", '{users: {"*:console": warn}, groups: {ops: deny}}']:
            values = chart.read_yaml(f"settings: {{liveChanges: {text}}}")
            expected = chart.read_yaml(text)
            found = settings(values)["liveChanges"]
            default = {"default": "deny", "users": {}, "groups": {}}
            self.assertEqual(found, default | expected if isinstance(expected, dict) else expected)

    def test_match_conditions_are_rendered_if_kubernetes_supports_them(self) -> None:
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
                # The engine renders for the version that it was built for, so a copy of the chart sets another one.
                copy = Path(shutil.copytree(CHART, f"{folder}/nicplug"))
                for file in copy.glob("templates/**/*.*"):
                    file.write_text(file.read_text().replace(".Capabilities.KubeVersion.Version", f'"{version}"'))
                manifest = render({"webhooks": {"matchConditions": choice}}, copy)
                self.assertEqual("matchConditions:" in manifest, expected)
                self.assertEqual("unhealthyPodEvictionPolicy" in manifest, not version.startswith("v1.26"))

    def test_the_activation_is_checked_only_if_nicplug_writes_it(self) -> None:
        for values, name in [
            ({}, "nicplug-call"),
            ({"webhooks": {"activateWhenReady": False}}, None),
            ({"webhooks": {"matchConditions": "never"}}, None),
            ({"rbac": {"create": False}}, None),
            ({"fullnameOverride": "other"}, "other-call"),
        ]:
            with self.subTest(values):
                objects = chart.objects(render(values))
                checked = [".serviceAccount(" in json.dumps(hook) for hook in webhooks(values)]
                self.assertEqual(set(checked), {name is not None})
                found = {(item["kind"], item["metadata"]["name"]) for item in objects}
                (container,) = by_kind(values, "Deployment")["spec"]["template"]["spec"]["containers"]
                bound = [flag.split("=")[1] for flag in container["args"] if flag.startswith("--activation-binding=")]
                self.assertEqual(bound, [name] if name else [])
                for kind in ("Role", "RoleBinding"):
                    self.assertEqual((kind, f"{name}") in found, name is not None)
                if name:
                    bindings = [item for item in objects if item["kind"] == "RoleBinding"]
                    (binding,) = (item for item in bindings if item["metadata"]["name"] == name)
                    self.assertNotIn("subjects", binding)
                    self.assertIn(f"'{name}'", json.dumps(webhooks(values)))

    def test_invalid_combinations_are_rejected_with_a_fix(self) -> None:
        for values, message in [
            (
                {"shutdown": {"graceSeconds": 30}},
                "shutdown.deadlineSeconds 25 is shorter than shutdown.graceSeconds 30",
            ),
            ({"certificates": {"source": "secret"}}, "certificates.secret.name is required: name a Secret"),
        ]:
            with self.assertRaisesRegex(helm.HelmRenderError, re.escape(message)):
                render(values)

    def test_a_network_policy_lets_nothing_out_but_to_the_api_server(self) -> None:
        api_server = {"cidrs": ["10.0.0.0/24"], "ports": [6443]}
        spec = by_kind({"networkPolicy": {"enabled": True, "apiServer": api_server}}, "NetworkPolicy")["spec"]
        self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
        blocks = [{"ipBlock": {"cidr": "10.0.0.0/24"}}]
        self.assertEqual(spec["egress"], [{"ports": [{"port": 6443, "protocol": "TCP"}], "to": blocks}])
        webhook, _ = spec["ingress"]
        self.assertEqual(webhook, {"ports": [{"port": 8443, "protocol": "TCP"}], "from": blocks})

    def test_common_annotations_are_on_every_object_and_yield_to_its_own(self) -> None:
        common = {**AUDIT, "commonAnnotations": {"example.com/a": "common", "example.com/b": "common"}}
        own = {"service": {"annotations": {"example.com/b": "own"}}}
        objects = chart.objects(render({**common, **own}) + chart.render_test({**common, **own}))
        for item in objects:
            annotations = item["metadata"]["annotations"]
            self.assertEqual(annotations["example.com/a"], "common", item["kind"])
            self.assertEqual(annotations["example.com/b"], "own" if item["kind"] == "Service" else "common")

    def test_no_change_of_settings_or_certificates_restarts_the_pods(self) -> None:
        def template(values: dict[str, Any]) -> dict[str, Any]:
            return by_kind(values, "Deployment")["spec"]["template"]

        changed = {"settings": {"rules": {"NP103": "warn"}}, "log": {"filter": "debug"}}
        self.assertEqual(template(changed), template({}))

    def test_the_image_has_its_registry_unless_that_is_empty(self) -> None:
        for image, expected in [
            ({}, "ghcr.io/nicplug/nicplug:"),
            ({"registry": "mirror.example.com:5000"}, "mirror.example.com:5000/nicplug/nicplug:"),
            ({"registry": "", "repository": "mirror.example.com/nicplug"}, "mirror.example.com/nicplug:"),
        ]:
            self.assertTrue(pod({"image": image})["containers"][0]["image"].startswith(expected), image)

    def test_an_opt_in_reviews_only_namespaces_with_the_label(self) -> None:
        team = {"matchLabels": {"team": "a"}}
        for values, labels in [
            ({}, None),
            ({"optIn": True}, {"nicplug.io/review": "enabled"}),
            ({"optIn": True, "namespaceSelector": team}, {"nicplug.io/review": "enabled", "team": "a"}),
        ]:
            for hook in webhooks({"webhooks": values}):
                self.assertEqual(hook["namespaceSelector"].get("matchLabels"), labels)
                (exclusion,) = hook["namespaceSelector"]["matchExpressions"]
                self.assertEqual(exclusion["values"], ["kube-system", NAMESPACE])

    def test_a_disruption_budget_has_one_limit(self) -> None:
        for values, expected in [
            ({}, {"maxUnavailable": 1}),
            ({"maxUnavailable": "50%"}, {"maxUnavailable": "50%"}),
            ({"minAvailable": 1}, {"minAvailable": 1}),
            ({"minAvailable": 0}, {"minAvailable": 0}),
        ]:
            spec = by_kind({"podDisruptionBudget": values}, "PodDisruptionBudget")["spec"]
            limits = {key: value for key, value in spec.items() if key.endswith("vailable")}
            self.assertEqual(limits, expected)

    def test_recreate_has_no_fields_of_a_rolling_update(self) -> None:
        strategy = by_kind({"strategy": {"type": "Recreate"}}, "Deployment")["spec"]["strategy"]
        self.assertEqual(strategy, {"type": "Recreate"})

    def test_a_probe_keeps_the_fields_that_the_values_do_not_name(self) -> None:
        (container,) = pod({"readinessProbe": {"periodSeconds": 7}})["containers"]
        (default,) = pod({})["containers"]
        self.assertEqual(container["readinessProbe"], {**default["readinessProbe"], "periodSeconds": 7})

    def test_the_dns_policy_follows_the_network_unless_it_is_set(self) -> None:
        for values, expected in [
            ({}, "ClusterFirst"),
            ({"hostNetwork": True}, "ClusterFirstWithHostNet"),
            ({"hostNetwork": True, "dnsPolicy": "Default"}, "Default"),
        ]:
            self.assertEqual(pod(values)["dnsPolicy"], expected)

    def test_a_monitor_finds_the_pods_from_another_namespace(self) -> None:
        for kind, key in [("ServiceMonitor", "serviceMonitor"), ("PodMonitor", "podMonitor")]:
            item = by_kind({"metrics": {key: {"enabled": True, "namespace": "monitoring"}}}, kind)
            self.assertEqual(item["metadata"]["namespace"], "monitoring")
            self.assertEqual(item["spec"]["namespaceSelector"], {"matchNames": [NAMESPACE]})

    def test_helm_test_may_only_create_vms_and_runs_behind_no_service(self) -> None:
        values = {"test": {"namespace": "vms"}}
        objects = {item["kind"]: item for item in chart.objects(chart.render_test(values))}
        self.assertEqual(objects.keys(), {"ServiceAccount", "Role", "RoleBinding", "Pod"})
        (rule,) = objects["Role"]["rules"]
        self.assertEqual(rule, {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["create"]})
        self.assertEqual(objects["Role"]["metadata"]["namespace"], "vms")
        (container,) = objects["Pod"]["spec"]["containers"]
        settings = "--settings=/etc/nicplug/settings/settings.yaml"
        self.assertEqual(container["args"], ["probe", "--namespace=vms", settings])
        (volume,) = objects["Pod"]["spec"]["volumes"]
        self.assertEqual(volume["configMap"]["name"], by_kind({}, "ConfigMap")["metadata"]["name"])
        self.assertEqual(container["image"], pod({})["containers"][0]["image"])
        selector = by_kind({}, "Service")["spec"]["selector"]
        self.assertFalse(selector.items() <= objects["Pod"]["metadata"]["labels"].items())
        for item in objects.values():
            self.assertEqual(item["metadata"]["annotations"]["helm.sh/hook"], "test", item["kind"])
        self.assertEqual(chart.render_test({"webhooks": {"validating": {"enabled": False}}}), "")

    def test_an_audit_runs_only_if_it_is_enabled_and_has_its_own_account(self) -> None:
        self.assertNotIn("audit", "".join(item["metadata"]["name"] for item in chart.objects(render({}))))
        objects = [item for item in chart.objects(render(AUDIT)) if item["metadata"]["name"] == "nicplug-audit"]
        kinds = [item["kind"] for item in objects]
        self.assertEqual(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "CronJob"])
        spec = audit_pod(AUDIT)["spec"]
        self.assertEqual(spec["serviceAccountName"], "nicplug-audit")
        self.assertEqual(objects[2]["subjects"][0]["name"], "nicplug-audit")
        (container,) = spec["containers"]
        command, *flags = container["args"]
        self.assertEqual((command, container["image"]), ("audit", pod({})["containers"][0]["image"]))
        program = source("src/cli/audit") + source("src/cli/facts")
        for flag in flags:
            self.assertIn(f" {flag.split('=')[0][2:].replace('-', '_')}: ", program)
        writes = {
            (rule["apiGroups"][0], verb) for rule in objects[1]["rules"] for verb in rule["verbs"] if verb not in ("get", "list")
        }
        groups = ("openreports.io", "wgpolicyk8s.io")
        self.assertEqual(writes, {(group, verb) for group in groups for verb in ("create", "delete", "patch")})
        shared = {"audit": {"enabled": True, "serviceAccount": {"create": False}}, "rbac": {"create": False}}
        kinds = [item["kind"] for item in chart.objects(render(shared)) if item["metadata"]["name"] == "nicplug-audit"]
        self.assertEqual(kinds, ["CronJob"])
        self.assertEqual(audit_pod(shared)["spec"]["serviceAccountName"], "default")

    def test_an_audit_is_scheduled_by_its_own_affinity_and_priority(self) -> None:
        spec = audit_pod(AUDIT)["spec"]
        self.assertFalse({"affinity", "priorityClassName"} & set(spec))
        affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
        values = {"audit": {"enabled": True, "affinity": affinity, "priorityClassName": "low"}, "priorityClassName": "high"}
        spec = audit_pod({**values, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]})["spec"]
        self.assertEqual((spec["affinity"], spec["priorityClassName"]), (affinity, "low"))
        self.assertEqual((spec["nodeSelector"], spec["tolerations"]), ({"a": "b"}, [{"operator": "Exists"}]))

    def test_the_probe_may_create_the_vms_of_a_fork(self) -> None:
        values = {"settings": {"api": {"groups": {"kubevirt.io": ["kubevirt.example.com"]}}}}
        (role,) = [item for item in chart.objects(chart.render_test(values)) if item["kind"] == "Role"]
        self.assertEqual(role["rules"][0]["apiGroups"], ["kubevirt.io", "kubevirt.example.com"])

    def test_what_is_switched_off_has_no_rights(self) -> None:
        without = {
            "persist": {"enabled": False},
            "pendingEvents": {"enabled": False},
            "certificates": {"source": "certManager"},
            "webhooks": {"activateWhenReady": False},
        }
        self.assertFalse({"Role", "RoleBinding"} & {item["kind"] for item in chart.objects(render(without))})
        for rule in by_kind(without, "ClusterRole")["rules"]:
            writes = set(rule["verbs"]) - {"get", "list", "watch"}
            self.assertEqual(writes, {"create"} if rule["resources"] == ["events"] else set())


def settings(values: dict[str, Any]) -> dict[str, Any]:
    return chart.read_yaml(by_kind(values, "ConfigMap")["data"]["settings.yaml"])


class Schema(unittest.TestCase):
    def assert_rejected(self, values: dict[str, Any], word: str) -> None:
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
                self.assert_rejected(values, "tpyo")

    def test_invalid_values_are_rejected(self) -> None:
        for text, word in [
            ("replicas: 0", "replicas"),
            ('replicas: "2"', "replicas"),
            ("image: {pullPolicy: Allways}", "pullPolicy"),
            ("image: {digest: latest}", "digest"),
            ("settings: {rules: {NP999: warn}}", "NP999"),
            ("settings: {rules: {NP103: on}}", "NP103"),
            ("settings: {rules: {NP103: loud}}", "NP103"),
            ("settings: {attachment: {dynamicNetworks: maybe}}", "dynamicNetworks"),
            ("settings: {attachment: {neverInPlace: kube-ovn}}", "neverInPlace"),
            ("settings: {namespaceOverride: loosen}", "namespaceOverride"),
            ("settings: {namespaces: {demo: {liveChanges: maybe}}}", "liveChanges"),
            ("settings: {liveChanges: maybe}", "liveChanges"),
            ("settings: {liveChanges: {users: {alice: maybe}}}", "liveChanges"),
            ("settings: {liveChanges: {user: {alice: warn}}}", "liveChanges"),
            ("settings: {reservePorts: 256}", "reservePorts"),
            ("webhooks: {timeoutSeconds: 31}", "timeoutSeconds"),
            ("webhooks: {matchConditions: true}", "matchConditions"),
            ("webhooks: {validating: {failurePolicy: fail}}", "failurePolicy"),
            ("webhooks: {mutating: {reinvocationPolicy: Always}}", "reinvocationPolicy"),
            ("webhooks: {namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}", "operator"),
            ("certificates: {source: self}", "source"),
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
            ("strategy: {type: Rolling}", "strategy"),
            ("strategy: {rollingUpdate: {maxSurge: one}}", "maxSurge"),
            ("podDisruptionBudget: {minAvailable: half}", "minAvailable"),
            ("dnsPolicy: Host", "dnsPolicy"),
            ("extraEnv: [{value: a}]", "name"),
            ("extraVolumes: [{name: a}]", "extraVolumes"),
            ("metrics: {podMonitor: {relabelings: [{action: rename}]}}", "action"),
            ("test: {namespace: a b}", "namespace"),
            ("audit: {schedule: hourly}", "schedule"),
            ("audit: {schedule: '* * * *'}", "schedule"),
            ("audit: {timeZone: '+01:00'}", "timeZone"),
            ("audit: {activeDeadlineSeconds: 0}", "activeDeadlineSeconds"),
            ("audit: {failedJobsHistoryLimit: -1}", "failedJobsHistoryLimit"),
            ("audit: {extraArgs: [kubevirt-version]}", "extraArgs"),
            ("audit: {resources: {limits: {memory: 64MiB}}}", "memory"),
        ]:
            with self.subTest(text):
                self.assert_rejected(chart.read_yaml(text), word)

    def test_a_parent_chart_may_have_globals(self) -> None:
        self.assertEqual(render({"global": {"registry": "example.com"}}), render({}))

    def test_every_value_has_a_schema_and_every_schema_a_value(self) -> None:
        values = chart.read_yaml(chart.VALUES.read_text())
        schema = json.loads(chart.SCHEMA.read_text())
        del schema["properties"]["global"]
        documented = [key for _, keys in chart.documented_values(chart.VALUES.read_text()) for key, _ in keys]
        for path in closed_objects(schema, schema):
            key = ".".join(path)
            # Kubernetes documents the fields below its own types.
            if not any(f"{key}.".startswith(f"{known}.") for known in documented):
                described = chart.value_at(values, key) if path else values
                self.assertEqual(described.keys(), resolve(schema, path)["properties"].keys(), key)


def closed_objects(
    schema: dict[str, Any], root: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yields the paths of the objects that allow no additional properties."""
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
    """Facts that both the chart and the program define."""

    def test_the_program_has_every_flag(self) -> None:
        # Each flag has an environment variable, named after nicplug or as in OpenTelemetry.
        variables = re.findall(r'env = "(?:NICPLUG|OTEL_EXPORTER)_([A-Z_]+)"', CLI)
        known = {f"--{name.lower().replace('_', '-')}" for name in variables}
        for name, values in sets().items():
            with self.subTest(name):
                command, *flags = args(values)
                self.assertEqual(command, "serve")
                self.assertLessEqual({flag.split("=")[0] for flag in flags}, known)

    def test_default_ports_and_shutdown_times_match_the_program(self) -> None:
        limits = source("src/server/limits")
        seconds = r"Duration::from_secs\((\d+)\)"
        grace, deadline = re.search(rf"grace: {seconds}, deadline: {seconds}", limits).groups()
        self.assertIn(f"--drain-grace={grace}s", args({}))
        self.assertIn(f"--drain-deadline={deadline}s", args({}))
        for flag, port in re.findall(r'NICPLUG_(LISTEN|HEALTH_LISTEN)", default_value = "127.0.0.1:(\d+)"', CLI):
            self.assertIn(f"--{flag.lower().replace('_', '-')}=0.0.0.0:{port}", args({}))

    def test_paths_are_those_that_the_program_serves(self) -> None:
        server = source("src/server")
        self.assertEqual({hook["clientConfig"]["service"]["path"] for hook in webhooks({})}, {"/validate", "/mutate"})
        for hook in webhooks({}):
            self.assertIn(f'.route("{hook["clientConfig"]["service"]["path"]}", post(', server)
        container = pod({})["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertIn(f'.route("{container[probe]["httpGet"]["path"]}", get(', server)

    def test_match_conditions_compare_every_annotation_that_is_read(self) -> None:
        views = source("src/api")
        fields = re.search(r"fields! \{\n    Annotations \{(.*?)\n    \}", views, re.DOTALL)[1]
        read = set(re.findall(r'"([^"]+)" => ', fields))
        self.assertIn("nicplug.io/persist", read)
        compared = re.search(r"\|\|\s+\[\s([^]]+)\]\.exists", match_condition("validate"))[1]
        self.assertEqual(set(re.findall(r"'([^']+)'", compared)), read)

    def test_the_mutating_webhook_is_called_for_an_interface_without_any_known_binding(self) -> None:
        views = source("src/api")
        bindings = set(re.findall(r"/// `(\w+)`", re.search(r"pub struct Bindings.*?\n\}", views, re.DOTALL)[0]))
        self.assertIn("passtBinding", bindings)
        self.assertEqual(set(re.findall(r"!has\(interface\.(\w+)\)", match_condition("mutate"))), bindings)

    def test_a_kind_that_is_read_is_one_that_is_sent(self) -> None:
        review = source("src/api/review")
        read = set(re.findall(r'\("((?:pool\.)?kubevirt\.io)", "(\w+)", Self::', review))
        (validating,) = (hook for hook in webhooks({}) if hook["name"].startswith("validate."))
        sent = {
            (rule["apiGroups"][0], resource)
            for rule in validating["rules"]
            for resource in rule["resources"]
            if "/" not in resource
        }
        self.assertEqual({(group, f"{kind.lower()}s") for group, kind in read}, sent)

    def test_the_webhooks_have_the_groups_of_forks(self) -> None:
        groups = {"kubevirt.io": ["kubevirt.example.com"], "pool.kubevirt.io": ["pool.example.com"]}
        values = {"settings": {"api": {"groups": groups}}}
        for hook in webhooks(values):
            for rule in hook["rules"]:
                group, *forks = rule["apiGroups"]
                self.assertEqual(forks, groups.get(group, []))

    def test_nicplug_may_read_and_write_in_the_group_of_a_fork_what_it_may_in_the_one_of_kubevirt(self) -> None:
        groups = {"kubevirt.io": ["kubevirt.example.com"], "instancetype.kubevirt.io": ["instancetype.example.com"]}
        values = {"settings": {"api": {"groups": groups}}}
        roles = [item for item in chart.objects(render(values | AUDIT)) if item["kind"] == "ClusterRole"]
        self.assertEqual([role["metadata"]["name"] for role in roles], ["nicplug-audit", "nicplug"])
        for role in roles:
            for rule in role["rules"]:
                group, *forks = rule["apiGroups"]
                self.assertEqual(forks, groups.get(group, []))
            self.assertIn("kubevirt.example.com", [group for rule in role["rules"] for group in rule["apiGroups"]])
        # nicplug reads the groups only when it starts.
        annotations = by_kind(values, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(json.loads(annotations["nicplug.io/api-groups"]), groups)

    def test_networks_are_sent_only_when_they_are_changed_or_deleted_and_never_block(self) -> None:
        review = source("src/api/review")
        (hook,) = (hook for hook in webhooks({}) if hook["name"].startswith("validate-networks."))
        (rule,) = hook["rules"]
        self.assertIn(f'("{rule["apiGroups"][0]}", "NetworkAttachmentDefinition", Self::Nad)', review)
        self.assertEqual(rule["resources"], ["network-attachment-definitions"])
        self.assertEqual(rule["operations"], ["UPDATE", "DELETE"])
        self.assertEqual((hook["failurePolicy"], hook["clientConfig"]["service"]["path"]), ("Ignore", "/validate"))
        validating = {"webhooks": {"validating": {"failurePolicy": "Fail"}}}
        policies = {hook["name"]: hook["failurePolicy"] for hook in webhooks(validating)}
        self.assertEqual(policies["validate-networks.nicplug.io"], "Ignore")
        names = {hook["name"] for hook in webhooks({"webhooks": {"networks": False}})}
        self.assertEqual(names, {"validate.nicplug.io", "mutate.nicplug.io"})

    def test_the_version_matches_the_program(self) -> None:
        version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "Cargo.toml").read_text())[1]
        metadata = chart.read_yaml((CHART / "Chart.yaml").read_text())
        self.assertEqual((metadata["version"], str(metadata["appVersion"])), (version, version))
        images = metadata["annotations"]["artifacthub.io/images"]
        self.assertIn(f"image: {pod({})['containers'][0]['image']}\n", images)


class Documents(unittest.TestCase):
    def test_generated_files_are_up_to_date(self) -> None:
        for path, text in chart.generated().items():
            self.assertEqual(path.read_text(), text, f"{path.relative_to(ROOT)}: run `just chart-write`")

    def test_each_permission_has_its_reason(self) -> None:
        page = (ROOT / "docs/rbac.md").read_text()
        documented = set()
        for line in page.splitlines():
            cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
            if line.startswith("| `") and len(cells) == 6:
                scope, group, resource, name, verbs, reason = cells
                self.assertTrue(reason, line)
                documented |= {(scope, group, resource, name, verb) for verb in verbs.split(", ")}
        self.assertEqual(documented, set(permissions(AUDIT)))

    def test_each_alert_has_a_runbook_section(self) -> None:
        runbook = (ROOT / "docs/runbook.md").read_text()
        sections = {title.lower() for title in re.findall(r"(?m)^## (\w+)$", runbook)}
        monitored = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
        groups = by_kind({"metrics": monitored}, "PrometheusRule")["spec"]["groups"]
        urls = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
        for alert, url in urls.items():
            self.assertEqual(url.rsplit("#")[-1], alert.lower())
        self.assertEqual({alert.lower() for alert in urls}, sections)


def permissions(values: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    for item in chart.objects(render(values)):
        if item["kind"] in ("ClusterRole", "Role"):
            scope = {"ClusterRole": "cluster", "Role": "namespace"}[item["kind"]]
            if item["metadata"]["name"].endswith("-audit"):
                scope = "audit"
            for rule in item["rules"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", ["any"]):
                        for verb in rule["verbs"]:
                            yield scope, rule["apiGroups"][0] or "core", resource, name, verb


if __name__ == "__main__":
    unittest.main()
