"""Generation, step and guidance branch from the scheduler's signals, or from the time alone."""

from __future__ import annotations

import pytest

from autocache.runtime.clock import MAX_BRANCHES, Clock


def by_time(clock: Clock, times: list[float]) -> list[tuple[int, int, str]]:
    placed = []
    for time in times:
        _, branch = clock.enter(lambda time=time: time)
        placed.append((clock.generation, clock.step, branch))
    return placed


def no_time() -> float:
    raise AssertionError("the time is not to be read: on an accelerator that is a sync")


def test_time_alone_tells_steps_and_generations():
    """A later time is a step, a jump back a generation, counting down or up."""
    assert by_time(Clock(), [9, 5, 1, 9, 5]) == [
        (0, 0, "0"), (0, 1, "0"), (0, 2, "0"), (1, 0, "0"), (1, 1, "0"),
    ]  # fmt: skip
    assert by_time(Clock(), [0.1, 0.5, 0.1])[-1] == (1, 0, "0")


def test_repeated_time_is_the_next_branch():
    """Calls at one time are guidance branches in their order."""
    assert by_time(Clock(), [9, 9, 5, 5]) == [(0, 0, "0"), (0, 0, "1"), (0, 1, "0"), (0, 1, "1")]


def test_a_loop_at_one_time_does_not_open_branches_for_ever():
    """More calls at one time than guidance ever makes are new generations."""
    placed = by_time(Clock(), [1.0] * (MAX_BRANCHES * 3))
    assert len({branch for _, _, branch in placed}) == MAX_BRANCHES
    assert placed[-1][0] == 2


def test_scheduler_signals_need_no_time():
    """With a scheduler's signals the timestep is never read."""
    clock = Clock()
    for _ in range(2):
        clock.announce(2)
        assert clock.enter(no_time) == (True, "0")
        assert clock.enter(no_time) == (False, "1")
        assert clock.step == 0
        assert not clock.advance()
        assert clock.enter(no_time) == (False, "0")
        assert clock.step == 1
        assert clock.advance()
    assert clock.generation == 1


def test_a_step_taken_again_from_the_same_index_counts_once():
    """Cosmos sets its scheduler back and steps twice: for the clean latent, then for the next."""
    clock = Clock()
    clock.announce(3)
    clock.enter(no_time)
    ended = []
    for index in range(3):
        for _ in range(2):
            ended.append(clock.advance(None if not ended else index, index + 1))
        assert clock.step == index + 1
    assert ended == [False, False, False, False, True, False]
    clock.announce(2)
    assert clock.enter(no_time) == (True, "0")
    assert not clock.advance(0, 1)
    assert clock.step == 1


def test_after_the_last_announced_step_time_takes_over():
    """A foreign loop on a model whose scheduler is done is placed by its times."""
    clock = Clock()
    clock.announce(1)
    clock.enter(no_time)
    clock.advance()
    assert by_time(clock, [7, 3]) == [(1, 0, "0"), (1, 1, "0")]
    assert clock.total is None


def test_an_expert_that_starts_late_knows_its_step():
    """Steps are counted from the announcement, also before the first call."""
    clock = Clock()
    clock.announce(4)
    clock.advance()
    clock.advance()
    assert clock.enter(no_time) == (True, "0")
    assert (clock.step, clock.total) == (2, 4)


def test_named_branches():
    """A name given by the pipeline is the branch; the same name again is another one."""
    clock = Clock()
    clock.announce(3)
    names = []
    for context in ("cond", "uncond", "cond", None):
        clock.context = context
        names.append(clock.enter(lambda: 9.0)[1])
    assert names == ["cond", "uncond", "cond#1", "0"]


def test_named_branches_need_no_time():
    """Each of them once in a step is what there is nearly always."""
    clock = Clock()
    clock.announce(2)
    for _ in range(2):
        for clock.context in ("cond", "uncond"):
            clock.enter(no_time)
        clock.advance()


@pytest.mark.parametrize("names", [("cond",), ("cond", "uncond")])
def test_a_scheduler_that_takes_no_step_is_left_behind(names: tuple[str, ...]):
    """Diffusion forcing sets one scheduler's timesteps and steps copies of it, one per frame."""
    clock = Clock()
    for generation in range(2):
        clock.announce(3)
        placed = []
        for time in (9.0, 7.0, 5.0, 3.0):
            for clock.context in names:
                _, name = clock.enter(lambda time=time: time)
                placed.append((clock.generation, clock.step, name))
        assert placed == [(generation, step, name) for step in range(4) for name in names]
        assert clock.total is None


def test_so_is_one_whose_branches_have_no_names():
    """As soon as there are more calls in a step than guidance ever makes."""
    clock = Clock()
    clock.announce(100)
    steps = []
    for time in range(100, 80, -1):
        clock.enter(lambda time=time: float(time))
        steps.append(clock.step)
    assert steps == [0] * MAX_BRANCHES + [*range(1, 21 - MAX_BRANCHES)]


def test_a_lone_call_before_a_loop_does_not_turn_time_round():
    """A warm-up call at a later time is a generation of its own where the way of time is known;
    where it is not, the first loop after it finds out."""
    warm_up, loop = 2, [9, 5, 1]
    placed = by_time(Clock(-1), [warm_up, *loop, *loop])
    assert placed[0] == (0, 0, "0")
    assert placed[1:4] == [(1, 0, "0"), (1, 1, "0"), (1, 2, "0")]
    assert placed[4:] == [(2, 0, "0"), (2, 1, "0"), (2, 2, "0")]
    steps = [step for _, step, _ in by_time(Clock(), [warm_up, *loop, *loop])]
    assert steps[-3:] == [0, 1, 2]


def test_time_that_goes_the_other_way_than_expected_is_found_out():
    """A spec may be wrong about it: the second step of the first generation tells."""
    placed = by_time(Clock(-1), [0.1, 0.3, 0.5, 0.7, 0.1, 0.3])
    assert [step for _, step, _ in placed] == [0, 0, 1, 2, 0, 1]
