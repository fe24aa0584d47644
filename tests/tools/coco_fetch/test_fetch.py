"""Fetching COCO from mirrors that are as bad as real ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from mirror import Mirror
from servers import odd_s3
from servers.proxy import SLOW_DOWN, Cut, FaultProxy

from sdpose import retry
from sdpose.config import parse_experiment
from sdpose.errors import UserError
from sdpose.prepare.dataset import prepare_coco
from sdpose.tools.coco_fetch import download
from sdpose.tools.coco_fetch.fetch import DETECTIONS, fetch_coco
from sdpose.tools.coco_fetch.sources import HttpSource

ZIPS = {
    "annotations/annotations_trainval2017.zip": "annotations",
    "zips/val2017.zip": "val2017",
    "zips/train2017.zip": "train2017",
}
SEGMENT = 1 << 18
CLOCK = odd_s3.error(403, "RequestTimeTooSkewed")


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "SEGMENT_BYTES", SEGMENT)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("SDPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def zipped(coco_mini, tmp_path_factory):
    """coco-mini as COCO is published."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, content in ZIPS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in sorted((coco_mini / content).iterdir()):
                archive.write(path, f"{content}/{path.name}")
            archive.writestr("__MACOSX/._junk", "junk")
            if content == "annotations":
                archive.writestr("annotations/captions_val2017.json", "not wanted")
    return folder


@pytest.fixture
def mirror(zipped, tmp_path):
    folder = tmp_path / "mirror"
    shutil.copytree(zipped, folder)
    return Mirror(folder)


def assert_is_coco_mini(root, coco_mini):
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "train2017", "val2017"]
    for folder in ("annotations", "train2017", "val2017"):
        expected = {path.name: path.read_bytes() for path in (coco_mini / folder).iterdir()}
        assert {path.name: path.read_bytes() for path in (root / folder).iterdir()} == expected


def test_zips_from_a_bad_mirror(mirror, coco_mini, tmp_path):
    mirror.cut_every, mirror.overload_every = 4, 7
    with mirror.running() as url:
        fetch_coco(url, tmp_path / "coco")
    assert_is_coco_mini(tmp_path / "coco", coco_mini)
    assert mirror.requests["zips/train2017.zip"] > 10  # in parts
    same = parse_experiment({"exp_name": "x", "data_root": str(coco_mini)})
    fetched = parse_experiment({"exp_name": "x", "data_root": str(tmp_path / "coco")})
    assert prepare_coco(fetched).digest == prepare_coco(same).digest


def test_a_second_fetch_finds_everything_there(mirror, tmp_path):
    with mirror.running() as url:
        fetch_coco(url, tmp_path / "coco")
        mirror.requests.clear()
        fetch_coco(url, tmp_path / "coco")
        assert set(mirror.requests) == {DETECTIONS}  # it might have come since
        (tmp_path / "coco/val2017/000000482585.jpg").unlink()
        fetch_coco(url, tmp_path / "coco")
    assert (tmp_path / "coco/val2017/000000482585.jpg").is_file()
    assert mirror.bytes_sent["zips/train2017.zip"] < 1.1 * _size(mirror, "zips/train2017.zip")


def _size(mirror, name):
    return (mirror.folder / name).stat().st_size


def test_a_killed_fetch_goes_on_where_it_was(mirror, coco_mini, tmp_path):
    program = (
        "import sys; from pathlib import Path; from sdpose.storage import ranged_download; "
        "from sdpose.tools.coco_fetch import download, fetch; "
        f"download.SEGMENT_BYTES = {SEGMENT}; ranged_download.CONNECTIONS = 2; "
        "fetch.fetch_coco(sys.argv[1], Path(sys.argv[2]))"
    )
    name, root = "zips/train2017.zip", tmp_path / "coco"
    size = _size(mirror, name)
    mirror.bytes_per_second = 2_000_000
    with mirror.running() as url:
        process = subprocess.Popen([sys.executable, "-c", program, url, str(root)])
        while mirror.bytes_sent[name] < size // 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = mirror.bytes_sent[name]
        mirror.bytes_per_second = 0
        fetch_coco(url, root)
    assert mirror.bytes_sent[name] <= size + 3 * SEGMENT
    assert before < size
    assert_is_coco_mini(root, coco_mini)


def test_a_file_that_changed_meanwhile_starts_anew(mirror, tmp_path, monkeypatch):
    name, part, target = "zips/train2017.zip", tmp_path / "part", tmp_path / "target"
    path = mirror.folder / name
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    mirror.cut_every = 8
    with mirror.running() as url:
        source = HttpSource(url)
        with pytest.raises(UserError, match="gave up"):
            download.download(source, source.find(name), target, part=part)
        assert part.with_name("part.json").is_file()
        path.write_bytes(path.read_bytes()[::-1])
        mirror.cut_every = 0
        download.download(source, source.find(name), target, part=part)
    assert target.read_bytes() == path.read_bytes()
    assert not part.exists()


def test_a_server_without_ranges(mirror, coco_mini, tmp_path):
    mirror.ranges = False
    mirror.cut_every = 4
    with mirror.running() as url:
        fetch_coco(f"{url}/", tmp_path / "coco")
    assert_is_coco_mini(tmp_path / "coco", coco_mini)


def test_zips_side_by_side_with_published_checksums(mirror, coco_mini, tmp_path, capfd):
    sums = []
    for name in ZIPS:
        path = mirror.folder / name
        path.rename(mirror.folder / path.name)
        data = (mirror.folder / path.name).read_bytes()
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
    (mirror.folder / "SHA256SUMS").write_text("".join(sums))
    with mirror.running() as url:
        fetch_coco(url, tmp_path / "coco")
    assert_is_coco_mini(tmp_path / "coco", coco_mini)
    assert "sha256 as published" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_bytes_that_are_not_the_published_ones_are_refused(mirror, tmp_path, kind):
    name = "zips/val2017.zip"
    digest = hashlib.new(kind, b"other").hexdigest()
    (mirror.folder / f"zips/{kind.upper()}SUMS").write_text(f"{digest} *val2017.zip\n")
    with mirror.running() as url, pytest.raises(UserError, match=f"damaged: its {kind}"):
        fetch_coco(url, tmp_path / "coco")
    assert not (tmp_path / "coco/val2017").exists()
    assert not list((tmp_path / "coco/.fetch").glob("val*"))
    assert _size(mirror, name) > SEGMENT


def test_a_zip_with_a_wrong_crc_is_refused_and_fetched_again(mirror, coco_mini, tmp_path):
    path = mirror.folder / "zips/val2017.zip"
    good = path.read_bytes()
    path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    with mirror.running() as url:
        with pytest.raises(UserError, match=r"val2017\.zip: a damaged zip file"):
            fetch_coco(url, tmp_path / "coco")
        path.write_bytes(good)
        fetch_coco(url, tmp_path / "coco")
    assert_is_coco_mini(tmp_path / "coco", coco_mini)


def test_an_unpacked_tree_and_detections(coco_mini, coco_4, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(coco_mini, tree)
    (tree / DETECTIONS).parent.mkdir()
    shutil.copy(coco_4 / DETECTIONS, tree / DETECTIONS)
    mirror = Mirror(tree)
    mirror.cut_every, mirror.overload_every = 9, 11
    with mirror.running() as url:
        fetch_coco(url, tmp_path / "coco")
    assert (tmp_path / "coco" / DETECTIONS).read_bytes() == (coco_4 / DETECTIONS).read_bytes()
    shutil.rmtree(tmp_path / "coco" / DETECTIONS.split("/")[0])
    assert_is_coco_mini(tmp_path / "coco", coco_mini)


def test_a_folder_of_zips_and_a_folder_with_the_tree(zipped, coco_mini, tmp_path):
    fetch_coco(str(zipped), tmp_path / "from zips")
    assert_is_coco_mini(tmp_path / "from zips", coco_mini)
    fetch_coco(coco_mini.as_uri(), tmp_path / "linked")
    assert_is_coco_mini(tmp_path / "linked", coco_mini)
    assert (tmp_path / "linked/train2017").is_symlink()


def test_an_incomplete_tree_is_not_written_to(coco_mini, tmp_path):
    shutil.copytree(coco_mini, tmp_path / "tree")
    (tmp_path / "tree/val2017").chmod(0o755)
    (tmp_path / "tree/val2017/000000482585.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 file, val2017/000000482585\.jpg"):
        fetch_coco(str(tmp_path / "tree"), tmp_path / "coco")


@pytest.fixture
def bad_s3(zipped, moto, monkeypatch):
    """The published files in a bucket; each 5th answer is cut, each 7th request refused."""
    for path in zipped.rglob("*.zip"):
        key = f"some/{path.relative_to(zipped).as_posix()}"
        moto.client().upload_file(str(path), moto.bucket, key)

    def faults(request):
        if request.number % 7 == 0:
            return SLOW_DOWN
        return Cut("answer") if request.number % 5 == 0 and request.method == "GET" else None

    with FaultProxy.to(moto.url) as proxy:
        proxy.plan = faults
        for name, value in moto.environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


def test_s3(bad_s3, moto, coco_mini, tmp_path):
    fetch_coco(f"s3://{moto.bucket}/some", tmp_path / "coco")
    assert_is_coco_mini(tmp_path / "coco", coco_mini)
    parts = [one for one in bad_s3.requests if one.path.endswith("some/zips/train2017.zip")]
    assert len(parts) > 10
    with pytest.raises(UserError, match="does not have"):
        fetch_coco(f"s3://{moto.bucket}/elsewhere", tmp_path / "other")


def test_an_s3_endpoint_that_is_none_or_refuses(bad_s3, moto, tmp_path):
    page = odd_s3.answer(404, odd_s3.PAGE, "text/html")
    for reply, told in ((page, "AWS_ENDPOINT_URL_S3"), (CLOCK, "Set the clock")):
        bad_s3.plan = odd_s3.always(reply)
        with pytest.raises(UserError, match=told):
            fetch_coco(f"s3://{moto.bucket}/some", tmp_path / "coco")


def test_an_s3_endpoint_that_ignores_ranges(bad_s3, moto, tmp_path):
    """Its bytes were put at the wrong places."""
    bad_s3.plan = odd_s3.ignores_range()
    with pytest.raises(UserError, match="does not give the range"):
        fetch_coco(f"s3://{moto.bucket}/some", tmp_path / "coco")


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "annotations\\..\\evil.json"])
def test_a_zip_that_leads_outside_is_refused(mirror, tmp_path, name):
    with zipfile.ZipFile(mirror.folder / "annotations/annotations_trainval2017.zip", "a") as file:
        file.writestr(name, "evil")
    with mirror.running() as url, pytest.raises(UserError, match="lead outside or are links"):
        fetch_coco(url, tmp_path / "coco")
    assert sorted(os.listdir(tmp_path / "coco")) == [".fetch"]
    assert not (tmp_path / "evil.json").exists()


def test_a_zip_with_a_link_is_refused(mirror, tmp_path):
    link = zipfile.ZipInfo("annotations/person_keypoints_val2017.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(mirror.folder / "annotations/annotations_trainval2017.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with mirror.running() as url, pytest.raises(UserError, match="links"):
        fetch_coco(url, tmp_path / "coco")


def test_annotations_that_lead_outside_are_refused(coco_mini, tmp_path):
    tree = tmp_path / "mirror"
    shutil.copytree(coco_mini / "annotations", tree / "annotations")
    path = tree / "annotations/person_keypoints_val2017.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("000000482585.jpg", "../../evil.jpg"))
    with Mirror(tree).running() as url, pytest.raises(UserError, match="outside their folder"):
        fetch_coco(url, tmp_path / "coco")


def test_a_mirror_of_something_else(tmp_path):
    (tmp_path / "empty").mkdir()
    with Mirror(tmp_path / "empty").running() as url, pytest.raises(UserError) as caught:
        fetch_coco(url, tmp_path / "coco")
    assert "does not have annotations/person_keypoints_" in str(caught.value)
    assert "zips/train2017.zip" in str(caught.value)


def test_nobody_there(tmp_path, monkeypatch):
    with Mirror(tmp_path).running() as url:
        pass
    with pytest.raises(UserError, match=r"gave up after 6 attempts.*refused"):
        fetch_coco(url, tmp_path / "coco")


@pytest.mark.parametrize("source", ["ftp://host/coco", "/no/such/folder"])
def test_sources_that_cannot_be(source, tmp_path):
    with pytest.raises(UserError, match="cannot fetch from"):
        fetch_coco(source, tmp_path / "coco")


def test_two_fetches_into_one_folder(mirror, tmp_path):
    mirror.bytes_per_second = 500_000
    root = tmp_path / "coco"
    program = "import sys; from pathlib import Path; "
    program += "from sdpose.tools.coco_fetch.fetch import fetch_coco; "
    program += "fetch_coco(sys.argv[1], Path(sys.argv[2]))"
    with mirror.running() as url:
        process = subprocess.Popen([sys.executable, "-c", program, url, str(root)])
        while not mirror.requests:
            time.sleep(0.01)
        with pytest.raises(UserError, match="another fetch"):
            fetch_coco(url, root)
        process.kill()
        process.wait()
        mirror.bytes_per_second = 0
        fetch_coco(url, root)


def test_a_folder_that_cannot_be_written(zipped, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        fetch_coco(str(zipped), Path(tmp_path / "file"))
