"""How the platform's tables come to their present form, step by step."""
