"""Files of attributes that operators import."""

from pathlib import Path

import pytest

from service.cli.attribute_files import AttributeFileError, read_rows

ONE, TWO = "1" * 128, "2" * 16


def rows(path: Path, text: str) -> list[tuple[int, str, dict[str, str | None]]]:
    path.write_bytes(text.encode())
    return [(line, row.device, dict(row.attributes)) for line, row in read_rows(path)]


def test_table_and_lines_say_the_same(tmp_path: Path) -> None:
    """An empty cell says nothing; quotes, a byte order mark and Windows' line ends are taken."""
    table = f'\ufeffdevice,site,ring\r\n{ONE},"quay, 1",b\r\n{TWO},,a\r\n'
    expected = [(2, ONE, {"site": "quay, 1", "ring": "b"}), (3, TWO, {"ring": "a"})]
    assert rows(tmp_path / "a.CSV", table) == expected
    lines = f'\n{{"device": "{ONE}", "attributes": {{"ring": "b", "site": "quay, 1"}}}}\n'
    lines += f'{{"device": "{TWO}", "attributes": {{"ring": "a"}}}}\n'
    assert rows(tmp_path / "a.jsonl", lines) == expected


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "", "expected a first line"),
        ("a.csv", "site,device\n", "expected a first line"),
        ("a.csv", "device,site,site\n", "each name once"),
        ("a.csv", f"device,site\n{ONE},a,b\n", r"a\.csv:2: expected 2 cells, found 3"),
        ("a.csv", f"device,Site\n{ONE},a\n", r"a\.csv:2: attributes"),
        ("a.csv", "device,site\nnobody,a\n", r"a\.csv:2: device"),
        ("a.csv", f'device,site\n{ONE},"a"b\n', "expected CSV"),
        ("a.jsonl", "[]\n", r"a\.jsonl:1"),
        ("a.jsonl", f'{{"device": "{ONE}"}}\n', "attributes"),
        ("a.jsonl", f'{{"device": "{ONE}", "attributes": {{}}, "group": "x"}}\n', "group"),
    ],
)
def test_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    """With the line that is wrong."""
    with pytest.raises(AttributeFileError, match=match):
        rows(tmp_path / name, text)


def test_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """UTF-8 alone."""
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AttributeFileError, match="UTF-8"):
        list(read_rows(tmp_path / "a.jsonl"))
