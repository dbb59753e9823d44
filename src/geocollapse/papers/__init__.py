"""What each paper claims, and how a claim is judged: one folder a paper."""
