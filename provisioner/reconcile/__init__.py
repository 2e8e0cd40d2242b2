"""The pipeline: load, observe, plan, guard, execute, report."""
