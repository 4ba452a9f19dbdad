"""What a run was like: events folded into a record, shown live, and drawn as a page."""
