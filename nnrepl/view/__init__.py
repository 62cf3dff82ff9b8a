"""What is shown: rich renderables, one thing a file. Nothing here prints."""
