"""The plan file: a plan saved as JSON for review, and compared with the current plan on apply.

`write` serializes a plan, `read` parses a plan file, and `compare` lists the changes since the
review. All three are pure; the CLI reads and writes the file.
"""
