"""State machines as tables: pure, replayed from the journal, drawn in the docs."""
