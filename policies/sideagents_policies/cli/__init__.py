"""The console command `sideagents`: parsing only, what a verb does is imported when the verb runs."""
