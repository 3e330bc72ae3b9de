from __future__ import annotations

from pathlib import Path

import pytest

from detseg.cli import main
from detseg.config_files import ConfigError
from detseg.shipped import FOLDER, find_config, find_shipped, first_comment, render_configs, shipped_configs

CHECKOUT = Path(__file__).parents[1]


def test_the_package_holds_the_folder_of_the_checkout() -> None:
    assert FOLDER.resolve() == CHECKOUT / "configs"
    assert {path.resolve() for path in shipped_configs().values()} == {
        path for path in (CHECKOUT / "configs").rglob("*.yaml") if path.parent.name not in ("data", "finetune")
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("c2f_n", "detection/c2f_n"),
        ("c2f_n.yaml", "detection/c2f_n"),
        ("detection/c2f_n", "detection/c2f_n"),
        ("configs/detection/c2f_n.yaml", "detection/c2f_n"),
        ("./configs/detection/c2f_n.yaml", "detection/c2f_n"),
        ("semantic/shapes", "semantic/shapes"),
        ("letnet_camvid", "semantic/letnet_camvid"),
        ("release/letnet_camvid", "release/letnet_camvid"),
    ],
)
def test_by_any_of_its_names(name: str, expected: str) -> None:
    assert find_shipped(name) == shipped_configs()[expected]


def test_an_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c2f_n.yaml").write_text("")
    assert find_config("c2f_n.yaml") == Path("c2f_n.yaml")
    assert find_config("c2f_n") == shipped_configs()["detection/c2f_n"]


def test_names_of_nothing_and_of_several() -> None:
    assert find_shipped("nothing") is None
    with pytest.raises(ConfigError, match=r"no configuration at c2f_nano, .* did you mean c2f_n"):
        find_config("c2f_nano")
    with pytest.raises(ConfigError, match="several configurations are called shapes"):
        find_config("shapes")


def test_the_list_has_a_line_with_words_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = render_configs().splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    assert all(len(line.split()) > 4 for line in lines)
    assert main(["configs"]) == 0
    said = capsys.readouterr().out
    assert lines[0] in said
    assert "detseg_n_bccd" in said


def test_only_the_comment_at_the_top_is_the_purpose(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# One line.\n# And another.\nmodel: x  # not this\n# nor this\n")
    assert first_comment(path) == "One line. And another."
