"""Tell a build how pip is configured on this machine.

    python3 docker/pip_configuration.py FILE

writes what pip is told by its files and by the environment into FILE, as one pip.conf, and prints
the options with which buildah hands it to docker/Dockerfile, one a line. What it names on this
machine's disk (an index, a certificate) appears in the build below ``/run/host``, read-only.
"""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path


def configuration() -> configparser.RawConfigParser:
    """Give pip's own reading of its files and of ``PIP_*``, which go before the files."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    merged = configparser.RawConfigParser()
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.replace(":env:", "global").rpartition(".")
        if not merged.has_section(section):
            merged.add_section(section)
        merged.set(section, key, "\n".join(ast.literal_eval(value).split()))
    return merged


def main(file: Path) -> None:
    """Write the configuration and print buildah's options."""
    merged = configuration()
    folders: dict[Path, str] = {}

    def in_the_build(match: re.Match[str]) -> str:
        path = Path(match["path"])
        if not path.exists():
            return match[0]
        # The folder around it: an index on disk refers to files beside it.
        folder = folders.setdefault(path.parent, f"/run/host/{len(folders)}")
        return f"{match['scheme'] or ''}{folder}/{path.name}"

    for section in merged.sections():
        for key, value in merged.items(section):
            local = re.sub(r"(?m)^(?P<scheme>file://)?(?P<path>/.+)$", in_the_build, value)
            merged.set(section, key, local)
    file.touch(mode=0o600)  # an index's URL may hold a password
    with file.open("w") as opened:
        merged.write(opened)
    print(f"--secret=id=pip.conf,src={file}")
    for folder, there in folders.items():
        print(f"--volume={folder}:{there}:ro")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
