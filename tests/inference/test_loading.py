"""What fails while a model is loaded, and whether its files are checked, read or fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.build import LOAD_PAUSE
from service.contract.errors import (
    DamagedFile,
    DamagedFolder,
    HubUnavailable,
    MemoryLimitReached,
    ModelNotFound,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)
from service.contract.status import Phase
from service.contract.times import LONGEST_PAUSE, START_STALL
from tests.applications import Build, Hub
from tests.fakes import PATIENCE, PICTURE, FakePredictor


def test_a_passing_failure_is_tried_again_and_a_damaged_file_looked_at_closely(make: Build) -> None:
    hub = Hub(HubUnavailable("The hub is down."), DamagedFile("A file is damaged."))
    application = make(hub=hub)
    assert application.supervisor.load() is True
    assert hub.asked == ["quick", "quick", "full"]
    assert application.snapshot().last_error is None
    assert application.supervisor.fatal is None


def test_after_the_last_attempt_the_process_should_leave_with_1(make: Build) -> None:
    hub = Hub(*[HubUnavailable("The hub is down.") for _ in range(3)])
    application = make(hub=hub)
    application.supervisor.start()
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == 1
    assert len(hub.asked) == 3
    snapshot = application.snapshot()
    assert (snapshot.phase, snapshot.last_error) == (Phase.FAILED, "The hub is down.")
    assert application.submit(PICTURE, "a").result(0).reason == "loading"
    assert not application.report().healthy


def test_what_no_attempt_mends_is_not_tried_again_and_leaves_with_78(make: Build) -> None:
    hub = Hub(ModelNotFound("There is no such model."))
    application = make(hub=hub)
    assert application.supervisor.load() is False
    assert application.supervisor.fatal == 78
    assert hub.asked == ["quick"]


def test_an_unknown_failure_counts_as_passing_and_its_text_is_not_told(make: Build) -> None:
    hub = Hub(*[ValueError("a token: s3cr3t") for _ in range(3)])
    application = make(hub=hub)
    assert application.supervisor.load() is False
    assert application.supervisor.fatal == 1
    assert application.snapshot().last_error == "Unexpected ValueError while loading the model."


def test_after_a_failure_a_script_may_try_again(make: Build) -> None:
    hub = Hub(ModelNotFound("There is no such model."))
    application = make(hub=hub)
    assert application.supervisor.load() is False
    assert application.supervisor.load() is True
    assert application.supervisor.fatal is None


def test_the_pauses_between_attempts_grow(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    application = make(hub=Hub(*[HubUnavailable("The hub is down.") for _ in range(4)]), load_attempts=4)
    waited: list[float] = []
    loader = application.supervisor._parts.loader
    loader._pause = LOAD_PAUSE
    monkeypatch.setattr(loader.stopping, "wait", waited.append)
    assert application.supervisor.load() is False
    assert waited == [5.0, 10.0, 20.0]


def test_the_pauses_stay_shorter_than_the_guardian_waits_for_progress(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = make(hub=Hub(*[HubUnavailable("The hub is down.") for _ in range(9)]), load_attempts=9)
    waited: list[float] = []
    loader = application.supervisor._parts.loader
    loader._pause = LOAD_PAUSE
    monkeypatch.setattr(loader.stopping, "wait", waited.append)
    assert application.supervisor.load() is False
    assert waited[:3] == [5.0, 10.0, 20.0]
    assert max(waited) == LONGEST_PAUSE < START_STALL


class Unloadable(FakePredictor):
    """Fails to load with ``error``."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__()
        self.error = error
        self.loads = 0

    def load(self, folder: Path) -> None:
        self.loads += 1
        raise self.error


@pytest.mark.parametrize("name", ["demo", "folder"])
def test_a_damaged_local_folder_is_not_tried_again_for_nobody_can_fetch_it(
    name: str, make: Build, tmp_path: Path
) -> None:
    hub = Hub()
    model = "demo" if name == "demo" else str(tmp_path)
    application = make(Unloadable(DamagedFile("pytorch_model.bin is damaged.")), hub, model=model)
    assert application.supervisor.load() is False
    assert len(hub.asked) == 1
    assert application.supervisor.fatal == DamagedFolder.exit_code == 78
    assert application.snapshot().last_error == "pytorch_model.bin is damaged."


MISFIT = UnsupportedModel("the weights do not fit config.json.")


def test_weights_of_another_architecture_are_checked_once_and_not_read_again(make: Build) -> None:
    hub, model = Hub(), Unloadable(MISFIT)
    application = make(model, hub)
    assert application.supervisor.load() is False
    assert (hub.asked, model.loads) == (["quick", "full"], 1)
    assert application.supervisor.fatal == 78


def test_in_a_folder_of_ones_own_nobody_knows_what_they_should_be(make: Build, tmp_path: Path) -> None:
    hub, model = Hub(), Unloadable(MISFIT)
    application = make(model, hub, model=str(tmp_path))
    assert application.supervisor.load() is False
    assert (hub.asked, model.loads) == (["quick"], 1)
    assert application.supervisor.fatal == 78


def test_a_damaged_configuration_is_fetched_again_and_not_taken_for_an_unsupported_one(make: Build) -> None:
    class Configured(FakePredictor):
        def load(self, folder: Path) -> None:
            if hub.damaged:
                raise MISFIT
            super().load(folder)

    hub = Hub(damaged=["config.json"])
    application = make(Configured(), hub)
    assert application.supervisor.load() is True
    assert (hub.asked, application.supervisor.fatal) == (["quick", "full"], None)


def test_weights_that_could_not_be_read_are_checked_in_full(make: Build) -> None:
    class Cut(FakePredictor):
        def load(self, folder: Path) -> None:
            if hub.damaged:
                raise TransientLoadError("Unexpected OSError while loading the model.")
            super().load(folder)

    hub = Hub(damaged=["pytorch_model.bin"])
    application = make(Cut(), hub)
    assert application.supervisor.load() is True
    assert hub.asked == ["quick", "full"]


def test_the_limit_while_the_model_loads_ends_the_loading_and_leaves_with_75(make: Build) -> None:
    class Large(FakePredictor):
        def load(self, folder: Path) -> None:
            super().load(folder)
            application.supervisor.restart_needed(MemoryLimitReached("The resident memory is 3 MiB."))

    application = make(Large())
    assert application.supervisor.load() is False
    assert application.supervisor.load() is False, "only a new process has its memory back"
    assert (application.supervisor.fatal, application.snapshot().phase) == (75, Phase.FAILED)
    assert not application.report().ready.ok


def test_the_limit_before_the_model_loads_leaves_with_75(make: Build) -> None:
    application = make()
    application.supervisor.restart_needed(MemoryLimitReached("The resident memory is 3 MiB."))
    assert application.supervisor.wait(0.0)
    assert (application.supervisor.fatal, application.supervisor.load()) == (75, False)
