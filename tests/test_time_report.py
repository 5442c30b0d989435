"""Where the time went: read from what a run really logs; each advice given where it is true, and
only there.
"""

import csv

import pytest
from test_fit import loaders, small_model

from course_lib.pictures import time_report
from course_lib.pictures.report import SPENT_ON
from course_lib.training import MetricLog, Timing, fit


def log(epochs: int = 9, best: int = 9, **changes) -> list[dict]:
    """Rows of a healthy run; `best` is the epoch with the lowest validation loss."""
    row = {
        "batches": 100,
        "gpu": 0,
        "mixed_precision": 0,
        "seconds_data": 1,
        "seconds_forward": 4,
        "seconds_backward": 6,
        "seconds_step": 2,
        "seconds_validation": 2,
        "seconds_callbacks": 0.5,
    } | changes
    return [
        row | {"epoch": epoch, "valid_loss": 1 + abs(epoch - best)}
        for epoch in range(1, epochs + 1)
    ]


def test_a_healthy_run_gets_no_advice_and_its_shares_add_up():
    report = time_report(log())
    assert report.advice == []
    assert (
        str(report)
        == report.picture.caption
        == "Where 139.5 s of training went in 9 epochs: data 6%, forward 26%, backward 39%, step"
        " 13%, validation 13%, callbacks 3%."
    )
    bars = report.picture.figure.axes[0].patches
    assert len(bars) == 9 * len(SPENT_ON)
    assert sum(bar.get_height() for bar in bars) == pytest.approx(139.5)
    tops = {
        round(bar.get_x() + bar.get_width() / 2): bar.get_y() + bar.get_height() for bar in bars
    }
    assert tops == pytest.approx(dict.fromkeys(range(9), 15.5))


@pytest.mark.parametrize(
    ("healthy", "ill", "said"),
    [
        (
            {"seconds_data": 5.1},
            {"seconds_data": 5.2},
            "Waiting for data takes 30% of the training: give the loader num_w",
        ),
        (
            {"batches": 5_999},
            {"batches": 6_100},
            "A batch takes 2.0 ms, most of them Python's own: a larger batch",
        ),
        (
            {"seconds_validation": 5.7},
            {"seconds_validation": 5.9},
            "Validation takes 30% of the time: validate on a fixed",
        ),
        (
            {"epochs": 9, "best": 5},
            {"epochs": 10, "best": 5},
            (
                "lowest after epoch 5 of 10: what came after took 50% of the "
                "time, so stop earlier (EarlyStopping)"
            ),
        ),
        (
            {"epochs": 30, "best": 21},
            {"epochs": 30, "best": 20},
            "lowest after epoch 20 of 30: what came after took 33%",
        ),
        (
            {"gpu": 1, "mixed_precision": 1},
            {"gpu": 1},
            (
                "Forward and backward take 65% of the time in full precision: give "
                'fit precision="bf16"'
            ),
        ),
        (
            {"gpu": 1, "seconds_forward": 1, "seconds_step": 8},
            {"gpu": 1, "seconds_forward": 4, "seconds_step": 6},
            "Forward and backward take 51%",
        ),
    ],
)
def test_each_advice_is_given_where_it_is_true_and_only_there(healthy, ill, said):
    assert time_report(log(**healthy)).advice == []
    (advice,) = time_report(log(**ill)).advice
    assert advice.startswith(said) or said in advice


def test_several_things_may_be_true():
    assert (
        len(time_report(log(10, 2, seconds_data=50, seconds_validation=50, batches=50_000)).advice)
        == 4
    )


def test_a_run_without_validation_is_read_too():
    rows = [{key: value for key, value in row.items() if key != "valid_loss"} for row in log(20, 1)]
    assert time_report(rows).advice == []


def test_the_log_of_a_real_run_reads_the_same_as_rows_file_and_folder(tmp_path):
    metric_log = MetricLog(tmp_path)
    fit(small_model(), *loaders(), epochs=2, callbacks=[Timing(), metric_log])
    reports = [
        str(time_report(log)) for log in (metric_log.rows, tmp_path / "log.csv", str(tmp_path))
    ]
    assert reports[0] == reports[1] == reports[2]
    assert "in 2 epochs" in reports[0]
    with (tmp_path / "log.csv").open() as file:
        spent = sum(
            float(row[f"seconds_{part}"]) for row in csv.DictReader(file) for part in SPENT_ON
        )
    assert f"Where {spent:.1f} s" in reports[0]


def test_a_log_without_times_epochs_or_file_is_refused(tmp_path):
    fit(small_model(), *loaders(), epochs=1, callbacks=[MetricLog(tmp_path)])
    with pytest.raises(
        ValueError, match=r"the log has 1 epochs and no seconds; run .* with Timing\(\) among"
    ):
        time_report(tmp_path)
    with pytest.raises(ValueError, match="the log has 0 epochs"):
        time_report([])
    with pytest.raises(
        FileNotFoundError, match=r"no log .*nowhere; give the folder of a run that had MetricLog"
    ):
        time_report(tmp_path / "nowhere")
