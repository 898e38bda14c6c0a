"""The table of faults says what the tests do, no more and no less."""

from faults import table


def test_every_marked_row_is_in_the_catalogue():
    assert table.marked().keys() - table.rows().keys() == set()


def test_a_star_row_has_either_a_test_or_the_reason_why_not():
    walked = table.marked()
    stars = {name: row for name, row in table.rows().items() if row.get("star")}
    assert {name for name, row in stars.items() if bool(walked.get(name)) == ("why" in row)} == set()


def test_the_table_in_the_docs_is_made_from_these_tests():
    assert table.PAGE.read_text(encoding="utf-8") == table.page(table.marked())
