"""Loading and running what is debugged: a script, a module, a notebook, a function."""
