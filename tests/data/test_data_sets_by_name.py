"""Texts and prompts of data sets by name, split and configuration, offline."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_cache import lay_out

import saebench
from saebench.data.cloze_tokens import ClozePrompt
from saebench.data.documents import open_documents
from saebench.data.prompts import NAMED, open_prompts
from saebench.errors import DataError

CBT = {
    "sentences": ["It was a bag .", "The jackal took it ."],
    "question": "`` Give me the XXXXX , '' said the tortoise .",
    "answer": "bag",
    "options": ["bag", "jackal", "leg"],
}
CBT_PROMPT = ClozePrompt(
    "It was a bag . The jackal took it . `` Give me the",
    "bag",
    ("bag", "jackal", "leg"),
    " , '' said the tortoise .",
)


def _texts(*texts: str) -> list[dict]:
    return [{"text": text} for text in texts]


@pytest.fixture
def texts(offline: Path) -> Path:
    lay_out(offline, "lab/texts", {"train": _texts("a b"), "test": _texts("c d", "e f")},
            config="default")  # fmt: skip
    return offline


def test_a_name_is_its_train_split_and_another_is_named_behind_a_colon(texts):
    train, test = open_documents("lab/texts"), open_documents("lab/texts:test")
    assert (list(train), train.split) == (["a b"], "train")
    assert (list(test), test.split, test.name) == (["c d", "e f"], "test", "lab/texts")
    assert list(test) == ["c d", "e f"]  # and again, from the start


def test_a_configuration_is_named_before_the_split(offline):
    for config in ("en", "de"):
        lay_out(offline, "lab/two", {"test": _texts(config)}, config=config)
    assert list(open_documents("lab/two:de:test")) == ["de"]


def test_several_configurations_are_told_apart_by_the_message(offline):
    for config in ("en", "de"):
        lay_out(offline, "lab/two", {"test": _texts(config)}, config=config)
    with pytest.raises(DataError, match="multiple 'lab/two' configurations"):
        open_documents("lab/two:test")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lab/texts:dev", "'lab/texts' with split 'dev'.*test"),
        ("lab/texts:fr:test", "config 'fr'"),
        ("lab/none", "'lab/none' with split 'train'"),
        ("lab/texts:", "expected NAME, NAME:SPLIT or NAME:CONFIG:SPLIT"),
        ("a:b:c:d", "expected NAME, NAME:SPLIT or NAME:CONFIG:SPLIT"),
    ],
)
def test_what_is_not_in_the_cache_is_an_error_that_names_it(spec: str, said: str, texts):
    with pytest.raises(DataError, match=f"--sae-dataset.*{said}"):
        open_documents(spec)


def test_a_row_without_text_is_named_with_what_it_has(offline):
    lay_out(offline, "lab/odd", {"train": [{"story": "a"}]}, config="default")
    with pytest.raises(DataError, match=r"lab/odd:train, row 1: .*'text', found \['story'\]"):
        list(open_documents("lab/odd"))


def test_a_damaged_cache_is_an_error_of_ours(texts):
    [file] = texts.rglob("texts-test.arrow")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="lab/texts"):
        list(open_documents("lab/texts:test"))


def test_an_sae_is_judged_on_a_data_set_by_name(tiny, offline):
    rows = [json.loads(line) for line in Path(tiny.texts).read_text().splitlines()]
    lay_out(offline, "lab/stories", {"heldout": rows}, config="default")
    run = saebench.judge(
        tiny.good, tiny.model, "lab/stories:heldout", properties=["fidelity"], sequences=4
    )
    expected = saebench.judge(
        tiny.good, tiny.model, tiny.texts, properties=["fidelity"], sequences=4
    )
    assert (run.datasets[0].name, run.datasets[0].split) == ("lab/stories", "heldout")
    assert run.datasets[0].fingerprint == expected.datasets[0].fingerprint


def _parquet(root: Path, **splits: list[dict]) -> Path:
    (root / "data").mkdir(parents=True)
    for split, rows in splits.items():
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
    return root


@pytest.mark.parametrize(("behind", "expected"), [("", "t"), (":train", "r"), (":test", "t")])
def test_a_directory_of_parquet_files_has_splits(behind: str, expected: str, tmp_path: Path):
    path = _parquet(tmp_path / "here", train=_texts("r"), test=_texts("t"))
    assert list(open_documents(f"{path}{behind}")) == [expected]


def test_of_a_directory_without_a_test_split_the_first_is_taken(tmp_path: Path):
    path = _parquet(tmp_path / "here", train=_texts("r"))
    documents = open_documents(str(path))
    assert (list(documents), documents.split) == (["r"], "train")


def test_a_saved_data_sets_split_is_named_behind_a_colon(tmp_path: Path):
    import datasets

    parts = {name: datasets.Dataset.from_list(_texts(name)) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert list(open_documents(f"{tmp_path}/saved:train")) == ["train"]
    with pytest.raises(DataError, match="no split 'dev'; it has train, test"):
        open_documents(f"{tmp_path}/saved:dev")


def test_lambada_is_its_passages_without_their_last_words(offline):
    lay_out(offline, "lambada", {"test": _texts("out of the hatch")}, config="plain_text")
    prompts = open_prompts("lambada")
    assert list(prompts) == [ClozePrompt("out of the", "hatch")]
    assert (prompts.name, prompts.split) == ("lambada", "test")


def test_lambada_openai_is_found_by_its_name(offline):
    rows = [{"text": "I don't care about signs"}]
    lay_out(offline, "EleutherAI/lambada_openai", {"test": rows}, config="default")
    assert list(open_prompts("lambada_openai")) == [ClozePrompt("I don't care about", "signs")]


@pytest.mark.parametrize("name", ["cbt", "cam-cst/cbt"])
def test_cbt_is_its_sentences_and_question_up_to_the_blank(name: str, offline):
    lay_out(offline, name, {"test": [CBT]}, config="CN")
    assert list(open_prompts("cbt_cn")) == [CBT_PROMPT]


@pytest.mark.parametrize("name", NAMED)
def test_prompts_that_are_not_in_the_cache_name_every_place(name: str, offline):
    with pytest.raises(DataError) as caught:
        open_prompts(name)
    assert all(spec.partition(":")[0] in str(caught.value) for spec in NAMED[name])
    assert "--sae-cloze" in str(caught.value)


def test_prompts_come_from_parquet_files_saved_data_sets_and_other_names(offline, tmp_path):
    import datasets

    pq.write_table(pa.Table.from_pylist([CBT]), tmp_path / "cbt.parquet")
    datasets.Dataset.from_list([CBT]).save_to_disk(str(tmp_path / "saved"))
    path = _parquet(tmp_path / "folder", validation=[CBT])
    lay_out(offline, "lab/cbt", {"validation": [CBT]}, config="CN")
    specs = (tmp_path / "cbt.parquet", tmp_path / "saved", path, f"{path}:validation",
             "lab/cbt:validation", "lab/cbt:CN:validation")  # fmt: skip
    for spec in specs:
        assert list(open_prompts(str(spec))) == [CBT_PROMPT]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({k: v for k, v in CBT.items() if k != "answer"}, "expected 'answer', found"),
        ({k: v for k, v in CBT.items() if k != "options"}, "expected 'options', found"),
        (CBT | {"question": None}, "expected 'question'"),
        (CBT | {"sentences": "one"}, "expected a list of strings under 'sentences'"),
        (CBT | {"question": "no blank ."}, "expected XXXXX once in 'question', found 'no blank .'"),
        (CBT | {"question": "XXXXX and XXXXX"}, "expected XXXXX once"),
        (CBT | {"options": []}, "no word to choose from under 'options'"),
        (CBT | {"options": ["leg"]}, "the answer 'bag' is not among"),
        (CBT | {"answer": 3}, "expected a string under 'answer', found 3"),
    ],
)
def test_a_row_of_cbt_that_lacks_something_is_named_with_its_field(row, said, tmp_path: Path):
    lines = [json.dumps(CBT), json.dumps(row)]
    (tmp_path / "cbt.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=rf"cbt\.jsonl, line 2: {said}"):
        list(open_prompts(str(tmp_path / "cbt.jsonl")))


def test_a_question_may_begin_with_the_blank(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps(CBT | {"question": "XXXXX said no ."}))
    [found] = open_prompts(str(tmp_path / "a.jsonl"))
    assert found.prompt == "It was a bag . The jackal took it ."
    assert found.rest == " said no ."


def test_a_file_goes_over_a_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lambada").write_text(json.dumps({"text": "a b"}))
    assert list(open_prompts("lambada")) == [ClozePrompt("a", "b")]


def test_a_missing_file_of_prompts_names_what_there_is():
    with pytest.raises(DataError, match=r"No such file; expected.*cbt_cn.*NAME:SPLIT"):
        open_prompts("gone.jsonl")


def test_a_directory_without_data_is_refused(tmp_path: Path):
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    with pytest.raises(DataError, match="--sae-cloze .*save_to_disk"):
        open_prompts(str(tmp_path))
