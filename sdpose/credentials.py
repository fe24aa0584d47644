"""Credentials: which variables hold them, how they are cleaned, and how texts lose them.

A Secret that was made with `echo VALUE | base64`, or on Windows, ends with a line break. Libraries
(botocore, requests, http.client) refuse such a header and print it: the whole token, escaped.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import re
import string
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

# Our own and those of the libraries that we configure by environment variables.
SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "KFP_TOKEN",
    "KFP_COOKIE",
    "PGPASSWORD",
    "SDPOSE_SIGNING_PASSWORD",
)
SHORTEST_SECRET = 6  # a shorter value is a word that means something else

# `*_KEY` alone means nothing: SDPOSE_PUBLIC_KEY names a file, CACHE_KEY a cache entry.
_KIND_OF_KEY = "ACCESS|ACCOUNT|API|AUTH|ENCRYPTION|MASTER|PRIVATE|SAS|SECRET|SERVICE|SHARED|STORAGE"
_SECRET_NAME = re.compile(
    rf"(PASSWORD|PASSWD|PASSPHRASE|TOKEN|COOKIE|CREDENTIAL|_PWD|({_KIND_OF_KEY})_?KEY(_ID)?"
    r"|CONNECTION_STRING|SECRET)$"
)
_SECRET_INSIDE = re.compile(r"(^|_)SECRETS?(_|$)")
_NAMES_A_PLACE = re.compile(r"_(FILE|PATH|DIR|NAME|ARN|URI|URL|VERSION|NAMESPACE|STORE)$")

# Variables whose values never have white space at an end that means something.
_CLEANED = re.compile(
    r"(AWS|MLFLOW|SDPOSE|KFP|KF_PIPELINES|PG)\w*|\w+_PROXY|SSL_CERT_FILE|SSL_CERT_DIR"
    r"|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|KUBECONFIG|KUBERNETES_\w+",
    re.IGNORECASE,
)
_WHITE = string.whitespace + "\u00a0\u200b\ufeff"  # also a byte order mark, of a file on Windows

# In the user info of a URL a password may hold ":" and "@", and "/" although it should not. No
# search goes beyond the next "://", and none goes back: a text of megabytes must not take hours.
_USER_INFO = re.compile(
    r"(://)(?:[^/\s\"'<>?#@]*+@(?:[^/\s\"'<>?#@]*+@)*+"
    r"|[^/\s\"'<>@:]*+:(?!\d{1,5}(?:/|$))(?:(?!://)[^\s\"'<>@])++@)"
)
_TO_QUERY = r"://(?:(?!://)[^\s?\"'])*+\?"
_SIGNED_QUERY = re.compile(
    rf"{_TO_QUERY}(?:[^\s=&]{{1,64}}+=[^\s&]{{0,256}}+&){{0,16}}"
    r"(?:x-amz-\w{1,64}|sig|auth|[\w-]{0,32}(?:signature|token|passw(?:or)?d|secret|credential"
    r"|api[_-]?key|accesskeyid))=",
    re.IGNORECASE,
)
_PATTERNS = (
    (_USER_INFO, r"\1***@"),
    (re.compile(rf"({_TO_QUERY})[^\s\"']+"), r"\1***"),
    (re.compile(r"\b(X-Amz-\w+=)[^\s&\"']+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b((?:Credential|Signature)=)[^\s,&\"'\\]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(Bearer\s+)[^\s,;\"'\\]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b((?:Set-)?Cookie['\"]?: ?['\"]?)[^\r\n\"'\\]+", re.IGNORECASE), r"\1***"),
)
_BASIC = re.compile(r"\b(Basic\s+)([A-Za-z0-9+/]{4,}={0,2})", re.IGNORECASE)


def is_secret_name(name: str, *, inside: bool = True) -> bool:
    """Whether a variable of this name holds a credential; one that names its file does not.

    Args:
        name: of a variable, or of a key that is written as one (db-password).
        inside: SECRET counts anywhere in the name. False for annotations, where it often begins
            the name of a setting (vault.hashicorp.com/agent-inject-secret-config).

    >>> [is_secret_name(n) for n in ("PGPASSWORD", "HF_TOKEN", "WANDB_API_KEY", "CLIENT_SECRET_ID")]
    [True, True, True, True]
    >>> [is_secret_name(n) for n in ("AWS_WEB_IDENTITY_TOKEN_FILE", "SDPOSE_PUBLIC_KEY", "PWD")]
    [False, False, False]
    """
    name = re.sub(r"[^A-Z0-9]+", "_", name.upper())
    if name in SECRET_VARIABLES:
        return True
    found = _SECRET_NAME.search(name) or (inside and _SECRET_INSIDE.search(name))
    return bool(found) and not _NAMES_A_PLACE.search(name)


def has_credentials(address: str) -> bool:
    """Whether a URL holds user info or a signed query.

    >>> has_credentials("s3://key:secret@bucket/x"), has_credentials("s3://bucket/key@2x.png")
    (True, False)
    """
    return bool(_USER_INFO.search(address) or _SIGNED_QUERY.search(address))


def variable_has_credentials(name: str, value: str) -> bool:
    """Whether a variable holds a credential, by its name or by its value.

    >>> variable_has_credentials("HTTPS_PROXY", "me:hunter2@proxy:3128")
    True
    """
    return is_secret_name(name) or has_credentials(_as_url(name, value))


def _as_url(name: str, value: str) -> str:
    """A proxy may be given without a scheme."""
    return f"proxy://{value}" if name.upper().endswith("_PROXY") and "://" not in value else value


def clean_environment() -> None:
    """Strips credentials, addresses and settings in `os.environ`, where libraries read them.

    AWS_REGION counts for boto3, too. The user and password of MLflow's address get variables of
    their own: MLflow prints the address.
    Every entry point calls this before anything is read (through `sdpose.errors.user_errors`).
    """
    for name, value in os.environ.items():
        stripped = value.strip(_WHITE)
        if stripped != value and (_CLEANED.fullmatch(name) or is_secret_name(name)):
            os.environ[name] = stripped
    if region := os.environ.get("AWS_REGION"):
        # boto3 does not read it; MLflow makes clients of its own.
        os.environ["AWS_DEFAULT_REGION"] = region
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if found := re.fullmatch(r"(https?://)([^/?#]*)@([^@]*)", address, re.IGNORECASE):
        user, _, password = found[2].partition(":")
        os.environ["MLFLOW_TRACKING_URI"] = found[1] + found[3]
        # As requests has it: what the address says wins.
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)


def invalid_header(error: BaseException | None) -> str | None:
    """What to say of an error (or its cause) that refused a header; None for any other error.

    It was raised before anything was sent, so it is no broken connection: another try is the same.
    """
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        inner = getattr(error, "kwargs", {}).get("error")  # botocore wraps whatever it meets
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    names = [
        name
        for name, value in os.environ.items()
        if is_secret_name(name) and not (value.isascii() and value.isprintable())
    ]
    # http.client, requests and urllib3 raise ValueError with these words, or a UnicodeEncodeError.
    if not any(
        (isinstance(each, UnicodeEncodeError) and names)
        or (isinstance(each, ValueError) and "header value" in str(each).lower())
        for each in chain
    ):
        return None
    return (
        f"{', '.join(names) or 'a credential'} cannot be sent: it holds line breaks or characters "
        "that are not ASCII; set it again (printf, not echo, makes a Secret without a line break)"
    )


def without_secrets(text: str) -> str:
    """The text without credentials: those that the environment holds, in the forms in which
    libraries print them, and what looks like one (URLs, signed queries, headers).

    >>> without_secrets("cannot reach https://me:hunter2@host/b/k?X-Amz-Signature=aa&x=1 now")
    'cannot reach https://***@host/b/k?*** now'
    >>> without_secrets("Invalid header value b'Bearer abc.def\\\\n'")
    "Invalid header value b'Bearer ***\\\\n'"
    """
    forms = {form for secret in _secrets() for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):  # one secret may be part of another
        text = text.replace(form, "***")
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return _BASIC.sub(_without_basic, text)


def _secrets() -> Iterator[str]:
    """The credentials in the environment, also those inside URLs (a proxy's, say)."""
    for name, value in os.environ.items():
        if is_secret_name(name):
            # A platform's *_TOKEN may name the file of one, which messages should name.
            if name in SECRET_VARIABLES or not (value.startswith("/") and os.path.isfile(value)):
                yield value
        elif found := _USER_INFO.search(_as_url(name, value)):
            password = found.group().removeprefix("://").removesuffix("@").partition(":")[2]
            yield password
            yield unquote(password)


def _forms(secret: str) -> set[str]:
    """How a secret appears in texts: as it is, stripped, its lines, escaped, and URL-quoted."""
    plain = {secret, secret.strip(_WHITE), *secret.splitlines()}
    forms = set(plain)
    for value in plain:
        raw = value.encode(errors="surrogateescape")
        quoted = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
        forms |= quoted | {re.sub("%..", lambda found: found.group().lower(), q) for q in quoted}
        forms |= {repr(value)[1:-1], repr(raw)[2:-1], json.dumps(value)[1:-1], html.escape(value)}
        forms |= {value.replace("'", "'\"'\"'"), value.replace("'", "\\'")}  # shells, repr
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


def _without_basic(found: re.Match[str]) -> str:
    """Basic authentication is base64 of user:password; "basic" may be a word of the text, too."""
    try:
        decoded = base64.b64decode(found[2], validate=True)
    except (binascii.Error, ValueError):
        return found[0]
    return f"{found[1]}***" if b":" in decoded else found[0]
