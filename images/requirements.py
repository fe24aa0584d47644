"""What an image installs: the project's own dependencies, less those that it can do without.

    python requirements.py pyproject.toml [--without NAME ...] [--with NAME ...]

Names only; requirements.lock says which versions (pip's --constraint).
"""

import argparse
import re
import tomllib


def requirements(pyproject: str, without: list[str], extra: list[str]) -> list[str]:
    with open(pyproject, "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    names = [re.match(r"[\w.-]+", dependency)[0] for dependency in dependencies]
    if unknown := set(without) - set(names):
        raise SystemExit(f"--without {', '.join(sorted(unknown))}: not in {pyproject}")
    return [name for name in names if name not in without] + extra


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pyproject")
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--with", nargs="*", default=[], dest="extra")
    options = parser.parse_args()
    print(*requirements(options.pyproject, options.without, options.extra), sep="\n")
