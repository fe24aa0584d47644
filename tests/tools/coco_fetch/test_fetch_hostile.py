"""Fetching COCO from servers, and over networks, that are up to no good."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from mirror import Mirror
from servers.tls import self_signed

from sdpose.cli import cli
from sdpose.errors import UserError
from sdpose.storage import patience
from sdpose.tools.coco_fetch import download, fetch
from sdpose.tools.coco_fetch.fetch import DETECTIONS, fetch_coco
from sdpose.tools.coco_fetch.sources import HttpSource, RemoteFile

OFFICIAL = "http://images.cocodataset.org"
ZIPS = {
    "annotations/annotations_trainval2017.zip": "annotations",
    "zips/val2017.zip": "val2017",
    "zips/train2017.zip": "train2017",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def zipped(coco_mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    for name, content in ZIPS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in sorted((coco_mini / content).iterdir()):
                archive.write(path, f"{content}/{path.name}")
    return folder


@pytest.fixture
def mirror(zipped, tmp_path):
    shutil.copytree(zipped, tmp_path / "mirror")
    return Mirror(tmp_path / "mirror")


# ------------------------------------------------------------------------------ the official server


@pytest.fixture
def in_between(monkeypatch):
    """Somebody on the way to every http server, as the proxy of a hotel is."""

    @contextlib.contextmanager
    def running(mirror):
        with mirror.running() as url:
            monkeypatch.setenv("http_proxy", url)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            yield

    return running


def publish(monkeypatch, folder):
    """As if the zips of `folder` were the ones that COCO has published."""
    archives = {"annotations_trainval2017.zip": fetch.ANNOTATIONS}
    archives |= {archive.name: archive for archive in fetch.IMAGES.values()}
    known = {}
    for name, archive in archives.items():
        data = (folder / archive.places[0] / name).read_bytes()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        known[name] = replace(archive, size=len(data), md5=md5)
    monkeypatch.setattr(fetch, "ANNOTATIONS", known.pop("annotations_trainval2017.zip"))
    names = {archive.wanted.strip("/"): archive for archive in known.values()}
    monkeypatch.setattr(fetch, "IMAGES", names)


@pytest.mark.parametrize("host", [OFFICIAL, "http://IMAGES.cocodataset.org.:80/"])
def test_an_altered_official_zip_has_another_size(mirror, in_between, tmp_path, host):
    """The finding: its MD5 was only asked for if the size was right, which the attacker chooses."""
    (mirror.folder / "annotations/SHA256SUMS").write_text("")
    with in_between(mirror), pytest.raises(UserError, match="COCO's has 252907541"):
        fetch_coco(host, tmp_path / "coco")
    assert mirror.requests["annotations/annotations_trainval2017.zip"] == 1
    assert not list((tmp_path / "coco").glob("annotations*"))


def test_nor_do_checksums_of_the_attacker_help(mirror, in_between, tmp_path):
    path = mirror.folder / "annotations/annotations_trainval2017.zip"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "SHA256SUMS").write_text(f"{digest}  {path.name}\n")
    with in_between(mirror), pytest.raises(UserError, match="COCO's has 252907541"):
        fetch_coco(OFFICIAL, tmp_path / "coco")


def test_official_zips_with_the_right_size_and_digest(
    mirror, in_between, coco_mini, tmp_path, monkeypatch, capfd
):
    publish(monkeypatch, mirror.folder)
    with in_between(mirror):
        fetch_coco(OFFICIAL, tmp_path / "coco")
    assert {p.name for p in (tmp_path / "coco/val2017").iterdir()} == {
        p.name for p in (coco_mini / "val2017").iterdir()
    }
    said = capfd.readouterr().err
    assert said.count("COCO's official md5") == 3
    assert "warning" not in said


def test_an_official_zip_of_the_right_size_with_other_bytes(
    mirror, in_between, tmp_path, monkeypatch
):
    publish(monkeypatch, mirror.folder)
    path = mirror.folder / "zips/val2017.zip"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with (
        in_between(mirror),
        pytest.raises(UserError, match=r"val2017\.zip arrived damaged"),
    ):
        fetch_coco(OFFICIAL, tmp_path / "coco")


def test_single_files_of_the_official_server_are_not_taken(coco_mini, coco_4, in_between, tmp_path):
    """Nothing is published to compare them with: hiding the zips must not be the way around."""
    shutil.copytree(coco_mini, tmp_path / "tree")
    shutil.copytree((coco_4 / DETECTIONS).parent, tmp_path / "tree" / DETECTIONS.split("/")[0])
    mirror = Mirror(tmp_path / "tree")
    with in_between(mirror), pytest.raises(UserError, match=r"does not have annotations/.*\.zip"):
        fetch_coco(OFFICIAL, tmp_path / "coco")
    shutil.copytree(coco_mini, tmp_path / "coco", dirs_exist_ok=True)
    with in_between(mirror):
        fetch_coco(OFFICIAL, tmp_path / "coco")  # complete
    assert not (tmp_path / "coco" / DETECTIONS).exists()


# ------------------------------------------------------------------------------------ other mirrors


@pytest.mark.parametrize("tree", [False, True])
def test_elsewhere_it_is_said_that_nothing_vouches(mirror, coco_mini, tmp_path, capfd, tree):
    server = Mirror(coco_mini) if tree else mirror
    with server.running() as url:
        fetch_coco(url, tmp_path / "coco")
    said = capfd.readouterr().err
    assert said.count(f"warning: nothing but {url} itself vouches") == 1
    assert "--expect-digest" in said


def run(*arguments):
    return CliRunner().invoke(cli, ["prepare", "quickstart", *arguments])


def test_the_digest_that_is_expected(mirror, coco_mini, tmp_path, capfd):
    digest = json.loads(run("--data-root", str(coco_mini), "--json").output)["digest"]
    with mirror.running() as url:
        fetched = ["--data-root", str(tmp_path / "coco"), "--fetch", url]
        assert run(*fetched, "--expect-digest", digest.upper()).exit_code == 0
        assert "vouches" not in capfd.readouterr().err
        picture = next((tmp_path / "coco/val2017").iterdir())
        picture.write_bytes(picture.read_bytes() + b"\0")
        refused = run(*fetched, "--expect-digest", digest)
    assert isinstance(refused.exception, UserError)
    assert f"expected {digest}" in str(refused.exception)


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, "g" * 64, "²" * 64])
def test_what_is_no_digest_is_refused_before_anything_is_fetched(tmp_path, digest):
    result = run(
        "--data-root", str(tmp_path / "none"), "--fetch", "/none", "--expect-digest", digest
    )
    assert "64 hexadecimal digits" in str(result.exception)


# ---------------------------------------------------------------------------- answers of any kind


@contextlib.contextmanager
def answering(answer, tls=None):
    """A server whose every GET is `answer(handler)`."""
    stop = threading.Event()
    requests: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests[self.path] += 1
            with contextlib.suppress(OSError):
                answer(self, stop)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.server_port}", requests
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, status, headers, body=b""):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("total", ["²", "-5", "1e3", "", "9" * 5000, "*", "٣"])
@pytest.mark.parametrize("header", ["Content-Range", "Content-Length"])
def test_a_size_that_is_no_number(header, total):
    headers = {
        "Content-Range": ("bytes 0-0/" if header == "Content-Range" else "") + total,
        "Content-Length": "1" if header == "Content-Range" else total,
    }
    if header == "Content-Length":
        del headers["Content-Range"]
    encoded = {k: v.encode("utf-8").decode("latin-1") for k, v in headers.items()}
    status = 206 if header == "Content-Range" else 200
    with answering(lambda h, _: send(h, status, encoded, b"x")) as (url, _):
        found = HttpSource(url).find("file")
    assert found == RemoteFile("file", None, "", ranges=False)


def test_another_range_than_was_asked_for(tmp_path):
    def answer(handler, _):
        headers = {"Content-Range": "bytes 0-9/100", "Content-Length": "10", "ETag": '"x"'}
        send(handler, 206, headers, b"0123456789")

    with answering(answer) as (url, _):
        source = HttpSource(url)
        with pytest.raises(UserError, match="asked for the bytes from 50"):
            source.open(RemoteFile("file", 100, '"x"', ranges=True), 50, 60)


def _endless(handler, stop):
    handler.send_response(200)
    handler.end_headers()
    while not stop.is_set():
        handler.wfile.write(bytes(1 << 16))


def test_a_body_without_end(tmp_path):
    with answering(_endless) as (url, _):
        source = HttpSource(url)
        file = source.find("file")
        assert file.size is None
        part = tmp_path / "staging/part"
        with pytest.raises(UserError, match=r"does not end after 0\.0 GB"):
            download.download(source, file, tmp_path / "target", part=part, largest=20 << 20)
    assert list(tmp_path.rglob("*")) == [tmp_path / "staging"]


def test_sums_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_SUMS", 20 << 20)
    with answering(_endless) as (url, _), pytest.raises(UserError, match="no list of checksums"):
        download.Checksums(HttpSource(url)).of("zips/val2017.zip")


def test_a_file_that_is_larger_than_the_disk(tmp_path):
    headers = {"Content-Range": f"bytes 0-0/{10**15}", "Content-Length": "1"}
    with answering(lambda h, _: send(h, 206, headers, b"x")) as (url, _):
        source = HttpSource(url)
        with pytest.raises(UserError, match=r"1000000\.0 GB are needed"):
            download.download(source, source.find("f"), tmp_path / "f", part=tmp_path / "p")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_disk_that_takes_no_more(tmp_path, known, ranges):
    """As at a quota, which no free space shows."""
    size = 50 << 20

    def answer(handler, _):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if not (ranges and known and asked):
            send(handler, 200, {"Content-Length": str(size)} if known else {}, bytes(size))
            return
        start, stop = int(asked[1]), int(asked[2]) + 1
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        headers["Content-Length"] = str(stop - start)
        send(handler, 206, headers, bytes(stop - start))

    program = (
        "import resource, sys; from pathlib import Path\n"
        "from sdpose.tools.coco_fetch import download, sources\n"
        "from sdpose.errors import user_errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))\n"
        "source = sources.HttpSource(sys.argv[1])\n"
        "with user_errors():\n"
        "    file = source.find('f')\n"
        "    download.download(source, file, Path('target'), part=Path('part'))\n"
    )
    with answering(answer) as (url, _):
        command = [sys.executable, "-c", program, url]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert re.search(r"cannot write target: .*File too large.*make room", result.stderr)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "target").exists()
    if not (ranges and known):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_out_of_tls_is_refused(tmp_path, monkeypatch, code):
    certificate, key = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    plain_answer = {"Content-Length": "4"}
    with answering(lambda h, _: send(h, 200, plain_answer, b"evil")) as (plain, asked):
        away = {"Location": f"{plain}/evil", "Content-Length": "0"}
        with (
            answering(lambda h, _: send(h, code, away), (certificate, key)) as (url, _),
            pytest.raises(UserError, match=r"redirects to http://127.*refused"),
        ):
            HttpSource(url).find("file")
    assert not asked


def test_a_redirect_to_another_server_is_reported(mirror, capfd):
    with mirror.running() as target:

        def answer(handler, _):
            send(handler, 302, {"Location": target + handler.path, "Content-Length": "0"})

        with answering(answer) as (url, _):
            source = HttpSource(url)
            assert source.find("zips/val2017.zip").size > 0
            assert source.find("zips/train2017.zip").size > 0
    said = capfd.readouterr().err
    assert said == f"{url.split('//')[1]} redirects to {target.split('//')[1]}\n"


# ---------------------------------------------------------------------------------- names


BAD_NAMES = {
    "long": "a" * 5000 + ".jpg",
    "surrogate": "\ud800.jpg",
    "nul": "a\0b.jpg",
    "above": "../../evil.jpg",
    "folder": "",
    "here": ".",
}


@pytest.mark.parametrize("kind", BAD_NAMES)
def test_annotations_with_names_that_no_file_can_have(coco_mini, tmp_path, kind):
    tree = tmp_path / "tree"
    shutil.copytree(coco_mini / "annotations", tree / "annotations")
    path = tree / "annotations/person_keypoints_val2017.json"
    path.chmod(0o644)
    document = json.loads(path.read_text())
    document["images"][0]["file_name"] = BAD_NAMES[kind]
    path.write_text(json.dumps(document))
    with Mirror(tree).running() as url, pytest.raises(UserError) as caught:
        fetch_coco(url, tmp_path / "coco")
    assert len(str(caught.value)) < 1000
    assert "evil" not in {path.stem for path in tmp_path.rglob("*")}


def test_a_planted_staging_folder(mirror, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_bytes(b"")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/.fetch").symlink_to(elsewhere)
    with mirror.running() as url, pytest.raises(UserError, match="is a symbolic link"):
        fetch_coco(url, tmp_path / "coco")
    assert [path.name for path in elsewhere.iterdir()] == ["keep"]
