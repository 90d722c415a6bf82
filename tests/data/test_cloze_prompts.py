"""Cloze prompts: reading, splitting, and tokens as docs/metrics.md defines them."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.data.cloze_tokens import ClozePrompt, ClozeTokens, tokenise
from saebench.data.prompts import open_prompts, split_last_word
from saebench.errors import DataError

BOS, EOS = 0, 1


class _Letters:
    """A token a letter; '$' is EOS."""

    bos_token_id: int | None = BOS

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": _ids(text)}


class _Words:
    """A token a word; 'New York' is one token."""

    bos_token_id = BOS
    words = ("<s>", "</s>", "I", "saw", "New", "York", "New_York", "Bob")

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        joined = text.replace("New York", "New_York")
        return {"input_ids": [self.words.index(word) for word in joined.split()]}


def _ids(text: str) -> list[int]:
    return [EOS if c == "$" else ord(c) for c in text]


def _tokens(*pairs: tuple[str, str], tokenizer: Any = None, **options: Any) -> ClozeTokens:
    given: dict[str, Any] = {
        "context": 100, "prepend_bos": True, "special_ids": frozenset({BOS, EOS}),
    }  # fmt: skip
    prompts = [ClozePrompt(*pair) for pair in pairs]
    return tokenise(prompts, tokenizer or _Letters(), **(given | options))


def _read(tmp_path: Any, *rows: Any) -> list[ClozePrompt]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return list(open_prompts(str(path)))


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("Ann saw Bob", "Ann saw", "Bob"),
        ("Ann saw Bob \n", "Ann saw", "Bob"),
        ("he said 'no way'", "he said 'no", "way'"),
        ("one\ntwo three", "one\ntwo", "three"),
        ("alone", "", "alone"),
    ],
)
def test_the_last_word_is_what_follows_the_last_space(text, prompt, answer):
    assert split_last_word(text) == ClozePrompt(prompt, answer)


def test_lines_are_passages_or_prompts_with_answers_and_options(tmp_path):
    found = _read(
        tmp_path,
        {"text": "Ann saw Bob"},
        "",
        {"prompt": "Ann saw", "answer": "Zoë"},
        {"prompt": "Ann saw", "answer": "Bob", "options": ["Bob", "Ann"]},
    )
    assert found == [
        ClozePrompt("Ann saw", "Bob"),
        ClozePrompt("Ann saw", "Zoë"),
        ClozePrompt("Ann saw", "Bob", ("Bob", "Ann")),
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a b"}, "'answer'"),
        ({"answer": "a"}, "'prompt'"),
        ({"prompt": "a b", "answer": 3}, "'answer'"),
        ({"text": None}, "'prompt'"),
        ({"text": "alone"}, "empty"),
        ({"prompt": "a b", "answer": ""}, "empty"),
        ({"prompt": "", "answer": "a"}, "empty"),
        (["a"], "expected an object, found list"),
        ("{", "not valid JSON"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused_with_its_number_and_field(tmp_path, row, expected):
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 3: .*" + expected):
        _read(tmp_path, {"text": "a b"}, "", row)


@pytest.mark.parametrize("row", [{"prompt": "a", "answer": " "}, {"prompt": " ", "answer": "a"}])
def test_a_prompt_or_answer_of_spaces_is_empty(tmp_path, row):
    """Tokens are made of what is left without the spaces: nothing would be predicted."""
    with pytest.raises(DataError, match="line 1: .*empty"):
        _read(tmp_path, row)


@pytest.mark.parametrize("options", [3, "Bob", [1, 2]])
def test_options_that_are_no_list_of_words_are_refused(tmp_path, options):
    with pytest.raises(DataError, match="line 1: .*'options'"):
        _read(tmp_path, {"prompt": "a b", "answer": "c", "options": options})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        list(open_prompts(str(tmp_path / "none.jsonl")))


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "odd.jsonl").write_bytes(b'{"text": "a \xff\xfe"}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl"):
        list(open_prompts(str(tmp_path / "odd.jsonl")))


def test_bos_prompt_space_and_answer_in_order():
    found = _tokens(("ab", "cd"))
    assert found.ids.tolist() == [[BOS, *_ids("ab cd")]]
    assert (found.length.tolist(), found.answer.tolist(), found.cut) == ([6], [3], 0)


def test_spaces_around_prompt_and_answer_make_no_difference():
    plain = _tokens(("ab", "c"))
    for pair in (("ab ", "c"), ("ab", " c"), ("ab \n", " c ")):
        found = _tokens(pair)
        assert found.ids.tolist() == plain.ids.tolist()
        assert found.fingerprint == plain.fingerprint


def test_shorter_prompts_are_padded_on_the_right():
    found = _tokens(("abc", "d"), ("a", "d"))
    assert found.ids.tolist() == [[BOS, *_ids("abc d")], [BOS, *_ids("a d"), 0, 0]]
    assert found.length.tolist() == [6, 4]


def test_only_the_prompts_own_tokens_are_counted():
    """Not position 0, no special token, no answer, no padding."""
    found = _tokens(("a$b", "cd"), ("xyzuvw", "$"))
    assert found.counted.tolist() == [
        [False, True, False, True, *[False] * 5],
        [False, *[True] * 6, False, False],
    ]


@pytest.mark.parametrize("none", ["tokenizer", "sae"])
def test_without_bos_the_prompts_first_token_is_at_position_0_and_not_counted(none, monkeypatch):
    if none == "tokenizer":
        monkeypatch.setattr(_Letters, "bos_token_id", None)
    found = _tokens(("abc", "d"), prepend_bos=none == "tokenizer")
    assert found.ids.tolist() == [_ids("abc d")]
    assert found.counted.tolist() == [[False, True, True, False, False]]


def test_a_prompt_beyond_the_models_context_loses_its_beginning():
    found = _tokens(("abcdefgh", "xy"), ("ab", "xy"), context=7)
    assert found.ids.tolist() == [[BOS, *_ids("fgh xy")], [BOS, *_ids("ab xy"), 0]]
    assert found.cut == 1


def test_a_prompt_that_just_fits_is_not_cut():
    assert _tokens(("abc", "x"), context=6).cut == 0
    assert _tokens(("abc", "x"), context=5).cut == 1


@pytest.mark.parametrize("context", [1, 2, 3, 4])
def test_an_answer_that_leaves_no_room_for_its_prompt_is_refused(context):
    """BOS, space, x, y: with 4 tokens of context there is none left for the prompt."""
    with pytest.raises(DataError):
        _tokens(("abcdef", "xy"), context=context)


def test_a_token_across_the_boundary_is_split_there():
    found = _tokens(("I saw New", "York"), ("I saw", "Bob"), tokenizer=_Words())
    words = [_Words.words[i] for i in found.ids[0]]
    assert words == ["<s>", "I", "saw", "New", "York"]
    assert found.answer.tolist() == [1, 1]
    assert found.counted[0].tolist() == [False, True, True, True, False]


def test_no_prompt_at_all_is_an_error():
    with pytest.raises(DataError, match="no cloze prompt"):
        _tokens()


def test_the_fingerprint_tells_prompts_and_answers_apart():
    different = [
        (("ab", "cd"),),
        (("ab", "ce"),),
        (("a", "cd"),),
        (("ab c", "d"),),
        (("ab", "cd"),) * 2,
    ]
    assert len({_tokens(*pairs).fingerprint for pairs in different}) == len(different)


letters = st.text("abc$", min_size=1, max_size=9)


@given(
    pairs=st.lists(st.tuples(letters, letters), min_size=1, max_size=5), context=st.integers(12, 16)
)
def test_tokens_are_their_definition(pairs, context):
    found = _tokens(*pairs, context=context)
    for i, (prompt, answer) in enumerate(pairs):
        tail = _ids(" " + answer)
        head = _ids(prompt)
        while 1 + len(head) + len(tail) > context:
            head = head[1:]
        row = [BOS, *head, *tail]
        assert found.ids[i, : len(row)].tolist() == row
        assert (int(found.length[i]), int(found.answer[i])) == (len(row), len(tail))
        counted = [p for p in range(1, 1 + len(head)) if row[p] != EOS]
        assert found.counted[i].nonzero()[:, 0].tolist() == counted
    assert found.cut == sum(len(p) + len(a) + 2 > context for p, a in pairs)


def _choices(*options: str, context: int = 100, rest: str = "", prompt: str = "ab") -> ClozeTokens:
    each = ClozePrompt(prompt, options[0], options, rest)
    return tokenise([each], _Letters(), context=context, prepend_bos=True,
                    special_ids=frozenset({BOS, EOS}))  # fmt: skip


def test_options_are_tokens_after_the_prompt_with_the_rest_of_the_sentence_behind_them():
    found = _choices("cd", "e", rest=" f.")
    [choice] = found.choices
    assert choice is not None
    assert [list(tail) for tail in choice.tails] == [_ids(" cd f."), _ids(" e f.")]
    assert choice.right == 0
    assert found.ids.tolist() == [[BOS, *_ids("ab cd")]]  # the answer alone, for the other scorings


def test_a_prompt_is_cut_so_that_its_longest_option_fits():
    found = _choices("c", "defghi", context=10, prompt="0123456789")
    assert found.ids.tolist() == [[BOS, *_ids("89 c")]]
    assert found.cut == 1


def test_an_option_that_leaves_no_room_for_the_prompt_is_refused():
    with pytest.raises(DataError, match="and 7 answer tokens do not fit a model context of 8"):
        _choices("c", "defghi", context=8)


def test_prompts_that_offer_nothing_have_no_choices():
    assert _tokens(("ab", "c")).choices == ()


def test_the_fingerprint_tells_options_apart_and_leaves_prompts_without_them_as_they_were():
    prints = {_choices(*o, rest=r).fingerprint for o, r in
              ((("c", "d"), ""), (("c", "e"), ""), (("c", "d"), "."))}  # fmt: skip
    assert len(prints) == 3
    plain = _tokens(("ab", "c"))
    digest = hashlib.sha256()
    for tensor in (plain.ids, plain.length, plain.answer):
        digest.update(tensor.numpy().tobytes())
    assert plain.fingerprint == digest.hexdigest()


def test_tokens_to_run_are_those_of_prompts_with_answers_and_with_options():
    found = _choices("cd", "e", rest=" f.")
    assert found.tokens == len("?ab cd") + len("?ab") + len(" cd f.") + len(" e f.")
