"""Where a run goes: this machine, or a Kubeflow Pipelines that is configured."""

from __future__ import annotations

from typing import NamedTuple

from components.profile import load_cluster
from pipelines.kfp_client.endpoint import ENDPOINT_VARIABLES, Endpoint, find_endpoint
from sdpose.errors import UserError


class Target(NamedTuple):
    on_cluster: bool
    endpoint: Endpoint | None  # a dry run for a cluster can do without
    reason: str


def choose_target(
    runner: str | None,
    endpoint: str | None,
    profile: str | None,
    *,
    profile_is_given: bool,
    dry_run: bool,
) -> Target:
    """By --runner, else kfp where an endpoint is configured.

    profile: the cluster profile's path. profile_is_given: by the flag, not by the environment,
    which may name one for other runs. Raises UserError where the flags contradict each other.
    """
    if runner == "local":
        given = {"--endpoint": endpoint, "--cluster": profile if profile_is_given else None}
        for name, value in given.items():
            if value:
                raise UserError(f"--runner local and {name} contradict each other: leave one out")
        return Target(False, None, "--runner local")
    found = configured_endpoint(endpoint, profile)
    if found is not None:
        return Target(True, found, f"endpoint {found.host}: {found.found}")
    if runner == "kfp" or (profile and profile_is_given):
        asked_by = "--runner kfp" if runner else "--cluster"
        if dry_run:
            return Target(True, None, f"{asked_by}; no endpoint is configured yet")
        raise UserError(
            f"{asked_by}: no Kubeflow Pipelines endpoint is configured: give --endpoint URL, "
            f"set ${ENDPOINT_VARIABLES[0]}, or name it in the cluster profile (pipelines.endpoint)"
        )
    ways = ", ".join(["--endpoint", *(f"${variable}" for variable in ENDPOINT_VARIABLES)])
    return Target(False, None, f"no Kubeflow Pipelines endpoint is configured: {ways}")


def configured_endpoint(option: str | None, profile: str | None) -> Endpoint | None:
    """By the flag, the profile, or what surrounds this process."""
    of_profile = load_cluster(profile).pipelines.endpoint if profile else None
    return find_endpoint(option, of_profile)


def endpoint_of_run(run: str, option: str | None, profile: str | None) -> Endpoint:
    """Where to look for a run that is no work dir here. Raises UserError if that is nowhere."""
    endpoint = configured_endpoint(option, profile)
    if endpoint is None:
        raise UserError(
            f"{run}: no work dir of a run on this machine, and no Kubeflow Pipelines endpoint is "
            f"configured: give --endpoint URL or set ${ENDPOINT_VARIABLES[0]}"
        )
    return endpoint
