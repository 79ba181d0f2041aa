"""Installs what the peers need and is missing: Debian packages by apt, everything else below target/peers."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from measuring.settings import HERE, REPOSITORY

PYTHON = ("celery[redis]==5.7.0", "django==5.2.19")
NODE = ("bullmq@6.7.0", "ioredis@6.0.0", "nodemailer@10.6.0")


def has(program: str) -> bool:
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is not None


def run(*command: object, **options) -> None:
    print("+", *command, file=sys.stderr, flush=True)
    subprocess.run([str(word) for word in command], check=True, stdout=2, **options)


def debian_packages() -> None:
    wanted = {"smtp-sink": "postfix", "redis-server": "redis-server", "node": "nodejs", "npm": "npm"}
    missing = [package for program, package in wanted.items() if not has(program)]
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        missing.append("python3-venv")
    if not missing:
        return
    sudo = [] if os.getuid() == 0 else ["sudo"]
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
    # Postfix comes without a configuration, so that nothing of it is started.
    answers = "postfix postfix/main_mailer_type select No configuration\n"
    run(*sudo, "debconf-set-selections", input=answers, text=True)
    run(*sudo, *quiet, "apt-get", "update", "-qq")
    run(*sudo, *quiet, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def python_packages(work: Path) -> None:
    noted, wanted = work / "python" / "wanted", " ".join(PYTHON)
    if noted.exists() and noted.read_text() == wanted:
        return
    run(sys.executable, "-m", "venv", "--clear", work / "python")
    run(work / "python" / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON)
    noted.write_text(wanted)


def node_packages(work: Path) -> None:
    noted, wanted = work / "node" / "wanted", " ".join(NODE)
    if noted.exists() and noted.read_text() == wanted:
        return
    (work / "node").mkdir(parents=True, exist_ok=True)
    (work / "node" / "package.json").write_text(json.dumps({"private": True}))
    run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", work / "node", *NODE)
    noted.write_text(wanted)


def rust_programs(work: Path, profile: str, postrider: Path | None) -> Path:
    """Builds Postrider, unless one was given, and the programs of ours. Returns where those lie."""
    if postrider is None:
        run("cargo", "build", "--quiet", "--profile", profile, "--bin", "postrider", cwd=REPOSITORY)
    manifest, target = HERE / "programs" / "rust" / "Cargo.toml", work / "cargo"
    options = ["--locked", "--profile", profile, "--manifest-path", manifest, "--target-dir", target]
    run("cargo", "build", "--quiet", *options, cwd=REPOSITORY)
    return target / ("debug" if profile == "dev" else profile)


def everything(work: Path, profile: str, postrider: Path | None) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    debian_packages()
    python_packages(work)
    node_packages(work)
    return rust_programs(work, profile, postrider)
