"""The `autocache` command, one file per subcommand."""
