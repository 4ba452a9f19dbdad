"""What commands print: nothing that a terminal would obey."""

import pytest

from service.cli.output import print_facts, print_line, print_table, remark

OBEYED = "Buyer\x1b[2J\x9b31m\r\u202e\x07"
SHOWN = r"Buyer\u001b[2J\u009b31m\r\u202e\u0007"


@pytest.mark.parametrize("value", [OBEYED, [OBEYED], {"name": OBEYED}], ids=["text", "list", "mapping"])
def test_control_characters_of_others_are_shown_not_obeyed(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Names and reasons come from the service, from devices and from other companies' papers."""
    print_line(OBEYED)
    remark(OBEYED)
    print_facts({"name": value})
    print_table(OBEYED, ("name",), [(value,)])
    said = capsys.readouterr()
    assert not {each for each in said.out + said.err if not each.isprintable()} - {"\n"}
    assert (said.out.count(SHOWN), said.err.count(SHOWN)) == (4, 1)


def test_words_and_lines_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like markup is none."""
    print_line("[bold]Ångström[/bold]\n– zwei")
    print_table("[red]two[/red]", ("first column", "second column"), [("a", "[b]b")])
    said = capsys.readouterr().out
    assert said.startswith("[bold]Ångström[/bold]\n– zwei\n[red]two[/red]")
