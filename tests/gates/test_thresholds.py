"""Threshold files."""

import tomllib

import pytest

from saebench.errors import ThresholdError
from saebench.gates.rules import Role, Scope
from saebench.gates.thresholds import read_thresholds
from saebench.properties import metric_names, properties
from saebench.store.environment import baselines_dir, thresholds_path

METRICS = {"fidelity.kl", "shrinkage.l2_ratio"}


def _read(path, content):
    path.write_text(content)
    return read_thresholds(path, metrics=METRICS)


def test_rules_are_read_in_order_with_their_reasons(tmp_path):
    rules = _read(
        tmp_path / "t.toml",
        'schema_version = 1\n[fidelity]\ngates = [{rule = "fidelity.kl<=2", why = "because"}]\n'
        '[shrinkage]\ngates = [{rule = "shrinkage.l2_ratio>=1"}]\n',
    )
    assert [(r.metric, r.why) for r in rules] == [
        ("fidelity.kl", "because"),
        ("shrinkage.l2_ratio", ""),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("schema_version = 1\nfidelity = 3", r"\[fidelity\]: expected gates ="),
        ("schema_version = 1\n[fidelity]\ngates = 3", r"\[fidelity\]: expected gates ="),
        ("schema_version = 1\n[fidelity]\ngates = [3]", "each gate needs a rule, found 3"),
        ("schema_version = 1\n[fidelity]\ngates = [{why = 'x'}]", "each gate needs a rule"),
        (
            "schema_version = 1\n[fidelity]\ngates = [{rule = 'fidelity.kl<=1', y = 1}]",
            "unknown key 'y'",
        ),
        (
            "schema_version = 1\n[shrinkage]\ngates = [{rule = 'fidelity.kl<=1'}]",
            "is not about shrinkage",
        ),
        (
            "schema_version = 1\n[fidelity]\ngates = [{rule = 'fidelity.kk<=1'}]",
            "unknown metric 'fidelity.kk'; did you mean 'fidelity.kl'?",
        ),
        ("schema_version = '1'", "schema_version is 1, this saebench reads 1"),
        ("schema_version = 1.5", "schema_version is 1.5, this saebench reads 1"),
        ("schema_version = true", "schema_version is True"),
        ("a = \x00", "not valid TOML"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, content, expected):
    with pytest.raises(ThresholdError, match=expected) as caught:
        _read(tmp_path / "mine.toml", content)
    assert "mine.toml" in str(caught.value)


def test_a_rule_that_does_not_parse_names_the_file(tmp_path):
    content = "schema_version = 1\n[fidelity]\ngates = [{rule = 'fidelity.kl=1'}]"
    with pytest.raises(ThresholdError) as caught:
        _read(tmp_path / "mine.toml", content)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "nearest"),
    [
        ("fidelity.kk<=1", "did you mean 'fidelity.kl'?"),
        ("  fidelty.kl <= 1", "did you mean 'fidelity.kl'?"),
        ("sparsity.k1:+5%", "did you mean 'sparsity.l1'?"),
        ("kl_gap.ratio[eps_randm]<=2", "did you mean 'kl_gap.ratio[eps_random]'?"),
    ],
)
def test_an_unknown_metric_is_refused_with_a_caret_and_the_nearest(tmp_path, rule, nearest):
    about = rule.split(".")[0].strip()
    content = f"schema_version = 1\n[{about}]\ngates = [{{rule = '{rule}'}}]"
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ThresholdError) as caught:
        read_thresholds(tmp_path / "mine.toml", metrics=metric_names())
    said, shown, pointer = str(caught.value).splitlines()
    assert nearest in said
    assert "mine.toml" in said
    assert shown == f"  {rule}"
    assert pointer.index("^") == 2 + rule.index(about)


def test_a_reason_that_is_no_text_is_refused(tmp_path):
    content = "schema_version = 1\n[fidelity]\ngates = [{rule = 'fidelity.kl<=1', why = 3}]"
    with pytest.raises(ThresholdError, match="why"):
        _read(tmp_path / "mine.toml", content)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ThresholdError, match=r"absent\.toml: no such file"):
        thresholds_path(str(tmp_path / "absent.toml"))


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(ThresholdError, match="--sae-thresholds"):
        read_thresholds(tmp_path, metrics=METRICS)


def test_a_rule_may_be_for_some_cases_only(tmp_path):
    gates = '[ { rule = "fidelity.kl<=1", case = "scope=all" }, { rule = "fidelity.kl<=2" } ]'
    limited, every = _read(
        tmp_path / "t.toml", f"schema_version = 1\n[fidelity]\ngates = {gates}\n"
    )
    assert limited.holds_for({"scope": "all"})
    assert not limited.holds_for({"scope": "single"})
    assert not limited.holds_for({})
    assert every.holds_for({"scope": "single"})
    assert every.holds_for({})


def test_a_case_that_is_no_text_is_refused(tmp_path):
    content = 'schema_version = 1\n[fidelity]\ngates = [ { rule = "fidelity.kl<=1", case = 3 } ]\n'
    with pytest.raises(ThresholdError, match="case must be a text, found 3"):
        _read(tmp_path / "t.toml", content)


REPORTED = {
    "propagation",
    "helpfulness",
    "hard_tokens",
    "special_tokens",
    "cost",
}  # nobody has published a limit


def test_the_shipped_file_holds_every_property_to_something_or_says_that_it_is_reported():
    path = baselines_dir() / "thresholds.toml"
    rules = read_thresholds(path, metrics=metric_names())
    assert {rule.about for rule in rules} == set(properties()) - REPORTED
    assert all(rule.why for rule in rules)
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(sections) - {"schema_version"} == set(properties())
    assert [sections[name]["gates"] for name in REPORTED] == [[]] * len(REPORTED)


def test_a_rule_says_which_runs_it_is_for_and_whether_it_decides(tmp_path):
    gates = (
        '[ { rule = "fidelity.kl<=2", role = "secondary" }, '
        '{ rule = "fidelity.kl<=1", model = "gpt2*", hook = "blocks.8.*", profile = "release" } ]'
    )
    wide, narrow = _read(tmp_path / "t.toml", f"schema_version = 1\n[fidelity]\ngates = {gates}\n")
    assert (wide.role, narrow.role) == (Role.SECONDARY, Role.PRIMARY)
    assert narrow.scope == Scope("gpt2*", "blocks.8.*", "release")


def test_an_unknown_role_is_refused(tmp_path):
    gates = '[ { rule = "fidelity.kl<=2", role = "secundary" } ]'
    with pytest.raises(ThresholdError, match="unknown role 'secundary'; did you mean 'secondary'"):
        _read(tmp_path / "t.toml", f"schema_version = 1\n[fidelity]\ngates = {gates}\n")
