"""Runs on a real Dask cluster of processes, whose workers are killed with SIGKILL.

`CLUSTER_ENVIRONMENTS=500 CLUSTER_KILLS=20` runs the long form, with kills at random moments.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_control import Dialect, Sandbox

from provisioner.cli import main
from provisioner.model.token_claims import claims_of
from provisioner.runtime import cluster
from provisioner.runtime.cluster import Cluster, ClusterError
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.runtime.cancellation import Cancellation

distributed = pytest.importorskip("distributed", reason="needs the extra `dask`")
dask = pytest.importorskip("dask")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask itself, about its own shutdown

ENVIRONMENTS = int(os.environ.get("CLUSTER_ENVIRONMENTS", "4"))
KILLS = int(os.environ.get("CLUSTER_KILLS", "0"))
WORKERS = 4 if KILLS else 2
KEYS = ("svc-a", "svc-b", "svc-c")


class Workers:
    """The processes of a local cluster."""

    def __init__(self) -> None:
        # Otherwise a worker that starts slowly on a busy machine is not restarted after a kill.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"})
        self._cluster: Any = distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=2,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        self.address = self._cluster.scheduler_address.removeprefix("tcp://")

    def kill_at_random(self, run_ended: threading.Event) -> int:
        """Kill workers of a run, each once the one before was replaced; return how many."""

        def wait(condition: Callable[[], bool]) -> None:
            while not condition() and not run_ended.wait(0.05):
                pass

        scheduler = self._cluster.scheduler
        wait(lambda: bool(scheduler.tasks))
        for killed in range(KILLS):
            wait(lambda: len(scheduler.workers) == WORKERS)
            if run_ended.wait(random.random()):
                return killed
            address, victim = random.choice(list(scheduler.workers.items()))
            os.kill(victim.pid, signal.SIGKILL)
            wait(lambda address=address: address not in scheduler.workers)
        return KILLS

    def close(self) -> None:
        self._cluster.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers()
    yield started
    started.close()


@pytest.fixture
def servers() -> Iterator[list[Sandbox]]:
    with ExitStack() as stack:
        started: list[Sandbox] = []
        for number in range(ENVIRONMENTS):
            dialect = (Dialect.LEGACY, Dialect.CORE_1)[number % 2]
            sandbox = Sandbox(None, dialect, beside=started[0] if started else None)
            started.append(stack.enter_context(sandbox))
        yield started


def write_manifests(folder: Path, servers: list[Sandbox]) -> None:
    """Declare an environment for each server, with credentials in files that workers read.

    In the short form, the program of the first sink kills its worker before it stores the token.
    """
    environments = {}
    for number, server in enumerate(servers):
        secret = folder.parent / f"token-{number}"
        secret.write_text(server.api_token())
        body = {"url": server.url, "auth": {"token_file": str(secret)}, "role": "Admin"}
        environments[f"shop-{number}"] = body
    stored, mark = folder.parent / "{environment} {name}", folder.parent / "killed"
    if KILLS:
        mark.mkdir()
    store = f"mkdir '{mark}' 2>/dev/null && kill -9 $PPID && exit; cat >'{stored}'"
    sink = {"command": ["sh", "-c", store], "check": ["cat", str(stored)]}
    manifest = {
        "version": 1,
        "environments": list(environments),
        "defaults": {"expires": "90d", "deliver": [sink]},
        "keys": [{"name": name} for name in KEYS],
    }
    folder.mkdir()
    declared = {"version": 1, "environments": environments}
    (folder / "environments.yaml").write_text(json.dumps(declared))
    (folder / "keys.yaml").write_text(json.dumps(manifest))


def test_killed_workers_cost_no_key_and_make_none_twice(workers, servers, tmp_path, capsys) -> None:
    """The run ends with exit code 0, and reports each key that exists as created, exactly once."""
    write_manifests(tmp_path / "manifests", servers)
    ended = threading.Event()
    command = ["apply", "-m", str(tmp_path / "manifests"), "--format", "json"]
    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(workers.kill_at_random, ended)
        code = main([*command, "--executor", f"dask://{workers.address}"])
        ended.set()
    out, err = capsys.readouterr()
    assert code == 0, (err, out)
    assert killed.result() == KILLS
    document = json.loads(out)
    for number, server in enumerate(servers):
        live = [one for one in server.keys() if one.name in KEYS and not one.revoked_at]
        assert Counter(one.name for one in live) == dict.fromkeys(KEYS, 1)
        part = document["environments"][number]
        assert {one["name"]: one["id"] for one in part["results"]} == {
            one.name: one.id for one in live
        }
        assert part["summary"]["created"] == len(KEYS)
        for key in live:
            token = Secret((tmp_path / f"shop-{number} {key.name}").read_text().strip())
            claims = claims_of(token)
            assert claims is not None
            assert claims.key == key.id


def test_what_writes_is_called_once_although_dask_calls_it_again(workers, tmp_path) -> None:
    """Dask gives the call of a killed worker to another one, which does not get the ticket."""
    calls = tmp_path / "calls"

    def die(value: bytes, stop: Cancellation) -> bytes:
        del stop
        path = value.decode()
        first = not os.path.exists(path)  # noqa: PTH110 - works without this module
        with open(path, "a") as file:  # noqa: PTH123 - as above
            file.write("called\n")
        if first:
            os.kill(os.getpid(), 9)
        return b"done"

    with closing(Cluster(workers.address)) as connected:
        ticket = connected.ticket()
        once = connected.submit(die, str(calls).encode(), lambda result: result, ticket)
        assert once.result(300) == "its worker was lost"
        assert not ticket.withdraw()
        unused = connected.ticket()
        assert unused.withdraw()
        too_late = connected.submit(die, str(calls).encode(), lambda result: result, unused)
        assert too_late.result(300) == "its worker was lost"
    assert calls.read_text() == "called\n"


def test_a_cluster_that_does_not_answer_is_named(monkeypatch) -> None:
    """The run ends before anything is sent."""
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.1)
    with pytest.raises(ClusterError, match="cannot be reached"):
        Cluster("127.0.0.1:9")
