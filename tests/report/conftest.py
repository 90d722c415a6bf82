"""Made-up runs for reports."""

from dataclasses import replace

import pytest
from runs import make_case, make_gate, make_run

from saebench.records.verdict import Verdict


@pytest.fixture
def mixed_run():
    return make_run(
        make_case("one", "sparsity", Verdict.PASS),
        make_case("one", "shrinkage", Verdict.INCONCLUSIVE),
        make_case("one", "kl_gap", Verdict.ERROR, error="NonFiniteValue: logits overflow"),
        make_case("one", "fidelity", Verdict.FAIL),
        make_case("two", "fidelity", Verdict.NEW, gated=False),
        saes=("one", "two"),
    )


@pytest.fixture(params=["[red]markup[/red]", "[/]", "<img src=x>", "a\nb", "\x1b[31mred", "ö😀"])
def hostile_name(request):
    return request.param


@pytest.fixture
def hostile_run(hostile_name):
    return make_run(make_case(hostile_name, "fidelity", Verdict.FAIL), saes=(hostile_name,))


@pytest.fixture
def long_run():
    return make_run(make_case("one", "kl_gap", Verdict.PASS, name="kl_gap.ratio[error_shuffled]"))


@pytest.fixture
def scopes_run():
    """A run of two cases that report one metric, as 1.5 and 7; some of them gated."""
    name = "kl_gap.explained_by_norm"

    def made(*, gate=name, **gated):
        cases = []
        for (scope, is_gated), value in zip(gated.items(), (1.5, 7.0), strict=True):
            case = make_case("one", "kl_gap", Verdict.PASS if is_gated else Verdict.NEW, name=name)
            cases.append(
                replace(
                    case,
                    id=f"kl_gap[scope={scope}]@one",
                    metrics=(replace(case.metrics[0], value=value, ci=None),),
                    gates=(make_gate(gate, Verdict.PASS),) if is_gated else (),
                )
            )
        return make_run(*cases)

    return made
