"""Which rules hold for a run: by model, hook and profile."""

from dataclasses import replace

import pytest

from saebench.gates.rules import Scope, in_force
from saebench.gates.thresholds import parse_rule

RUN = Scope("gpt2-small", "blocks.8.hook_resid_pre", "standard")


def _rule(text="fidelity.kl<=1", **scope):
    return replace(parse_rule(text), scope=Scope(**scope))


@pytest.mark.parametrize(
    ("scope", "holds"),
    [
        ({}, True),
        ({"model": "gpt2*"}, True),
        ({"model": "pythia*"}, False),
        ({"hook": "blocks.8.*"}, True),
        ({"hook": "blocks.9.*"}, False),
        ({"profile": "standard"}, True),
        ({"model": "gpt2*", "profile": "release"}, False),
    ],
)
def test_a_rule_holds_for_the_runs_that_it_names(scope, holds):
    rule = _rule(**scope)
    assert in_force((rule,), RUN) == ((rule,) if holds else ())


def test_the_narrowest_rule_of_a_metric_takes_the_place_of_wider_ones():
    wide, model, both = _rule(), _rule(model="gpt2*"), _rule(model="gpt2*", profile="standard")
    assert in_force((wide, model, both), RUN) == (both,)
    assert in_force((wide, model, both), replace(RUN, profile="smoke")) == (model,)
    assert in_force((wide, model, both), Scope("pythia", "x", "smoke")) == (wide,)


def test_a_margin_or_a_control_takes_no_limits_place():
    limit, margin = _rule(), _rule("fidelity.kl:+5%", model="gpt2*")
    control = _rule("fidelity.kl<control.random_init", hook="blocks.8.*")
    assert in_force((limit, margin, control), RUN) == (limit, margin, control)


def test_rules_of_equal_narrowness_stand_beside_each_other():
    low, high = _rule("fidelity.kl>=0", model="gpt2*"), _rule("fidelity.kl<=1", hook="blocks.8.*")
    assert in_force((low, high), RUN) == (low, high)


def test_no_rule_takes_the_command_lines_place():
    given = replace(_rule("fidelity.kl<=2"), given=True)
    narrow = _rule(model="gpt2*")
    assert in_force((narrow, given), RUN) == (narrow, given)
