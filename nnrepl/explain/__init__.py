"""Knowledge: formulas with their executable form, worked numbers, causes, health, checks."""
