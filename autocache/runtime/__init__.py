"""What happens while a patched model runs; knows no strategy by name."""
