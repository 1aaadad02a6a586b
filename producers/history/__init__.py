"""The history of what is stored: backfills, gaps found and repaired, over the venues' REST interfaces."""
