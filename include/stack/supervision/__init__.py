"""How the parts are started, watched, restarted and found again: supervisord, its guard, and the processes' marks."""
