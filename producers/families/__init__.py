"""What several venues of one family have in common, pure; each venue's own file in `producers/feeds` says the rest."""
