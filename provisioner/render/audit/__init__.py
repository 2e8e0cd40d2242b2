"""The parts that the formats of an audit share, and the files of its HTML page."""
