"""Values that cross from one stage of a run to another, and the rules that need nothing else."""
