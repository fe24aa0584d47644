"""Refuses values that a pipeline's parameter cannot carry."""

from __future__ import annotations

import re

from sdpose.errors import UserError


def check_parameter(name: str, document: str, *, in_pods: bool) -> None:
    """Raises UserError for values that do not arrive at a step as they are.

    Args:
        name: of the file or experiment, for the message.
        document: an experiment, or a cluster profile.
        in_pods: parameters are arguments of pods, where Kubernetes replaces variables, secrets too.
    """
    if "{{$" in document:
        raise UserError(f"{name}: '{{{{$' cannot be part of a value: it is Kubeflow's own syntax")
    if in_pods and (found := re.search(r"\$\([^)\"'\n]*\)?", document)):
        raise UserError(
            f"{name}: '{found[0]}' cannot be part of a value: Kubernetes would replace it by the "
            "variable of that name; write the value itself, or take it from a Secret (`secrets:` "
            "in the cluster profile)"
        )
