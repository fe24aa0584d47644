"""`$(VAR)` in commands, arguments and values of variables, as the kubelet replaces it."""

from __future__ import annotations

from collections.abc import Mapping


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Source: kubernetes 1.36, third_party/forked/golang/expansion/expand.go.

    `$$` is one `$`; an unknown variable, and a `$` before anything else, stay.

    >>> expand("$(A) $$(A) $(B) $A 5$", {"A": "x"})
    'x $(A) $(B) $A 5$'
    """
    out, at = [], 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        if text[at] != "$" or following not in ("$", "("):
            out.append(text[at])
            at += 1
        elif following == "$":
            out.append("$")
            at += 2
        elif (end := text.find(")", at)) < 0:
            out.append("$(")
            at += 2
        else:
            out.append(variables.get(text[at + 2 : end], text[at : end + 1]))
            at = end + 1
    return "".join(out)
