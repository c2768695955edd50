"""What fails while a model is loaded, and whether its files are checked, read or fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import (
    DamagedFile,
    DamagedFolder,
    MemoryLimitReached,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)
from service.status import Phase
from tests.applications import Build, Hub
from tests.fakes import FakePredictor


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
    assert application.load() is False
    assert len(hub.asked) == 1
    assert application.fatal == DamagedFolder.exit_code == 78
    assert application.snapshot().last_error == "pytorch_model.bin is damaged."


MISFIT = UnsupportedModel("the weights do not fit config.json.")


def test_weights_of_another_architecture_are_checked_once_and_not_read_again(make: Build) -> None:
    hub, model = Hub(), Unloadable(MISFIT)
    application = make(model, hub)
    assert application.load() is False
    assert (hub.asked, model.loads) == (["quick", "full"], 1)
    assert application.fatal == 78


def test_in_a_folder_of_ones_own_nobody_knows_what_they_should_be(make: Build, tmp_path: Path) -> None:
    hub, model = Hub(), Unloadable(MISFIT)
    application = make(model, hub, model=str(tmp_path))
    assert application.load() is False
    assert (hub.asked, model.loads) == (["quick"], 1)
    assert application.fatal == 78


def test_a_damaged_configuration_is_fetched_again_and_not_taken_for_an_unsupported_one(make: Build) -> None:
    class Configured(FakePredictor):
        def load(self, folder: Path) -> None:
            if hub.damaged:
                raise MISFIT
            super().load(folder)

    hub = Hub(damaged=["config.json"])
    application = make(Configured(), hub)
    assert application.load() is True
    assert (hub.asked, application.fatal) == (["quick", "full"], None)


def test_weights_that_could_not_be_read_are_checked_in_full(make: Build) -> None:
    class Cut(FakePredictor):
        def load(self, folder: Path) -> None:
            if hub.damaged:
                raise TransientLoadError("Unexpected OSError while loading the model.")
            super().load(folder)

    hub = Hub(damaged=["pytorch_model.bin"])
    application = make(Cut(), hub)
    assert application.load() is True
    assert hub.asked == ["quick", "full"]


def test_the_limit_while_the_model_loads_ends_the_loading_and_leaves_with_75(make: Build) -> None:
    class Large(FakePredictor):
        def load(self, folder: Path) -> None:
            super().load(folder)
            application.lost(MemoryLimitReached("The resident memory is 3 MiB."))

    application = make(Large())
    assert application.load() is False
    assert application.load() is False, "only a new process has its memory back"
    assert (application.fatal, application.snapshot().phase) == (75, Phase.FAILED)
    assert not application.report().ready.ok


def test_the_limit_before_the_model_loads_leaves_with_75(make: Build) -> None:
    application = make()
    application.lost(MemoryLimitReached("The resident memory is 3 MiB."))
    assert application.wait(0.0)
    assert (application.fatal, application.load()) == (75, False)
