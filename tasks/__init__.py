"""One verb a file: what a flow orders, what a Ray actor does."""
