"""`eventq doctor` and `fsck`: is this a good place for a store, and is this store in order?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq.cli.command import Command, Exit, require_store, store_path, store_url, usage
from eventq.cli.console import print_json, printable, styled
from eventq.cli.version import versions
from eventq.config import masked

if TYPE_CHECKING:
    import argparse

LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def _no_options(parser: argparse.ArgumentParser) -> None:
    del parser  # only the global ones


def _path(args: argparse.Namespace, command: str) -> str:
    url = store_url(args)
    path = store_path(url)
    if path is None:
        usage(f"{masked(url)} is not a directory; eventq {command} is for file stores")
    return path


def _doctor(args: argparse.Namespace) -> int:
    from eventq.storage.file.probe import examine

    path = _path(args, "doctor")
    checks = examine(path)
    healthy = not any(check.level == "error" for check in checks)
    if args.json:
        print_json({"store": path, "healthy": healthy, "versions": versions(), "checks": checks})
        return Exit.OK if healthy else Exit.FAILED
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for check in checks:
        level = styled(f"{check.level:<7}", LEVEL_STYLES[check.level])
        print(f"{level}  {check.name:<11}  {printable(check.detail)}")
        if check.advice and check.level != "ok":
            print(f"{'':22}{printable(check.advice)}")
    warnings = sum(check.level == "warning" for check in checks)
    if not healthy:
        print(styled("not fit for a store: see the errors above", "red"))
    else:
        print("fit for a store" + (f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else ""))
    return Exit.OK if healthy else Exit.FAILED


def _fsck(args: argparse.Namespace) -> int:
    path = _path(args, "fsck")
    require_store(path)
    from eventq.storage.file.fsck import check

    findings = check(path)
    errors = sum(finding.severity == "error" for finding in findings)
    if args.json:
        documents = [{"severity": f.severity, "path": f.path, "problem": f.problem} for f in findings]
        print_json({"store": path, "errors": errors, "findings": documents})
        return Exit.FAILED if errors else Exit.OK
    for finding in findings:
        level = styled(f"{finding.severity:<5}", "red" if finding.severity == "error" else "yellow")
        print(f"{level}  {printable(finding.path)}: {printable(finding.problem)}")
    print(f"{errors:,} errors, {len(findings) - errors:,} notes" if findings else "every file is as it should be")
    return Exit.FAILED if errors else Exit.OK


COMMANDS = {
    "doctor": Command(
        _no_options,
        _doctor,
        "Try what a store needs (rename, link, locks and their end at kill -9, fsync, FIFOs, private\n"
        "files) in a temporary folder in the store, or where it would be made, and look at the file\n"
        "system's kind, free space and clocks. Exit code 1 if something is an error; a network or\n"
        "passing file system is a warning.",
    ),
    "fsck": Command(
        _no_options,
        _fsck,
        "Check every file of a store against the protocol, without changing any. An error is a state that\n"
        "eventq never leaves; a note is one that the next worker cleans up. Exit code 1 if there is an\n"
        "error.",
    ),
}
