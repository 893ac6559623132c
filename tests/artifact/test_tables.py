"""What the plan counts for the executor's tables and for results."""

from __future__ import annotations

from tests.runtime.handmade import PAGE, dynamic_plan, gather_plan, resident_dot_plan, streamed_dot_plan, twice_plan
from ullage.plan.plan import DimensionInfo, TensorInfo
from ullage.plan.tables import (
    CONTEXT_BYTES,
    DOUBLE_OUTPUT_BYTES,
    layout,
    output_bytes,
    output_set_bytes,
    stack_bytes,
    table_bytes,
)


def test_sections_lie_one_after_the_other() -> None:
    for plan in (twice_plan(), dynamic_plan(), resident_dot_plan(), streamed_dot_plan(63), gather_plan(9, 9, True)):
        places = layout(plan)
        starts = [getattr(places, name) for name in places.__slots__]
        assert starts == sorted(starts) and starts[0] == CONTEXT_BYTES
        assert all(start % 64 == 0 for start in starts) and table_bytes(plan) == starts[-1]
        assert table_bytes(plan) % PAGE == 0


def test_tables_grow_with_the_commands() -> None:
    assert table_bytes(streamed_dot_plan(600, per_block=2)) > table_bytes(streamed_dot_plan(600, per_block=100))


def test_results_are_counted_at_their_largest_in_whole_pages() -> None:
    vector = TensorInfo("y", "float32", (("n",),))
    dimensions = (DimensionInfo("n", 1, 1000, 0, 0),)
    assert output_set_bytes((vector,), dimensions) == PAGE
    assert output_set_bytes((vector, vector), dimensions) == 2 * PAGE
    assert output_set_bytes((), ()) == output_bytes((), ()) == 0


def test_small_results_are_held_twice() -> None:
    for size, sets in ((1, 2), (DOUBLE_OUTPUT_BYTES, 2), (DOUBLE_OUTPUT_BYTES + 1, 1)):
        tensors = (TensorInfo("y", "uint8", ((size,),)),)
        assert output_bytes(tensors, ()) == sets * output_set_bytes(tensors, ())


def test_one_thread_needs_only_the_disk_threads_stack() -> None:
    assert 0 < stack_bytes(1) < stack_bytes(2) < stack_bytes(3)
