"""A model of writers and prunes that run the product's own code, one storage operation at a time, on a clock of the test's."""
