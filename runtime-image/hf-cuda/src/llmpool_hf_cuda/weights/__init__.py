"""One copy of the weights for all processes of a card: its owner packs and shares it, the others map it."""
