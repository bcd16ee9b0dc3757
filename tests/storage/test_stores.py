"""Both stores keep the same promises; every test here runs on a folder and on a real S3 server."""

import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.canonical import sha256_of
from storage.errors import BadKey, Conflict, NotFound, ObjectCorrupt, StoreUnavailable
from storage.interface import Store
from storage.keys import check_key
from storage.s3_requests import S3Config
from storage.seaweed import SeaweedServer
from storage.stores import LocalStore, S3Store, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "root") if request.param == "folder" else request.getfixturevalue("s3_store")


def test_an_object_is_created_once(store: Store) -> None:
    store.create("a/b.bin", b"first")
    store.create("a/b.bin", b"first")
    with pytest.raises(Conflict, match="never replaced"):
        store.create("a/b.bin", b"other")
    with pytest.raises(Conflict):
        store.create("a/b.bin", b"a different length")
    assert store.read("a/b.bin") == b"first"


def test_a_file_is_created_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * 100)
    (tmp_path / "two").write_bytes(b"2" * 100)
    store.create_from_file("f", tmp_path / "one")
    store.create_from_file("f", tmp_path / "one")
    store.create("f", b"1" * 100)
    with pytest.raises(Conflict):
        store.create_from_file("f", tmp_path / "two")
    assert (tmp_path / "one").exists(), "only files in staging are taken"
    with store.staging() as folder:
        (folder / "staged").write_bytes(b"3")
        store.create_from_file("g", folder / "staged")
    assert [info.key for info in store.list()] == ["f", "g"]


def test_of_many_writers_one_wins(store: Store) -> None:
    wins: list[bytes] = []
    start = threading.Barrier(8)

    def write(content: bytes) -> None:
        start.wait()
        try:
            store.create("contested", content)
        except Conflict:
            return
        wins.append(content)

    writers = [threading.Thread(target=write, args=(bytes([n]) * 1000,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(wins) == 1
    assert store.read("contested") == wins[0]


def test_reading(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256))
    store.create("x", content)
    assert store.read_range("x", 10, 5) == content[10:15]
    assert store.read_range("x", 250, 100) == content[250:]
    assert store.read_range("x", 300, 5) == b""
    assert store.read_range("x", 5, 0) == b""
    info = store.stat("x")
    assert info is not None
    assert info.size == 256
    assert info.sha256 in (None, sha256_of(content))
    store.download("x", tmp_path / "copy", sha256_of(content))
    assert (tmp_path / "copy").read_bytes() == content
    with pytest.raises(ObjectCorrupt, match="damaged"):
        store.download("x", tmp_path / "bad", "0" * 64)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy"]


def test_what_is_missing(store: Store, tmp_path: Path) -> None:
    assert store.stat("no") is None
    assert list(store.list("no/")) == []
    assert list(store.folders("no/")) == []
    store.delete("no")
    for read in (
        lambda: store.read("no"),
        lambda: store.read_range("no", 0, 1),
        lambda: store.download("no", tmp_path / "x"),
    ):
        with pytest.raises(NotFound):
            read()
    store.create("folder/x", b"")
    with pytest.raises(NotFound):
        store.read("folder")


def test_listing_is_sorted_and_hides_unfinished_work(store: Store) -> None:
    keys = ["a.b", "a/b", "a/c/d", "a0", "b", "ä", "with space", "%41+&?#"]
    for key in keys:
        store.create(key, b"x")
    with store.staging() as folder:
        (folder / "unfinished").write_bytes(b"x")
        assert [info.key for info in store.list()] == sorted(keys, key=str.encode)
    assert [info.key for info in store.list("a")] == ["a.b", "a/b", "a/c/d", "a0"]
    assert [info.key for info in store.list("a/")] == ["a/b", "a/c/d"]
    assert list(store.folders()) == ["a"]
    assert list(store.folders("a/")) == ["c"]
    child = store.child("a")
    assert [info.key for info in child.list()] == ["b", "c/d"]
    assert child.child("c").read("d") == b"x"
    assert all(store.read(key) == b"x" for key in keys)


def test_deleting(store: Store) -> None:
    for key in ("a/1", "a/2/3", "ab", "b"):
        store.create(key, b"x")
    assert store.delete_prefix("a/") == 2
    assert [info.key for info in store.list()] == ["ab", "b"]
    store.delete("ab")
    assert store.purge("b") == 1
    assert list(store.list()) == []
    assert store.purge("") == 0


def test_a_store_travels(store: Store) -> None:
    store.create("x", b"1")
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy == store
    assert copy.read("x") == b"1"
    assert open_store(store.uri) == store
    assert isinstance(store, Store)


def test_the_check_passes_and_leaves_nothing(store: Store) -> None:
    store.check()
    assert list(store.list()) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/./b", "a\0b", "a\nb", ".staging/x",
                                 "a/.staging/b", "x" * 256, "/".join(["x" * 200] * 6), "\ud800"])  # fmt: skip
def test_impossible_keys_are_refused(tmp_path: Path, key: str) -> None:
    store = open_store(tmp_path)
    for use in (store.read, store.delete, store.stat, lambda key: store.create(key, b"")):
        with pytest.raises(BadKey):
            use(key)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=40))
def test_accepted_keys_stay_below_their_root(key: str) -> None:
    try:
        check_key(key)
    except BadKey:
        return
    assert Path("/root/of/all", key).resolve().is_relative_to("/root/of/all")


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("data/x") == LocalStore(str(tmp_path / "data/x")) == open_store(tmp_path / "data/x")
    assert open_store("file:///a%20b/c").uri == "file:///a%20b/c"
    assert open_store("s3://bucket/a/b/") == S3Store("bucket", "a/b")
    assert open_store("s3://bucket").uri == "s3://bucket"
    for bad in ("", "http://host/x", "s3://", "s3:///x", "s3://b/../c", "file://host/x", "s3://b/a?x=1", "gs://b/a"):
        with pytest.raises(BadKey):
            open_store(bad)


def test_a_check_tells_what_is_wrong(tmp_path: Path, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot write"):
        open_store(tmp_path / "file").check()
    with pytest.raises(StoreUnavailable, match="does not exist"):
        open_store("s3://no-such-bucket/x").check()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        open_store("s3://instaface/x", s3=S3Config(endpoint="http://127.0.0.1:9", attempts=1)).check()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreUnavailable, match="no credentials"):
        s3_store.check()


def test_a_server_with_a_name_is_asked_by_path(s3_server: SeaweedServer, s3_store: S3Store) -> None:
    """http://bucket.localhost:…/ would need a host name a bucket."""
    endpoint = s3_server.endpoint.replace("127.0.0.1", "localhost")
    named = S3Store(s3_store.bucket, s3_store.prefix, S3Config(endpoint=endpoint))
    named.create("a", b"1")
    assert s3_store.read("a") == b"1"


@pytest.mark.parametrize(
    "wrong",
    [{"addressing": "sideways"}, {"attempts": 0}, {"part_size": 1}, {"endpoint": "127.0.0.1:80"}],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        S3Config(**wrong)  # type: ignore[arg-type]


def test_s3_lists_beyond_one_page_and_deletes_as_much(s3_store: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: s3_store.create(f"many/{number:04d}", b""), range(1005)))
    assert sum(1 for _ in s3_store.list("many/")) == 1005
    assert s3_store.delete_prefix("many/") == 1005
    assert list(s3_store.list()) == []


def test_s3_takes_large_files_in_parts(s3_store: S3Store, tmp_path: Path) -> None:
    store = S3Store(s3_store.bucket, s3_store.prefix, S3Config(part_size=5 << 20))
    big = tmp_path / "big"
    big.write_bytes(b"".join(bytes([n]) * (1 << 20) for n in range(12)))
    store.create_from_file("big", big)
    store.create_from_file("big", big)
    assert store.read("big") == big.read_bytes()
    info = store.stat("big")
    assert info is not None
    assert info.sha256 == sha256_of(big.read_bytes())
    big.write_bytes(b"y" * (12 << 20))
    with pytest.raises(Conflict):
        store.create_from_file("big", big)
    assert list(store.clean(0)) == [], "a refused upload is aborted, and nothing is left on the disk"


def test_s3_compares_with_objects_of_other_programs(s3_store: S3Store) -> None:
    client = s3_store._requests._client
    client.put_object(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}/theirs", Body=b"same")
    s3_store.create("theirs", b"same")
    with pytest.raises(Conflict):
        s3_store.create("theirs", b"else")


def test_s3_cleans_up_abandoned_uploads(s3_store: S3Store) -> None:
    client = s3_store._requests._client
    client.create_multipart_upload(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}/half")
    young = list(s3_store.clean(3600))
    assert [(leftover.kind, leftover.removed) for leftover in young] == [("multipart upload", False)]
    assert [leftover.removed for leftover in s3_store.clean(0)] == [True]
    assert list(s3_store.clean(0)) == []


def test_s3_purges_versions(s3_server, s3_store: S3Store) -> None:
    client = s3_store._requests._client
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    store = open_store("s3://versioned/some/root")
    for content in (b"1", b"2"):
        store.create("x/y", content)
        store.delete("x/y")
    store.create("z", b"other prefix")
    assert list(store.list("x/")) == []
    versions = client.list_object_versions(Bucket="versioned", Prefix="some/root/x/")
    assert len(versions["Versions"]) + len(versions["DeleteMarkers"]) == 4
    assert store.purge("x/") == 4
    left = client.list_object_versions(Bucket="versioned", Prefix="some/root/")
    assert [item["Key"] for item in left["Versions"]] == ["some/root/z"]
    assert "DeleteMarkers" not in left


def test_s3_asks_for_the_key_that_encrypts(s3_store: S3Store, tmp_path: Path) -> None:
    asked = S3Store("bucket", "p", S3Config(kms_key="alias/faces"))._attributes("0" * 64)
    assert asked["ServerSideEncryption"] == "aws:kms"
    assert asked["SSEKMSKeyId"] == "alias/faces"


def test_a_folder_cleans_up_after_dead_writers_only(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    (tmp_path / "deep/.staging/dead").mkdir(parents=True)
    (tmp_path / "deep/.staging/dead/half").write_bytes(b"x")
    with store.staging() as alive:
        found = {Path(leftover.name).name: leftover.removed for leftover in store.clean(0)}
        assert found == {"dead": True, alive.name: False}
        assert alive.exists()
    assert list(itertools.chain.from_iterable(path.iterdir() for path in tmp_path.rglob(".staging"))) == []
