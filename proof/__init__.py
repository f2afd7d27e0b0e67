"""What proves the guarantees: breaks that a named check must catch, and one table of it all."""
