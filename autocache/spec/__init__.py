"""Model specs: what autocache knows about each denoiser architecture."""
