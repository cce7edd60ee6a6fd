"""The console command `hf-unlearn`: its flags, and one file per command."""
