"""Which data is held out, where a hash of names does not decide it."""
