"""A study: one or several frozen encoders, one feature, and for each the answer whether it was learned."""
