"""Tests what is shipped besides the chart: the image, without Docker, and the krew manifest."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tarfile
import tempfile
import tomllib
import unittest
from pathlib import Path
from typing import Any

import yaml
from chart import CHART, ROOT

PACKAGE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


class Image(unittest.TestCase):
    def test_it_is_built_with_the_toolchain_of_the_repository(self) -> None:
        channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        self.assertIn(f"/library/rust:{channel}-", DOCKERFILE)

    def test_its_labels_match_the_package(self) -> None:
        labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE))
        self.assertEqual(labels["title"], PACKAGE["name"])
        self.assertEqual(labels["version"], PACKAGE["version"])
        self.assertEqual(labels["description"], PACKAGE["description"])
        self.assertEqual(labels["licenses"], PACKAGE["license"])
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual({labels["source"], labels["url"]}, {chart["home"]})

    def test_it_contains_one_program_and_no_base_image(self) -> None:
        last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
        self.assertTrue(last.startswith("\nFROM scratch\n"))
        self.assertNotIn("\nRUN", last)
        self.assertEqual(re.findall(r"(?m)^COPY .* (\S+)$", last), ["/nicplug", "/nicplug.cdx.json", "/LICENSE"])
        self.assertIn('\nENTRYPOINT ["/nicplug"]\n', last)

    def test_its_user_is_numeric_so_that_the_kubelet_can_check_that_it_is_not_root(self) -> None:
        (user,) = re.findall(r"(?m)^USER (\d+):\d+$", DOCKERFILE)
        self.assertNotEqual(int(user), 0)

    def test_its_ports_match_the_chart(self) -> None:
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        (ports,) = re.findall(r"(?m)^EXPOSE (.+)$", DOCKERFILE)
        self.assertEqual({int(port) for port in ports.split()}, set(values["ports"].values()))

    def test_its_architectures_match_the_chart(self) -> None:
        annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
        images = yaml.safe_load(annotations["artifacthub.io/images"])
        named = {platform.removeprefix("linux/") for image in images for platform in image["platforms"]}
        built = set(re.findall(r"(?m)^    (\w+)\) target=", (ROOT / "image/build.sh").read_text()))
        self.assertEqual(built, named)

    def test_its_build_tools_are_pinned(self) -> None:
        lines = (ROOT / "image/requirements.txt").read_text().splitlines()
        self.assertTrue(all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lines if not line.startswith("#")))

    def test_the_build_context_contains_all_its_inputs(self) -> None:
        sent = set(re.findall(r"(?m)^!/(.+)$", (ROOT / ".dockerignore").read_text()))
        self.assertTrue(all((ROOT / path).exists() for path in sent))
        inputs = ["Cargo.lock", "Cargo.toml", "LICENSE", "benches", "examples", "image", "rust-toolchain.toml", "src"]
        for path in [*inputs, "tests/data/reviews"]:
            self.assertIn(path, sent)
        for file in (ROOT / "src").rglob("*.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', file.read_text()):
                path = (file.parent / included).resolve().relative_to(ROOT)
                self.assertIn(path.parts[0], sent, file)


class ArtifactHub(unittest.TestCase):
    """Tests the annotations that Artifact Hub reads from a chart, as its documentation defines them."""

    CHART = yaml.safe_load((CHART / "Chart.yaml").read_text())
    ANNOTATIONS = {key.removeprefix("artifacthub.io/"): value for key, value in CHART["annotations"].items()}

    def test_annotations_are_known_and_well_formed(self) -> None:
        words = {"category", "license", "prerelease", "containsSecurityUpdates", "operator"}
        lists = {"images": {"name", "image", "platforms"}, "links": {"name", "url"}, "changes": {"kind", "description"}}
        self.assertEqual(self.ANNOTATIONS.keys(), words | lists.keys())
        for name, fields in lists.items():
            for entry in yaml.safe_load(self.ANNOTATIONS[name]):
                self.assertEqual(entry.keys(), fields, name)
        for name in ("prerelease", "containsSecurityUpdates", "operator"):
            self.assertIn(self.ANNOTATIONS[name], ("true", "false"))
        for change in yaml.safe_load(self.ANNOTATIONS["changes"]):
            self.assertIn(change["kind"], {"added", "changed", "deprecated", "removed", "fixed", "security"})

    def test_links_into_the_repository_point_to_files(self) -> None:
        blob = f"{self.CHART['home']}/blob/main/"
        files = [link["url"].removeprefix(blob) for link in yaml.safe_load(self.ANNOTATIONS["links"])]
        files = [file for file in files if "://" not in file]
        self.assertIn("docs/install.md", files)
        for file in files:
            self.assertTrue((ROOT / file).is_file(), file)

    def test_the_image_has_the_version_of_the_package(self) -> None:
        for image in yaml.safe_load(self.ANNOTATIONS["images"]):
            self.assertTrue(image["image"].endswith(f":{PACKAGE['version']}"), image)


class Krew(unittest.TestCase):
    """Tests the requirements of krew for a manifest, from its documentation and the checks of its index."""

    def manifest(self, folder: Path) -> dict[str, Any]:
        for arch in ("amd64", "arm64"):
            (folder / arch).mkdir(exist_ok=True)
            (folder / arch / "nicplug").write_text(arch)
        command = ["bash", str(ROOT / "deploy/krew.sh"), str(folder)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        return yaml.safe_load(run.stdout)

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.plugin = self.manifest(self.folder)
        self.spec = self.plugin["spec"]

    def test_it_has_exactly_the_fields_of_a_plugin(self) -> None:
        self.assertEqual(self.plugin.keys(), {"apiVersion", "kind", "metadata", "spec"})
        self.assertEqual(self.plugin["apiVersion"], "krew.googlecontainertools.github.com/v1alpha2")
        self.assertEqual(self.plugin["kind"], "Plugin")
        self.assertEqual(self.plugin["metadata"], {"name": "nicplug"})
        fields = {"version", "homepage", "shortDescription", "description", "caveats", "platforms"}
        self.assertEqual(self.spec.keys(), fields)
        for platform in self.spec["platforms"]:
            self.assertEqual(platform.keys(), {"selector", "uri", "sha256", "files", "bin"})

    def test_its_version_matches_the_package(self) -> None:
        version = f"v{PACKAGE['version']}"
        self.assertEqual(self.spec["version"], version)
        for platform in self.spec["platforms"]:
            self.assertIn(f"/download/{version}/", platform["uri"])

    def test_its_texts_fit_the_plugin_list(self) -> None:
        self.assertLessEqual(len(self.spec["shortDescription"]), 50)
        self.assertNotRegex(self.spec["shortDescription"], r"\.$|\n")
        for text in (self.spec["description"], self.spec["caveats"]):
            for line in text.splitlines():
                self.assertLessEqual(len(line), 80)

    def test_each_platform_is_selected_once_and_its_archive_has_the_named_files(self) -> None:
        selectors = [tuple(sorted(platform["selector"]["matchLabels"].items())) for platform in self.spec["platforms"]]
        self.assertEqual(len(selectors), len(set(selectors)))
        for platform in self.spec["platforms"]:
            archive = self.folder / platform["uri"].rsplit("/")[-1]
            self.assertEqual(platform["sha256"], hashlib.sha256(archive.read_bytes()).hexdigest())
            with tarfile.open(archive) as inside:
                self.assertEqual(inside.getnames(), [file["from"] for file in platform["files"]])
                program = inside.extractfile(platform["bin"])
                assert program
                self.assertEqual(program.read().decode(), platform["selector"]["matchLabels"]["arch"])

    def test_the_same_binaries_give_the_same_archives(self) -> None:
        self.assertEqual(self.manifest(self.folder), self.plugin)


if __name__ == "__main__":
    unittest.main()
