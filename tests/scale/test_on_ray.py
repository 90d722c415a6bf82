"""The same runs on Ray: one node, two nodes, and a node that leaves."""

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from test_sharded_runs import Commands, _judged, _numbers

if TYPE_CHECKING:
    from conftest import Gate
    from tiny import TinyWorld

ray_installed = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'pytest-saebench[ray]'",
)
pytestmark = [ray_installed, pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture
def commands(tiny: "TinyWorld", tmp_path: Path) -> Commands:
    return Commands(tiny, tmp_path)


def test_a_ray_run_finds_the_bits_of_a_local_one(gate_run: "Gate"):
    expected = _judged(gate_run)
    assert _judged(gate_run, "--sae-engine", "ray", "--sae-workers", "1") == expected


@pytest.mark.slow
def test_a_killed_actor_is_replaced(commands: Commands):
    expected = commands.finish("--sae-workers", "1")
    commands.forget()
    process = commands.start("--sae-engine", "ray", "--sae-workers", "2")
    commands.until(lambda: commands.shards() >= 3, process)
    actors = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "ray::_Actor" in " ".join(p.cmdline())
    ]
    assert actors
    actors[0].send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert _numbers(json.loads(commands.out.read_text())) == expected


@pytest.mark.slow
def test_a_node_that_leaves_takes_nothing_with_it(commands: Commands):
    from ray.cluster_utils import Cluster

    expected = commands.finish("--sae-workers", "1")
    commands.forget()
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = commands.start(
            "--sae-engine", "ray", "--sae-workers", "2", "--sae-ray-address", cluster.address
        )
        commands.until(lambda: commands.shards() >= 3, process)
        cluster.remove_node(second)
        told, _ = process.communicate(timeout=400)
        assert process.returncode == 0, told
    finally:
        cluster.shutdown()
    assert _numbers(json.loads(commands.out.read_text())) == expected
