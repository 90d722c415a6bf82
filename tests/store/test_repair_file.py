"""repair.json: its schema is released under a version, and older files are read."""

import json
from pathlib import Path

import jsonschema
import pytest
from made_repair import make_repair

from saebench.errors import StoreError
from saebench.records.repair import REPAIR, REPAIR_SCHEMA_VERSION
from saebench.store.json_files import dump_record, json_schema, read_repair, write_record

HERE = Path(__file__).parent
SCHEMA = HERE / f"repair-schema-{REPAIR_SCHEMA_VERSION}.json"
GOLDEN = HERE / f"repair-{REPAIR_SCHEMA_VERSION}.json"


def _without_prose(schema):
    if isinstance(schema, dict):
        return {k: _without_prose(v) for k, v in schema.items() if k != "description"}
    return [_without_prose(v) for v in schema] if isinstance(schema, list) else schema


def test_the_schema_is_what_was_released_under_its_version():
    """A change of shape needs a new schema version and new golden files."""
    released = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert _without_prose(json_schema(REPAIR)) == _without_prose(released)


def test_the_golden_file_is_of_the_schema_and_is_read_and_written_as_it_is():
    text = GOLDEN.read_text(encoding="utf-8")
    jsonschema.Draft202012Validator(json_schema(REPAIR)).validate(json.loads(text))
    record = read_repair(GOLDEN)
    assert record == make_repair()
    assert dump_record(record) + "\n" == text


@pytest.mark.parametrize("version", range(1, REPAIR_SCHEMA_VERSION))
def test_a_repair_of_an_older_schema_version_is_still_read(version):
    assert read_repair(HERE / f"repair-{version}.json") == make_repair()


def test_a_file_that_lacks_a_part_is_not_of_the_schema():
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(json_schema(REPAIR))
    for key in set(content) - {"notes"}:
        assert list(validator.iter_errors({k: v for k, v in content.items() if k != key})), key


def test_a_written_record_is_read_back(tmp_path):
    write_record(make_repair(), tmp_path / "deep" / "repair.json")
    assert read_repair(tmp_path / "deep" / "repair.json") == make_repair()


def test_a_row_is_found_by_its_metric():
    assert make_repair().row("perplexity_gap").before.value == 4.0
    with pytest.raises(KeyError):
        make_repair().row("fidelity.tv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("{", "not valid JSON"),
        ('{"schema_version": NaN}', "NaN is no number of JSON"),
        ("[]", "schema_version of a repair is None, this saebench reads 3"),
        ('{"schema_version": true}', "schema_version of a repair is True"),
        ('{"schema_version": 99}', "schema_version of a repair is 99"),
        ('{"schema_version": 1}', "no saebench repair file: harness: Field required"),
    ],
)
def test_a_file_that_is_no_repair_is_refused_by_name(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "odd.json").write_text(content)
    with pytest.raises(StoreError, match=expected) as caught:
        read_repair(tmp_path / "odd.json")
    assert "odd.json" in str(caught.value)


def test_a_number_that_is_not_finite_is_never_written(tmp_path):
    from dataclasses import replace

    record = make_repair()
    course = replace(record.course, duration_s=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(replace(record, course=course), tmp_path / "repair.json")
    assert not list(tmp_path.iterdir())
