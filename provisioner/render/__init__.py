"""Reports: plans, results, observed keys and problems, as JSON documents or text for people."""
