"""TensorBoard's files and the trackers of others, without the network and without the trackers themselves.

Each tracker is a module of its name that writes down how it is called.
"""

import json
import logging
import subprocess
import sys

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.tracking import Tracking, check_tracker

MODULE = """
import json
import os
from pathlib import Path

HERE = Path(__file__).parent


def note(**call):
    with (HERE / "calls.jsonl").open("a") as file:
        file.write(json.dumps(call) + "\\n")


def init(**given):
    print("welcome to the dashboard")
    if (HERE / "refuse").exists():
        raise RuntimeError((HERE / "refuse").read_text())
    note(call="init", silent=os.environ.get("WANDB_SILENT"), **given)
    return Run()


def Settings(**given):
    return given


class Run:
    def log(self, values, step):
        if (HERE / "fail").exists():
            raise ConnectionError("the server is gone")
        note(call="log", values=values, step=step)


def finish():
    print("bye")
    note(call="finish")
"""
RUN = {"stage": "pretrain", "fingerprint": "abcdef" * 10, "config": {"lr": 1e-3, "scales": [32, 64]}}


def row(step, **more):
    return {"step": step, "loss": 2.0 / step, "lr": 1e-3, "grad_norm": 0.5, "seconds": 1.0, "mfu": None} | more


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    """Installs the module under a name; gives the folder that it writes into."""
    for name in ("WANDB_MODE", "WANDB_SILENT", "WANDB_PROJECT", "TRACKIO_PROJECT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name):
        (folder / f"{name}.py").write_text(MODULE)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return folder

    yield install
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)


def calls(folder):
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_type(name, tmp_path):
    with pytest.raises(ConfigError, match=f"--track {name}: {name} is not installed") as refused:
        Tracking(tmp_path, name, RUN)
    assert refused.value.fix == f"pip install {name}, or leave --track out"


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="--track mlflow: no such tracker") as refused:
        check_tracker("mlflow")
    assert "wandb, trackio" in refused.value.fix


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_the_settings_and_each_step(name, tracker, tmp_path):
    folder = tracker(name)
    tracking = Tracking(tmp_path, name, RUN)
    tracking.start([], 0)
    tracking.add(row(1, held_out_loss=3.0))
    tracking.close()
    opened, logged, finished = calls(folder)
    assert opened["project"] == "medvlm" and opened["name"] == "pretrain-abcdefabcdef"
    assert opened["config"] == RUN["config"] and opened["resume"] == "allow"
    assert logged["step"] == 1 and logged["values"]["train/loss"] == 2.0 and logged["values"]["held_out/loss"] == 3.0
    assert "speed/mfu" not in logged["values"] and finished == {"call": "finish"}


def test_wandb_goes_on_with_its_run_and_asks_and_collects_nothing(tracker, tmp_path):
    folder = tracker("wandb")
    Tracking(tmp_path, "wandb", RUN).close()
    opened = calls(folder)[0]
    assert opened["id"] == opened["name"] and opened["silent"] == "true"
    assert opened["settings"]["console"] == "off" and opened["settings"]["x_disable_meta"] is True
    assert opened["settings"]["host"] == "-"


@pytest.mark.parametrize(
    ("environment", "mode"),
    [({}, None), ({"HF_HUB_OFFLINE": "1"}, "offline"), ({"HF_HUB_OFFLINE": "1", "WANDB_MODE": "online"}, None)],
)
def test_offline_means_offline_for_wandb_unless_it_is_told_otherwise(tracker, tmp_path, monkeypatch, environment, mode):
    folder = tracker("wandb")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Tracking(tmp_path, "wandb", RUN).close()
    assert calls(folder)[0].get("mode") == mode


def test_the_project_is_the_users(tracker, tmp_path, monkeypatch):
    folder = tracker("trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", "lungs")
    Tracking(tmp_path, "trackio", RUN).close()
    assert calls(folder)[0]["project"] == "lungs"


def test_a_tracker_that_refuses_is_an_error_without_the_key(tracker, tmp_path, monkeypatch):
    folder = tracker("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    (folder / "refuse").write_text("key 0123456789abcdef0123 is not known\nmore at hf_abcdefghijk")
    with pytest.raises(ConfigError) as refused:
        Tracking(tmp_path, "wandb", RUN)
    assert refused.value.what == "--track wandb: key *** is not known" and "wandb login" in refused.value.fix
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_settings_that_look_like_keys_are_not_sent(tracker, tmp_path):
    folder = tracker("trackio")
    secret = {"llm": "https://me:secret@mirror.example/llm"}
    Tracking(tmp_path, "trackio", RUN | {"config": secret}).close()
    assert "secret" not in (folder / "calls.jsonl").read_text()


def test_a_tracker_that_fails_later_is_left_behind(tracker, tmp_path, caplog):
    folder = tracker("trackio")
    tracking = Tracking(tmp_path, "trackio", RUN)
    tracking.start([], 0)
    (folder / "fail").touch()
    with caplog.at_level(logging.WARNING):
        tracking.add(row(1))
        tracking.add(row(2))
    assert [record.message for record in caplog.records] == [
        "--track trackio: the server is gone; nothing more is sent"
    ]


def test_a_tracker_gets_no_step_twice(tracker, tmp_path):
    """Killed after step 5, resumed from the checkpoint of step 4."""
    folder = tracker("wandb")
    tracking = Tracking(tmp_path, "wandb", RUN)
    tracking.start([row(step) for step in (1, 2, 3, 4)], 5)
    tracking.add(row(5))
    tracking.add(row(6))
    assert [call["step"] for call in calls(folder)[1:]] == [6]


def test_what_a_tracker_prints_is_not_heard(tracker, tmp_path, capsys):
    tracker("trackio")
    Tracking(tmp_path, "trackio", RUN).close()
    assert capsys.readouterr().out == ""


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), purge_orphaned_data=False).Reload().Scalars("train/loss")


def test_rows_from_before_are_drawn_at_the_time_they_took(tmp_path):
    tracking = Tracking(tmp_path, "", RUN)
    tracking.start([row(1, seconds=10.0), row(2, seconds=20.0)], 2)
    tracking.add(row(3))
    tracking.close()
    points = events(tmp_path / "tensorboard")
    assert [point.step for point in points] == [1, 2, 3]
    assert points[1].wall_time - points[0].wall_time == pytest.approx(20, abs=1e-3)
    assert points[1].wall_time <= points[2].wall_time


def test_a_start_over_leaves_nothing_of_the_one_before(tmp_path):
    for last in (3, 2):
        tracking = Tracking(tmp_path, "", RUN)
        tracking.start([row(step) for step in range(1, last + 1)], 3)
        tracking.close()
    assert [point.step for point in events(tmp_path / "tensorboard")] == [1, 2]


def test_closing_twice_does_no_harm(tmp_path):
    tracking = Tracking(tmp_path, "", RUN)
    tracking.start([], 0)
    tracking.close()
    tracking.close()


def test_without_tensorboard_there_are_no_curves(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tracking = Tracking(tmp_path, "", RUN)
    tracking.start([row(1)], 1)
    tracking.add(row(2))
    tracking.export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorflow_is_not_imported_where_it_is_installed(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
    program = (
        "import sys; from pathlib import Path; from medvlm_cli.core.tracking import Tracking\n"
        f"sys.path.insert(0, {str(tmp_path)!r}); tracking = Tracking(Path({str(tmp_path)!r}), '', {RUN!r})\n"
        "tracking.start([], 0); tracking.close(); print('tensorflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
