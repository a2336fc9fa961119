"""Tests what is shipped besides the chart: the image, without Docker, and the krew manifest."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import unittest
from pathlib import Path

import yaml
from chart import CHART, ROOT, render

sys.path.append(str(ROOT / "deploy"))
import release

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

    def test_the_icon_is_a_file_of_the_repository(self) -> None:
        raw = self.CHART["home"].replace("github.com", "raw.githubusercontent.com") + "/main/"
        icon = ROOT / self.CHART["icon"].removeprefix(raw)
        self.assertIn("<svg ", icon.read_text())

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


class Version(unittest.TestCase):
    """Cargo.toml holds the version; `just bump` writes it everywhere else."""

    FILES = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "Dockerfile",
        "charts/nicplug/Chart.yaml",
        "deploy/homebrew.rb",
        "deploy/install.yaml",
        "deploy/krew.yaml",
        "deploy/version.sh",
        "fuzz/Cargo.lock",
    ]

    def versions(self, root: Path) -> dict[str, set[str]]:
        """Returns the versions of nicplug that each file names."""
        patterns = {
            "Cargo.toml": r'(?m)^version = "(.+)"$',
            "Cargo.lock": r'name = "nicplug"\nversion = "(.+)"',
            "fuzz/Cargo.lock": r'name = "nicplug"\nversion = "(.+)"',
            "Dockerfile": r'image\.version="(.+?)"',
            "charts/nicplug/Chart.yaml": r"(?m)(?:^version: |^appVersion: |nicplug/nicplug:)(.+)$",
            "deploy/install.yaml": r'(?m)(?:nicplug/nicplug:|/version: ")([^"\n]+)"?$',
            "deploy/krew.yaml": r"(?m)(?:version: v|/download/v)([^/\n]+)",
            "deploy/homebrew.rb": r'(?:version "|/download/v)([^"/]+)',
        }
        return {file: set(re.findall(pattern, (root / file).read_text())) for file, pattern in patterns.items()}

    def test_every_file_has_the_same_version(self) -> None:
        for file, versions in self.versions(ROOT).items():
            self.assertEqual(versions, {PACKAGE["version"]}, f"{file}: run `just bump`")

    def test_a_bump_changes_every_file(self) -> None:
        root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for file in self.FILES:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, root / file)
        before = (root / "Cargo.lock").read_text()
        for version, is_prerelease in [("9.8.7-rc.1", "true"), ("9.8.7", "false")]:
            subprocess.run(["bash", str(root / "deploy/version.sh"), version], check=True, capture_output=True)
            self.assertEqual(set.union(*self.versions(root).values()), {version})
            annotations = yaml.safe_load((root / "charts/nicplug/Chart.yaml").read_text())["annotations"]
            self.assertEqual(annotations["artifacthub.io/prerelease"], is_prerelease)
            self.assertIn(f"\n## [{version}] - ", (root / "CHANGELOG.md").read_text())
        old = f'name = "nicplug"\nversion = "{PACKAGE["version"]}"'
        self.assertEqual((root / "Cargo.lock").read_text(), before.replace(old, 'name = "nicplug"\nversion = "9.8.7"'))
        for wrong in ("9.8.7", "1.2", "v1.2.3"):
            run = subprocess.run(["bash", str(root / "deploy/version.sh"), wrong], capture_output=True, text=True)
            self.assertNotEqual(run.returncode, 0, wrong)


class Workflows(unittest.TestCase):
    FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))

    def test_actions_are_pinned_by_hash(self) -> None:
        for file in self.FILES:
            for action in re.findall(r"uses: (.+)", file.read_text()):
                self.assertRegex(action, r"^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

    def test_only_the_job_that_publishes_may_write(self) -> None:
        for file in self.FILES:
            workflow = yaml.safe_load(file.read_text())
            self.assertIn(workflow["permissions"], ({}, {"contents": "read"}))
            for name, job in workflow["jobs"].items():
                writes = [scope for scope, access in job.get("permissions", {}).items() if access == "write"]
                self.assertEqual(bool(writes), name == "publish", f"{file.name}: {name}")
                self.assertIn("timeout-minutes", job)

    def test_no_checkout_keeps_its_credentials(self) -> None:
        for file in self.FILES:
            for job in yaml.safe_load(file.read_text())["jobs"].values():
                for step in job["steps"]:
                    if step.get("uses", "").startswith("actions/checkout@"):
                        self.assertIs(step["with"]["persist-credentials"], False)


class WithRelease(unittest.TestCase):
    """Creates the files of a release, with a text in the place of each program and of what it writes."""

    DOCUMENTS = {f"completions/{name}": shell.encode() for shell, name in release.COMPLETIONS.items()}
    DOCUMENTS |= {"man/nicplug.1": b"manual"}

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.create()
        self.files = self.folder / "files"
        self.plugin = yaml.safe_load((self.files / "nicplug.yaml").read_text())
        self.spec = self.plugin["spec"]

    def create(self) -> None:
        for platform in release.PLATFORMS:
            name = "nicplug.exe" if platform.startswith("windows") else "nicplug"
            (self.folder / platform).mkdir(exist_ok=True)
            (self.folder / platform / name).write_text(platform)
            (self.folder / platform / "nicplug.cdx.json").write_text("{}")
        (self.folder / "linux-amd64/nicplug.profdata").write_text("profile")
        release.main(self.folder, self.DOCUMENTS)

    def sums(self) -> dict[str, str]:
        lines = (self.files / "SHA256SUMS").read_text().splitlines()
        return {name: digest for digest, name in (line.split("  ") for line in lines)}


class ReleaseFiles(WithRelease):
    """Tests the files of a release."""

    def test_every_file_has_its_sum(self) -> None:
        found = {file.name: file for file in self.files.iterdir() if file.name != "SHA256SUMS"}
        self.assertEqual(self.sums(), {name: release.digest(file) for name, file in found.items()})
        self.assertGreaterEqual(found.keys(), {"install.yaml", "nicplug.rb", "nicplug-linux-amd64.cdx.json"})
        self.assertIn("nicplug-linux-amd64.profdata", found)

    def test_every_archive_has_the_licence_the_completions_and_the_manual(self) -> None:
        archives = [file for file in self.files.iterdir() if re.fullmatch(r"nicplug-\w+-\w+\.(tar\.gz|zip)", file.name)]
        self.assertEqual(len(archives), len(release.PLATFORMS))
        for archive in archives:
            unpacked = self.folder / "unpacked" / archive.name
            shutil.unpack_archive(archive, unpacked)
            found = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}
            program = "nicplug.exe" if archive.suffix == ".zip" else "nicplug"
            self.assertEqual(found, {program, "LICENSE", *self.DOCUMENTS})

    def test_the_formula_installs_files_of_the_archives(self) -> None:
        formula = (self.files / "nicplug.rb").read_text()
        for name in re.findall(r'(?:completion|bin)\.install "(.+?)"', formula):
            self.assertIn(name, {"nicplug", *self.DOCUMENTS})
        self.assertIn('man1.install Dir["man/*.1"]', formula)

    def test_the_same_programs_give_the_same_files(self) -> None:
        before = self.sums()
        self.create()
        self.assertEqual(self.sums(), before)

    def test_the_packed_chart_renders_like_its_folder(self) -> None:
        packed = self.files / f"nicplug-{PACKAGE['version']}.tgz"
        with tarfile.open(packed) as archive:
            archive.extractall(self.folder / "chart", filter="data")
        unpacked = self.folder / "chart/nicplug"
        self.assertEqual(render({}, unpacked), render({}))
        self.assertFalse((unpacked / "ci").exists())

    def test_the_notes_are_those_of_the_changelog(self) -> None:
        text = "# Changelog\n\n## [Unreleased]\n\nNext.\n\n## [0.0.1] - 2026-01-01\n\nFirst.\n"
        self.assertEqual(release.notes(text), "Next.\n")
        self.assertEqual(release.notes(text.replace("0.0.1", PACKAGE["version"])), "First.\n")
        linked = text.replace("Next.", "[a](docs/a.md#b), [c](https://c.example)")
        absolute = f"{release.REPOSITORY}/blob/v{PACKAGE['version']}/docs/a.md#b"
        self.assertEqual(release.notes(linked), f"[a]({absolute}), [c](https://c.example)\n")

    def test_the_formula_names_each_archive_with_its_sum(self) -> None:
        formula = (self.files / "nicplug.rb").read_text()
        self.assertNotIn("SUM OF", formula)
        pairs = re.findall(r'url ".*/(.+?)"\n +sha256 "(.+?)"', formula)
        self.assertEqual(len(pairs), 4)
        for name, digest in pairs:
            self.assertEqual(digest, self.sums()[name])


class Krew(WithRelease):
    """Tests the requirements of krew for a manifest, from its documentation and the checks of its index."""

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
            archive = self.files / platform["uri"].rsplit("/")[-1]
            self.assertEqual(platform["sha256"], hashlib.sha256(archive.read_bytes()).hexdigest())
            unpacked = self.folder / "unpacked" / archive.name
            shutil.unpack_archive(archive, unpacked)
            for file in platform["files"]:
                self.assertTrue((unpacked / file["from"]).is_file(), file)
            labels = platform["selector"]["matchLabels"]
            self.assertEqual((unpacked / platform["bin"]).read_text(), f"{labels['os']}-{labels['arch']}")
        built = {"-".join(platform["selector"]["matchLabels"].values()) for platform in self.spec["platforms"]}
        self.assertEqual(built, set(release.PLATFORMS))


if __name__ == "__main__":
    unittest.main()
