"""The parts that the formats of an audit share, and the template of its HTML page."""
