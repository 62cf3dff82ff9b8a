"""Running again along a tape: the replay and its checks, restart points, and the world that they put back."""
