"""Studies: stored results are what a command makes, and their scores are the field's."""

import pytest
import torch

from course_lib import files, runtime, studies
from course_lib.world import DIFFICULTIES


@pytest.mark.parametrize("name", studies.STUDIES)
def test_stored_results_hold_every_setting(name):
    study, rows = (
        studies.STUDIES[name],
        files.read_json(runtime.assets(f"results/{name}.json"))["rows"],
    )
    stored = [{key: row[key] for key in study.settings[0]} for row in rows]
    assert [setting for setting in stored if setting not in study.settings] == []
    assert [setting for setting in study.settings if setting not in stored] == []
    assert len({str(row) for row in rows}) == len(rows)


def test_the_difficulty_of_every_training_is_tested_on_every_other():
    rows = files.read_json(runtime.assets("results/difficulty.json"))["rows"]
    assert len(rows) == len(studies.STUDIES["difficulty"].settings) * len(DIFFICULTIES)


def test_a_cut_off_study_goes_on(tmp_path, monkeypatch):
    calls = []

    def run(number):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(number)
        return [{"square": number**2}]

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    study = studies.Study(run, tuple({"number": number} for number in range(3)), 1)
    monkeypatch.setitem(studies.STUDIES, "squares", study)
    with pytest.raises(KeyboardInterrupt):
        studies.run_study("squares", tmp_path)
    assert not (tmp_path / "squares.json").exists()
    calls[:] = calls[:1]  # the third setting may run now
    result = studies.run_study("squares", tmp_path)
    assert calls == [0, 2]
    assert result["rows"] == [{"number": number, "square": number**2} for number in range(3)]
    assert files.read_json(tmp_path / "squares.json") == result
    assert not (tmp_path / "cache" / "studies" / "squares").exists()  # the next run begins anew


def cube(number):
    """What another process runs; it says how many threads it has."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return [{"cube": number**3, "threads": torch.get_num_threads()}]


def test_settings_run_in_two_processes_and_what_one_raises_is_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    broken = studies.Study(cube, ({"number": 2}, {"number": -1}, {"number": 3}), 1, processes=2)
    monkeypatch.setitem(studies.STUDIES, "cubes", broken)
    with pytest.raises(ValueError, match="-1 is negative"):
        studies.run_study("cubes", tmp_path)
    mended = studies.Study(cube, ({"number": 2}, {"number": 4}, {"number": 3}), 1, processes=2)
    monkeypatch.setitem(studies.STUDIES, "cubes", mended)
    result = studies.run_study("cubes", tmp_path)
    assert [(row["number"], row["cube"]) for row in result["rows"]] == [(2, 8), (4, 64), (3, 27)]
    assert {row["threads"] for row in result["rows"]} == {1}


def test_an_unknown_study_is_refused():
    with pytest.raises(
        ValueError, match="no study 'squares'; the studies are difficulty, ablation, evolution"
    ):
        studies.run_study("squares")


def test_the_small_network_learns_and_is_scored_on_every_difficulty(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(studies, "SIZES", (60,))
    monkeypatch.setattr(studies, "UNSEEN", 800)  # some of each attribute in either half
    studies._drawn.cache_clear()
    rows = studies.learn_faces("easy", 60, 0, steps=3, batch=8)
    studies._drawn.cache_clear()
    assert [row["tested"] for row in rows] == list(DIFFICULTIES)
    assert all(0 <= value <= 1 for row in rows for key, value in row.items() if key != "tested")


def test_perfect_logits_score_one_and_reversed_ones_do_not():
    truth = torch.rand(200, len(studies.RARE), generator=torch.Generator().manual_seed(0)) < 0.3
    perfect, reversed_ = (
        studies.score_groups(sign * (truth.float() - 0.5), truth.float()) for sign in (1, -1)
    )
    assert set(perfect.values()) == {1.0}
    assert reversed_["accuracy"] == reversed_["f1_rare"] == 0
    assert reversed_["ap_rare"] < 0.4
