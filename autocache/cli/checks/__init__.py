"""What `autocache doctor` looks at, one file per subject; each gives findings."""
