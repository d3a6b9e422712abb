"""Whether an engine still answers, as its threads note it."""

from packrank.errors import InputError, PackrankError
from packrank.serving.health import Health


def test_so_many_packs_in_a_row_and_none_that_is_its_requests_fault() -> None:
    health = Health()
    for _ in range(20):
        health.has_not_run(InputError("no such document"))
    for _ in range(4):
        health.has_not_run(RuntimeError("secret"))
    assert health.failed is None
    health.has_not_run(PackrankError("the process of cuda:1 ended"))
    assert health.failed == "the last 5 packs have failed, the last with PackrankError"
    health.has_run()
    assert health.failed is None
    for _ in range(4):
        health.has_not_run(RuntimeError("secret"))
    assert health.failed is None


def test_what_a_thread_has_ended_no_pack_mends() -> None:
    health = Health()
    health.is_over(ZeroDivisionError("secret"))
    said = "a thread of the engine has ended with ZeroDivisionError"
    assert health.failed == said
    health.has_run()
    for _ in range(9):
        health.has_not_run(RuntimeError())
    assert health.failed == said
