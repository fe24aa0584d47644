"""Container images as their registry knows them (OCI distribution, v2): is it there, may it be
pulled, and which bytes does a tag name today?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import urllib3

from sdpose.documents import parse_json

TIMEOUT_S = 10.0
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
DOCKER_HUB = "registry-1.docker.io"


class NoSuchImageError(Exception):
    """The registry says that it does not have the image, or does not give it to us."""


class UnknownImageError(Exception):
    """The registry cannot be asked from here."""


@dataclass(frozen=True)
class Reference:
    registry: str
    repository: str
    tag: str
    digest: str  # "" if the image is named by its tag alone

    @classmethod
    def parse(cls, image: str) -> Reference:
        """As Docker reads it: no registry means Docker Hub, no tag means latest.

        >>> reference = Reference.parse("pose/trainer")
        >>> reference.registry, reference.repository, reference.tag
        ('registry-1.docker.io', 'pose/trainer', 'latest')
        """
        name, _, digest = image.partition("@")
        first, slash, rest = name.partition("/")
        if not slash or not (first == "localhost" or re.search(r"[.:]", first)):
            first, rest = DOCKER_HUB, name if slash else f"library/{name}"
        if first in {"docker.io", "index.docker.io"}:
            first = DOCKER_HUB
        repository, _, tag = rest.partition(":")
        return cls(first, repository, tag or "latest", digest)


def image_digest(image: str, credentials: Mapping[str, str]) -> str:
    """`sha256:...` of the image that the registry gives out under this name.

    credentials: base64("user:password") by registry, as in Docker's config.json.
    Raises NoSuchImageError, UnknownImageError.
    """
    reference = Reference.parse(image)
    path = f"/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"
    host = reference.registry
    local = host.partition(":")[0] in {"localhost", "127.0.0.1"}
    url = f"{'http' if local else 'https'}://{host}{path}"  # Docker's own exception
    headers = {"Accept": MANIFESTS}
    pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT_S)
    basic = _credentials_for(host, credentials)
    try:
        answer = pool.request("HEAD", url, headers=headers)
        if answer.status == 401:
            granted = _authorization(pool, answer.headers.get("WWW-Authenticate", ""), basic)
            answer = pool.request("HEAD", url, headers=headers | granted)
    except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as error:
        raise UnknownImageError(f"{host} cannot be asked: {error}") from None
    if answer.status == 200:
        return answer.headers.get("Docker-Content-Digest") or reference.digest
    if answer.status in {401, 403}:
        if basic is None:
            raise UnknownImageError(f"{host} asks for credentials, and there are none here")
        raise NoSuchImageError(f"{host} refuses these credentials (HTTP {answer.status})")
    if answer.status == 404:
        raise NoSuchImageError(f"{host} has no such image (HTTP 404)")
    raise UnknownImageError(f"{host}: HTTP {answer.status}")


def docker_credentials(config: Path | None = None) -> dict[str, str]:
    """Of `docker login`, as far as they lie in the file itself (no credential helpers)."""
    try:
        text = (config or Path.home() / ".docker/config.json").read_text(encoding="utf-8")
        auths = parse_json(text, "config.json").get("auths", {})
        return {host: str(entry["auth"]) for host, entry in auths.items() if entry.get("auth")}
    except (OSError, ValueError, AttributeError):
        return {}


def _credentials_for(host: str, credentials: Mapping[str, str]) -> str | None:
    names = {host, f"https://{host}", f"https://{host}/v2/"}
    if host == DOCKER_HUB:
        names |= {"docker.io", "https://index.docker.io/v1/"}
    return next((value for key, value in credentials.items() if key.rstrip("/") in names), None)


def _authorization(pool: urllib3.PoolManager, challenge: str, basic: str | None) -> dict[str, str]:
    """The header that the registry's challenge asks for."""
    scheme, _, rest = challenge.partition(" ")
    own = {"Authorization": f"Basic {basic}"} if basic else {}
    if scheme.lower() != "bearer":
        return own
    values = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = values.pop("realm")
    answer = pool.request("GET", f"{realm}?{urlencode(values)}", headers=own)
    token = json.loads(answer.data)
    return {"Authorization": f"Bearer {token.get('token') or token['access_token']}"}
