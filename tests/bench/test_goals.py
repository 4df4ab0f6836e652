"""Goals beside what was measured."""

from snntorch_smixer.bench.goals import Goal, judged

GOAL = Goal("G1", "saved_mib", 24, {"how": "fused"})


def test_the_verdicts():
    assert GOAL.judge({"how": "fused", "saved_mib": 24.0}) == "G1 saved_mib 24 <= 24 met"
    assert GOAL.judge({"how": "fused", "saved_mib": 24.5}) == "G1 saved_mib 24.5 <= 24 MISSED"


def test_rows_that_a_goal_is_not_about():
    assert GOAL.judge({"how": "naive", "saved_mib": 1.0}) is None
    assert GOAL.judge({"saved_mib": 1.0}) is None
    assert GOAL.judge({"how": "fused", "saved_mib": None}) is None
    assert GOAL.judge({"how": "fused"}) is None


def test_every_row_gets_the_key():
    rows = [{"how": "naive", "saved_mib": 80.0}, {"how": "fused", "saved_mib": 22.0}]
    other = Goal("G9", "saved_mib", 10, {"how": "fused"})
    assert [row["goals"] for row in judged(rows, (GOAL, other))] == [
        "",
        "G1 saved_mib 22 <= 24 met; G9 saved_mib 22 <= 10 MISSED",
    ]
    assert "goals" not in rows[0], "the rows that were given were changed"
