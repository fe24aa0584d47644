"""What a role of k8s/base grants."""

from __future__ import annotations

from pathlib import Path

import yaml

Right = tuple[str, str, str]  # API group, resource (with its subresource, or its one name), verb


def granted(repository: Path, name: str, kind: str = "Role") -> set[Right]:
    """Every single right; no role of ours has wildcards."""
    [rules] = [
        each["rules"]
        for each in yaml.safe_load_all((repository / "k8s/base/rbac.yaml").read_text())
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    rights = {
        (group, f"{resource}{f' {only}' if only else ''}", verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for only in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }
    assert not [right for right in rights if any("*" in part for part in right)]
    return rights
