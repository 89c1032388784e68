"""`ladle rollout`: how the roll-outs of a fleet of servers do."""
