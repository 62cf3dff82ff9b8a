"""Lessons: Markdown files that are played on a living program, and the words that they use."""
