"""Two processes of jax.distributed on the loopback interface, each with half of the rows, agree with one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fundl import linear_regression, logistic_regression

pytestmark = pytest.mark.large

SECONDS = 240  # after which both are killed

WORKER = """
import json, sys
process, port, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_enable_preemption_service", False)
address = f"127.0.0.1:{port}"
jax.distributed.initialize(
    coordinator_address=address, num_processes=2, process_id=process, initialization_timeout=60,
    heartbeat_timeout_seconds=20, shutdown_timeout_seconds=20,
    coordinator_bind_address=address if process == 0 else None,
)
import numpy as np
from fundl import linear_regression, logistic_regression

rng = np.random.default_rng(0)
X, y = rng.normal(size=(16, 2)), rng.normal(size=16)
X[:, 0] += 1e6
labels = (rng.random(16) < 0.5) * 1.0
half = slice(8 * process, 8 * process + 8)
mesh = jax.make_mesh((2,), ("rows",), axis_types=(getattr(jax.sharding.AxisType, kind),))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
A, b, c = (jax.make_array_from_process_local_data(rows, v[half]) for v in (X, y, labels))
assert not A.is_fully_addressable
found = {
    "linear": linear_regression.fit(A, b).params,
    "logistic": logistic_regression.fit(A - np.array([[1e6, 0.0]]), c, l2=1.0).params,
}
found = {name: [np.asarray(v).tolist() for v in params] for name, params in found.items()}
print("FOUND", json.dumps(found), flush=True)
jax.distributed.shutdown()
"""


def problem():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(16, 2)), rng.normal(size=16)
    X[:, 0] += 1e6
    return X, y, (rng.random(16) < 0.5) * 1.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def two_processes(code: str, *arguments: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of both; one device each, and killed (they may ignore SIGTERM) when time is up."""
    port = str(free_port())
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    source = str(Path(linear_regression.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i), port, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        ended = [worker.communicate(timeout=SECONDS) for worker in workers]
        return [(worker.returncode, *texts) for worker, texts in zip(workers, ended, strict=True)]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.parametrize("kind", [pytest.param("Auto", marks=pytest.mark.slow), "Explicit"])
def test_two_processes_give_the_fits_of_one(kind):
    done = two_processes(WORKER, kind)
    if any("address already in use" in errors.lower() for _, _, errors in done):
        done = two_processes(WORKER, kind)  # another program took the port in between
    for status, output, errors in done:
        assert status == 0, f"{output}\n{errors[-4000:]}"
    X, y, labels = problem()
    linear = linear_regression.fit(X, y).params
    logistic = logistic_regression.fit(X - np.array([[1e6, 0.0]]), labels, l2=1.0).params
    for _, output, _ in done:
        found = json.loads(output.split("FOUND", 1)[1])
        for name, params, tolerance in (("linear", linear, 1e-13), ("logistic", logistic, 1e-9)):
            for got, want in zip(found[name], params, strict=True):
                np.testing.assert_allclose(got, want, rtol=tolerance)


def test_a_process_alone_with_its_half_is_seen():
    """The comparison above is not vacuous: half of the rows have another fit."""
    X, y, _ = problem()
    half, whole = linear_regression.fit(X[:8], y[:8]).params, linear_regression.fit(X, y).params
    assert not np.allclose(half.w, whole.w, rtol=1e-3)
