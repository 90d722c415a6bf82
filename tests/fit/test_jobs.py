"""The numbers of a job: declared once, refused out of range, taken over by the command."""

import math
from argparse import ArgumentParser
from pathlib import Path

import pytest

from saebench.cli.fit_arguments import add_numbers, values_for
from saebench.errors import OptionError
from saebench.fit import COUNT, POSITIVE, SEED, SHARE, numbers_of
from saebench.fit.repair import Method, RepairJob
from saebench.fit.training import Judging, Objective, Sparsity, TrainJob

JOBS = (RepairJob, TrainJob, Judging)


def _train_job(**numbers):
    return TrainJob(Objective.FROZEN, "blocks.0.hook_z", Path("o"), Sparsity("topk", 4), **numbers)


def _repair_job(**numbers):
    return RepairJob("sae", Path("out"), Method.SCALE, **numbers)


MAKE = {RepairJob: _repair_job, TrainJob: _train_job, Judging: Judging}


@pytest.mark.parametrize("job", JOBS)
def test_every_number_of_a_job_is_an_option_with_its_default_and_its_help(job):
    parser = ArgumentParser()
    add_numbers(parser, job)
    options = parser.parse_args([])
    declared = {n: f for n, f in job.__dataclass_fields__.items() if "int" in str(f.type) or
                "float" in str(f.type)}  # fmt: skip
    declared.pop("holdout_every", None)  # set by the sweep alone
    assert {each.name for _, each in numbers_of(job)} == set(declared)
    for name, field in declared.items():
        assert getattr(options, name) == field.default
    assert all(each.metadata["help"] for _, each in numbers_of(job))


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_made_from_the_numbers_that_the_command_was_given(job):
    parser = ArgumentParser()
    add_numbers(parser, job)
    given = {option: 0.5 if each.metadata["kind"] is float else 7
             for option, each in numbers_of(job)}  # fmt: skip
    options = parser.parse_args([str(word) for pair in given.items() for word in pair])
    options.out = "out"
    numbers = {k: v for k, v in values_for(job, options).items() if k != "out"}
    filled = MAKE[job](**numbers)
    for option, each in numbers_of(job):
        assert getattr(filled, each.name) == given[option]


@pytest.mark.parametrize(
    ("make", "name", "value", "said"),
    [
        (make, each.name, value, f"{option} must be {allowed.text}, found {value}")
        for job, make in MAKE.items()
        for option, each in numbers_of(job)
        for allowed in (each.metadata["allowed"],)
        for value in (allowed.least - 1, allowed.below, math.nan)
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_option(make, name, value, said):
    with pytest.raises(OptionError, match=f"^{said.replace('+', '.')}$"):
        make(**{name: value})


def test_ranges_have_their_ends():
    assert 1 in COUNT
    assert 5e-324 in POSITIVE
    assert math.inf not in POSITIVE
    assert (0 in SHARE, 1 in SHARE) == (True, False)
    assert (2**31 - 1 in SEED, 2**31 in SEED) == (True, False)


@pytest.mark.parametrize("make", [_train_job, _repair_job])
def test_resume_and_force_exclude_each_other(make):
    with pytest.raises(OptionError, match="give one of the two"):
        make(resume=True, force=True)


def test_a_fit_is_checked_twenty_times_or_at_every_step_or_million():
    assert _repair_job(tokens=100_000, batch_tokens=64).plan.check_tokens == 5000
    assert _repair_job(tokens=1000, batch_tokens=64).plan.check_tokens == 64
    assert _train_job(tokens=10**9).plan(diverges_from=0.0).check_tokens == 1_000_000


def test_a_baseline_is_never_taken_for_converged():
    assert _repair_job(tolerance=0.1).plan.tolerance == 0.1
    assert RepairJob("s", Path("o"), Method.BASELINE, tolerance=0.1).plan.tolerance == 0
