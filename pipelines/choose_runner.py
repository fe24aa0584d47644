"""Where a run goes: this machine, or a Kubeflow Pipelines that is configured."""

from __future__ import annotations

from typing import NamedTuple

from components.profile import load_cluster
from pipelines.kfp_client.endpoint import ENDPOINT_VARIABLES, Endpoint, find_endpoint
from pipelines.options import SubmitOptions
from sdpose.errors import UserError


class Runner(NamedTuple):
    on_cluster: bool
    endpoint: Endpoint | None  # a dry run for a cluster can do without
    reason: str


def choose_runner(options: SubmitOptions) -> Runner:
    """By --runner, else kfp where an endpoint is configured.

    Raises UserError where the options contradict each other.
    """
    # The environment may name a profile for other runs.
    profile_is_typed = bool(options.profile) and "profile" in options.typed
    if options.runner == "local":
        for name, given in {"--endpoint": options.endpoint, "--cluster": profile_is_typed}.items():
            if given:
                raise UserError(f"--runner local and {name} contradict each other: leave one out")
        return Runner(False, None, "--runner local")
    found = configured_endpoint(options.endpoint, options.profile)
    if found is not None:
        return Runner(True, found, f"endpoint {found.host}: {found.found}")
    if options.runner == "kfp" or profile_is_typed:
        asked_by = "--runner kfp" if options.runner else "--cluster"
        if options.dry_run:
            return Runner(True, None, f"{asked_by}; no endpoint is configured yet")
        raise UserError(
            f"{asked_by}: no Kubeflow Pipelines endpoint is configured: give --endpoint URL, "
            f"set ${ENDPOINT_VARIABLES[0]}, or name it in the cluster profile (pipelines.endpoint)"
        )
    ways = ", ".join(["--endpoint", *(f"${variable}" for variable in ENDPOINT_VARIABLES)])
    return Runner(False, None, f"no Kubeflow Pipelines endpoint is configured: {ways}")


def configured_endpoint(option: str | None, profile: str | None) -> Endpoint | None:
    """By the flag, the profile, or the environment of this process."""
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
