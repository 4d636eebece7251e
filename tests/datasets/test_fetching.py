"""Download and verification, against a small manifest and a real HTTP server on this machine."""

import gzip
import hashlib
import io
import os
import re
import socket
import tarfile
import threading
import tomllib
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from sgdsim import datasets
from sgdsim.common.checks import InputError
from sgdsim.datasets import fetching, manifest

PLAIN = b"plain content " * 50
IMAGES = bytes(range(256)) * 40
TABLE = b"a,b\n1,2\n" * 30
OTHER = b"another version of the table\n"


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; a value is a body, a status code, or (body, headers)."""

    def do_GET(self):
        self.server.asked[self.path] += 1
        answer = self.server.files.get(self.path, 404)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        body, headers = answer if isinstance(answer, tuple) else (answer, {})
        self.send_response(200)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.files, http.asked = {}, Counter()
        http.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed_zip(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name in links:
                info.external_attr = 0o120777 << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def packed_tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


TAR = packed_tar({"inner/one.bin": b"1" * 100, "../evil.txt": b"evil", "inner/two.bin": b"2" * 200})

MANIFEST = f"""
[inside]
licence = "L0"
homepage = "http://0.invalid/"
citation = "C0"
bundled_with = "a package"

[single]
licence = "L1"
homepage = "http://1.invalid/"
citation = "C1"
[[single.files]]
path = "single/plain.bin"
content = [{{ size = {len(PLAIN)}, sha256 = "{sha(PLAIN)}" }}]
url = "http://1.invalid/plain.bin"
[[single.files]]
path = "single/images.gz"
content = [{{ size = {len(IMAGES)}, sha256 = "{sha(IMAGES)}" }}]
url = "http://1.invalid/images.gz"

[zipped]
licence = "L2"
homepage = "http://2.invalid/"
citation = "C2"
[zipped.archive]
url = "http://2.invalid/some+table.zip"
[[zipped.files]]
path = "zipped/table.csv"
content = [{{ sha256 = "{sha(OTHER)}" }}, {{ size = {len(TABLE)}, sha256 = "{sha(TABLE)}" }}]
member = "table.csv"

[tarred]
licence = "L3"
homepage = "http://3.invalid/"
citation = "C3"
[tarred.archive]
url = "http://3.invalid/all.tar.gz"
size = {len(TAR)}
sha256 = "{sha(TAR)}"
[[tarred.files]]
path = "cifar10/one.bin"
content = [{{ size = 100, md5 = "{hashlib.md5(b"1" * 100, usedforsecurity=False).hexdigest()}" }}]
member = "inner/one.bin"
[[tarred.files]]
path = "cifar10/two.bin"
content = [{{ size = 200 }}]
member = "inner/two.bin"
[[tarred.files]]
path = "cifar10/one.first50.bin.gz"
content = [{{ size = 50, sha256 = "{sha(b"1" * 50)}" }}]
stands_in_for = "cifar10/one.bin"
"""


@pytest.fixture(autouse=True)
def small_manifest(request, tmp_path, monkeypatch):
    if not request.node.name.startswith("test_real"):
        path = tmp_path / "manifest" / "MANIFEST.toml"
        path.parent.mkdir()
        path.write_text(MANIFEST)
        monkeypatch.setattr(manifest, "manifest", lambda: tomllib.loads(path.read_text()))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def states(name: str, folder: Path) -> list[str]:
    return [row["status"] for row in fetching.verify(name, folder)]


# fetch: what works.


def test_fetch_puts_checked_files_in_place(server, folder, capfd):
    server.files = {"/sub/single/plain.bin": PLAIN, "/sub/single/images.gz": gzip.compress(IMAGES)}
    paths = fetching.fetch("single", folder, mirror=server.url + "/sub/", progress=True)
    assert paths == [folder / "single/plain.bin", folder / "single/images.gz"]
    assert paths[0].read_bytes() == PLAIN
    assert gzip.decompress(paths[1].read_bytes()) == IMAGES
    assert tree(folder) == ["single/images.gz", "single/plain.bin"]
    assert states("single", folder) == ["ok", "ok"]
    assert capfd.readouterr() == ("", "")  # no chatter, and no bar away from a terminal
    umask = os.umask(0)
    os.umask(umask)
    assert paths[0].stat().st_mode & 0o777 == 0o666 & ~umask  # readable as any other new file


def test_files_that_are_there_are_not_downloaded_again(server, folder):
    (folder / "single").mkdir(parents=True)
    (folder / "single/plain.bin.gz").write_bytes(gzip.compress(PLAIN, 1))  # packed by someone else
    server.files = {"/single/images.gz": IMAGES}  # unpacked on the way
    paths = fetching.fetch("single", folder, mirror=server.url)
    assert paths == [folder / "single/plain.bin.gz", folder / "single/images.gz"]
    assert server.asked == {"/single/images.gz": 1}
    fetching.fetch("single", folder, mirror=server.url)
    assert server.asked.total() == 1


def test_a_damaged_file_is_replaced_where_it_lies(server, folder):
    (folder / "single").mkdir(parents=True)
    (folder / "single/images").write_bytes(IMAGES[:-1])
    server.files = {"/single/plain.bin": PLAIN, "/single/images.gz": gzip.compress(IMAGES)}
    assert fetching.fetch("single", folder, mirror=server.url)[1] == folder / "single/images"
    assert states("single", folder) == ["ok", "ok"]
    assert tree(folder) == ["single/images", "single/plain.bin"]


def test_a_server_that_labels_the_packing(server, folder):
    server.files = {
        "/single/plain.bin": PLAIN,
        "/single/images.gz": (gzip.compress(IMAGES), {"Content-Encoding": "gzip"}),
    }
    fetching.fetch("single", folder, mirror=server.url)
    assert states("single", folder) == ["ok", "ok"]


def test_fetch_from_a_zip(server, folder):
    server.files = {"/some+table.zip": packed_zip({"readme": b"x", "table.csv": TABLE})}
    assert fetching.fetch("zipped", folder, mirror=server.url) == [folder / "zipped/table.csv"]
    assert (folder / "zipped/table.csv").read_bytes() == TABLE
    assert tree(folder) == ["zipped/table.csv"]


def test_fetch_takes_any_known_version(server, folder):
    server.files = {"/some+table.zip": packed_zip({"table.csv": OTHER})}
    fetching.fetch("zipped", folder, mirror=server.url)
    assert states("zipped", folder) == ["ok"]


def test_fetch_from_a_tar_leaves_the_rest_inside(server, folder):
    server.files = {"/all.tar.gz": TAR}  # it also holds ../evil.txt
    paths = fetching.fetch("tarred", folder, mirror=server.url)
    assert paths == [folder / "cifar10/one.bin", folder / "cifar10/two.bin"]
    assert [path.read_bytes() for path in paths] == [b"1" * 100, b"2" * 200]
    assert tree(folder.parent) == ["manifest/MANIFEST.toml", "store/cifar10/one.bin", "store/cifar10/two.bin"]
    assert server.asked == {"/all.tar.gz": 1}


def test_bundled_data_need_no_download(folder):
    assert fetching.fetch("inside", folder) == []
    assert not folder.exists()


def test_progress_bar_on_a_terminal(server, folder, monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    server.files = {"/some+table.zip": packed_zip({"table.csv": TABLE})}
    fetching.fetch("zipped", folder, mirror=server.url, progress=True)
    out, err = capfd.readouterr()
    assert "100%" in err
    assert out == ""


# fetch: what fails.


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((PLAIN[:-5], {"Content-Length": str(len(PLAIN))}), "got a truncated download"),
        ((PLAIN[:-5], {"Content-Length": None}), f"expected {len(PLAIN)} bytes of content, got {len(PLAIN) - 5}"),
        (PLAIN[:-1] + b"X", f"expected sha256 {sha(PLAIN)}, got sha256 {sha(PLAIN[:-1] + b'X')}"),
        (b"", "bytes of content, got 0"),
        (PLAIN + b"more", "bytes of content, got more"),
        (gzip.compress(PLAIN)[:-9], "truncated or damaged"),
        ((PLAIN, {"Content-Encoding": "gzip"}), "truncated download"),
        (b"<html>not found, but politely</html>", "bytes of content, got 36"),
        (404, "got HTTP status 404"),
        (403, "got HTTP status 403"),
        (500, "got HTTP status 500"),
    ],
)
def test_bad_downloads_leave_nothing(server, folder, answer, words):
    server.files = {"/single/plain.bin": answer, "/single/images.gz": gzip.compress(IMAGES)}
    text = message(fetching.fetch, "single", folder, mirror=server.url)
    assert words in text
    assert f"{server.url}/single/plain.bin" in text
    assert not folder.exists()
    server.files["/single/plain.bin"] = PLAIN  # and the next attempt is not disturbed
    fetching.fetch("single", folder, mirror=server.url)
    assert states("single", folder) == ["ok", "ok"]


def test_finished_files_survive_a_later_failure(server, folder):
    server.files = {"/single/plain.bin": PLAIN, "/single/images.gz": (IMAGES[:100], {"Content-Length": "9999"})}
    assert "truncated" in message(fetching.fetch, "single", folder, mirror=server.url)
    assert tree(folder) == ["single/plain.bin"]
    assert [path.name for path in folder.iterdir()] == ["single"]
    server.files["/single/images.gz"] = gzip.compress(IMAGES)
    fetching.fetch("single", folder, mirror=server.url)
    assert server.asked == {"/single/plain.bin": 1, "/single/images.gz": 2}


def test_a_failed_repair_keeps_the_old_file(server, folder):
    (folder / "single").mkdir(parents=True)
    (folder / "single/plain.bin").write_bytes(b"old")
    message(fetching.fetch, "single", folder, mirror=server.url)
    assert (folder / "single/plain.bin").read_bytes() == b"old"
    assert tree(folder) == ["single/plain.bin"]


def test_interrupted_by_the_user(server, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    server.files = {"/some+table.zip": packed_zip({"table.csv": TABLE})}
    with monkeypatch.context() as patch:
        patch.setattr(fetching, "judge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetching.fetch("zipped", folder, mirror=server.url)
    assert not folder.exists()
    fetching.fetch("zipped", folder, mirror=server.url)
    assert states("zipped", folder) == ["ok"]


def test_no_server(folder, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:  # a port that was free a moment ago
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asked, own = [], pooch.HTTPDownloader.__call__

    def once(self, url, *args, **kwargs):
        asked.append(url)
        return own(self, url, *args, **kwargs)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", once)
    text = message(fetching.fetch, "single", folder, mirror=f"http://127.0.0.1:{port}")
    assert "no connection" in text
    assert f"127.0.0.1:{port}/single/plain.bin" in text
    assert len(asked) == 1  # it is not tried again, which would only take longer
    assert not folder.exists()


@pytest.mark.parametrize("mirror", ["", "ftp://host/dir", "/some/folder", 7])
def test_mirror_refused(folder, mirror):
    assert "mirror: expected an address" in message(fetching.fetch, "single", folder, mirror=mirror)


def test_a_download_without_end_is_cut_off(server, folder, monkeypatch):
    monkeypatch.setattr(fetching, "UNKNOWN_SIZE_LIMIT", 5000)
    server.files = {"/single/plain.bin": b"x" * 5001}
    assert "expected at most 5000 bytes, got more" in message(fetching.fetch, "single", folder, mirror=server.url)
    assert not folder.exists()


def test_an_archive_is_checked_before_it_is_opened(server, folder, monkeypatch):
    server.files = {"/all.tar.gz": TAR[:-1] + b"X"}
    monkeypatch.setattr(fetching, "_unpack", lambda *_: pytest.fail("opened"))
    text = message(fetching.fetch, "tarred", folder, mirror=server.url)
    assert sha(TAR) in text
    assert sha(TAR[:-1] + b"X") in text
    assert "does not match" in text
    assert not folder.exists()


def test_an_archive_larger_than_announced(server, folder):
    server.files = {"/all.tar.gz": TAR + b"X"}
    assert f"expected at most {len(TAR)} bytes" in message(fetching.fetch, "tarred", folder, mirror=server.url)


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (packed_zip({"../table.csv": TABLE, "/table.csv": TABLE, "x/../table.csv": TABLE}), "one without it"),
        (packed_zip({"table.csv": b"../../etc/passwd"}, links=("table.csv",)), "got a folder or link"),
        (packed_zip({"table.csv": TABLE[:-1] + b"X"}), "expected sha256"),
        (packed_tar({}, links={"table.csv": "/etc/passwd"}), "got a folder or link"),
        (packed_tar({"other": b"1"}), "one without it"),
        (packed_zip({"table.csv": TABLE})[:-10], "expected an intact archive"),
        (packed_tar({"table.csv": TABLE * 99})[:-30], "expected an intact archive"),
        (b"<html>", "expected an intact archive"),
        (b"", "expected an intact archive"),
    ],
)
def test_bad_archives_leave_nothing(server, folder, archive, words):
    server.files = {"/some+table.zip": archive}
    text = message(fetching.fetch, "zipped", folder, mirror=server.url)
    assert words in text
    assert "/some+table.zip" in text
    assert not folder.exists()
    assert tree(folder.parent) == ["manifest/MANIFEST.toml"]


def test_traversal_members_beside_the_right_one_stay_inside(server, folder):
    server.files = {"/some+table.zip": packed_zip({"../../evil": b"evil", "/evil": b"evil", "table.csv": TABLE})}
    fetching.fetch("zipped", folder, mirror=server.url)
    assert tree(folder.parent) == ["manifest/MANIFEST.toml", "store/zipped/table.csv"]
    assert not Path("/evil").exists()


def test_a_member_that_unpacks_without_end_is_cut_off(server, folder, monkeypatch):
    monkeypatch.setattr(fetching, "UNKNOWN_SIZE_LIMIT", 10_000)
    server.files = {"/some+table.zip": packed_zip({"table.csv": bytes(2_000_000)})}  # 2 kB packed
    assert "expected at most 10000 bytes" in message(fetching.fetch, "zipped", folder, mirror=server.url)
    assert not folder.exists()


def test_unwritable_place(server, folder):
    folder.write_text("a file, not a folder")
    assert "expected a folder that can be written" in message(fetching.fetch, "single", folder, mirror=server.url)
    assert folder.read_text() == "a file, not a folder"
    assert server.asked.total() == 0


@pytest.mark.parametrize("call", [fetching.fetch, fetching.verify, fetching.status])
def test_unknown_name(call, folder):
    assert "expected one of inside, single, zipped, tarred" in message(call, "imagenet", folder)


def test_pooch_logger_is_left_as_it_was(server, folder):
    import pooch

    before = pooch.get_logger().level
    message(fetching.fetch, "single", folder, mirror=server.url)
    assert pooch.get_logger().level == before


# verify and status.


def put(folder: Path, path: str, content: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


@pytest.mark.parametrize(
    ("content", "state", "words"),
    [
        (PLAIN, "ok", sha(PLAIN)),
        (gzip.compress(PLAIN), "ok", sha(PLAIN)),
        (PLAIN[:-1] + b"X", "corrupt", f"expected sha256 {sha(PLAIN)}, got sha256"),
        (PLAIN[:-1], "corrupt", f"expected {len(PLAIN)} bytes of content, got {len(PLAIN) - 1}"),
        (PLAIN + b"X", "corrupt", "got more"),
        (gzip.compress(bytes(5_000_000)), "corrupt", "got more"),
        (gzip.compress(PLAIN)[:-9], "corrupt", "truncated or damaged"),
        (gzip.compress(PLAIN)[:10] + b"\xff" * 40, "corrupt", "truncated or damaged"),
        (b"", "corrupt", "got 0"),
        (None, "missing", "sgdsim data fetch single"),
    ],
)
def test_verify_judges_content(folder, content, state, words):
    if content is not None:
        put(folder, "single/plain.bin", content)
    row = fetching.verify("single", folder)[0]
    assert (row["dataset"], row["path"], row["status"], row["required"]) == ("single", "single/plain.bin", state, True)
    assert words in row["message"]
    assert "\n" not in row["message"]


def test_verify_with_several_versions(folder):
    for content, state in ((TABLE, "ok"), (OTHER, "ok"), (TABLE[::-1], "corrupt"), (b"short", "corrupt")):
        put(folder, "zipped/table.csv", content)
        assert states("zipped", folder) == [state]


def test_verify_by_md5_and_by_size_alone(folder):
    put(folder, "cifar10/one.bin", b"1" * 100)
    put(folder, "cifar10/two.bin", b"anything!!" * 20)
    assert states("tarred", folder) == ["ok", "unchecked", "missing"]
    put(folder, "cifar10/one.bin", b"2" * 100)
    put(folder, "cifar10/two.bin", b"short")
    assert states("tarred", folder) == ["corrupt", "corrupt", "missing"]


def test_verify_asks_for_the_full_or_the_partial_file(folder):
    def required_and_missing() -> list[str]:
        rows = fetching.verify("tarred", folder)
        return [row["path"] for row in rows if row["status"] == "missing" and row["required"]]

    put(folder, "cifar-10-batches-bin/two.bin", b"2" * 200)
    assert required_and_missing() == ["cifar10/one.bin"]
    put(folder, "cifar10/one.first50.bin", b"1" * 50)
    assert required_and_missing() == []
    (folder / "cifar10/one.first50.bin").unlink()
    put(folder, "cifar10/cifar-10-batches-bin/one.bin.gz", gzip.compress(b"1" * 100))
    assert required_and_missing() == []
    assert states("tarred", folder) == ["ok", "unchecked", "missing"]


def test_verify_a_folder_in_place_of_a_file(folder):
    (folder / "single/plain.bin").mkdir(parents=True)
    row = fetching.verify("single", folder)[0]
    assert row["status"] == "corrupt"
    assert "readable file" in row["message"]


def test_verify_everything(folder):
    rows = fetching.verify(data_dir=folder)
    assert [row["dataset"] for row in rows] == ["inside", "single", "single", "zipped", *["tarred"] * 3]
    assert rows[0]["status"] == "ok"
    assert {row["status"] for row in rows[1:]} == {"missing"}


def test_status_lists_files_without_reading_them(folder, monkeypatch):
    put(folder, "single/images", b"not looked at")
    monkeypatch.setattr(manifest, "judge", lambda *_: pytest.fail("read"))
    rows = {row["path"]: row for row in fetching.status(data_dir=folder)}
    assert rows[None]["present"]
    assert rows[None]["source"] == "a package"
    assert rows["single/images.gz"] == {
        "dataset": "single",
        "path": "single/images.gz",
        "size": len(IMAGES),
        "licence": "L1",
        "citation": "C1",
        "source": "http://1.invalid/images.gz",
        "present": True,
        "found": str(folder / "single/images"),
    }
    assert not rows["single/plain.bin"]["present"]
    assert rows["zipped/table.csv"]["size"] is None
    assert rows["cifar10/one.bin"]["source"] == "http://3.invalid/all.tar.gz"
    assert rows["cifar10/one.first50.bin.gz"]["source"] == "http://3.invalid/"


# The real manifest.


def test_real_manifest_is_complete():
    known = fetching.manifest()
    assert set(known) == set(datasets.NAMES)
    for entry in known.values():
        assert {"title", "homepage", "licence", "citation"} <= set(entry)
        assert ("files" in entry) != ("bundled_with" in entry)
        paths = [file["path"] for file in entry.get("files", [])]
        assert len(set(paths)) == len(paths)
        for file in entry.get("files", []):
            assert not file["path"].startswith("/")
            assert ".." not in file["path"].split("/")
            assert ("url" in file) + ("member" in file) + ("stands_in_for" in file) == 1
            assert file.get("stands_in_for", paths[0]) in paths
            assert file.get("url", "https://").startswith("https://")
            assert "member" not in file or entry["archive"]["url"].startswith("https://")
            for version in file["content"]:
                assert re.fullmatch("[0-9a-f]{64}", version.get("sha256", "0" * 64))
                assert re.fullmatch("[0-9a-f]{32}", version.get("md5", "0" * 32))
                assert {"sha256", "md5"} & set(version)
        # A tar is unpacked from its start to reach a member: only one that is known byte for byte.
        archive = entry.get("archive", {"url": "none"})
        assert not archive["url"].endswith(".tar.gz") or {"size", "sha256"} <= set(archive)


def test_real_data_are_intact():
    folder = os.environ.get("SGDSIM_DATA")
    if not folder or not any(row["found"] for row in fetching.status(data_dir=folder)):
        pytest.skip("needs the real data: set SGDSIM_DATA to the folder that holds them")
    rows = [row for row in fetching.verify(data_dir=folder) if row["status"] != "missing"]
    assert [row for row in rows if row["status"] != "ok"] == []
    assert len(rows) > 1  # more than the bundled digits
