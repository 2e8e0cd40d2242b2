"""Values passed between the stages of a run, and the rules that need only these values."""
