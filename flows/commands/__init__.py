"""What the ``slm`` commands do, a module a kind."""
