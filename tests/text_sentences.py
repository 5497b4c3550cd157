"""Forty short sentences of four topics, for tests with a trained sentence encoder."""

from __future__ import annotations

from collections.abc import Mapping

TOPICS: Mapping[str, tuple[str, ...]] = {
    "sports": (
        "The striker scored twice before half time.",
        "Our team lost the match by a single goal.",
        "She won the marathon in just under three hours.",
        "The referee showed him a yellow card.",
        "Fans filled the stadium for the final game.",
        "The coach picked a younger goalkeeper this season.",
        "He trains every morning for the Olympic swimming race.",
        "The tennis player served nine aces in one set.",
        "After extra time the cup was decided by penalties.",
        "The cyclist broke away on the last climb of the stage.",
    ),
    "weather": (
        "Heavy rain is expected along the coast tonight.",
        "The wind will turn to the north by evening.",
        "Snow fell in the mountains for two days.",
        "It will be sunny and dry until Sunday.",
        "A thunderstorm knocked down trees in the park.",
        "Fog will clear slowly during the morning.",
        "Temperatures dropped below zero last night.",
        "The forecast warns of hail and strong gusts.",
        "This summer was the hottest in a century.",
        "Clouds are moving in from the west.",
    ),
    "finance": (
        "The central bank raised interest rates again.",
        "Shares fell sharply after the profit warning.",
        "Investors moved their money into government bonds.",
        "The company will pay a higher dividend this year.",
        "Inflation slowed to two percent in March.",
        "He took out a loan to buy the house.",
        "The euro gained against the dollar on Friday.",
        "Her savings account pays almost no interest.",
        "The fund lost a third of its value in the crash.",
        "Banks are tightening the rules for new mortgages.",
    ),
    "cooking": (
        "Simmer the tomatoes with garlic and basil.",
        "Add a pinch of salt to the dough.",
        "The soup needs more pepper and some cream.",
        "Bake the bread until the crust is golden.",
        "She chopped the onions and fried them in butter.",
        "Whisk the eggs with sugar until they are fluffy.",
        "Grandmother's recipe asks for fresh rosemary.",
        "Let the roast rest before you carve it.",
        "Boil the pasta in plenty of salted water.",
        "He marinated the chicken in lemon and thyme.",
    ),
}
"""Topic to its sentences."""
