"""The cluster profile: where and with what a training job runs (`--cluster FILE`).

A small YAML file of the team, beside the experiments, which say what is trained. The names are
those of Kubernetes, written as the experiments' keys are. Unknown keys are refused at every level.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sdpose.cache import SCRATCH_VARIABLE
from sdpose.config.document import parse_document, parse_yaml
from sdpose.config.schema.section import Int, PositiveInt, Section
from sdpose.credentials import SHORTEST_SECRET, is_secret_name, variable_has_credentials
from sdpose.documents import decode
from sdpose.errors import UserError

DAY = 24 * 3600
# What a step does with S3: reads datasets, or writes the registry.
Role = Literal["data", "registry"]
NonNegativeInt = Annotated[Int, Field(ge=0)]


def _matching(pattern: str, what: str) -> Any:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"'{value}': {what}")
        return value

    return AfterValidator(check)


Namespace = Annotated[
    str,
    _matching(
        r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "lowercase letters, digits and '-', at most 63, as Kubernetes names a namespace",
    ),
]
ObjectName = Annotated[
    str,
    _matching(
        r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
        "lowercase letters, digits, '-' and '.', as Kubernetes names its objects",
    ),
]
Quantity = Annotated[
    str,
    _matching(
        r"\d+(\.\d+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?",
        "expected a quantity of Kubernetes, as '500m', '16' (quoted) or '64Gi'",
    ),
]
AbsolutePath = Annotated[
    str, _matching(r"/[^:]*", "expected an absolute path in the container, without ':'")
]
Location = Annotated[
    str,
    _matching(
        r"/[^:]*|s3://[^/]+.*", "expected an absolute path on a volume, or s3://BUCKET/PREFIX"
    ),
]
Image = Annotated[
    str,
    _matching(
        r"[a-z0-9][-a-zA-Z0-9._/:]*(@sha256:[0-9a-f]{64})?",
        "expected an image, best by its digest: registry/name@sha256:...",
    ),
]
Variable = Annotated[
    str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "expected the name of an environment variable")
]


class Resources(Section):
    """Of one node's container. GPUs are `gpus_per_node`, not listed here."""

    requests: dict[str, Quantity] = Field({}, description="cpu, memory, ephemeral-storage")
    limits: dict[str, Quantity] = Field({}, description="a CPU limit throttles the loaders")


class Toleration(Section):
    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: NonNegativeInt | None = None


class Volume(Section):
    claim: ObjectName = Field(description="PersistentVolumeClaim in the namespace")
    path: AbsolutePath = Field(description="where it is mounted, on every node alike")
    read_only: bool = False


class Scratch(Section):
    """The node's own disk (an emptyDir): what lies on S3 is brought here. Gone with the pod."""

    path: AbsolutePath = "/scratch"
    size: Quantity = Field("100Gi", description="COCO with its detections needs 25Gi")


class SecretKey(Section):
    name: ObjectName = Field(description="of the Secret in the namespace")
    key: str = Field(description="in the Secret")


class Elastic(Section):
    """Nodes may come and go between these bounds (the operator's elasticPolicy)."""

    min_replicas: PositiveInt = Field(1, description="nodes without which training waits")
    max_replicas: PositiveInt
    max_restarts: NonNegativeInt = Field(10, description="of torchrun's agent in a pod")

    @model_validator(mode="after")
    def _ordered(self) -> Elastic:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}"
            )
        return self


class Restarts(Section):
    """How often a job may start pods again; the launcher counts, and ends the job past a budget.

    (The operator's backoffLimit does not see pods that were deleted and created again.)
    """

    preemption: NonNegativeInt = Field(
        50, description="pods that were preempted, evicted, or lost with their node"
    )
    crash: NonNegativeInt = Field(3, description="pods that ended by themselves: killed for memory")


class Security(Section):
    """Pods are always non-root, with a read-only root, no capabilities and RuntimeDefault seccomp
    (Pod Security `restricted`); these are the numbers."""

    run_as_user: PositiveInt = 10001  # the images' own; a number that no account of a node has
    run_as_group: PositiveInt = 10001
    fs_group: PositiveInt = Field(10001, description="owns what the pod writes on volumes")


class Pipelines(Section):
    """Kubeflow Pipelines, which runs the steps before and after training."""

    endpoint: str | None = Field(
        None, description="https://..., or kubeconfig[:CONTEXT]; else $KFP_ENDPOINT"
    )
    service_account: ObjectName | None = Field(
        None, description="of the steps' pods, may create training jobs; default: KFP's own"
    )
    image: Image | None = Field(
        None,
        description="of the steps without PyTorch (preflight, prepare); default: image",
    )
    root: str | None = Field(
        None, description="where steps hand artifacts on, as s3://BUCKET/PREFIX; default: KFP's"
    )
    data_secrets: dict[Variable, SecretKey] = Field(
        {}, description="of the step that prepares the data, instead of `secrets`"
    )
    registry_secrets: dict[Variable, SecretKey] = Field(
        {}, description="of the steps that check, register and promote, instead of `secrets`"
    )


class Cluster(Section):
    """One cluster, as one team uses it."""

    namespace: Namespace
    service_account: ObjectName = Field("sdpose-trainer", description="of the training pods")
    image: Image
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[ObjectName, ...] = ()

    pipelines: Pipelines = Pipelines()

    train_api: Literal["pytorchjob", "trainjob", "auto"] = Field(
        "pytorchjob",
        description="Training Operator v1, Kubeflow Trainer v2, or what the cluster has",
    )
    runtime: ObjectName = Field(
        "sdpose", description="trainjob: the runtime that is patched; k8s/components/trainer"
    )
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = Field(
        "TrainingRuntime", description="trainjob: the namespace's, or the platform's"
    )
    nodes: PositiveInt = Field(1, description="pods: one master, the others workers")
    gpus_per_node: NonNegativeInt = Field(1, description="processes of a pod; 0: one, on the CPU")
    accelerator: str = Field("nvidia.com/gpu", description="resource that gpus_per_node counts")
    resources: Resources = Resources()
    shm_size: Quantity = Field(
        "8Gi", description="/dev/shm, through which loaders hand batches over; counts as memory"
    )
    tmp_size: Quantity = Field("10Gi", description="/tmp, on the node's disk; gone with the pod")
    node_selector: dict[str, str] = Field({}, description="labels that a node must have")
    tolerations: tuple[Toleration, ...] = ()
    priority_class: ObjectName | None = None
    queue: ObjectName | None = Field(None, description="Kueue's LocalQueue")
    elastic: Elastic | None = None

    volumes: tuple[Volume, ...] = ()
    data_root: Location = Field(description="the dataset: a path on a volume, or s3://")
    work_dirs: Location = Field(
        description="the work dir of an experiment is <work_dirs>/<exp_name>; a path, or s3://"
    )
    scratch: Scratch = Scratch()
    env: dict[Variable, str] = Field({}, description="MLFLOW_TRACKING_URI, SDPOSE_REGISTRY, ...")
    secrets: dict[Variable, SecretKey] = Field(
        {}, description="variables taken from Secrets, of training pods and steps"
    )
    labels: dict[str, str] = Field({}, description="of the job and its pods")
    annotations: dict[str, str] = Field({}, description="of the pods")
    security: Security = Security()

    restarts: Restarts = Restarts()
    active_deadline_seconds: PositiveInt = Field(14 * DAY, description="the job is ended after it")
    ttl_seconds_after_finished: NonNegativeInt = Field(
        3 * DAY, description="an ended job and its pods are kept so long"
    )
    pending_timeout_seconds: PositiveInt = Field(
        3600, description="pods that do not start within it end the job; waiting in Kueue is free"
    )
    termination_grace_seconds: PositiveInt = Field(
        60, description="for the last checkpoint, between SIGTERM and SIGKILL"
    )

    # Before the rule of every section, whose message does not name the variable.
    @field_validator("env", mode="before")
    @classmethod
    def _no_secret_variables(cls, value: Any) -> Any:
        found = [
            str(name)
            for name, content in (value.items() if isinstance(value, dict) else ())
            if variable_has_credentials(str(name), str(content))
        ]
        if found:
            raise ValueError(_belongs_to_secrets(found))
        return value

    @field_validator("labels", "annotations", "node_selector")
    @classmethod
    def _no_secret_names(cls, value: dict[str, str]) -> dict[str, str]:
        # A short value is a switch: vault.hashicorp.com/agent-inject-token: "true".
        found = [
            name
            for name, content in value.items()
            if len(content) >= SHORTEST_SECRET and is_secret_name(name, inside=False)
        ]
        if found:
            raise ValueError(_belongs_to_secrets(found))
        return value

    @property
    def processes_per_node(self) -> int:
        return max(1, self.gpus_per_node)

    @property
    def all_secrets(self) -> dict[str, list[SecretKey]]:
        """Where each variable comes from, in one pod or another."""
        found: dict[str, list[SecretKey]] = {}
        steps = self.pipelines
        for secrets in (self.secrets, steps.data_secrets, steps.registry_secrets):
            for variable, secret in secrets.items():
                found.setdefault(variable, []).append(secret)
        return found

    def secrets_of(self, role: Role | None) -> dict[str, SecretKey]:
        """The variables of a step: those of its role win over those of every pod."""
        steps = self.pipelines
        of_role = {"data": steps.data_secrets, "registry": steps.registry_secrets}
        return self.secrets | (of_role[role] if role else {})

    @property
    def needs_scratch(self) -> bool:
        return is_s3(self.data_root) or is_s3(self.work_dirs)

    @property
    def places_to_write(self) -> dict[str, str]:
        """Variables of every container, whose own root is read-only: what libraries cache below
        the home goes to /tmp, and the local part of a work dir on S3 to the scratch."""
        return {"HOME": "/tmp"} | (
            {SCRATCH_VARIABLE: self.scratch.path} if self.needs_scratch else {}
        )

    def places(self, exp_name: str) -> dict[str, str]:
        """The experiment's data_root and work_dir on this cluster.

        A dataset on S3 is brought to the node's scratch first.
        """
        data_root = f"{self.scratch.path}/data" if is_s3(self.data_root) else self.data_root
        return {"data_root": data_root, "work_dir": f"{self.work_dirs.rstrip('/')}/{exp_name}"}

    @model_validator(mode="after")
    def _together(self) -> Cluster:
        for key in ("data_root", "work_dirs"):
            location = getattr(self, key)
            if not is_s3(location) and self._volume_of(location) is None:
                mounted = ", ".join(volume.path for volume in self.volumes) or "none"
                raise ValueError(
                    f"{key} {location} is on no volume (mounted: {mounted}): a pod's own disk is "
                    "gone with it; add the volume, or use s3://"
                )
        volume = self._volume_of(self.work_dirs)
        if volume is not None and volume.read_only:
            raise ValueError(f"work_dirs {self.work_dirs} is on {volume.claim}, mounted read-only")
        paths = ["/tmp", "/dev/shm", self.scratch.path, *(v.path for v in self.volumes)]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"mounted twice: {', '.join(twice)}")
        if both := sorted(set(self.env) & set(self.all_secrets)):
            raise ValueError(f"in env and in secrets: {', '.join(both)}")
        if (
            self.elastic
            and not self.elastic.min_replicas <= self.nodes <= self.elastic.max_replicas
        ):
            raise ValueError(
                f"nodes {self.nodes} is not within elastic's {self.elastic.min_replicas} to "
                f"{self.elastic.max_replicas} replicas"
            )
        return self

    def _volume_of(self, location: str) -> Volume | None:
        return next((v for v in self.volumes if Path(location).is_relative_to(v.path)), None)


def _belongs_to_secrets(names: list[str]) -> str:
    return (
        f"{', '.join(names)}: a credential in the profile would be kept and shown with every run "
        "(pods, KFP's parameters, logs). Put it into a Secret of the namespace and name that under "
        f"`secrets:`, as {names[0]}: {{name: SECRET, key: KEY}}"
    )


def is_s3(location: str) -> bool:
    return location.startswith("s3://")


def load_cluster(path: str | Path, add_volumes: Sequence[str] = (), **options: Any) -> Cluster:
    """The profile in a YAML file, with what the command line changes.

    Args:
        add_volumes: CLAIM:/PATH, mounted beside the file's.
        options: replace the file's values; None means not given.
    Raises:
        UserError: names every problem.
    """
    try:
        text = decode(Path(path).read_bytes(), f"--cluster {path}")
    except OSError as error:
        raise UserError(f"--cluster {path}: {error.strerror}") from None
    if add_volumes:
        there = parse_yaml(text, str(path)).get("volumes") or []
        options["volumes"] = [*there, *map(_volume, add_volumes)]
    return parse_cluster(text, source=str(path), **options)


def _volume(option: str) -> dict[str, str]:
    claim, colon, path = option.partition(":")
    if not (claim and colon and path.startswith("/")):
        raise UserError(f"--volume {option}: expected CLAIM:/PATH, as in coco:/data/coco")
    return {"claim": claim, "path": path}


def parse_cluster(document: str, source: str = "cluster", **options: Any) -> Cluster:
    """Validates a whole profile: YAML, or the JSON that `dump_cluster` wrote."""
    given = {key: value for key, value in options.items() if value is not None}
    given_by = {key: f"--{key.replace('_', '-')} {value}" for key, value in given.items()}
    return parse_document(Cluster, parse_yaml(document, source) | given, source, given_by)


def dump_cluster(cluster: Cluster) -> str:
    """The profile as one line of JSON; what travels to the launcher."""
    return cluster.model_dump_json()
