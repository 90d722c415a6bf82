"""Properties of other distributions: found by name, imported when needed, named in errors."""

import re
import sys

import pytest
from distributions import Site

from saebench.errors import OptionError
from saebench.properties import GROUP, find_property, metric_names, properties

PROPERTY = """
from saebench.properties.base import Findings, MetricSpec, Property, mean_of
from saebench.records.metric import Direction
SPEC = MetricSpec("{metric}", "nats", Direction.LOWER, mean_of("sae.kl"), ("sae.kl",))
PROPERTY = Property("{name}", "theirs", (SPEC,), lambda _: ("sae",), lambda m, _: Findings(()))
"""
GOOD = PROPERTY.format(name="mylab", metric="mylab.kl")


def _install(site: Site, code: str, *, name: str = "mylab") -> None:
    site.install(name, {GROUP: f"{name}.code:PROPERTY"}, code=code)


def test_it_is_one_of_the_properties(site: Site):
    _install(site, GOOD)
    assert find_property("mylab").summary == "theirs"
    assert "mylab" in properties()
    assert "mylab.kl" in metric_names()


def test_it_is_not_imported_for_saebenchs_own(site: Site):
    _install(site, "raise OSError('no')")
    assert find_property("fidelity").name == "fidelity"
    assert "mylab.code" not in sys.modules


def test_an_unknown_name_suggests_it(site: Site):
    _install(site, GOOD)
    with pytest.raises(OptionError, match="unknown property 'mylb'; did you mean 'mylab'"):
        find_property("mylb")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise OSError('no')", "cannot be imported: OSError('no'); repair or uninstall mylab"),
        ("PROPERTY = 3", "is a int, expected a saebench Property"),
        (PROPERTY.format(name="other", metric="other.kl"), "calls itself 'other'"),
        (PROPERTY.format(name="mylab", metric="fidelity.kl"), "begins with its property's: mylab"),
    ],
)
def test_one_that_cannot_be_used_is_named_with_its_distribution(code, message, site: Site):
    _install(site, code)
    with pytest.raises(OptionError, match=re.escape("'mylab' (mylab.code:PROPERTY of mylab)")) as e:
        find_property("mylab")
    assert message in str(e.value)


def test_the_name_of_one_of_saebenchs_own_is_refused(site: Site):
    _install(site, PROPERTY.format(name="fidelity", metric="fidelity.kl"), name="fidelity")
    with pytest.raises(OptionError, match="'fidelity' .* has the name of one of saebench's own"):
        properties()


def test_one_name_in_two_distributions_is_refused(site: Site):
    for distribution in ("first", "second"):
        site.declare(distribution, {GROUP: {"mylab": "mylab.code:PROPERTY"}})
    with pytest.raises(OptionError, match=r"'mylab' .* declared more than once \(first, second\)"):
        find_property("mylab")
