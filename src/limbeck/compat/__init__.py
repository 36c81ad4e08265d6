"""Other libraries' names for what Limbeck does, so that programs written for them run."""
