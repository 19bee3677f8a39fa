"""For every test: nothing of the person who runs it is read or written, and a fault of the planner is raised."""

import os
from collections.abc import Iterator
from itertools import count

import pytest

os.environ["VLLM_FIT_DEBUG"] = "1"

_NUMBERS = count()


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What can be found out again is found out once for all workers of a run; nothing else is shared by them."""
    of_worker = tmp_path_factory.getbasetemp()
    of_run = of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else of_worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(of_run / "cache-home"))
        patch.setenv("XDG_DATA_HOME", str(of_worker / "data-home"))
        yield


@pytest.fixture(autouse=True)
def own_history(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one test measures is in no other's history. The folder is not made: it need not be there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / f"data-home-{next(_NUMBERS)}"))
