"""`ladle bench`: a load test of a served model."""
