"""Creates the files of a release: release.py FOLDER

FOLDER/OS-ARCH contains the program for each platform (nicplug, or nicplug.exe for Windows). It may contain its SBOM
nicplug.cdx.json, and the profile nicplug.profdata that it was optimised with. The program of this machine is run for
the completion scripts and the manual pages. The files that a release publishes are written into FOLDER/files:

    nicplug-OS-ARCH.tar.gz or .zip   the program, its licence, completion scripts and manual pages
    nicplug-OS-ARCH.cdx.json         its SBOM
    nicplug-OS-ARCH.profdata         its profile, for `just reproduce`
    nicplug-X.Y.Z.tgz                the chart
    install.yaml                     the chart for kubectl
    nicplug.yaml, nicplug.rb         the krew manifest and the Homebrew formula, with the sums of the archives
    SHA256SUMS                       the sums of all of them

and the notes of the release, from CHANGELOG.md, into FOLDER/notes.md. The same programs give the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import platform as machine
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
REPOSITORY = "https://github.com/nicplug/nicplug"
PLATFORMS = ["darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64", "windows-amd64"]
# The completion script of each shell, by the name that the shell looks for.
COMPLETIONS = {
    "bash": "nicplug.bash",
    "elvish": "nicplug.elv",
    "fish": "nicplug.fish",
    "powershell": "_nicplug.ps1",
    "zsh": "_nicplug",
}


def main(folder: Path, documents: dict[str, bytes] | None = None) -> None:
    if documents is None:
        documents = documents_of(folder / f"linux-{'arm64' if machine.machine() == 'aarch64' else 'amd64'}/nicplug")
    files = folder / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    for platform in PLATFORMS:
        program = folder / platform / ("nicplug.exe" if platform.startswith("windows") else "nicplug")
        if not program.is_file():
            sys.exit(f"release.py: {program} is missing: build it for each platform of deploy/krew.yaml")
        members = {program.name: (program.read_bytes(), 0o755), "LICENSE": ((ROOT / "LICENSE").read_bytes(), 0o644)}
        members |= {path: (content, 0o644) for path, content in sorted(documents.items())}
        name = files / f"nicplug-{platform}"
        if platform.startswith("windows"):
            name.with_name(f"{name.name}.zip").write_bytes(zip_archive(members))
        else:
            name.with_name(f"{name.name}.tar.gz").write_bytes(tar_archive(members))
        for kind in ("cdx.json", "profdata"):
            if (file := program.with_name(f"nicplug.{kind}")).is_file():
                shutil.copyfile(file, files / f"nicplug-{platform}.{kind}")
    (files / f"nicplug-{VERSION}.tgz").write_bytes(tar_archive(chart()))
    shutil.copyfile(ROOT / "deploy/install.yaml", files / "install.yaml")
    for template, name in [("krew.yaml", "nicplug.yaml"), ("homebrew.rb", "nicplug.rb")]:
        (files / name).write_text(fill((ROOT / "deploy" / template).read_text(), files))
    sums = "".join(f"{digest(file)}  {file.name}\n" for file in sorted(files.iterdir()))
    (files / "SHA256SUMS").write_text(sums)
    (folder / "notes.md").write_text(notes((ROOT / "CHANGELOG.md").read_text()))


def documents_of(program: Path) -> dict[str, bytes]:
    """Returns the completion scripts and the manual pages that a program writes, by their paths in an archive."""
    # Artifacts of a workflow lose the mode of a file.
    program.chmod(0o755)

    def run(*arguments: str) -> bytes:
        return subprocess.run([program, *arguments], check=True, capture_output=True).stdout

    documents = {f"completions/{name}": run("completion", shell) for shell, name in COMPLETIONS.items()}
    with tempfile.TemporaryDirectory() as folder:
        run("man", "--directory", folder)
        documents |= {f"man/{page.name}": page.read_bytes() for page in Path(folder).iterdir()}
    return documents


def tar_archive(members: dict[str, tuple[bytes, int]]) -> bytes:
    """Returns a compressed archive whose bytes depend on the members only."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, (content, mode) in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_archive(members: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, mode) in members.items():
            # The earliest time that the format can hold.
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.external_attr = mode << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return buffer.getvalue()


def chart() -> dict[str, tuple[bytes, int]]:
    """Returns the files of the chart, as `helm package` packs them: those that .helmignore does not name."""
    folder = ROOT / "charts/nicplug"
    lines = (folder / ".helmignore").read_text().splitlines()
    ignored = [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]
    members = {}
    # Helm wants Chart.yaml first.
    for file in sorted(folder.rglob("*"), key=lambda file: (file.name != "Chart.yaml", file)):
        path = file.relative_to(folder)
        if file.is_file() and not any(path.match(name) or name in path.parts for name in ignored):
            members[f"nicplug/{path}"] = (file.read_bytes(), 0o644)
    return members


def fill(template: str, files: Path) -> str:
    """Replaces each `SUM OF file`. The comments above the first line are about the file in the repository."""
    text = re.sub(r"SUM OF ([\w.-]+)", lambda match: digest(files / match[1]), template)
    return re.sub(r"\A(#.*\n)+", "", text)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def notes(changelog: str) -> str:
    """Returns the section of this version, or before its release that of the next one."""
    sections = dict(re.findall(r"(?ms)^## \[(.+?)\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog))
    text = sections.get(VERSION, sections.get("Unreleased", "")).strip()
    if not text:
        sys.exit(f"release.py: CHANGELOG.md has no section [{VERSION}]: run `just bump`, and write what changed")
    # The page of a release is not in a folder of the repository.
    text = re.sub(r"\]\((?![a-z]+:|#)", f"]({REPOSITORY}/blob/v{VERSION}/", text)
    return text + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
