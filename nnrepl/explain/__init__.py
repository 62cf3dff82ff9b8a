"""The questions: `why`, `health`, `check`, `explain`, `into`. Claims, each with its check."""
