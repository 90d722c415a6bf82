"""``saebench list --metrics``: every metric with the page that defines it."""

from saebench.cli import main
from saebench.properties import metric_names


def test_every_metric_is_listed_with_its_page(capsys):
    assert main(["list", "--metrics"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "metric"
    assert {row.split()[0] for row in rows} == metric_names()
    assert all("docs/metrics.md#" + row.split(".")[0] == row.split()[-1] for row in rows)


def test_a_pattern_chooses_metrics_and_brackets_mean_themselves(capsys):
    assert main(["list", "--metrics", "kl_gap.ratio[eps_random]", "shrinkage.*"]) == 0
    names = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
    assert set(names) == {
        "kl_gap.ratio[eps_random]", "shrinkage.l2_ratio", "shrinkage.reconstruction_bias",
    }  # fmt: skip


def test_a_metric_with_a_target_says_its_target(capsys):
    assert main(["list", "--metrics", "shrinkage.l2_ratio"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split() == ["shrinkage.l2_ratio", "×", "1", "v1", "docs/metrics.md#shrinkage"]


def test_a_pattern_that_fits_nothing_is_a_usage_error(capsys):
    assert main(["list", "--metrics", "fidelity.nothing"]) == 4
    assert "no metric fits fidelity.nothing" in capsys.readouterr().err
