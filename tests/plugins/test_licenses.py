import pytest

from medvlm_cli.sources.licenses import commercial_ok, kept, spdx


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["http://creativecommons.org/licenses/by/2.0"], "CC-BY-2.0"),
        (["https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode"], "CC-BY-NC-SA-4.0"),
        (["https://creativecommons.org/licences/by-nc-nd/3.0/igo/"], "CC-BY-NC-ND-3.0"),
        (["https://creativecommons.org/publicdomain/zero/1.0/"], "CC0-1.0"),
        (["CC BY"], "CC-BY"),
        (["CC BY-NC 4.0"], "CC-BY-NC-4.0"),
        (["cc-by-sa-4.0"], "CC-BY-SA-4.0"),
        (["CC0"], "CC0-1.0"),
        (["CC-BY-NC-ND-4.0"], "CC-BY-NC-ND-4.0"),
        (["ccbyncndlicense"], "CC-BY-NC-ND"),
        (["cc0license"], "CC0-1.0"),
        (["CC BY", "http://creativecommons.org/licenses/by/4.0/"], "CC-BY-4.0"),
        (["http://creativecommons.org/licenses/by/4.0/", "CC BY-NC"], "CC-BY-NC"),
        (["CC BY-SA", "CC BY-NC"], "CC-BY-NC"),
        (["CC0", "CC BY 4.0"], "CC-BY-4.0"),
        (["TDM"], "unknown"),
        (["http://www.elsevier.com/open-access/userlicense/1.0/"], "unknown"),
        (["by the way"], "unknown"),
        ([None, ""], "unknown"),
        ([], "unknown"),
    ],
)
def test_statements_add_up_to_one_identifier_and_the_strictest_counts(statements, expected):
    assert spdx(statements) == expected


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("under the Creative Commons Attribution License, which permits", "CC-BY"),
        ("Creative Commons Attribution 4.0 International License", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-NoDerivs 3.0 License", "CC-BY-NC-ND-3.0"),
        ("Creative Commons Attribution License, which permits unrestricted non-commercial use", "CC-BY-NC"),
        ("This is an open access article.", "unknown"),
    ],
)
def test_prose_counts_only_where_it_spells_the_licence_out(prose, expected):
    assert spdx(["no code"], prose) == expected


def test_prose_is_not_read_beside_a_statement():
    assert spdx(["CC BY 4.0"], "Creative Commons Attribution-NonCommercial License") == "CC-BY-4.0"


@pytest.mark.parametrize(
    ("license_", "expected"),
    [
        ("CC0-1.0", True), ("CC-BY-4.0", True), ("CC-BY", True), ("CC-BY-SA-4.0", True), ("CC-BY-ND-4.0", True),
        ("CC-BY-NC-4.0", False), ("CC-BY-NC-ND-4.0", False), ("unknown", False), ("", False),
    ],
)  # fmt: skip
def test_commercial_use_is_allowed_by_these_and_by_no_others(license_, expected):
    assert commercial_ok(license_) is expected
    assert kept("commercial", license_, third_party=False) is expected
    assert not kept("commercial", license_, third_party=True)
    assert kept("all", license_, third_party=True)


def test_noncommercial_use_asks_for_a_known_licence():
    assert [kept("noncommercial", name, third_party=False) for name in ("CC-BY-NC-4.0", "CC0-1.0", "unknown")] == [
        True,
        True,
        False,
    ]
