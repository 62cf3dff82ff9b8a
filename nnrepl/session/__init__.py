"""The debugger without a face: motions, stops, expressions. Says what happened through hooks."""
