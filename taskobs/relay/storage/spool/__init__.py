"""The store on disk: one SQLite file for each worker."""
