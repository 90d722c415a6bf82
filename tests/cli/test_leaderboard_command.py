"""saebench leaderboard."""

import json

import pytest
from stored import store


@pytest.fixture
def built(project, saebench):
    assert saebench("leaderboard", "build").code == 0
    return project


def test_build_writes_the_file_and_says_what_is_in_it(project, saebench):
    said = saebench("leaderboard", "build")
    assert said.out == "baselines/leaderboard.json: 4 SAEs on 3 boards"
    assert json.loads((project / "baselines" / "leaderboard.json").read_text())["boards"]


def test_check_is_0_for_what_build_wrote_and_1_once_a_baseline_changed(built, saebench):
    assert saebench("leaderboard", "check").code == 0
    store(built / "baselines", "new")
    said = saebench("leaderboard", "check")
    assert said.code == 1
    assert "is not what the baselines give; write it anew: saebench leaderboard build" in said.out


def test_check_is_1_where_the_file_is_missing_or_was_edited(built, saebench):
    path = built / "baselines" / "leaderboard.json"
    path.write_text(path.read_text().replace("good", "best"))
    assert saebench("leaderboard", "check").code == 1
    path.unlink()
    assert "is missing" in saebench("leaderboard", "check").out


def test_check_writes_nothing(built, saebench):
    path = built / "baselines" / "leaderboard.json"
    path.write_text("{}")
    saebench("leaderboard", "check")
    assert path.read_text() == "{}"


def test_show_sorts_by_the_metric_that_is_asked_for(built, saebench):
    said = saebench("leaderboard", "show", "--sort", "fidelity.kl", "--hook", "*1*")
    assert "by fidelity.kl" in said.out
    assert said.out.index("1 good") < said.out.index("2 bad")


def test_show_ranks_saes_of_other_tokens_on_a_board_of_their_own(built, saebench):
    said = saebench("leaderboard", "show", "--hook", "blocks.1.hook_resid_pre")
    assert "2 SAEs by kl_gap.ratio[eps_random] texts, 48" in said.out
    assert "1 SAE by kl_gap.ratio[eps_random] others, 48" in said.out


def test_a_filtered_sae_keeps_its_place_among_all(built, saebench):
    said = saebench("leaderboard", "show", "--architecture", "standard", "--hook", "*1*")
    assert "1 of 2 SAEs" in said.out
    assert "2 bad" in said.out
    assert "good" not in said.out


def test_show_takes_other_columns(built, saebench):
    usual = saebench("leaderboard", "show")
    said = saebench("leaderboard", "show", "--with", "shrinkage.l2_ratio")
    assert "sparsity." in usual.out
    assert "shrinkage." in said.out
    assert "sparsity." not in said.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--sort", "fidelity.lk"), "unknown metric 'fidelity.lk'; did you mean 'fidelity.kl'?"),
        (("--with", "sparsity.l1000"), "unknown metric 'sparsity.l1000'; did you mean"),
        (("--model", "gpt2"), "--model gpt2: no such board; known: toy"),
        (("--hook", "blocks.1.hook_resid_pr"), "did you mean 'blocks.1.hook_resid_pre'"),
        (("--architecture", "top"), "--architecture top: no such SAE; did you mean 'topk'?"),
        (("--published", "--model", "nope"), "--model nope: nothing published"),
        (("--baselines", "nowhere"), "--baselines nowhere: no such directory"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(built, saebench, options, expected):
    said = saebench("leaderboard", "show", *options)
    assert (said.code, said.out) == (4, "")
    assert expected in said.err


def test_show_without_a_file_says_how_to_make_one(project, saebench):
    said = saebench("leaderboard", "show")
    assert said.code == 4
    assert "no such file; saebench leaderboard build" in said.err


def test_a_damaged_baseline_is_named_and_nothing_is_written(project, saebench):
    path = next(project.glob("baselines/*/*/good@*.json"))
    path.write_text("{")
    said = saebench("leaderboard", "build")
    assert said.code == 4
    assert path.name in said.err
    assert not (project / "baselines" / "leaderboard.json").exists()


def test_the_installed_packages_leaderboard_is_never_written(project, saebench, monkeypatch):
    monkeypatch.setattr("saebench.store.environment._SHIPPED", project.resolve())
    said = saebench("leaderboard", "build")
    assert (said.code, said.out) == (4, "")
    assert "the installed package's are fixed" in said.err
    assert not (project / "baselines" / "leaderboard.json").exists()


def test_without_baselines_here_the_shipped_ones_are_shown(tmp_path, monkeypatch, saebench):
    monkeypatch.chdir(tmp_path)
    said = saebench("leaderboard", "show", "--hook", "blocks.2.hook_resid_pre")
    assert "saebench-demo · blocks.2.hook_resid_pre" in said.out


def test_published_figures_are_shown_apart(tmp_path, monkeypatch, saebench):
    monkeypatch.chdir(tmp_path)
    said = saebench("leaderboard", "show", "--published", "--model", "gpt2")
    assert "published, not measured here, never ranked" in said.out
    assert "2.2 … 4.5 ×" in said.out


@pytest.mark.parametrize("arguments", [(), ("shows",), ("show", "--no-such-option")])
def test_wrong_usage_ends_with_4(saebench, arguments):
    said = saebench("leaderboard", *arguments)
    assert said.code == 4
    assert "usage: saebench leaderboard" in said.err
