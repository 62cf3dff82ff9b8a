"""What there is to show at a place: read from the session into plain data, which `view` draws."""
