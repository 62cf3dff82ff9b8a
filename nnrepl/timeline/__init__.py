"""Time: moving along a tape, evaluating what is looked at, edits, timelines, history."""
