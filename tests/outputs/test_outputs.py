"""Tests that other programs can read what `nicplug check` writes: SARIF by its schema, JUnit by a parser, Code Quality
by GitLab's documentation, and drawings as XML; and that the action, the hook and the examples of docs/check.md work.

`just outputs` runs it. NICPLUG is the program; SARIF_SCHEMA is the schema of OASIS.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any, Iterator
from xml.etree import ElementTree

import jsonschema
import yaml
from junitparser import Error, Failure, JUnitXml, Skipped

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ["NICPLUG"]).resolve()
SCHEMA = json.loads(Path(os.environ["SARIF_SCHEMA"]).read_text())
TOOLS = Path(sys.executable).parent
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]

# The maximum number of results of a run that GitHub accepts.
MAX_RESULTS = 25_000

# https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
SEVERITIES = {"info", "minor", "major", "critical", "blocker"}

# An interface without a network, which NP003 denies.
LOST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: a}
spec:
  domain: {devices: {interfaces: [{name: lost, bridge: {}}]}}
"""
# A VMI that no rule denies. What needs facts is not checked.
GOOD = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: good}
spec:
  domain: {devices: {interfaces: [{name: blue, bridge: {}}]}}
  networks: [{name: blue, multus: {networkName: blue}}]
"""
# Every kind of input: without a finding, with findings, unreadable, and with names that need escapes.
INPUTS = {
    "good.yaml": GOOD,
    "lost.yaml": LOST,
    "two.yaml": f"{LOST}---\n{LOST.replace('name: a', 'name: b')}",
    "broken.yaml": "kind: [\n",
    "odd ü%&<>\"'.yaml": LOST.replace("lost", '"l<o>&s\\"t\\u0001"'),
    "ignored.yaml": LOST.replace("}}]}}", "}}]}} # nicplug:ignore NP003"),
    "none.yaml": "kind: ConfigMap\n",
}


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def outputs(name: str) -> Iterator[tuple[str, str]]:
    """Yields the output in a format for each input, and for all of them together."""
    with tempfile.TemporaryDirectory() as folder:
        for file, text in INPUTS.items():
            (Path(folder) / file).write_text(text)
        for files in [*([file] for file in INPUTS), list(INPUTS)]:
            run = check(Path(folder), *files, "--output", name)
            assert run.returncode in (0, 1, 2), run.stderr
            assert run.stdout, f"{files}: {run.stderr}"
            yield ", ".join(files), run.stdout


def texts(value: Any) -> Iterator[str]:
    """Yields each text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


class Sarif(unittest.TestCase):
    def setUp(self) -> None:
        validator = jsonschema.validators.validator_for(SCHEMA)
        validator.check_schema(SCHEMA)
        self.validator = validator(SCHEMA, format_checker=jsonschema.FormatChecker())

    def assert_valid(self, sarif: dict[str, Any]) -> None:
        errors = [f"{error.json_path}: {error.message}" for error in self.validator.iter_errors(sarif)]
        self.assertEqual(errors, [])
        self.assertNotIn("", texts(sarif))
        for run in sarif["runs"]:
            rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
            self.assertEqual(len(rules), len(set(rules)))
            for result in run["results"]:
                self.assertEqual(rules[result["ruleIndex"]], result["ruleId"])
                self.assertTrue(result["message"]["text"].strip())
                for location in result["locations"]:
                    region = location["physicalLocation"]["region"]
                    self.assertGreaterEqual(region["startLine"], 1)
                    self.assertGreater(region["endColumn"], region["startColumn"])

    def test_the_schema_finds_mistakes(self) -> None:
        self.assertFalse(self.validator.is_valid({"version": "2.1.0"}))
        uri = {"physicalLocation": {"artifactLocation": {"uri": "a b"}}}
        run = {"tool": {"driver": {"name": "x"}}, "results": [{"message": {"text": "x"}, "locations": [uri]}]}
        self.assertFalse(self.validator.is_valid({"version": "2.1.0", "runs": [run]}))

    def test_each_output_is_valid(self) -> None:
        for files, text in outputs("sarif"):
            with self.subTest(files):
                self.assert_valid(json.loads(text))

    def test_of_more_results_than_github_accepts_the_rest_is_counted(self) -> None:
        nics = ", ".join(f"{{name: n{number}, bridge: {{}}}}" for number in range(250))
        vmi = LOST.replace("{name: lost, bridge: {}}", nics)
        documents = [vmi.replace("name: a", f"name: a{number}") for number in range(MAX_RESULTS // 250)]
        documents.append(LOST)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "many.yaml").write_text("---\n".join(documents))
            run = check(Path(folder), "many.yaml", "--output", "sarif", "--output-file", "all.json")
            summary = json.loads((Path(folder) / "all.json").read_text())["summary"]
        self.assertEqual(run.returncode, 1, run.stderr)
        found = sum(summary[level] for level in ("errors", "warnings", "notes"))
        self.assertGreaterEqual(found, MAX_RESULTS + 1)
        sarif = json.loads(run.stdout)
        self.assert_valid(sarif)
        self.assertEqual(len(sarif["runs"][0]["results"]), MAX_RESULTS)
        notes = [note["message"]["text"] for note in sarif["runs"][0]["invocations"][0]["toolExecutionNotifications"]]
        self.assertTrue(any(note.startswith(f"{found - MAX_RESULTS} further findings") for note in notes), notes)


class JUnit(unittest.TestCase):
    def test_a_parser_reads_the_suites_and_the_failures(self) -> None:
        for files, text in outputs("junit"):
            with self.subTest(files):
                xml = JUnitXml.fromstring(text.encode())
                suites = list(xml)
                cases = [case for suite in suites for case in suite]
                failed = [case for case in cases if any(isinstance(result, (Failure, Error)) for result in case.result)]
                self.assertEqual((xml.tests, xml.failures, xml.errors), (len(cases), len(failed), 0))
                for suite in suites:
                    self.assertEqual(suite.tests, len(list(suite)))
                for case in failed:
                    self.assertTrue(case.name and case.classname and case.result[0].message, case)
                skipped = [case for case in cases if any(isinstance(result, Skipped) for result in case.result)]
                self.assertEqual(skipped, [])

    def test_a_case_is_named_after_its_file_object_and_rule(self) -> None:
        text = dict(outputs("junit"))["lost.yaml"]
        cases = [(case.classname, case.name) for suite in JUnitXml.fromstring(text.encode()) for case in suite]
        self.assertIn(("lost.yaml VirtualMachineInstance default/a", "NP003"), cases)


class CodeQuality(unittest.TestCase):
    def test_each_finding_has_the_documented_fields(self) -> None:
        for files, text in outputs("gitlab"):
            with self.subTest(files):
                self.assertTrue(text.startswith("["), "GitLab refuses a byte order mark")
                findings = json.loads(text)
                for finding in findings:
                    self.assertTrue(finding["description"] and finding["check_name"] and finding["fingerprint"])
                    self.assertIn(finding["severity"], SEVERITIES)
                    self.assertFalse(finding["location"]["path"].startswith(("./", "/")), finding)
                    self.assertGreaterEqual(finding["location"]["lines"]["begin"], 1)
                prints = [finding["fingerprint"] for finding in findings]
                self.assertEqual(len(prints), len(set(prints)), "GitLab shows one finding of each fingerprint")


class GitHub(unittest.TestCase):
    COMMAND = re.compile(r"::(error|warning|notice) ((?:\w+=[^,:\r\n]*,?)+)::(.+)")

    def test_each_line_is_a_workflow_command_or_says_what_was_not_checked(self) -> None:
        for files, text in outputs("github"):
            with self.subTest(files):
                lines = text.splitlines()
                for line in lines[:-1]:
                    self.assertTrue(self.COMMAND.fullmatch(line) or line.startswith("not checked "), line)
                self.assertTrue(lines[-1].startswith("nicplug: "), lines[-1])


class Drawing(unittest.TestCase):
    def test_it_is_xml_without_scripts_and_links(self) -> None:
        vmi = INPUTS["odd ü%&<>\"'.yaml"]
        command = [PROGRAM, "slots", "--file", "-", "--output", "svg"]
        run = subprocess.run(command, input=vmi, capture_output=True, text=True, check=True)
        svg = ElementTree.fromstring(run.stdout)
        kinds = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in svg.iter()}
        self.assertLessEqual(kinds, {"svg", "title", "style", "rect", "text", "path", "g"})
        self.assertNotIn("url(", run.stdout)


class Action(unittest.TestCase):
    """The script of the action with a release on this machine."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.release = self.folder / f"releases/v{VERSION}"
        self.release.mkdir(parents=True)
        program = f'#!/bin/sh\nexec "{PROGRAM}" "$@"\n'.encode()
        sums = ""
        for platform in ("linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"):
            archive = self.release / f"nicplug-{platform}.tar.gz"
            with tarfile.open(archive, "w:gz") as tar:
                member = tarfile.TarInfo("nicplug")
                member.size, member.mode = len(program), 0o755
                tar.addfile(member, io.BytesIO(program))
            sums += f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n"
        (self.release / "SHA256SUMS").write_text(sums)
        (self.folder / "deploy").mkdir()
        (self.folder / "deploy/lost.yaml").write_text(LOST)
        (self.folder / "good one.yaml").write_text(GOOD)

    def run_action(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        action = yaml.safe_load((ROOT / "action.yml").read_text())
        (step,) = action["runs"]["steps"]
        values = {name: value["default"] for name, value in action["inputs"].items()}
        self.assertLessEqual({name.replace("_", "-") for name in inputs}, set(values))
        values.update({name.replace("_", "-"): value for name, value in inputs.items()})
        expand = lambda text: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: values[match[1]], text)
        environment = {name: expand(value) for name, value in step["env"].items()}
        environment |= {
            "PATH": os.environ["PATH"],
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "NICPLUG_RELEASES": f"file://{self.folder}/releases",
        }
        command = [step["shell"], "-euo", "pipefail", "-c", step["run"]]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def test_it_checks_the_files_and_writes_sarif(self) -> None:
        run = self.run_action(files="deploy\ngood one.yaml\n", sarif="out.sarif")
        self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
        self.assertIn("::error file=deploy/lost.yaml,line=5,", run.stdout)
        self.assertEqual((self.folder / "output").read_text(), "sarif=out.sarif\n")
        sarif = json.loads((self.folder / "out.sarif").read_text())
        self.assertEqual(sarif["runs"][0]["results"][0]["ruleId"], "NP003")
        self.assertEqual(self.run_action(files="good one.yaml").returncode, 0)

    def test_a_wrong_sum_or_version_stops_it(self) -> None:
        run = self.run_action(version="9.9.9")
        self.assertEqual(run.returncode, 2)
        self.assertIn("v9.9.9/nicplug-", run.stdout)
        for archive in self.release.glob("*.tar.gz"):
            archive.write_bytes(archive.read_bytes() + b"x")
        run = self.run_action()
        self.assertEqual(run.returncode, 2)
        self.assertIn("does not have the sum", run.stdout)


class Hook(unittest.TestCase):
    """The hook of .pre-commit-hooks.yaml, run by pre-commit."""

    def test_pre_commit_runs_it_on_the_staged_files(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            hooks = folder / "hooks"
            work = folder / "work"
            for repository in (hooks, work):
                repository.mkdir()
            programs = folder / "bin"
            programs.mkdir()
            (programs / "nicplug").symlink_to(PROGRAM)
            environment = os.environ | {
                "PATH": f"{programs}{os.pathsep}{TOOLS}{os.pathsep}{os.environ['PATH']}",
                "PRE_COMMIT_HOME": str(folder / "cache"),
                "GIT_CONFIG_GLOBAL": os.devnull,
            }

            def run(where: Path, *command: str, status: int = 0) -> str:
                done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, status, done.stdout + done.stderr)
                return done.stdout

            identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
            (hooks / ".pre-commit-hooks.yaml").write_text((ROOT / ".pre-commit-hooks.yaml").read_text())
            for repository in (hooks, work):
                run(repository, "git", "init", "--quiet")
            run(hooks, "git", "add", ".")
            run(hooks, "git", *identity, "commit", "--quiet", "--message", "hooks")
            (work / "lost.yaml").write_text(LOST)
            (work / "good.yaml").write_text(GOOD)
            (work / "notes.txt").write_text("no manifest")
            run(work, "git", "add", ".")
            attempt = ["pre-commit", "try-repo", str(hooks), "nicplug-check", "--verbose"]
            output = run(work, *attempt, "--all-files", status=1)
            self.assertIn("lost.yaml:5:42: error[NP003]", output)
            self.assertIn("2 objects in 2 files", output)
            self.assertIn("Passed", run(work, *attempt, "--files", "good.yaml"))


class Examples(unittest.TestCase):
    """The examples of docs/check.md, action.yml and the hooks, by the schemas of their programs."""

    def blocks(self) -> dict[str, Any]:
        page = (ROOT / "docs/check.md").read_text()
        blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
        named = {next(iter(block)): block for block in blocks if isinstance(block, dict)}
        self.assertLessEqual({"steps", "nicplug", "repos"}, set(named))
        return named

    def assert_valid(self, content: Any, schema: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file.yaml"
            file.write_text(yaml.safe_dump(content))
            command = [TOOLS / "check-jsonschema", "--builtin-schema", schema, file]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_the_action_is_valid(self) -> None:
        self.assert_valid(yaml.safe_load((ROOT / "action.yml").read_text()), "vendor.github-actions")

    def test_the_workflow_is_valid_and_uses_inputs_of_the_action(self) -> None:
        steps = self.blocks()["steps"]["steps"]
        workflow = {"name": "x", "on": "push", "jobs": {"x": {"runs-on": "ubuntu-24.04", "steps": steps}}}
        self.assert_valid(workflow, "vendor.github-workflows")
        inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
        (step,) = [step for step in steps if step.get("uses", "").startswith("nicplug/")]
        self.assertEqual(step["uses"], f"nicplug/nicplug@v{VERSION}")
        self.assertLessEqual(set(step["with"]), set(inputs))

    def test_the_gitlab_job_is_valid_and_names_this_version(self) -> None:
        block = self.blocks()["nicplug"]
        self.assert_valid({"nicplug": block["nicplug"]}, "vendor.gitlab-ci")
        self.assertIn(f"/v{VERSION}/", str(block))

    def test_the_hook_is_one_of_the_hooks(self) -> None:
        (repository,) = self.blocks()["repos"]["repos"]
        self.assertEqual(repository["rev"], f"v{VERSION}")
        hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
        self.assertLessEqual({hook["id"] for hook in repository["hooks"]}, {hook["id"] for hook in hooks})


if __name__ == "__main__":
    unittest.main()
