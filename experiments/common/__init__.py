"""What every experiment shares: each file has one job."""
