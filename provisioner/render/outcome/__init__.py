"""Plans and their results in the words of every report."""
