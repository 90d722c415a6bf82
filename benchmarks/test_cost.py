"""How fast are the SAE and the gate's core, and how large?"""

import pytest


@pytest.mark.property(name="cost")
@pytest.mark.parametrize("part", ["reconstruct", "core"])
def test_cost(benchmark, workload, measure, gate, part) -> None:
    """Encode and decode alone are timed, and clean pass, SAE and zero ablation together."""
    benchmark.pedantic(workload(part), rounds=3, warmup_rounds=1)
    case = measure("cost", part=part)
    benchmark.extra_info.update({metric.name: metric.value for metric in case.metrics})
    gate(case)
