"""For authors of rules and plugins: what their tests need."""
