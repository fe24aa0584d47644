"""The command line of submit.py as one value."""

from __future__ import annotations

from dataclasses import dataclass

CLUSTER_VARIABLE = "SDPOSE_CLUSTER"


@dataclass(frozen=True)
class SubmitOptions:
    """What `submit.py` was given; every field is the option of that name."""

    exp: str | None = None
    sweep: str | None = None
    parallel: int | None = None
    data_root: str | None = None
    work_dir: str | None = None
    overrides: tuple[str, ...] = ()
    resume_from: str | None = None
    load_from: str | None = None
    overwrite: bool = False
    allow_unsupported: bool = False
    register_as: str | None = None
    promote: str | None = None
    no_cache: bool = False
    dry_run: bool = False
    yes: bool = False
    runner: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    check: bool = False
    no_preflight: bool = False
    any_code: bool = False
    namespace: str | None = None
    image: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    train_api: str | None = None
    volumes: tuple[str, ...] = ()
    run_name: str | None = None
    schedule: str | None = None
    wait: bool = False
    cancel_on_interrupt: bool = False
    typed: frozenset[str] = frozenset()
    """Fields that the command line itself sets, not the environment."""

    @property
    def comment(self) -> str:
        """Before lines for people: what a dry run prints is YAML."""
        return "# " if self.dry_run else ""

    @property
    def promotion(self) -> dict[str, str]:
        """The pipeline's arguments of a promotion: whoever submits it approves it."""
        if self.promote is None:
            return {}
        from sdpose.registry.promote import default_approver

        return {"promote_to": self.promote, "approver": default_approver()}
