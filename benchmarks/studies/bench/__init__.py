"""PruneBench, made anew: the family's networks trained and analysed, their plans measured, surrogates fitted."""
