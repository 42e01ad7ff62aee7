"""Launch a run: node scripts, job files and the clients that submit them."""
