"""A real S3 server behind a proxy that throttles, cuts, loses and falsifies."""
# ruff: noqa: F811 - fixtures are imported, and named again as parameters

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from s3_server import s3_server, use_temporary_folder  # noqa: F401

from storage.errors import ObjectCorrupt, StoreUnavailable
from storage.interface import Store
from storage.s3_requests import S3Config
from storage.seaweed import SeaweedServer
from storage.stores import open_store

pytestmark = pytest.mark.faults

CONTENT = random.Random(0).randbytes(300_000)
LARGE = random.Random(1).randbytes(11 << 20)


@pytest.fixture
def proxy(s3_server: SeaweedServer) -> FaultyProxy:
    return FaultyProxy(s3_server.endpoint)


@pytest.fixture
def stores(
    proxy: FaultyProxy,
    s3_server: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Store, Store]]:
    """The same place through the proxy and directly."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    use_temporary_folder(tmp_path_factory.mktemp("uploads") / "scratch", monkeypatch)
    uri = f"s3://{s3_server.bucket}/faults-{uuid.uuid4().hex}"
    with proxy.serving() as endpoint:
        through = S3Config(endpoint=endpoint, addressing="path", part_size=5 << 20)
        yield open_store(uri, s3=through), open_store(uri, s3=s3_server.config)


def _large(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path / "large"


def _attempts(proxy: FaultyProxy, method: str, where: str = "") -> int:
    return sum(1 for asked, path, _ in proxy.requests if asked == method and where in path)


@pytest.mark.parametrize(
    ("fault", "times"),
    [("503", 3), ("409", 3), ("cut request", 2), ("flip request", 2), ("lose answer", 1), ("lose answer", 3)],
)
def test_an_upload_gets_through(proxy: FaultyProxy, stores: tuple[Store, Store], fault: str, times: int) -> None:
    faulty, direct = stores
    proxy.break_next(fault, times, "PUT")
    faulty.create("x", CONTENT)
    assert direct.read("x") == CONTENT
    # The first lost answer was that of the write that counted; the next attempt is told so.
    expected = times + 1
    assert _attempts(proxy, "PUT") == expected
    assert expected <= 5


@pytest.mark.parametrize(("fault", "times"), [("503", 3), ("cut answer", 3), ("flip answer", 3), ("lose answer", 2)])
def test_a_download_gets_through(
    proxy: FaultyProxy, stores: tuple[Store, Store], tmp_path: Path, fault: str, times: int
) -> None:
    faulty, direct = stores
    direct.create("x", CONTENT)
    proxy.break_next(fault, times, "GET")
    assert faulty.read("x") == CONTENT
    proxy.break_next(fault, times, "GET")
    faulty.download("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert _attempts(proxy, "GET") == times + 1


@pytest.mark.parametrize(
    ("fault", "times"), [("503", 3), ("cut request", 2), ("flip request", 2), ("lose answer", 2), ("409", 1)]
)
def test_a_part_gets_through(
    proxy: FaultyProxy, stores: tuple[Store, Store], tmp_path: Path, fault: str, times: int
) -> None:
    faulty, direct = stores
    proxy.break_next(fault, times, "PUT", "partNumber=2")
    faulty.create_from_file("large", _large(tmp_path))
    assert direct.read("large") == LARGE
    assert _attempts(proxy, "PUT", "partNumber=2") == times + 1
    assert list(direct.clean(0)) == []


@pytest.mark.parametrize(("fault", "times"), [("503", 3), ("409", 2), ("lose answer", 1)])
def test_the_completion_gets_through(
    proxy: FaultyProxy, stores: tuple[Store, Store], tmp_path: Path, fault: str, times: int
) -> None:
    faulty, direct = stores
    proxy.break_next(fault, times, "POST", "uploadId=")
    faulty.create_from_file("large", _large(tmp_path))
    assert direct.read("large") == LARGE
    assert list(direct.clean(0)) == []


@pytest.mark.parametrize("fault", ["503", "cut request", "flip request"])
def test_an_upload_that_never_gets_through_shows_nothing(
    proxy: FaultyProxy, stores: tuple[Store, Store], tmp_path: Path, fault: str
) -> None:
    faulty, direct = stores
    proxy.break_next(fault, 100, "PUT", "large")
    with pytest.raises(StoreUnavailable, match="tried 5 times"):
        faulty.create_from_file("large", _large(tmp_path))
    proxy.break_next(fault, 100, "PUT")
    with pytest.raises(StoreUnavailable, match="tried 5 times"):
        faulty.create("small", CONTENT)
    assert list(direct.list()) == []
    assert list(direct.clean(0)) == [], "the upload was aborted"


@pytest.mark.parametrize(
    ("fault", "error"), [("503", StoreUnavailable), ("cut answer", StoreUnavailable), ("flip answer", ObjectCorrupt)]
)
def test_a_download_that_never_gets_through_leaves_nothing(
    proxy: FaultyProxy, stores: tuple[Store, Store], tmp_path: Path, fault: str, error: type[Exception]
) -> None:
    faulty, direct = stores
    direct.create("x", CONTENT)
    proxy.break_next(fault, 100, "GET")
    with pytest.raises(error):
        faulty.download("x", tmp_path / "x")
    with pytest.raises(error):
        faulty.read("x")
    assert list(tmp_path.iterdir()) == []


def test_a_listing_gets_through(proxy: FaultyProxy, stores: tuple[Store, Store]) -> None:
    faulty, direct = stores
    direct.create("x", b"")
    proxy.break_next("503", 3, "GET", "list-type=2")
    assert [info.key for info in faulty.list()] == ["x"]
