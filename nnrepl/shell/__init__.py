"""The face: prompt-toolkit on a terminal, a plain loop on a pipe, the same commands in both."""
