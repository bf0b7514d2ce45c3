"""What the dataset card says of where figures come from."""

from tests.core.report_cases import article, dataset


def test_the_card_of_figures_from_pmc_acknowledges_the_library(tmp_path):
    dataset(tmp_path / "d", [article("f", source="pmc"), article("g", source="folder")])
    card = (tmp_path / "d" / "README.md").read_text()
    assert "courtesy of the U.S. National Library of Medicine" in card
    assert "may have updated its data since the day that `run.json` states" in card
    assert "does not endorse" in card


def test_the_card_of_other_figures_does_not(tmp_path):
    dataset(tmp_path / "d", [article("f", source="folder")])
    assert "National Library" not in (tmp_path / "d" / "README.md").read_text()
