"""One file per method: a configuration and a Trainer subclass."""
