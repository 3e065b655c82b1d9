"""What is kept for the page: records without secrets, by trace, within a bound."""
