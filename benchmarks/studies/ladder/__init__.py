"""The ladder of the bench: agents at equal evaluations, and the leaderboard of submitted results."""
