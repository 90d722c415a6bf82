"""Gates: the rules of the threshold file, and the verdicts that metrics get from them."""
