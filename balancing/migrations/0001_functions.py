"""
The claim protocol as SQL functions (docs/decisions/0003).

A database that has them already gets later versions of the files by `balancing.installing`.
"""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
# In the order of their dependence.
FUNCTIONS = [
    "timing_1",
    "policy_1",
    "ending_1",
    "warmth_1",
    "average_1",
    "card_1",
    "agent_class_1",
    "agent_counted_1",
    "rule_holds_1",
    "rules_hold_1",
    "least_memory_1",
    "least_cpu_1",
    "able_needs_1",
    "able_1",
    "able_among_1",
    "fits_needs_1",
    "fits_1",
    "shape_1",
    "policy_in_1",
    "policy_of_1",
    "within_1",
    "satisfiable_1",
    "queue_full_1",
    "keys_free_1",
    "bound_to_1",
    "warm_1",
    "warm_many_1",
    "amounts_1",
    "limits_take_1",
    "limits_give_1",
    "limits_lock_1",
    "limits_spread_1",
    "limit_set_1",
    "share_enter_1",
    "share_charge_1",
    "shares_fold_1",
    "efficiency_1",
    "match_1",
    "lesson_1",
    "failed_before_1",
    "heard_1",
    "tenths_1",
    "learnt_1",
    "outcomes_fold_1",
    "service_times_1",
    "average_of_1",
    "expected_1",
    "share_left_1",
    "workload_parts_1",
    "promising_1",
    "able_agents_1",
    "fitting_1",
    "candidates_1",
    "cards_1",
    "near_1",
    "nearest_1",
    "pick_1",
    "taken_1",
    "agents_write_1",
    "new_id_1",
    "grant_1",
    "granted_events_1",
    "granted_from_queue_1",
    "one_a_shape_1",
    "waiting_shapes_1",
    "takers_1",
    "next_waiter_1",
    "kept_waiters_1",
    "hand_over_1",
    "retire_drained_1",
    "free_slots_1",
    "store_waiting_1",
    "store_granted_1",
    "grants_1",
    "acquire_1",
    "fitted_1",
    "serveable_shapes_1",
    "serveable_pools_1",
    "serveable_after_1",
    "serve_1",
    "keepable_1",
    "reserve_1",
    "ends_1",
    "close_1",
    "lease_shown_1",
    "exchange_1",
    "park_1",
    "resume_1",
    "resize_1",
    "hear_1",
    "renew_many_1",
    "agent_triggers_1",
]
# Names that earlier versions had, and this one has not.
FORMER = ["track_records_1", "predicted_parts_1", "lessons_1", "elsewhere_1", "able_in_1"]
TYPES = ("amounts_1", "timing_1", "policy_1", "ending_1", "warmth_1", "average_1", "card_1")


def _undo(name: str) -> str:
    if name == "agent_triggers_1":
        return (
            "DROP TRIGGER agent_class ON agent; DROP TRIGGER agent_counted ON agent;"
            " DROP TRIGGER agent_recounted ON agent"
        )
    return f"DROP TYPE {name}" if name in TYPES else f"DROP FUNCTION {name}"


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_storage")]

    operations = [
        # Some speak of tables that a later migration makes.
        migrations.RunSQL("SET LOCAL check_function_bodies = off", migrations.RunSQL.noop),
        *(migrations.RunSQL((SQL / f"{name}.sql").read_text(), _undo(name)) for name in FUNCTIONS),
    ]
