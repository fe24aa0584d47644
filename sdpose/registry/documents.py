"""The documents of a registry: their schemas, and how they are written and read.

Each kind has a pydantic model. A document is validated before it is written and when it is read.
Documents are JSON with sorted keys and without NaN. Important ones are sealed: they contain the
SHA-256 of their other fields, so that damage is noticed.

Code passes documents as plain mappings, because digests cover every key, also one that a newer
sdpose has added; the models state what a reader may rely on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic import ValidationError as _ValidationError

from sdpose.documents import DocumentError, parse_json
from sdpose.errors import UserError
from sdpose.registry.layout import CHANNELS, NAME
from sdpose.storage import DamagedObjectError

SEAL = "sealed_sha256"
MANIFEST_FORMAT = "sdpose-model-version/2"
NO_FIGURE = -1.0  # COCO's, where there was nothing to count
NOT_FINITE = "it holds NaN or Infinity, which JSON does not have"
SHOWN_FLAWS = 3


class MalformedDocumentError(DamagedObjectError):
    """A document is undamaged, but does not match the schema of its kind."""


# ----------------------------------------------------------------------------------- the models


def _time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _metric(value: float) -> float:
    if not (0 <= value <= 1 or value == NO_FIGURE):
        raise ValueError("allowed are 0..1, and -1 for none")
    return value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, AfterValidator(_time)]  # ISO 8601
ModelName = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Channel = Literal["candidate", "staging", "production"]
VersionNumber = Annotated[int, Field(ge=1)]
Metric = Annotated[float, AfterValidator(_metric)]
Metrics: TypeAdapter[dict[str, float]] = TypeAdapter(
    dict[str, Metric], config=ConfigDict(strict=True)
)

assert set(CHANNELS) == set(Channel.__args__)  # type: ignore[attr-defined]


class Document(BaseModel):
    """Unknown keys are kept: a newer sdpose may have written them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    sealed: ClassVar[bool] = False


class Sealed(Document):
    sealed: ClassVar[bool] = True

    sealed_sha256: Sha256


class Weights(Document):
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    format: str


class Tensor(Document):
    shape: Annotated[list[str | int], Field(min_length=4, max_length=4)]


class Description(Document):
    """Written by `sdpose.registry.model_description`; the gates read the shapes."""

    input: Tensor
    output: Tensor


class Checkpoint(Document):
    name: str
    sha256: Sha256
    epoch: int | None
    iteration: int | None


class Git(Document):
    commit: str
    dirty: bool


class Parent(Document):
    load_from: str | None
    resume_from: str | None


class Manifest(Sealed):
    """A version, as readers accept it: `metrics` may have what earlier writers let through (NaN,
    7.5, true); `figure` reads one metric."""

    format: Literal["sdpose-model-version/2"]
    model_name: ModelName
    version: VersionNumber
    identity: Sha256
    weights: Weights
    dataset_digest: str
    evaluation_settings: dict[str, Any]
    evaluation_settings_digest: Sha256
    metrics: dict[str, bool | int | float]
    model: Description
    experiment: str
    experiment_digest: Sha256
    checkpoint: Checkpoint
    parent: Parent
    mlflow_run_id: str | None
    git: Git
    image: str
    pipeline_run_id: str
    sdpose_version: str
    registered_at: Time


class NewManifest(Manifest):
    """A version, as it is written."""

    dataset_digest: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:\-]{0,128}$")]
    metrics: dict[str, Metric]


class Verdict(Document):
    gate: str
    passed: bool
    reason: str


class Envelope(Document):
    payload: str
    signatures: list[dict[str, Any]]


class Bundle(Document):
    """Sigstore's, as model-signing writes it."""

    dsseEnvelope: Envelope  # noqa: N815


class Attempt(Sealed):
    """An attempt to move a channel: the common fields of `Move` and `Refusal`."""

    id: str
    model_name: ModelName
    channel: Channel
    version: VersionNumber
    manifest_sha256: Sha256
    sha256: Sha256  # of the weights
    previous_version: VersionNumber | None
    action: Literal["promote", "rollback", "sign"]
    gates: list[Verdict]
    approver: str
    comment: str
    at: Time
    signature: Bundle | None = None  # of the record without it and without the seal


class Move(Attempt):
    """A channel's pointer, and each record of its history."""

    allowed: Literal[True]
    generation: Annotated[int, Field(ge=1)]
    previous_seal: Sha256 | None = None  # of the move before; earlier writers left it out


class Refusal(Attempt):
    allowed: Literal[False]


class Signature(Sealed):
    bundle: Bundle


class Summary(Document):
    """A version's row in the index."""

    version: VersionNumber
    identity: Sha256
    AP: float | None
    dataset_digest: str
    evaluation_settings_digest: Sha256
    registered_at: str  # to be shown; 10,000 of them are checked at every `list`
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]
    exp_name: str = ""  # "": written by an earlier version


class Index(Document):
    """Derived from the manifests; it can be deleted."""

    versions: list[Summary]


class Withdrawal(Document):
    version: VersionNumber
    reason: Annotated[str, Field(min_length=1)]
    approver: str
    at: Time


class Withdrawals(Sealed):
    """The withdrawn versions of a model. Versions are only added."""

    model_name: ModelName
    withdrawals: list[Withdrawal]


class Seen(Document):
    """The number of versions of each model at the last gc."""

    versions: dict[str, int]


class Mark(Document):
    """Set by a gc for weights that nothing names."""

    marked_at: Time
    deleting: bool = False


# ------------------------------------------------------------------------------ written and read


def digest_of(content: Any) -> str:
    """SHA-256 of the content's compact JSON with sorted keys, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its own digest."""
    return content | {SEAL: digest_of({key: content[key] for key in content if key != SEAL})}


def document(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def new_document(kind: type[Document], content: dict[str, Any]) -> dict[str, Any]:
    """Validates a document before it is written, and seals it if its kind is sealed.

    Raises:
        UserError: it does not match the schema.
    """
    content = sealed(content) if kind.sealed else content
    problems = flaws(kind, content)
    if problems:
        name = kind.__name__.removeprefix("New").lower()
        raise UserError(f"the {name} cannot be written: {problems}")
    return content


def decode(kind: type[Document], data: bytes, uri: str) -> dict[str, Any]:
    """Reads a document.

    Raises:
        DamagedObjectError: it is not what was written.
        MalformedDocumentError: it does not match the schema of its kind.
    """
    content = read_sealed(data, uri) if kind.sealed else _parse(data, uri)
    check_shape(kind, content, uri)
    return content


def check_shape(kind: type[Document], content: dict[str, Any], uri: str) -> None:
    """Raises MalformedDocumentError."""
    try:
        kind.model_validate(content)
    except _ValidationError as error:
        raise MalformedDocumentError(f"{uri} is malformed: {_explain(error)}") from None


def read_sealed(data: bytes, uri: str) -> dict[str, Any]:
    """Reads a sealed document of any kind. Raises DamagedObjectError if its seal is broken."""
    content = _parse(data, uri)
    if content.get(SEAL) != sealed(content)[SEAL]:
        raise _damaged(uri)
    return content


def flaws(kind: type[Document], content: dict[str, Any]) -> str:
    """Why the content cannot be written as a document of this kind; "" if it can."""
    try:
        kind.model_validate(json.loads(json.dumps(content, allow_nan=False)))
    except _ValidationError as error:
        return _explain(error)
    except ValueError:
        return NOT_FINITE
    return ""


def figure(metrics: dict[str, Any], name: str = "AP") -> float | None:
    """A metric, if it was measured and is finite and in 0..1; else None.

    >>> figure({"AP": 0.5}), figure({"AP": float("nan")}), figure({"AP": 10**400}), figure({})
    (0.5, None, None, None)
    """
    value = metrics.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None  # NaN is not, nor 10**400


def check_metrics(metrics: dict[str, Any], source: str) -> dict[str, float]:
    """Returns the metrics. Raises UserError that names each one out of range."""
    try:
        return dict(Metrics.validate_python(metrics))
    except _ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}; metrics are 0..1, or -1 for none") from None


def _parse(data: bytes, uri: str) -> dict[str, Any]:
    with contextlib.suppress(DocumentError):
        content = parse_json(data, uri, limit=len(data))  # an index grows with its versions
        if isinstance(content, dict):
            return content
    raise _damaged(uri)


def _damaged(uri: str) -> DamagedObjectError:
    return DamagedObjectError(f"{uri} is damaged: it is not the document that was written there")


def _explain(error: _ValidationError) -> str:
    """One line: where, what is there, what is allowed."""
    problems = error.errors(include_url=False, include_context=False)
    lines = []
    for problem in problems[:SHOWN_FLAWS]:
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"][0].lower() + problem["msg"][1:]
        message = message.removeprefix("value error, ")
        if problem["type"] == "missing":
            lines.append(f"{where} is missing")
        else:
            lines.append(f"{where}: {_shown(problem['input'])}: {message}")
    if len(problems) > SHOWN_FLAWS:
        lines.append(f"and {len(problems) - SHOWN_FLAWS} more")
    return "; ".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
