"""The console command: its flags, and what each of its commands does in which order."""
