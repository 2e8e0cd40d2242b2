"""Operations that are not part of the pipeline: create, export and token."""
