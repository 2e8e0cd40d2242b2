"""Reports of plans, results, keys and problems, as text for people and as formats for programs."""
