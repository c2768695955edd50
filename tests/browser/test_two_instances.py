"""The page of two guarded instances behind HAProxy, in a real browser."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.faults.service import Service
from lab.instances import balancers
from lab.instances.guarded import wait_for
from page.words import say
from tests.browser.conftest import Visit
from tests.two_instances import places, two_instances

Open = Callable[..., Visit]
QUESTIONS = ("there is a red circle", "there is a red circle in the picture", "a circle is red")


def judged(instance: Service) -> int:
    """Return the number of the page's questions that the instance has answered."""
    return len(re.findall(r"REQUEST_END .*SOURCE=page", instance.log))


def cookie(tab: Visit) -> str:
    return {str(one["name"]): str(one["value"]) for one in tab.context.cookies()}["instance"]


def ask(tab: Visit, sentence: str) -> None:
    tab.write(sentence)
    assert tab.judge().startswith(say("en", "label.Yes"))


@pytest.mark.long
def test_a_browser_stays_on_an_instance_until_that_is_gone(
    visit: Open, red_circle: Path, tmp_path: Path
) -> None:
    with two_instances(tmp_path) as instances, balancers.haproxy(tmp_path, places(instances)) as balancer:
        balancer.wait_ready("1", "2")
        for number, instance in enumerate(instances, 1):
            tab = visit(balancer.page)
            cookie(tab)  # set by the first answer
            tab.context.add_cookies([{"name": "instance", "value": f"{number}", "url": balancer.page}])
            tab.open().upload(red_circle)
            before = [judged(one) for one in instances]
            for sentence in QUESTIONS:
                ask(tab, sentence)
            own = judged(instance) - before[number - 1]
            assert (own, sum(map(judged, instances)) - sum(before)) == (len(QUESTIONS), len(QUESTIONS))
            assert cookie(tab) == f"{number}"
            assert not tab.errors

        os.kill(pid := instances[1].pid, signal.SIGKILL)
        wait_for(
            "HAProxy to find it, or the restart",
            lambda: (
                not balancer.servers("page")["unready2"].up
                or (instances[1].pid != pid and "2" in balancer.ready())
            ),
            balancer.servers,
        )
        before = [judged(one) for one in instances]
        tab.open().upload(red_circle)
        ask(tab, QUESTIONS[0])
        assert sum(map(judged, instances)) == sum(before) + 1
