"""The places that a run's SAEs have, or would have, on the leaderboard, in words."""

from collections.abc import Iterator
from dataclasses import replace

from saebench.records.boards import Board, Leaderboard, Row, Score
from saebench.records.case_result import CaseResult
from saebench.records.inputs import SubjectRecord
from saebench.records.ranking import FAITHFULNESS, Place, fronts, place_of, rank
from saebench.records.run import Run
from saebench.report.style import plain_text

RANKED_BY = "kl_gap.ratio[eps_random]"


def place_lines(run: Run, leaderboard: Leaderboard, *, by: str = RANKED_BY) -> Iterator[str]:
    """Yield a sentence for each SAE that can be placed, and one for each hook whose SAEs cannot.

    Only a board of the same model, hook, tokens and noise that has other SAEs gives a place.

    Args:
        run: the run.
        leaderboard: the boards.
        by: the metric that ranks.
    """
    elsewhere: dict[str, int] = {}
    for sae in run.saes:
        case = next((c for c in run.cases_of(sae.id) if c.metric(by)), None)
        if case is None or case.basis is None:
            continue
        board = next((b for b in leaderboard.boards if _same(b, sae, case)), None)
        if board is not None:
            yield from _sentence(run, sae, case, board, by)
        elif other := _same_hook(leaderboard, sae, case):
            elsewhere[other.place] = elsewhere.get(other.place, 0) + 1
    for where, count in elsewhere.items():
        saes = "1 SAE" if count == 1 else f"{count} SAEs"
        yield plain_text(
            f"{saes} not placed on {where}: that leaderboard was measured on other tokens or seeds"
        )


def _same(board: Board, sae: SubjectRecord, case: CaseResult) -> bool:
    basis = case.basis
    return basis is not None and (
        (board.model.weights_sha256, board.model.dtype, board.hook)
        == (basis.model, basis.dtype, sae.hook)
        and (board.dataset.fingerprint, board.seed) == (basis.dataset, basis.seed)
    )


def _same_hook(leaderboard: Leaderboard, sae: SubjectRecord, case: CaseResult) -> Board | None:
    model = case.basis.model if case.basis else None
    boards = (b for b in leaderboard.boards if b.model.weights_sha256 == model)
    return next((board for board in boards if board.hook == sae.hook), None)


def _sentence(
    run: Run, sae: SubjectRecord, case: CaseResult, board: Board, by: str
) -> Iterator[str]:
    row = _row(run, sae, board)
    others = tuple(other for other in board.rows if other.key != row.key)
    joined = replace(board, rows=(*others, row))
    if not others or by not in board.metrics:
        return
    score = row.scores[case.kind][by]
    place = place_of(rank(joined, by, case=case.kind), score, without=row)
    if place is None:
        return
    is_new = len(others) == len(board.rows)
    on = [metric for metric, keys in fronts(joined).items() if row.key in keys]
    yield plain_text(
        f"{sae.id}: {'would be' if is_new else 'is'} {_in_words(place)} on {board.place} by {by}"
        + _on_fronts(on)
    )


def _row(run: Run, sae: SubjectRecord, board: Board) -> Row:
    """Return the SAE's row: its cases on the board's tokens."""
    cases = [
        case
        for case in run.cases_of(sae.id)
        if case.basis is not None
        and (case.basis.dataset, case.basis.seed) == (board.dataset.fingerprint, board.seed)
    ]
    return Row(
        sae.id, sae.weights_sha256, sae.config_sha256, sae.architecture, sae.d_sae,
        sae.training_context, verdicts={case.kind: case.verdict.value for case in cases},
        scores={case.kind: {m.name: Score.of(m) for m in case.metrics} for case in cases},
    )  # fmt: skip


def _in_words(place: Place) -> str:
    words = f"{_ordinal(place.place)} of {place.of}"
    if place.best == place.worst:
        return words
    return f"{words} ({_ordinal(place.best)} to {_ordinal(place.worst)} within its interval)"


def _on_fronts(metrics: list[str]) -> str:
    if not metrics:
        return "; on no Pareto front"
    drawn = " and ".join(f"l0 × {metric}" for metric in FAITHFULNESS if metric in metrics)
    return f"; on the Pareto front of {drawn}"


def _ordinal(number: int) -> str:
    """Return a place in words.

    Example:
        >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 112)]
        ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    tens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if tens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
