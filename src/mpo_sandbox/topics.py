"""The knowledge of the sandbox: twenty topics, each with five fact pairs.

A pair (key, value) means "the key depends on the value". No word is used twice anywhere in this
table, so that a key or a value names exactly one fact.
"""

FACTS: dict[str, tuple[tuple[str, str], ...]] = {}

_TABLE = """
honey: hive wax, nectar flowers, swarm scouts, jar lids, beekeeper smoke
bread: loaf yeast, crust heat, dough flour, baker ovens, toast butter
coffee: brew beans, roast fire, espresso pressure, filter gravity, cafe regulars
music: melody rhythm, violin strings, choir singers, drum sticks, concert rehearsal
chess: opening development, checkmate planning, bishop diagonals, endgame patience, gambit nerves
glass: window sand, lens curves, bottle molds, furnace fuel, mirror silver
paper: page fibers, book ink, newspaper printers, envelope glue, archive dryness
salt: mine tunnels, brine evaporation, crystal stillness, pickle vinegar, caravan camels
tea: leaf shade, kettle steam, ceremony calm, plantation hillsides, blend tasters
silk: cocoon worms, thread spinning, loom weavers, kimono dyes, merchant roads
rain: cloud vapor, river springs, harvest moisture, storm wind, umbrella fabric
sailing: hull timber, mast ropes, anchor chains, captain charts, voyage currents
cheese: curd milk, rind aging, cellar humidity, dairy cows, goat pastures
wool: flock grass, sweater knitting, shepherd dogs, yarn wheels, blanket layers
painting: portrait pigments, fresco plaster, easel balance, gallery visitors, sketch charcoal
cycling: rim spokes, brake pads, race stamina, helmet foam, pedal legs
steel: bridge beams, sword tempering, smelter ore, rail rivets, alloy carbon
gardening: seedling sunlight, compost scraps, rose pruning, greenhouse panes, tomato stakes
chocolate: pod tropics, bar cocoa, truffle cream, factory machines, candy sugar
astronomy: telescope mirrors, orbit inertia, comet ice, observatory darkness, eclipse alignment
"""

for _line in _TABLE.strip().splitlines():
    _topic, _pairs = _line.split(": ")
    FACTS[_topic] = tuple((p.split()[0], p.split()[1]) for p in _pairs.split(", "))


def topics() -> tuple[str, ...]:
    """The twenty topics, in a fixed order."""
    return tuple(FACTS)


def facts(topic: str) -> tuple[tuple[str, str], ...]:
    """The five (key, value) pairs of `topic`."""
    return FACTS[topic]


def topic_of(prompt_words: list[str]) -> str | None:
    """The first topic named among the words of a prompt; None if there is none."""
    return next((word for word in prompt_words if word in FACTS), None)
