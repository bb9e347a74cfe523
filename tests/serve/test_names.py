"""Names: any text of one line, one person for both Unicode forms, and what cannot be a name is one line."""

import pytest

from face3d_lib.base.errors import UserError
from face3d_lib.serve import names


@pytest.mark.parametrize(
    "name", ["Ann", "../../etc/passwd", "a/b\\c", "=1+1", "名前", "unknown", "~", "CON", "x" * 200]
)
def test_any_text_of_one_line_is_a_name(name):
    assert names.checked(name) == name


def test_blanks_around_a_name_and_its_unicode_form_do_not_matter():
    assert names.checked("  Jose\u0301 ") == "Jos\u00e9"


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 201, "x" * 10_000, "a\nb", "a\x00", "a\u2028b", "\udcff", "\x1b[31m", "an\u200bna", "a\u202eb"],
)
def test_what_is_no_name_is_refused_in_one_short_line(name):
    with pytest.raises(UserError) as error:
        names.checked(name)
    assert len(str(error.value)) < 200
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e"])
def test_joiners_belong_to_a_name(name):
    assert names.checked(name) == name


def test_a_name_that_nobody_has_is_said_shortly():
    with pytest.raises(UserError) as error:
        names.find("x" * 10_000, ["Ann"])
    assert len(str(error.value)) < 200


def test_a_name_is_found_by_its_letters():
    assert names.find("Jose\u0301", ["Jos\u00e9", "Ann"]) == "Jos\u00e9"
    with pytest.raises(UserError, match="nearest names are Ann"):
        names.find("Anna", ["Ann", "Bob"])
