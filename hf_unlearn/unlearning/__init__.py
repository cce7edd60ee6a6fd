"""The trainer that all methods share, and the tools they use."""
